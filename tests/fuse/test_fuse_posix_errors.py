"""Which errno a system call gives: every call with every shape of path, as root, owner, group member and stranger, on the
mount and on a local file system, with what it did to the tree. POSIX names the errors of a call and leaves their order open;
programs know the order of Linux, so the local file system is the standard. What POSIX demands is written down beside it.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from tests.fuse.posix_cases import MEMBER, OTHER, OWNER, ROOT, Actor, Case, Entry, Outcome, differences, observe, outcome_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

ACTORS = (ROOT, OWNER, MEMBER, OTHER)
NAME = "n" * 255


def opened(path: str, flags: int) -> str:
    """Opened and closed again; which flags the descriptor has is the kernel's matter."""
    os.close(os.open(path, flags | os.O_NONBLOCK, 0o640))
    return "opened"


def descriptor(path: str, flags: int, call: Callable[[int], object]) -> object:
    fd = os.open(path, flags | os.O_NONBLOCK)
    try:
        return call(fd)
    finally:
        os.close(fd)


NOW = (1_700_000_000_000_000_001, 1_700_000_000_000_000_002)

#: Calls that need what they name.
EXISTING: dict[str, Callable[[str], object]] = {
    "open for reading": lambda p: opened(p, os.O_RDONLY),
    "open for writing": lambda p: opened(p, os.O_WRONLY),
    "open and truncate": lambda p: opened(p, os.O_RDWR | os.O_TRUNC),
    "open to append": lambda p: opened(p, os.O_WRONLY | os.O_APPEND),
    "open a directory": lambda p: opened(p, os.O_RDONLY | os.O_DIRECTORY),
    "open without following": lambda p: opened(p, os.O_RDONLY | os.O_NOFOLLOW),
    "open as a place": lambda p: opened(p, os.O_PATH),
    "list": lambda p: sorted(os.listdir(p)),
    "chdir": os.chdir,
    "stat": lambda p: stat.filemode(os.stat(p).st_mode),
    "lstat": lambda p: stat.filemode(os.lstat(p).st_mode),
    "readlink": os.readlink,
    "access for existence": lambda p: os.access(p, os.F_OK),
    "unlink": os.unlink,
    "rmdir": os.rmdir,
    "chmod": lambda p: os.chmod(p, 0o6711),
    "chown to the same": lambda p: os.chown(p, -1, -1),
    "chown to another user": lambda p: os.chown(p, OTHER.uid, -1),
    "chown to the owner": lambda p: os.chown(p, OWNER.uid, OWNER.gid),
    "chown to a group of the member": lambda p: os.chown(p, -1, 3003),
    "lchown to another group": lambda p: os.lchown(p, -1, OTHER.gid),
    "truncate": lambda p: os.truncate(p, 2),
    "truncate to more": lambda p: os.truncate(p, 5000),
    "ftruncate": lambda p: descriptor(p, os.O_WRONLY, lambda fd: os.ftruncate(fd, 1)),
    "ftruncate a descriptor for reading": lambda p: descriptor(p, os.O_RDONLY, lambda fd: os.ftruncate(fd, 1)),
    "write": lambda p: descriptor(p, os.O_WRONLY, lambda fd: os.pwrite(fd, b"x", 1)) if stat.S_ISREG(os.stat(p).st_mode) else 0,
    "futimens": lambda p: descriptor(p, os.O_RDONLY, lambda fd: os.utime(fd, ns=NOW)),
    "fchmod": lambda p: descriptor(p, os.O_RDONLY, lambda fd: os.fchmod(fd, 0o2755)),
    "fchown": lambda p: descriptor(p, os.O_RDONLY, lambda fd: os.fchown(fd, -1, 3001)),
    "utimensat with times": lambda p: os.utime(p, ns=NOW),
    "utimensat with now": os.utime,
    "utimensat of a link": lambda p: os.utime(p, ns=NOW, follow_symlinks=False),
    "link it": lambda p: os.link(p, "new", follow_symlinks=False),
    "link what it leads to": lambda p: os.link(p, "new", follow_symlinks=True),
    "rename it": lambda p: os.rename(p, "new"),
    "rename it onto a file": lambda p: os.rename(p, "old file"),
    "rename it onto a directory": lambda p: os.rename(p, "old directory"),
    "setxattr": lambda p: os.setxattr(p, "user.x", b"value"),
    "getxattr": lambda p: os.getxattr(p, "user.absent"),
    "listxattr": lambda p: os.listxattr(p),
    "removexattr": lambda p: os.removexattr(p, "user.absent"),
    "statvfs": lambda p: os.statvfs(p).f_namemax,
    "list all below": lambda p: sorted(sorted(names + folders) for _, folders, names in os.walk(p)),
}
#: Calls that make what they name.
MAKING: dict[str, Callable[[str], object]] = {
    "create": lambda p: opened(p, os.O_CREAT | os.O_WRONLY),
    "create and truncate": lambda p: opened(p, os.O_CREAT | os.O_RDWR | os.O_TRUNC),
    "create for reading": lambda p: opened(p, os.O_CREAT | os.O_RDONLY),
    "create exclusively": lambda p: opened(p, os.O_CREAT | os.O_EXCL | os.O_WRONLY),
    "create without following": lambda p: opened(p, os.O_CREAT | os.O_NOFOLLOW | os.O_WRONLY),
    "create a directory by open": lambda p: opened(p, os.O_CREAT | os.O_DIRECTORY | os.O_RDONLY),
    "mkdir": lambda p: os.mkdir(p, 0o2777),
    "mkfifo": lambda p: os.mkfifo(p, 0o666),
    "mknod of a file": lambda p: os.mknod(p, stat.S_IFREG | 0o4755),
    "mknod of a socket": lambda p: os.mknod(p, stat.S_IFSOCK | 0o600),
    "mknod of a device": lambda p: os.mknod(p, stat.S_IFCHR | 0o600, os.makedev(1, 3)),
    "symlink": lambda p: os.symlink("target", p),
    "symlink to nothing": lambda p: os.symlink("", p),
    "symlink to too much": lambda p: os.symlink("t" * 4096, p),
    "link": lambda p: os.link("old file", p),
    "link of nothing": lambda p: os.link("nowhere", p),
    "link of a directory": lambda p: os.link("old directory", p),
    "rename of a file": lambda p: os.rename("old file", p),
    "rename of a directory": lambda p: os.rename("old directory", p),
    "rename of a link": lambda p: os.rename("old link", p),
    "rename of nothing": lambda p: os.rename("nowhere", p),
}
ACCESS: dict[str, Callable[[str], object]] = {
    f"access {bits}{' by effective ids' if effective else ''}": lambda p, b=bits, e=effective: os.access(p, b, effective_ids=e)
    for bits in range(1, 8)
    for effective in (False, True)
}
CALLS = {**EXISTING, **MAKING, **ACCESS}
#: These change nothing, whatever they give.
LOOKING = frozenset(ACCESS) | {
    *(
        "open for reading",
        "open for writing",
        "open to append",
        "open a directory",
        "open without following",
        "open as a place",
    ),
    *("list", "chdir", "stat", "lstat", "readlink", "access for existence", "getxattr", "listxattr", "removexattr"),
    *("statvfs", "list all below", "ftruncate a descriptor for reading", "symlink to nothing", "symlink to too much"),
    *("link of nothing", "rename of nothing"),
}

