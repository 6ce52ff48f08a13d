"""Whether every page that an LMDB file refers to is in the file, found out without mapping it.

LMDB trusts its file: reading a mapped page that was cut off kills the process (SIGBUS), and a page of zeros leads it anywhere.
Its header says how many pages there are, but the file may rightly be shorter: pages that one transaction allocates and drops
are never written, and they can be the last ones. So the only honest test is to follow the references. This reads both trees
(the data and the list of free pages) with pread, about a second per million keys; it is done when a file is short, and on
demand.

Knows the page format of LMDB 0.9 on 64-bit little-endian machines (data version 1), and nothing of what is in the pages.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from metaserver.store.errors import StoreCorrupt

if TYPE_CHECKING:
    from pathlib import Path

_HEADER: Final = struct.Struct("<QHHHH")  # page number, padding, flags, end of the node offsets, start of the nodes
_META: Final = struct.Struct("<IIQQ")  # magic, data version, map address, map size; then the two trees, last page, txn id
_TREE: Final = struct.Struct("<IHHQQQQQ")  # page size (first tree), flags, depth, branch, leaf, overflow pages, entries, root
_NODE: Final = struct.Struct("<HHHH")  # size low, size high, flags, key size; in a branch the first three are a page number
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


def check_pages(path: Path) -> None:
    """Raise StoreCorrupt when a page that is referred to is missing or is not what the reference says."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        meta = _newest_meta(fd, path)
        walk = _Walk(fd, path, meta.page_bytes)
        for root in meta.roots:
            if root != _NO_PAGE:
                walk.tree(root)
    finally:
        os.close(fd)


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


class _Walk:
    def __init__(self, fd: int, path: Path, page_bytes: int) -> None:
        self._fd = fd
        self._path = path
        self._page_bytes = page_bytes
        self._pages = os.fstat(fd).st_size // page_bytes

    def tree(self, number: int, depth: int = 0) -> None:
        """The page `number` and everything below it."""
        page, flags, offsets = self._read(number, depth)
        if flags & _BRANCH:
            for at in offsets:
                low, high, top, _ = _NODE.unpack_from(page, at)
                self.tree(low | high << 16 | top << 32, depth + 1)
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
