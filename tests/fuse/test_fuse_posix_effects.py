"""What a system call that succeeds does beside its main effect: times of the object and of its directory, link counts, set-id
bits, the group of what is made. POSIX says which of these each call marks for update; the tables below say it, and a local file
system must agree. Times are looked at as "moved" or "did not move".
"""

from __future__ import annotations

import os
import stat
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.fuse.posix_cases import MEMBER, OTHER, OWNER, ROOT, Actor, Case, Entry, differences, observe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOW = (1_700_000_000_000_000_001, 1_700_000_000_000_000_002)


def written(data: bytes, offset: int = 0, flags: int = 0) -> None:
    fd = os.open("d/f", os.O_WRONLY | flags)
    os.pwrite(fd, data, offset)
    os.close(fd)


def opened(path: str, flags: int, mode: int = 0o666) -> None:
    os.close(os.open(path, flags, mode))


def asked() -> None:
    os.stat("d/f")
    os.access("d/f", os.R_OK)
    os.statvfs("d")


def looked() -> None:
    with open("d/f", "rb") as file:
        file.read()
    os.listdir("d")
    os.readlink("d/l")


class Marks(NamedTuple):
    """A call in the tree below, and what moves: m = mtime, c = ctime, of d, d/f, d/e, e."""

    call: Callable[[], object]
    d: str = ""
    f: str = ""
    e: str = ""
    other: str = ""


#: d holds the file f, the directory e and the link l; e is another directory, with the file g.
TREE = (
    *(Entry("d", "d", 0o755), Entry("d/f"), Entry("d/e", "d", 0o755), Entry("d/l", "l", text="f")),
    *(Entry("e", "d", 0o755), Entry("e/g"), Entry("e/h", "d", 0o755)),
)
GONE = "gone"
MARKS: dict[str, Marks] = {
    "looking": Marks(looked),
    "stat and access": Marks(asked),
    "open of what exists": Marks(lambda: opened("d/f", os.O_RDWR | os.O_CREAT)),
    "open and truncate": Marks(lambda: opened("d/f", os.O_WRONLY | os.O_TRUNC), f="mc"),
    "create": Marks(lambda: opened("d/new", os.O_CREAT | os.O_WRONLY), d="mc"),
    "create that is refused": Marks(lambda: opened("d/f", os.O_CREAT | os.O_EXCL)),
    "mkdir": Marks(lambda: os.mkdir("d/new"), d="mc"),
    "mkfifo": Marks(lambda: os.mkfifo("d/new"), d="mc"),
    "mknod": Marks(lambda: os.mknod("d/new", stat.S_IFSOCK | 0o600), d="mc"),
    "symlink": Marks(lambda: os.symlink("f", "d/new"), d="mc"),
    "link": Marks(lambda: os.link("d/f", "e/new"), f="c", other="mc"),
    "unlink": Marks(lambda: os.unlink("d/f"), d="mc", f=GONE),
    "unlink of a link": Marks(lambda: os.unlink("d/l"), d="mc"),
    "rmdir": Marks(lambda: os.rmdir("d/e"), d="mc", e=GONE),
    "rmdir that is refused": Marks(lambda: os.rmdir("e")),
    "write": Marks(lambda: written(b"abc"), f="mc"),
    "write of nothing": Marks(lambda: written(b"")),
    "append": Marks(lambda: written(b"abc", flags=os.O_APPEND), f="mc"),
    "truncate to less": Marks(lambda: os.truncate("d/f", 1), f="mc"),
    "truncate to more": Marks(lambda: os.truncate("d/f", 100), f="mc"),
    "truncate to the same": Marks(lambda: os.truncate("d/f", 4), f="mc"),
    "chmod": Marks(lambda: os.chmod("d/f", 0o600), f="c"),
    "chmod to the same": Marks(lambda: os.chmod("d/f", 0o644), f="c"),
    "chmod of a directory": Marks(lambda: os.chmod("d/e", 0o700), e="c"),
    "chown": Marks(lambda: os.chown("d/f", OTHER.uid, OTHER.gid), f="c"),
    "chown to the same": Marks(lambda: os.chown("d/f", OWNER.uid, OWNER.gid), f="c"),
    "chown to nobody new": Marks(lambda: os.chown("d/f", -1, -1), f="c"),
    "chown of a directory to nobody new": Marks(lambda: os.chown("d/e", -1, -1), e="c"),
    "utimensat": Marks(lambda: os.utime("d/f", ns=NOW), f="mc"),
    "utimensat of a directory": Marks(lambda: os.utime("d/e"), e="mc"),
    "setxattr": Marks(lambda: os.setxattr("d/f", "user.x", b"1"), f="c"),
    "rename within a directory": Marks(lambda: os.rename("d/f", "d/new"), d="mc", f=GONE),
    "rename onto a file": Marks(lambda: os.rename("e/g", "d/f"), d="mc", f="another inode", other="mc"),
    "rename of a directory to another": Marks(lambda: os.rename("d/e", "e/new"), d="mc", e=GONE, other="mc"),
    "rename onto a directory": Marks(lambda: os.rename("e/h", "d/e"), d="mc", e="another inode", other="mc"),
    "rename to itself": Marks(lambda: os.rename("d/f", "d/f")),
}
WORDS = {"m": "mtime", "c": "ctime"}


