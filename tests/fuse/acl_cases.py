"""What is done with access control lists, case by case: each runs in a fresh directory of a mount and of a local file system.

A case is a name and an act; what the act returns is compared, and then all that it left behind (test_fuse_acl.py). Acts work
with plain system calls on attributes, so that no tool stands between.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.acl_text import ACCESS, DEFAULT, to_bytes
from tests.fuse.users import ALICE, BOB, CAROL, User, as_user

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Case(NamedTuple):
    name: str
    act: Callable[[Path], Any]


#: Lists that a kernel takes: minimal ones, named users and groups, masks narrow and wide, the odd and the empty.
LISTS = {
    "minimal": "u::rw-,g::r--,o::---",
    "minimal-wide": "u::rwx,g::rwx,o::rwx",
    "minimal-none": "u::---,g::---,o::---",
    "mask-only": "u::rw-,g::rw-,m::r--,o::r--",
    "mask-wider": "u::rw-,g::r--,m::rwx,o::---",
    "mask-empty": "u::rw-,g::rwx,m::---,o::r--",
    "user": "u::rw-,u:4101:rwx,g::r--,m::rwx,o::---",
    "user-refused": "u::rwx,u:4101:---,g::rwx,m::rwx,o::rwx",
    "user-masked": "u::rwx,u:4101:rwx,g::r--,m::r--,o::---",
    "user-mask-empty": "u::rwx,u:4101:rwx,g::---,m::---,o::r--",
    "users": "u::rw-,u:4101:r--,u:4102:-w-,u:9999:rwx,g::---,m::rwx,o::---",
    "users-unsorted": "u::rw-,u:9999:rwx,u:4102:-w-,u:4101:r--,g::---,m::rwx,o::---",
    "user-twice": "u::rw-,u:4101:---,u:4101:rwx,g::---,m::rwx,o::---",
    "user-is-owner": "u::r--,u:0:rwx,g::---,m::rwx,o::---",
    "group": "u::rw-,g::---,g:4202:rw-,m::rw-,o::---",
    "group-refused": "u::rw-,g::rwx,g:4202:---,m::rwx,o::rwx",
    "group-masked": "u::rw-,g::rwx,g:4202:rwx,m::--x,o::r--",
    "groups": "u::rw-,g::---,g:4202:r--,g:4203:-w-,m::rwx,o::---",
    "groups-no-one-has-all": "u::rwx,g::--x,g:4202:r--,g:4203:-w-,m::rwx,o::rwx",
    "group-is-owner": "u::rw-,g::r--,g:0:rwx,m::rwx,o::---",
    "both": "u::rwx,u:4101:r-x,u:4102:---,g::r-x,g:4202:rwx,g:4203:--x,m::r-x,o::--x",
    "exec-only": "u::--x,u:4101:--x,g::--x,m::--x,o::--x",
    "everybody": "u::rwx,u:4101:rwx,g::rwx,g:4202:rwx,m::rwx,o::rwx",
}
SOME = ("minimal", "mask-only", "mask-empty", "user", "user-masked", "groups", "both", "everybody")
#: Directories and files, made before the list is set.
MODES = (0o600, 0o644, 0o750, 0o777)
UMASKS = (0o022, 0o077)


def entries(*parts: tuple[int, int, int], version: int = 2) -> bytes:
    return struct.pack("<I", version) + b"".join(struct.pack("<HHI", *part) for part in parts)


USER_OBJ, GROUP_OBJ, OTHER = (1, 6, 0xFFFFFFFF), (4, 4, 0xFFFFFFFF), (0x20, 4, 0xFFFFFFFF)
#: Bytes that are no list, or one that is not good, or one that is odd and good.
BYTES = {
    "empty": b"",
    "header-cut": b"\2\0\0",
    "no-entries": b"\2\0\0\0",
    "version-1": entries(USER_OBJ, GROUP_OBJ, OTHER, version=1),
    "version-3": entries(USER_OBJ, GROUP_OBJ, OTHER, version=3),
    "version-1-empty": entries(version=1),
    "entry-cut": entries(USER_OBJ, GROUP_OBJ, OTHER)[:-1],
    "entry-and-a-byte": entries(USER_OBJ, GROUP_OBJ, OTHER) + b"\0",
    "other-order": entries(GROUP_OBJ, USER_OBJ, OTHER),
    "other-first": entries(OTHER, USER_OBJ, GROUP_OBJ),
    "no-user": entries(GROUP_OBJ, OTHER),
    "no-group": entries(USER_OBJ, OTHER),
    "no-other": entries(USER_OBJ, GROUP_OBJ),
    "user-obj-twice": entries(USER_OBJ, USER_OBJ, GROUP_OBJ, OTHER),
    "group-obj-twice": entries(USER_OBJ, GROUP_OBJ, GROUP_OBJ, OTHER),
    "other-twice": entries(USER_OBJ, GROUP_OBJ, OTHER, OTHER),
    "mask-twice": entries(USER_OBJ, GROUP_OBJ, (0x10, 4, 0), (0x10, 4, 0), OTHER),
    "user-without-mask": entries(USER_OBJ, (2, 4, 4101), GROUP_OBJ, OTHER),
    "group-without-mask": entries(USER_OBJ, GROUP_OBJ, (8, 4, 4202), OTHER),
    "user-behind-group": entries(USER_OBJ, GROUP_OBJ, (2, 4, 4101), (0x10, 4, 0), OTHER),
    "mask-before-group": entries(USER_OBJ, (0x10, 4, 0), GROUP_OBJ, OTHER),
    "tag-0": entries((0, 4, 0), USER_OBJ, GROUP_OBJ, OTHER),
    "tag-64": entries(USER_OBJ, GROUP_OBJ, OTHER, (0x40, 4, 0)),
    "perm-8": entries((1, 8, 0xFFFFFFFF), GROUP_OBJ, OTHER),
    "perm-ffff": entries(USER_OBJ, GROUP_OBJ, (0x20, 0xFFFF, 0xFFFFFFFF)),
    "nobody-named": entries(USER_OBJ, (2, 4, 0xFFFFFFFF), GROUP_OBJ, (0x10, 4, 0), OTHER),
    "ids-where-none-count": entries((1, 6, 77), (2, 4, 4101), (4, 4, 78), (0x10, 4, 79), (0x20, 4, 80)),
    "a-hundred-users": entries(USER_OBJ, *((2, 4, 5000 + number) for number in range(100)), GROUP_OBJ, (0x10, 4, 0), OTHER),
}


def make(path: Path, mode: int = 0o644, *, directory: bool = False) -> Path:
    if directory:
        path.mkdir()
    else:
        path.write_bytes(b"data")
    path.chmod(mode)
    return path


def has_lists(folder: Path) -> bool:
    """Whether the file system of a local directory keeps lists: without, there is nothing to compare with."""
    try:
        os.setxattr(folder, DEFAULT, to_bytes(LISTS["minimal"]))
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return False
    os.removexattr(folder, DEFAULT)
    return True


def set_list(path: Path, text: str, name: str = ACCESS) -> None:
    os.setxattr(path, name, to_bytes(text), follow_symlinks=False)


# --- what is done -----------------------------------------------------------------------------------------------------


def _set(text: str, here: Path, *, directory: bool) -> None:
    set_list(make(here / "x", directory=directory), text)


def _set_bytes(value: bytes, name: str, here: Path, *, directory: bool) -> None:
    os.setxattr(make(here / "x", directory=directory), name, value)


def _chmod(text: str, mode: int, here: Path) -> None:
    set_list(make(here / "x"), text)
    (here / "x").chmod(mode)


def _birth(kind: str, mode: int, umask: int, text: str, here: Path) -> None:
    parent = make(here / "d", 0o777, directory=True)
    set_list(parent, text, DEFAULT)
    before = os.umask(umask)
    try:
        BIRTHS[kind](parent / "new", mode)
    finally:
        os.umask(before)


def _socket(path: Path, mode: int) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        os.chdir(path.parent)  # a socket's path is short
        try:
            one.bind(path.name)
        finally:
            os.chdir("/")


BIRTHS: dict[str, Callable[[Path, int], Any]] = {
    "open": lambda path, mode: os.close(os.open(path, os.O_CREAT | os.O_WRONLY, mode)),
    "mkdir": lambda path, mode: path.mkdir(mode),
    "fifo": lambda path, mode: os.mkfifo(path, mode),
    "device": lambda path, mode: os.mknod(path, mode | stat.S_IFCHR, os.makedev(1, 3)),
    "mknod": lambda path, mode: os.mknod(path, mode | stat.S_IFREG),
    "symlink": lambda path, mode: path.symlink_to("target"),
    "socket": _socket,
}


def _deep(here: Path) -> None:
    parent = make(here / "d", 0o755, directory=True)
    set_list(parent, LISTS["both"], DEFAULT)
    (parent / "a/b/c").mkdir(parents=True)
    (parent / "a/b/c/f").write_bytes(b"x")
    set_list(parent / "a/b", LISTS["user"], DEFAULT)
    (parent / "a/b/g").write_bytes(b"x")
    os.removexattr(parent / "a", DEFAULT)
    (parent / "a/h").write_bytes(b"x")


def _remove(name: str, how: str, here: Path) -> None:
    path = make(here / "x", directory=True)
    set_list(path, LISTS["both"])
    set_list(path, LISTS["user"], DEFAULT)
    if how == "remove":
        os.removexattr(path, name)
    else:
        os.setxattr(path, name, b"" if how == "empty" else b"\2\0\0\0")


def _remove_absent(name: str, here: Path, *, directory: bool) -> None:
    os.removexattr(make(here / "x", directory=directory), name)


def _flags(flags: int, here: Path, *, there: bool) -> None:
    path = make(here / "x")
    if there:
        set_list(path, LISTS["user"])
    os.setxattr(path, ACCESS, to_bytes(LISTS["both"]), flags)


def _symlink(name: str, here: Path) -> None:
    (here / "x").symlink_to("nowhere")
    os.setxattr(here / "x", name, to_bytes(LISTS["user"]), follow_symlinks=False)


def _default_on_file(text: str, here: Path) -> None:
    set_list(make(here / "x"), text, DEFAULT)


def _by(user: User, owner: User, name: str, how: str, here: Path) -> Any:
    """`user` changes a list of `owner`'s directory."""
    path = make(here / "x", 0o770, directory=True)
    set_list(path, LISTS["user"])
    set_list(path, LISTS["user"], DEFAULT)
    os.chown(path, owner.uid, owner.gid)
    acts: dict[str, Callable[[], Any]] = {
        "set": lambda: set_list(path, LISTS["groups"], name),
        "remove": lambda: os.removexattr(path, name),
        "get": lambda: os.getxattr(path, name).hex(),
    }
    return as_user(user, acts[how])


