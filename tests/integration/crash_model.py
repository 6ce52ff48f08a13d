"""What a tree of files must look like after crashes, from a journal of the calls that were made on it.

A journal holds one line per call before it is made and one after it returned, so that of a journal that stops anywhere it is
known what was acknowledged, and which single call may or may not have happened. Rules:
 - Metadata calls count from the moment they return.
 - Bytes count from the return of fsync or close. Bytes written after that are `pending`: a crash of the client may keep any
   number of these writes, in their order, and of the last kept one (an append) the beginning.
Both the load that makes the calls and the check that follows it apply them to a `Tree`, so there is one idea of what they do.
"""

from __future__ import annotations

import json
import os
import random
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def content(tag: str, size: int) -> bytes:
    """The bytes that the call `tag` writes."""
    return random.Random(tag).randbytes(size)


@dataclass
class Node:
    """A file, directory ('children') or symbolic link ('target')."""

    kind: int  # stat.S_IFMT
    mode: int
    data: bytes = b""  # as of the last fsync or close
    pending: list[tuple[int, bytes]] = field(default_factory=list)
    children: dict[str, Node] = field(default_factory=dict)
    target: str = ""
    nlink: int = 1
    mtime_ns: int | None = None  # None: set by the file system, at no known time

    def now(self) -> bytes:
        """The bytes that a reader on the same mount sees."""
        data = self.data
        for write in self.pending:
            data = patched(data, *write)
        return data

    def settle(self) -> None:
        self.data, self.pending = self.now(), []

    def may_be(self, found: bytes, *, lost: bool) -> bool:
        """Whether these bytes are right, after a crash of the client if `lost`."""
        if not lost:
            return found == self.now()
        data = self.data
        for offset, piece in self.pending:
            if found == data:
                return True
            whole = patched(data, offset, piece)
            if offset == len(data) < len(found) < len(whole) and found == whole[: len(found)]:
                return True
            data = whole
        return found == data


def patched(data: bytes, offset: int, piece: bytes) -> bytes:
    """`data` with `piece` written at `offset`; writing nothing changes nothing."""
    if not piece:
        return data
    return data[:offset].ljust(offset, b"\0") + piece + data[offset + len(piece) :]


def new_file(mode: int) -> Node:
    return Node(stat.S_IFREG, mode)


def new_directory(mode: int = 0o755) -> Node:
    return Node(stat.S_IFDIR, mode, nlink=2)


class Tree:
    """The directory of one thread of the load. `open_files` are by number, as they may have lost their names."""

    def __init__(self) -> None:
        self.root = new_directory()
        self.open_files: dict[int, Node] = {}

    def find(self, path: str) -> Node:
        node = self.root
        for name in filter(None, path.split("/")):
            node = node.children[name]
        return node

    def parent(self, path: str) -> tuple[Node, str]:
        head, _, name = path.rpartition("/")
        return self.find(head), name

    def walk(self) -> Iterator[tuple[str, Node]]:
        """Everything below the root."""
        todo = [("", self.root)]
        while todo:
            path, node = todo.pop()
            for name, child in sorted(node.children.items()):
                below = f"{path}/{name}" if path else name
                yield below, child
                todo.append((below, child))

    def apply(self, call: dict[str, Any]) -> None:
        """The effect of a call that succeeded."""
        _EFFECTS[call["op"]](self, call)

    # effects, one per kind of call

    def create(self, call: dict[str, Any]) -> None:
        folder, name = self.parent(call["path"])
        folder.children[name] = self.open_files[call["fd"]] = new_file(call["mode"])

    def open(self, call: dict[str, Any]) -> None:
        self.open_files[call["fd"]] = self.find(call["path"])

    def write(self, call: dict[str, Any]) -> None:
        node = self.open_files[call["fd"]]
        node.pending.append((call["at"], content(call["tag"], call["size"])))
        node.mtime_ns = None

    def sync(self, call: dict[str, Any]) -> None:
        self.open_files[call["fd"]].settle()

    def close(self, call: dict[str, Any]) -> None:
        self.open_files.pop(call["fd"]).settle()

    def mkdir(self, call: dict[str, Any]) -> None:
        folder, name = self.parent(call["path"])
        folder.children[name] = new_directory(call["mode"])
        folder.nlink += 1

    def rmdir(self, call: dict[str, Any]) -> None:
        folder, name = self.parent(call["path"])
        del folder.children[name]
        folder.nlink -= 1

    def unlink(self, call: dict[str, Any]) -> None:
        folder, name = self.parent(call["path"])
        folder.children.pop(name).nlink -= 1

    def rename(self, call: dict[str, Any]) -> None:
        source, old_name = self.parent(call["path"])
        target, new_name = self.parent(call["to"])
        node = source.children.pop(old_name)
        replaced = target.children.get(new_name)
        if replaced is not None:
            replaced.nlink -= 1
        target.children[new_name] = node
        if node.kind == stat.S_IFDIR:
            source.nlink -= 1
            target.nlink += 1

    def link(self, call: dict[str, Any]) -> None:
        folder, name = self.parent(call["to"])
        node = self.find(call["path"])
        node.nlink += 1
        folder.children[name] = node

    def symlink(self, call: dict[str, Any]) -> None:
        folder, name = self.parent(call["path"])
        folder.children[name] = Node(stat.S_IFLNK, 0o777, target=call["to"])

    def chmod(self, call: dict[str, Any]) -> None:
        self.find(call["path"]).mode = call["mode"]

    def utime(self, call: dict[str, Any]) -> None:
        self.find(call["path"]).mtime_ns = call["mtime_ns"]

    def truncate(self, call: dict[str, Any]) -> None:
        node = self.find(call["path"])
        node.settle()
        node.data = node.data[: call["size"]].ljust(call["size"], b"\0")
        node.mtime_ns = None