def compared(here: Path, home: Path, cases: list[Case]) -> list[dict[str, tuple[str, ...]]]:
    """What became of each path, on the mount; the local file system agrees."""
    home.chmod(0o755)
    new = ("new", "d/new", "e/new")
    ours, local = observe(here / "cases", cases, new=new), observe(home / "cases", cases, new=new)
    found = differences(cases, ours, local)
    assert not found, "\n".join(found)
    return [{path: tuple(words) for path, *words in outcome.effects} for outcome in ours]


def test_each_call_moves_the_times_that_posix_names(here: Path, home: Path) -> None:
    cases = [Case(name, ROOT, TREE, {name: marks.call}) for name, marks in MARKS.items()]
    for (name, marks), became in zip(MARKS.items(), compared(here, home, cases), strict=True):
        for path, wanted in (("d", marks.d), ("d/f", marks.f), ("d/e", marks.e), ("e", marks.other)):
            words = (wanted,) if wanted in (GONE, "another inode") else tuple(WORDS[letter] for letter in wanted)
            moved = tuple(word for word in became[path] if word in ("mtime", "ctime", GONE, "another inode"))
            assert moved == words, f"{name}: {path}"


#: mode before -> mode after, for each way to lose setuid and setgid, as the file's owner.
SET_IDS: dict[str, tuple[Callable[[], object], Actor, dict[int, int]]] = {
    "write": (lambda: written(b"x"), OWNER, {0o6777: 0o777, 0o4755: 0o755, 0o2755: 0o755, 0o6744: 0o2744, 0o4644: 0o644}),
    "write by a stranger": (lambda: written(b"x"), OTHER, {0o6777: 0o777, 0o4666: 0o666}),
    "write by root": (lambda: written(b"x"), ROOT, {0o6777: 0o6777, 0o2755: 0o2755}),
    "append": (lambda: written(b"x", flags=os.O_APPEND), OWNER, {0o6777: 0o777}),
    "write and sync": (lambda: written(b"x", flags=os.O_SYNC), OWNER, {0o6777: 0o777}),
    "truncate": (lambda: os.truncate("d/f", 1), OWNER, {0o6777: 0o777, 0o4755: 0o755}),
    "truncate by root": (lambda: os.truncate("d/f", 1), ROOT, {0o6777: 0o6777}),
    "open and truncate": (lambda: opened("d/f", os.O_WRONLY | os.O_TRUNC), OWNER, {0o6777: 0o777}),
    "chown to nobody new": (lambda: os.chown("d/f", -1, -1), OWNER, {0o6755: 0o755, 0o4644: 0o644}),
    "chown to the own group": (lambda: os.chown("d/f", -1, OWNER.gid), OWNER, {0o6755: 0o755, 0o2755: 0o755}),
    "chown by root": (lambda: os.chown("d/f", OTHER.uid, OTHER.gid), ROOT, {0o6755: 0o755, 0o6644: 0o2644}),
    "chmod": (lambda: os.chmod("d/f", 0o6755), OWNER, {0o644: 0o6755}),
}