#: What the calls with two names use beside the path.
BESIDE = (Entry("old file"), Entry("old directory", "d", 0o755), Entry("old link", "l", text="old file"))


class Shape(NamedTuple):
    """A path and the tree in which it leads somewhere. `demanded`: the errno that POSIX and path_resolution(7) leave no choice
    about, for everybody and every call."""

    path: str
    tree: tuple[Entry, ...] = ()
    demanded: int = 0
    actors: tuple[Actor, ...] = (OTHER,)


#: These look at something else before they look at the path.
FIRST = ("symlink to nothing", "symlink to too much", "link of nothing", "rename of nothing", "create a directory by open")

FILE = (Entry("f"),)
FOLDER = (Entry("d", "d", 0o755),)
FULL = (Entry("d", "d", 0o755), Entry("d/f"))

PATHS: dict[str, Shape] = {
    "nothing": Shape("new"),
    "empty": Shape("", demanded=errno.ENOENT),
    "below nothing": Shape("no/x", demanded=errno.ENOENT),
    "below a file": Shape("f/x", FILE, errno.ENOTDIR),
    "below a FIFO": Shape("p/x", (Entry("p", "p"),), errno.ENOTDIR),
    "below a dangling link": Shape("l/x", (Entry("l", "l", text="no"),), errno.ENOENT),
    "below a link to a file": Shape("l/x", (*FILE, Entry("l", "l", text="f")), errno.ENOTDIR),
    "a link to itself": Shape("l", (Entry("l", "l", text="l"),)),
    "below a link to itself": Shape("l/x", (Entry("l", "l", text="l"),), errno.ELOOP),
    "below links to each other": Shape("l/x", (Entry("l", "l", text="m"), Entry("m", "l", text="l")), errno.ELOOP),
    "a name of 255 bytes": Shape(NAME, (Entry(NAME),)),
    "a new name of 255 bytes": Shape(NAME),
    "a name of 256 bytes": Shape(f"{NAME}n", demanded=errno.ENAMETOOLONG),
    "below a name of 256 bytes": Shape(f"{NAME}n/x", demanded=errno.ENAMETOOLONG),
    "a name of 256 bytes below nothing": Shape(f"no/{NAME}n", demanded=errno.ENOENT),
    "a path of 4095 bytes": Shape("./" * 2047 + "f", FILE),
    "a new path of 4095 bytes": Shape("./" * 2046 + "new"),
    "a path of 4096 bytes": Shape("./" * 2047 + "ff", FILE, errno.ENAMETOOLONG),
    "a file": Shape("f", FILE, actors=(OWNER, OTHER)),
    "a file and a slash": Shape("f/", FILE),
    "a file and a dot": Shape("f/.", FILE, errno.ENOTDIR),
    "nothing and a slash": Shape("new/"),
    "an empty directory": Shape("d", FOLDER, actors=(OWNER, OTHER)),
    "a directory and a slash": Shape("d/", FOLDER),
    "a directory and a dot": Shape("d/.", FOLDER),
    "a directory and two dots": Shape("d/..", FOLDER),
    "a full directory": Shape("d", FULL, actors=(OWNER, OTHER)),
    "a dot": Shape("."),
    "two dots": Shape("d/../d", FOLDER),
    "a link to a file": Shape("l", (*FILE, Entry("l", "l", text="f")), actors=(OWNER, OTHER)),
    "a link to a directory": Shape("l", (*FOLDER, Entry("l", "l", text="d"))),
    "a link to a directory and a slash": Shape("l/", (*FOLDER, Entry("l", "l", text="d"))),
    "a link to a full directory and a slash": Shape("l/", (*FULL, Entry("l", "l", text="d"))),
    "a link to a file and a slash": Shape("l/", (*FILE, Entry("l", "l", text="f"))),
    "a dangling link": Shape("l", (Entry("l", "l", text="new"),)),
    "a dangling link and a slash": Shape("l/", (Entry("l", "l", text="new"),)),
    "a FIFO": Shape("p", (Entry("p", "p"),), actors=(OWNER, OTHER)),
    "a socket": Shape("s", (Entry("s", "s"),), actors=(OWNER, OTHER)),
    "one of several names": Shape("f", (Entry("f"), Entry("g"))),
}