_EFFECTS = {
    name: getattr(Tree, name)
    for name in (
        *("create", "open", "write", "sync", "close", "mkdir", "rmdir", "unlink", "rename", "link", "symlink"),
        *("chmod", "utime", "truncate"),
    )
}


class Journal(NamedTuple):
    """A journal, read: the tree as acknowledged, the call under way when it stopped, and what failed."""

    tree: Tree
    under_way: dict[str, Any] | None
    failures: list[str]
    calls: int


def read_journal(path: Path) -> Journal:
    """Replay a thread's journal."""
    tree, failures, calls = Tree(), [], 0
    asked: dict[str, Any] | None = None
    for line in path.read_text().splitlines():
        record = json.loads(line)
        if "op" in record:
            asked = record
        elif "wrong" in record:
            failures.append(record["wrong"])
        elif "errno" in record:
            failures.append(f"{os.strerror(record['errno'])}: {asked}")
        else:
            assert asked is not None
            tree.apply(asked)
            asked, calls = None, calls + 1
    return Journal(tree, asked, failures, calls)


class Seen(NamedTuple):
    """One name of a real tree."""

    kind: int
    mode: int
    ino: int
    nlink: int
    mtime_ns: int
    data: bytes  # of a file, or of a symbolic link's target


def look(folder: Path) -> dict[str, Seen]:
    """Everything below a real directory."""
    found: dict[str, Seen] = {}
    for base, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = f"{base}/{name}"
            info = os.lstat(path)
            data = b""
            if stat.S_ISREG(info.st_mode):
                with open(path, "rb") as file:
                    data = file.read()
                assert len(data) == info.st_size, path
            elif stat.S_ISLNK(info.st_mode):
                data = os.fsencode(os.readlink(path))
            kind, mode = stat.S_IFMT(info.st_mode), stat.S_IMODE(info.st_mode)
            found[os.path.relpath(path, folder)] = Seen(kind, mode, info.st_ino, info.st_nlink, info.st_mtime_ns, data)
    return found


def differences(tree: Tree, found: dict[str, Seen], *, lost: bool) -> list[str]:
    """How a real tree differs from what it must be."""
    wanted = dict(tree.walk())
    wrong = [f"missing: {path}" for path in wanted.keys() - found.keys()]
    wrong += [f"should not exist: {path}" for path in found.keys() - wanted.keys()]
    inodes: dict[int, int] = {}
    for path in sorted(wanted.keys() & found.keys()):
        node, seen = wanted[path], found[path]
        if (node.kind, node.mode, node.nlink) != (seen.kind, seen.mode, seen.nlink):
            wrong.append(f"{path}: kind, mode, nlink {seen[:2], seen.nlink} instead of {node.kind, node.mode, node.nlink}")
        if node.mtime_ns is not None and node.mtime_ns != seen.mtime_ns:
            wrong.append(f"{path}: mtime {seen.mtime_ns} instead of {node.mtime_ns}")
        if inodes.setdefault(id(node), seen.ino) != seen.ino:
            wrong.append(f"{path}: is not the same inode under all of its names")
        if node.kind == stat.S_IFLNK and seen.data != node.target.encode():
            wrong.append(f"{path}: leads to {seen.data!r}")
        if node.kind == stat.S_IFREG and not node.may_be(seen.data, lost=lost):
            wrong.append(f"{path}: {_how(node, seen.data)}")
    return wrong


def _how(node: Node, found: bytes) -> str:
    now = node.now()
    at = next((n for n, (a, b) in enumerate(zip(found, now, strict=False)) if a != b), min(len(found), len(now)))
    return f"{len(found)} bytes, durable {len(node.data)}, written {len(now)}, first difference from the latter at {at}"


def check(journal: Path, found: dict[str, Seen], *, lost: bool) -> list[str]:
    """How a real tree differs from what its journal allows. The call under way may have happened or not."""
    read = read_journal(journal)
    wrong = differences(read.tree, found, lost=lost)
    if wrong and read.under_way is not None:
        # A second reading, so that the call is applied to a tree of its own.
        other = read_journal(journal).tree
        other.apply(read.under_way)
        wrong = min(wrong, differences(other, found, lost=lost), key=len)
    return [f"{journal.name} after {read.calls} calls, then {read.under_way}: {one}" for one in wrong]
