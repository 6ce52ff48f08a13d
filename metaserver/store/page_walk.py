"""Reading an LMDB file's pages without mapping it, for two questions that LMDB does not answer.

*Is every page there that is referred to?* LMDB trusts its file: reading a mapped page that was cut off kills the process
(SIGBUS), and a page of zeros leads it anywhere. Its header says how many pages there are, but the file may rightly be shorter:
pages that one transaction allocates and drops are never written, and they can be the last ones. So the only honest test is to
follow the references (`check_pages`), in both trees, the data and the list of free pages: about a second per million keys.
It is done when a file is short, and on demand.

*Which keys share a page?* (`PageFile.leaf_around`), asked by dense_writer.py about the last committed state.

Knows the page format of LMDB 0.9 on 64-bit little-endian machines (data version 1), and nothing of what is in the pages.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from metaserver.store.errors import StoreCorrupt

if TYPE_CHECKING:
    from pathlib import Path

_HEADER: Final = struct.Struct("<QHHHH")  # page number, padding, flags, end of the node offsets, start of the nodes
_META: Final = struct.Struct("<IIQQ")  # magic, data version, map address, map size; then the two trees, last page, txn id
_TREE: Final = struct.Struct("<IHHQQQQQ")  # page size (first tree), flags, depth, branch, leaf, overflow pages, entries, root
_NODE: Final = struct.Struct("<HHHH")  # size low, size high, flags, key size; in a branch the first three are a page number
_KEY_BYTES: Final = struct.Struct("<H")
_PAGE_NUMBER: Final = struct.Struct("<Q")
_META_TREES_AT: Final = _HEADER.size + _META.size
_META_LAST_AT: Final = _META_TREES_AT + 2 * _TREE.size

_MAGIC: Final = 0xBEEFC0DE
_DATA_VERSION: Final = 1
_BRANCH: Final = 0x01
_LEAF: Final = 0x02
_OVERFLOW: Final = 0x04
_BIG_VALUE: Final = 0x01
_NO_PAGE: Final = 2**64 - 1
_DEPTH_MAX: Final = 32


class _Meta(NamedTuple):
    txn: int
    page_bytes: int
    roots: tuple[int, int]


class Leaf(NamedTuple):
    """The keys of one page in order, and what each takes of the page."""

    keys: list[bytes]
    node_bytes: list[int]


def check_pages(path: Path) -> None:
    """Raise StoreCorrupt when a page that is referred to is missing or is not what the reference says."""
    with PageFile(path) as file:
        for root in file.meta.roots:
            if root != _NO_PAGE:
                file.check_tree(root)


def _newest_meta(fd: int, path: Path) -> _Meta:
    first = _read_meta(fd, path, 0)
    second = _read_meta(fd, path, first.page_bytes)
    return max(first, second)


def _read_meta(fd: int, path: Path, at: int) -> _Meta:
    head = os.pread(fd, _META_LAST_AT + 2 * _PAGE_NUMBER.size, at)
    if len(head) < _META_LAST_AT + 2 * _PAGE_NUMBER.size:
        raise StoreCorrupt(f"{path} is truncated: it has no header")
    magic, version, _, _ = _META.unpack_from(head, _HEADER.size)
    if (magic, version) != (_MAGIC, _DATA_VERSION):
        raise StoreCorrupt(f"{path}: not a readable LMDB file")
    free = _TREE.unpack_from(head, _META_TREES_AT)
    main = _TREE.unpack_from(head, _META_TREES_AT + _TREE.size)
    page_bytes = free[0]
    if page_bytes & (page_bytes - 1) or not 512 <= page_bytes <= 65536:
        raise StoreCorrupt(f"{path}: its header gives a page size of {page_bytes}")
    (txn,) = _PAGE_NUMBER.unpack_from(head, _META_LAST_AT + _PAGE_NUMBER.size)
    return _Meta(txn, page_bytes, (free[7], main[7]))


class PageFile:
    """An LMDB file as of its last commit. A context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.meta = _newest_meta(self._fd, path)
        except BaseException:
            os.close(self._fd)
            raise
        self._page_bytes = self.meta.page_bytes
        self._pages = os.fstat(self._fd).st_size // self._page_bytes

    def __enter__(self) -> PageFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    @property
    def page_bytes(self) -> int:
        return self._page_bytes

    def leaf_around(self, key: bytes) -> Leaf:
        """The page that `key` is on, or would be on."""
        number, depth = self.meta.roots[1], 0
        if number == _NO_PAGE:
            return Leaf([], [])
        while True:
            page, flags, offsets = self._read(number, depth)
            if not flags & _BRANCH:
                return Leaf([_key_at(page, at) for at in offsets], [_node_bytes(page, at) for at in offsets])
            # The first child has no key: it takes everything below the second's.
            child = bisect_right(offsets, key, lo=1, key=partial(_key_at, page)) - 1
            number, depth = _child_at(page, offsets[child]), depth + 1

    def check_tree(self, number: int, depth: int = 0) -> None:
        """The page `number` and everything below it."""
        page, flags, offsets = self._read(number, depth)
        if flags & _BRANCH:
            for at in offsets:
                self.check_tree(_child_at(page, at), depth + 1)
            return
        for at in offsets:
            low, high, flags, key_bytes = _NODE.unpack_from(page, at)
            if flags & _BIG_VALUE:
                (first,) = _PAGE_NUMBER.unpack_from(page, at + _NODE.size + key_bytes)
                self._overflow(first, low | high << 16)

    def _read(self, number: int, depth: int) -> tuple[bytes, int, tuple[int, ...]]:
        """The page, its flags, and where its nodes start."""
        if number >= self._pages:
            raise StoreCorrupt(f"{self._path} is truncated: page {number} is needed, but there are {self._pages}")
        page = os.pread(self._fd, self._page_bytes, number * self._page_bytes)
        own, _, flags, lower, upper = _HEADER.unpack_from(page)
        kind = flags & (_BRANCH | _LEAF | _OVERFLOW)
        if own != number or kind not in (_BRANCH, _LEAF) or not _HEADER.size <= lower <= upper <= self._page_bytes:
            raise StoreCorrupt(f"{self._path}: page {number} is damaged")
        offsets = struct.unpack_from(f"<{(lower - _HEADER.size) // 2}H", page, _HEADER.size)
        if depth > _DEPTH_MAX or not all(upper <= at <= self._page_bytes - _NODE.size for at in offsets):
            raise StoreCorrupt(f"{self._path}: page {number} is damaged")
        return page, flags, offsets

    def _overflow(self, first: int, value_bytes: int) -> None:
        pages = (_HEADER.size + value_bytes - 1) // self._page_bytes + 1
        if first + pages > self._pages:
            raise StoreCorrupt(f"{self._path} is truncated: page {first + pages - 1} is needed, but there are {self._pages}")
        own, _, flags, _, _ = _HEADER.unpack(os.pread(self._fd, _HEADER.size, first * self._page_bytes))
        if own != first or not flags & _OVERFLOW:
            raise StoreCorrupt(f"{self._path}: page {first} is damaged")


def _child_at(page: bytes, at: int) -> int:
    low, high, top, _ = _NODE.unpack_from(page, at)
    return int(low | high << 16 | top << 32)


def _key_at(page: bytes, at: int) -> bytes:
    (key_bytes,) = _KEY_BYTES.unpack_from(page, at + 6)
    return page[at + _NODE.size : at + _NODE.size + key_bytes]


def _node_bytes(page: bytes, at: int) -> int:
    """What a leaf's node takes, with its place in the list of offsets."""
    low, high, flags, key_bytes = _NODE.unpack_from(page, at)
    value_bytes = _PAGE_NUMBER.size if flags & _BIG_VALUE else low | high << 16
    return _NODE.size + 2 + int(key_bytes + value_bytes + 1 & ~1)