#: What a mode or an owner decides about.
FILE_RIGHTS = [*(name for name in EXISTING if name not in ("rmdir", "chdir", "readlink", "statvfs")), *ACCESS]
FOLDER_RIGHTS = ("list", "chdir", "stat", "rmdir", "rename it", "access 7", "setxattr", "list all below")
ENTRY_RIGHTS = ("stat", "unlink", "rename it", "chmod", "open for reading", "create", "link it", "rename of a file")
NEW_RIGHTS = ("stat", "create", "mkdir", "mknod of a socket", "symlink", "link", "rename of a file", "rename of a directory")
STICKY_FILE = ("unlink", "rename it", "rename of a file", "link it", "create", "open and truncate")
STICKY_FOLDER = ("rmdir", "rename it", "rename of a directory")
FILE_MODES = (0o000, 0o400, 0o200, 0o100, 0o070, 0o007, 0o666, 0o6755, 0o6644, 0o6777)
FOLDER_MODES = (0o000, 0o700, 0o300, 0o500, 0o600, 0o050, 0o005, 0o003, 0o777, 0o2777)


def _permissions() -> Iterator[tuple[str, Shape, Sequence[str]]]:
    """Modes of files, and modes of the directories that hold them."""
    for mode in FILE_MODES:
        yield f"a file of mode {mode:o}", Shape("f", (Entry("f", mode=mode),), actors=ACTORS), FILE_RIGHTS
    for mode in FOLDER_MODES:
        folder = Entry("d", "d", mode)
        holding = (folder, Entry("d/f", mode=0o666))
        yield f"a directory of mode {mode:o}", Shape("d", holding, actors=ACTORS), FOLDER_RIGHTS
        yield f"in a directory of mode {mode:o}", Shape("d/f", holding, actors=ACTORS), ENTRY_RIGHTS
        yield f"a new name in a directory of mode {mode:o}", Shape("d/x", (folder,), actors=ACTORS), NEW_RIGHTS