def _setgid(user: User | None, text: str, name: str, here: Path, *, directory: bool) -> Any:
    """Who is not in the group loses setgid with an access list."""
    path = make(here / "x", directory=directory)
    os.chown(path, BOB.uid, 4999 if user is BOB else BOB.gid)
    path.chmod(0o2775)
    act = partial(set_list, path, text, name)
    return act() if user is None else as_user(user, act)


def _setgid_birth(kind: str, here: Path) -> Any:
    parent = make(here / "d", 0o777, directory=True)
    os.chown(parent, 0, BOB.gid)
    parent.chmod(0o2777)
    set_list(parent, LISTS["both"], DEFAULT)
    return as_user(CAROL, lambda: BIRTHS[kind](parent / "new", 0o2775))


def _chown(here: Path) -> None:
    set_list(make(here / "x"), LISTS["both"])
    os.chown(here / "x", ALICE.uid, 4202)


def _rename(here: Path) -> None:
    set_list(make(here / "x"), LISTS["both"])
    other = make(here / "d", directory=True)
    set_list(other, LISTS["groups"], DEFAULT)
    (here / "x").rename(other / "y")


def _rename_directory(here: Path) -> None:
    set_list(make(here / "d", directory=True), LISTS["both"], DEFAULT)
    (here / "d").rename(here / "e")
    (here / "e/f").write_bytes(b"x")