@pytest.mark.parametrize("name", SET_IDS)
def test_set_ids_go_when_posix_says_so(here: Path, home: Path, name: str) -> None:
    call, who, modes = SET_IDS[name]
    tree = [(Entry("d", "d", 0o777), Entry("d/f", "f", mode)) for mode in modes]
    cases = [Case(f"{name}, mode {mode:o}", who, made, {name: call}) for mode, made in zip(modes, tree, strict=True)]
    for (before, after), became in zip(modes.items(), compared(here, home, cases), strict=True):
        assert became["d/f"][0] == stat.filemode(stat.S_IFREG | after), f"{name} of mode {before:o}"


#: What is made in a setgid directory has the directory's group; a directory is setgid itself.
MADE: dict[str, tuple[Callable[[], object], bool]] = {
    "open": (lambda: opened("d/new", os.O_CREAT | os.O_WRONLY, 0o2775), False),
    "mkdir": (lambda: os.mkdir("d/new", 0o775), True),
    "mkfifo": (lambda: os.mkfifo("d/new", 0o664), False),
    "mknod": (lambda: os.mknod("d/new", stat.S_IFREG | 0o6770), False),
    "symlink": (lambda: os.symlink("x", "d/new"), False),
}


def test_what_is_made_has_the_group_of_its_maker_or_of_a_setgid_directory(here: Path, home: Path) -> None:
    asked = [(name, who, mode) for name in MADE for who in (ROOT, OWNER, MEMBER, OTHER) for mode in (0o777, 0o2777)]
    cases = [
        Case(f"{name} in mode {mode:o}", who, (Entry("d", "d", mode, OWNER, 3003),), {name: MADE[name][0]})
        for name, who, mode in asked
    ]
    for (name, who, mode), became in zip(asked, compared(here, home, cases), strict=True):
        filemode, _, owner, *_ = became["d/new"]
        assert owner == f"of {who.uid}:{3003 if mode & stat.S_ISGID else who.gid}", f"{name} as {who.name}"
        if MADE[name][1]:
            assert (filemode[6] in "sS") == bool(mode & stat.S_ISGID), f"{name} as {who.name}"


def test_link_counts_of_directories_and_files(here: Path, home: Path) -> None:
    tree = (*TREE, Entry("d/e/x", "d", 0o755))
    counted: dict[str, tuple[Callable[[], object], dict[str, int]]] = {
        "nothing": (lambda: None, {".": 4, "d": 3, "d/e": 3, "d/f": 1}),
        "mkdir": (lambda: os.mkdir("d/new"), {"d": 4, "d/new": 2}),
        "rmdir": (lambda: os.rmdir("d/e/x"), {"d": 3, "d/e": 2}),
        "moved": (lambda: os.rename("d/e", "new"), {".": 5, "d": 2, "new": 3}),
        "replaced": (lambda: os.rename("d/e", "e/h"), {"d": 2, "e": 3, "e/h": 3}),
        "link": (lambda: os.link("d/f", "new"), {"d/f": 2, "new": 2, ".": 4}),
        "link and unlink": (lambda: (os.link("d/f", "new"), os.unlink("d/f")), {"new": 1}),
        "link of a symbolic link": (lambda: os.link("d/l", "new", follow_symlinks=False), {"d/l": 2, "new": 2}),
        "rename between two names": (lambda: (os.link("d/f", "new"), os.rename("d/f", "new")), {"d/f": 2, "new": 2}),
        "file over one of two names": (lambda: (os.link("d/f", "new"), os.rename("e/g", "new")), {"d/f": 1, "new": 1}),
    }
    cases = [Case(name, ROOT, tree, {name: call}) for name, (call, _) in counted.items()]
    for (name, (_, links)), became in zip(counted.items(), compared(here, home, cases), strict=True):
        assert {path: became[path][1] for path in links} == {path: f"links {count}" for path, count in links.items()}, name


def test_a_chown_to_nobody_new_by_a_stranger_takes_nothing_away(here: Path, home: Path) -> None:
    """The kernel does not tell it from what comes ahead of a write, so it is not refused; but it changes nothing."""
    tree = (Entry("f", "f", 0o6755),)
    case = Case("chown to nobody new", OTHER, tree, {"chown": partial(os.chown, "f", -1, -1)})
    (ours,) = observe(here / "cases", [case])
    home.chmod(0o755)
    (local,) = observe(home / "cases", [case])
    assert local.results == {"chown": "EPERM"}
    assert {path: words for path, *words in ours.effects}["f"][0] == "-rwsr-sr-x"