def _sticky() -> Iterator[tuple[str, Shape, Sequence[str]]]:
    """Whose directory, whose entry."""
    for mode in (0o1777, 0o3777):
        for owner in (OWNER, MEMBER, ROOT):
            folder = Entry("d", "d", mode, owner, OWNER.gid)
            for victim in (OWNER, MEMBER, ROOT):
                name = f"in {owner.name}'s directory of mode {mode:o}, {victim.name}'s"
                yield f"{name} file", Shape("d/f", (folder, Entry("d/f", "f", 0o666, victim)), actors=ACTORS), STICKY_FILE
                yield (
                    f"{name} directory",
                    Shape("d/e", (folder, Entry("d/e", "d", 0o777, victim)), actors=ACTORS),
                    STICKY_FOLDER,
                )


def cases_of(calls: Iterable[str], shape: str, found: Shape) -> Iterator[Case]:
    """One case for all calls that change nothing, because they only look or because all of them fail; one for each other."""
    asked: dict[str, Callable[[], object]] = {name: partial(CALLS[name], found.path) for name in calls}
    idle = {name: call for name, call in asked.items() if name in LOOKING or found.demanded}
    for who in found.actors:
        if idle:
            yield Case(shape, who, (*(BESIDE if found.demanded else ()), *found.tree), idle)
        for name in asked.keys() - idle.keys():
            if name == "chown to the same" and who not in (ROOT, OWNER):
                continue  # POSIX lets it do nothing. FUSE does not tell it from a write, so a stranger's does nothing here
            beside = BESIDE if " of " in name or "onto" in name or name == "link" else ()
            yield Case(shape, who, (*beside, *found.tree), {name: asked[name]})


def compared(here: Path, home: Path, cases: list[Case], through: tuple[Path, Path] | None = None) -> list[Outcome]:
    """The outcomes on the mount, which are those of the local file system."""
    new = ("new", "d/x", "d/new", NAME)
    home.chmod(0o755)
    ways = through or (None, None)
    ours = observe(here / "cases", cases, new=new, through=ways[0])
    local = observe(home / "cases", cases, new=new, through=ways[1])
    found = differences(cases, ours, local)
    assert not found, f"{len(found)} differences in {len(cases)} cases:\n" + "\n".join(found[:60])
    return ours


def said_by(call: str, number: int) -> str:
    """How a call reports an errno: two of them do not."""
    return "False" if call.startswith("access") else "[]" if call == "list all below" else errno.errorcode[number]


def test_every_call_on_every_shape_of_path(here: Path, home: Path) -> None:
    cases = [one for shape, found in PATHS.items() for one in cases_of((*EXISTING, *MAKING), shape, found)]
    outcomes = compared(here, home, cases)
    for asked, outcome in zip(cases, outcomes, strict=True):
        demanded = PATHS[asked.name].demanded
        for call, result in outcome.results.items():
            if demanded and call not in FIRST:
                assert result == said_by(call, demanded), f"{call}: {asked.name}"