def _replace(here: Path) -> None:
    set_list(make(here / "x"), LISTS["both"])
    make(here / "y")
    (here / "y").rename(here / "x")


def _link(here: Path) -> None:
    set_list(make(here / "x"), LISTS["both"])
    os.link(here / "x", here / "y")
    set_list(here / "y", LISTS["user"])
    (here / "x").unlink()


def _write(here: Path) -> Any:
    """A stranger with the right to write takes setuid with a write, and leaves the list."""
    path = make(here / "x", 0o4777)
    set_list(path, LISTS["everybody"])
    path.chmod(0o4775)

    def write() -> None:
        with open(path, "r+b") as file:
            file.write(b"new")

    return as_user(ALICE, write)


def _truncate(here: Path) -> None:
    set_list(make(here / "x"), LISTS["both"])
    os.truncate(here / "x", 1)


def _open_existing(text: str, user: User, flags: int, here: Path) -> Any:
    """O_CREAT on what is there is an open like any other."""
    set_list(make(here / "x"), text)
    here.chmod(0o777)
    return as_user(user, lambda: os.close(os.open(here / "x", os.O_CREAT | flags, 0o600)))


def _in_directory(text: str, user: User, here: Path) -> Any:
    """What a directory's list lets somebody do in it."""
    parent = make(here / "d", 0o700, directory=True)
    make(parent / "old", 0o666)
    set_list(parent, text)

    def tried(act: Callable[[], Any]) -> Any:
        try:
            return act()
        except OSError as error:
            return error.errno

    return as_user(
        user,
        lambda: [
            tried(lambda: sorted(os.listdir(parent))),
            tried(lambda: (parent / "old").read_bytes().decode()),
            tried(lambda: (parent / "new").touch()),
            tried(lambda: (parent / "sub").mkdir()),
            tried(lambda: os.rename(parent / "old", parent / "older")),
            tried(lambda: (parent / "older").unlink()),
        ],
    )


