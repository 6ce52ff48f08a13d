"""Access control lists on a mount beside a local file system: the same calls, and then the same modes, lists and rights.

The table is acl_cases.py's. Programs that carry lists (setfacl, cp, rsync, tar) follow, compared the same way.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.acl_text import ACCESS, DEFAULT, to_bytes, to_text
from tests.fuse.acl_cases import CASES, LISTS, Case, has_lists
from tests.fuse.test_fuse_programs import needs, sh
from tests.fuse.users import USERS, as_user

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fuse.cluster import Cluster

GROUPS = sorted({case.name.split()[0] for case in CASES})


@pytest.fixture(scope="module")
def local(scratch: Path) -> Iterator[Path]:
    """A directory on the local disk, when that has ACLs."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        path = Path(folder)
        path.chmod(0o755)
        if not has_lists(path):
            pytest.skip(f"{scratch} is on a file system without ACLs: there is nothing to compare with")
        yield path


def run(case: Case, here: Path) -> Any:
    """The act's answer, "E..." when it fails."""
    here.mkdir()
    here.chmod(0o755)
    try:
        return case.act(here)
    except OSError as error:
        return errno.errorcode[error.errno or errno.EIO]


def attribute(path: Path, name: str) -> str:
    try:
        return to_text(os.getxattr(path, name, follow_symlinks=False))
    except OSError as error:
        return errno.errorcode[error.errno or errno.EIO]


def rights(paths: list[Path]) -> list[str]:
    """What this process may do with each, by asking and by doing."""
    found = []
    for path in paths:
        asked = "".join(letter for letter, bit in (("r", 4), ("w", 2), ("x", 1)) if os.access(path, bit))
        opened = ""
        kind = path.lstat().st_mode if os.access(path.parent, os.X_OK) else 0
        if stat.S_ISREG(kind):
            for letter, flags in (("r", os.O_RDONLY), ("w", os.O_WRONLY), ("+", os.O_RDWR)):
                with contextlib.suppress(PermissionError):
                    os.close(os.open(path, flags))
                    opened += letter
        found.append(f"{asked}/{opened}")
    return found


def remains(here: Path) -> dict[str, Any]:
    """Everything there is to say about what lies below."""
    paths = sorted(here.rglob("*"))
    allowed = [as_user(user, lambda: rights(paths)) for user in USERS]
    found = {}
    for number, path in enumerate(paths):
        status = path.lstat()
        lists = [name for name in os.listxattr(path, follow_symlinks=False) if name in (ACCESS, DEFAULT)]
        found[str(path.relative_to(here))] = (
            f"{status.st_mode:o} {status.st_uid}:{status.st_gid}",
            sorted(lists),
            attribute(path, ACCESS),
            attribute(path, DEFAULT),
            [one[number] for one in allowed],
        )
    return found


def test_there_are_cases_enough() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 200


@pytest.mark.parametrize("group", GROUPS)
def test_the_same_as_on_a_local_file_system(here: Path, local: Path, group: str) -> None:
    cases = [case for case in CASES if case.name.split()[0] == group]
    found = []
    for root in (here, local / group):
        root.mkdir(exist_ok=True)
        root.chmod(0o755)
        answers = [run(case, root / str(number)) for number, case in enumerate(cases)]
        found.append((answers, remains(root)))
    (mount, mount_left), (disk, disk_left) = found
    assert dict(zip(cases, mount, strict=True)) == dict(zip(cases, disk, strict=True))
    differing = [path for path in mount_left.keys() | disk_left.keys() if mount_left.get(path) != disk_left.get(path)]
    told = [f"{cases[int(path.split('/')[0])].name}: {mount_left.get(path)} {disk_left.get(path)}" for path in differing]
    assert not told, "\n".join(sorted(told))


# --- programs ---------------------------------------------------------------------------------------------------------