def test_modes_decide_about_files_and_directories(here: Path, home: Path) -> None:
    compared(here, home, [one for shape, found, calls in _permissions() for one in cases_of(calls, shape, found)])


def test_sticky_directories_protect_what_is_anothers(here: Path, home: Path) -> None:
    asked = [(one, found) for shape, found, calls in _sticky() for one in cases_of(calls, shape, found)]
    outcomes = compared(here, home, [one for one, _ in asked])
    for (one, found), outcome in zip(asked, outcomes, strict=True):
        folder, victim = found.tree
        free = one.who.uid in (0, folder.owner.uid, victim.owner.uid)
        for call, result in outcome.results.items():
            if call in ("unlink", "rmdir", "rename of a file"):
                assert result == ("None" if free else "EPERM"), f"{call}: {one.name} as {one.who.name}"


def test_nothing_changes_through_a_read_only_mount(here: Path, home: Path) -> None:
    """EROFS comes after the path was walked and before permissions are looked at, but for what exists already."""
    tree = (*BESIDE, Entry("f", mode=0o6777), Entry("d", "d", 0o777), Entry("d/f"), Entry("l", "l", text="f"), Entry("p", "p"))
    paths = ("f", "d", "l", "p", "new", "d/f", "d/x", "no/x", "f/x", "f/", "new/", ".", "d/..")
    calls = (*EXISTING, *MAKING, *ACCESS)
    cases = [
        Case(f"read-only {path}", who, tree, {name: partial(CALLS[name], path) for name in calls})
        for path in paths
        for who in (ROOT, OTHER)
    ]
    with read_only(here / "cases", here / "ro"), read_only(home / "cases", home / "ro"):
        outcomes = compared(here, home, cases, (here / "ro", home / "ro"))
    said = {asked.name: outcome.results for asked, outcome in zip(cases, outcomes, strict=True) if asked.who is ROOT}
    changes = ("unlink", "chmod", "chown to another user", "truncate", "utimensat with now", "rename it", "open for writing")
    assert {call: said["read-only f"][call] for call in changes} == dict.fromkeys(changes, "EROFS")
    assert {said["read-only new"][call] for call in ("create", "mkdir", "mkfifo", "symlink", "link")} == {"EROFS"}


@contextmanager
def read_only(folder: Path, way: Path) -> Iterator[None]:
    """The same folder once more at `way`, where nothing may be written."""
    folder.mkdir()
    folder.chmod(0o755)
    way.mkdir()
    subprocess.run(["mount", "--bind", folder, way], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", way], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", way], check=True)


def test_a_program_that_runs_is_not_written_to(here: Path, home: Path) -> None:
    """ETXTBSY, both ways, as on the local file system."""

    def seen(folder: Path) -> dict[str, str]:
        program = folder / "program"
        shutil.copy(shutil.which("sleep") or "", program)
        with subprocess.Popen([program, "600"]) as running:
            while_it_runs = {
                name: outcome_of(partial(CALLS[name], str(program)))
                for name in (
                    "open for writing",
                    "open and truncate",
                    "truncate",
                    "open for reading",
                    "chmod",
                    "utimensat with now",
                )
            }
            running.kill()
        program.chmod(0o755)
        with open(program, "r+b"):
            while_written = outcome_of(lambda: subprocess.run([program, "0"]).returncode)
        after = outcome_of(lambda: subprocess.run([program, "0"]).returncode)
        return {**while_it_runs, "run while open for writing": while_written, "run": after}

    ours, local = seen(here), seen(home)
    assert ours == local
    assert ours["open for writing"] == ours["truncate"] == ours["run while open for writing"] == "ETXTBSY"
    assert ours["run"] == "0"


def test_no_name_leads_to_another_file_system(here: Path, home: Path) -> None:
    """EXDEV, both ways."""
    (here / "ours").touch()
    (home / "local").touch()
    for call in (os.rename, os.link):
        assert outcome_of(partial(call, here / "ours", home / "new")) == "EXDEV"
        assert outcome_of(partial(call, home / "local", here / "new")) == "EXDEV"