def _sticky(user: User, here: Path) -> Any:
    parent = make(here / "d", 0o1770, directory=True)
    make(parent / "old")
    set_list(parent, LISTS["everybody"])
    return as_user(user, lambda: (parent / "old").unlink())


# --- the table --------------------------------------------------------------------------------------------------------


def _cases() -> Iterator[Case]:
    for name, text in LISTS.items():
        yield Case(f"set file {name}", partial(_set, text, directory=False))
        yield Case(f"set directory {name}", partial(_set, text, directory=True))
        yield Case(f"set default {name}", partial(_set_bytes, to_bytes(text), DEFAULT, directory=True))
    for name, value in BYTES.items():
        yield Case(f"bytes access {name}", partial(_set_bytes, value, ACCESS, directory=False))
        yield Case(f"bytes default {name}", partial(_set_bytes, value, DEFAULT, directory=True))
    for name, mode in product(SOME, (0o000, 0o640, 0o604, 0o777, 0o7531)):
        yield Case(f"chmod {name} {mode:o}", partial(_chmod, LISTS[name], mode))
    for name, kind, mode, umask in product(SOME, ("open", "mkdir"), MODES, UMASKS):
        yield Case(f"birth {name} {kind} {mode:o} {umask:o}", partial(_birth, kind, mode, umask, LISTS[name]))
    for name, kind in product(("mask-only", "both"), ("fifo", "device", "mknod", "symlink", "socket")):
        yield Case(f"birth {name} {kind}", partial(_birth, kind, 0o666, 0o077, LISTS[name]))
    yield Case("deep", _deep)
    yield from _removals()
    yield from _by_whom()
    for act in (_chown, _rename, _rename_directory, _replace, _link, _write, _truncate):
        yield Case(act.__name__.strip("_").replace("_", " "), act)


def _removals() -> Iterator[Case]:
    for name, how in product((ACCESS, DEFAULT), ("remove", "empty", "no-entries")):
        yield Case(f"{how} {name}", partial(_remove, name, how))
    for name, directory in product((ACCESS, DEFAULT), (False, True)):
        yield Case(f"remove absent {name} {directory}", partial(_remove_absent, name, directory=directory))
    for flags, there in product((os.XATTR_CREATE, os.XATTR_REPLACE), (False, True)):
        yield Case(f"flags {flags} {there}", partial(_flags, flags, there=there))
    for name in (ACCESS, DEFAULT):
        yield Case(f"symlink {name}", partial(_symlink, name))
    yield Case("default on a file", partial(_default_on_file, LISTS["user"]))
    yield Case("empty default on a file", partial(_default_on_file, "-"))


def _by_whom() -> Iterator[Case]:
    for user, name, how in product((ALICE, BOB), (ACCESS, DEFAULT), ("set", "remove", "get")):
        yield Case(f"by {user.uid} {how} {name}", partial(_by, user, BOB, name, how))
    for user, directory, name in product((None, BOB, CAROL), (False, True), ("minimal-wide", "everybody")):
        who = user.uid if user else "root"
        yield Case(f"setgid {who} {directory} {name}", partial(_setgid, user, LISTS[name], ACCESS, directory=directory))
    yield Case("setgid default", partial(_setgid, BOB, LISTS["both"], DEFAULT, directory=True))
    for kind in ("open", "mkdir", "mknod"):
        yield Case(f"setgid birth {kind}", partial(_setgid_birth, kind))
    for name, user, flags in product(("user", "groups", "user-mask-empty"), (ALICE, BOB, CAROL), (os.O_RDONLY, os.O_WRONLY)):
        yield Case(f"open existing {name} {user.uid} {flags}", partial(_open_existing, LISTS[name], user, flags))
    for name, user in product(("user", "user-masked", "groups", "both", "everybody"), (ALICE, BOB, CAROL)):
        yield Case(f"in directory {name} {user.uid}", partial(_in_directory, LISTS[name], user))
    for user in (ALICE, BOB):
        yield Case(f"sticky {user.uid}", partial(_sticky, user))


CASES = tuple(_cases())