#: A tree with lists of every kind; the same on each side.
_TREE = """
    mkdir -p t/a/b; echo 1 > t/f; echo 2 > t/a/g; echo 3 > t/a/b/h; ln -s f t/l; chmod 640 t/a/g; mkfifo t/p
    setfacl -m u:4101:rw,g:4202:r t/f
    setfacl -m u:4101:rwx,d:u:4102:rx,d:g:4203:rwx,d:m::rx t/a
    setfacl -R -m u:4103:rX t/a
    umask 077; echo 4 > t/a/new; mkdir t/a/sub; chmod 700 t/a/b
"""
#: What both sides must say the same, of a tree {0}.
_LOOK = """
    find {0} ! -type l -print0 | sort -z | xargs -0 getfacl -n -p | sed 's/^# file: .*/# file/'
    find {0} -printf '%P %m %U:%G %y\\n' | sort
    ls -lR {0} | grep -v '^total' | cut -c1-11
"""


def both(script: str, here: Path, local: Path) -> str:
    """Run it on both sides; what it printed there, which must be the same."""
    printed = [sh(script, side) for side in (here, local)]
    assert printed[0] == printed[1]
    return printed[0]


@pytest.fixture
def sides(here: Path, local: Path) -> tuple[Path, Path]:
    beside = Path(tempfile.mkdtemp(dir=local))
    for side in (here, beside):
        side.chmod(0o755)
        sh(_TREE, side)
    return here, beside


@needs("setfacl", "getfacl")
def test_setfacl_and_getfacl(sides: tuple[Path, Path]) -> None:
    printed = both(_LOOK.format("t"), *sides)
    assert "-rw-rw----+" not in printed
    assert "user:4103:r-x" in printed
    for change in (
        "setfacl -x u:4101 t/f",
        "setfacl -m m::--x t/f",
        "setfacl -b t/f",
        "setfacl -R -k t/a",
        "setfacl -R -m d:u:4101:rwx,u:4101:rX t",
        "setfacl --set u::rw,u:4102:r,g::-,o::- t/f",
        "getfacl -n t/f | setfacl -M - t/a/g",
        "chmod g-rwx t/a; chmod -R u+rwX,o-rwx t",
        "setfacl -R -b -k t",
    ):
        both(f"{change}\n{_LOOK.format('t')}", *sides)


@needs("setfacl", "getfacl")
def test_lists_are_written_down_and_restored(sides: tuple[Path, Path]) -> None:
    before = both(_LOOK.format("t"), *sides)
    restored = both(f"getfacl -R -n t > acls; setfacl -R -b t; setfacl --restore=acls\n{_LOOK.format('t')}", *sides)
    assert restored == before


@needs("setfacl", "getfacl", "rsync", "tar")
@pytest.mark.parametrize(
    "copy",
    [
        "cp -a t u",
        "rsync -aHAX t/ u",
        "rsync -aHAX t/ u; setfacl -R -b u; rsync -aHAX t/ u",
        "mkdir u; tar --acls --xattrs -C t -cf - . | tar --acls --xattrs -C u -xpf -",
        "mv t u; cp -a u t",
    ],
)
def test_copies_keep_lists(sides: tuple[Path, Path], copy: str) -> None:
    before = both(_LOOK.format("t"), *sides)
    after = both(f"{copy}\n{_LOOK.format('u')}", *sides)
    assert after.replace("\nu:\n", "\nt:\n").replace("u/", "t/") == before.replace("\nu:\n", "\nt:\n")


@needs("setfacl", "getfacl", "rsync")
def test_rsync_carries_lists_between_the_two(sides: tuple[Path, Path]) -> None:
    mount, local = sides
    for source, target in ((mount, local), (local, mount)):
        sh('rsync -aHAX --delete "$S/" copy', target, S=str(source / "t"))
        differences = sh('rsync -aHAXc --delete --dry-run --itemize-changes "$S/" copy', target, S=str(source / "t"))
        assert differences == ""
        assert sh(_LOOK.format("copy"), target).replace("copy", "t") == sh(_LOOK.format("t"), source)


@needs("setfacl")
def test_ls_marks_what_has_a_list(here: Path) -> None:
    sh("umask 022; touch a b; setfacl -m u:4101:r a", here)
    assert sh("ls -l a b | cut -c1-11", here) == "-rw-r--r--+\n-rw-r--r-- \n"


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_lists_survive_a_remount(cluster: Cluster, here: Path) -> None:
    (here / "d").mkdir()
    os.setxattr(here / "d", DEFAULT, to_bytes(LISTS["both"]))
    (here / "d/f").write_bytes(b"x")
    before = remains(here)
    second = cluster.mount("again")
    try:
        assert remains(second / here.name) == before
    finally:
        cluster.unmount("again")
