"""An inode's attributes as the client holds them: the wire layout, read field by field when somebody asks.

`raw` is the layout of protos/attr_layout.py. Most attributes that pass through a client are only handed on to the kernel,
which takes the first 88 bytes as they are, so nothing is decoded until it is needed. Values are immutable.
"""

from __future__ import annotations

from typing import NamedTuple

from protos.attr_layout import ATTR, ATTR_BYTES, FUSE_ATTR_BYTES

_U64 = slice(0, 8)


class AttrFields(NamedTuple):
    """The layout's fields, in its order; see protos/attr_layout.py for units."""

    ino: int
    size: int
    blocks: int
    atime_s: int
    mtime_s: int
    ctime_s: int
    atime_nsec: int
    mtime_nsec: int
    ctime_nsec: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    blksize: int
    fuse_flags: int
    btime_ns: int
    parent: int
    version: int
    data_version: int
    flags: int
    inode_flags: int


class Attr:
    """Attributes of one inode at one moment."""

    __slots__ = ("_fields", "raw")

    def __init__(self, raw: bytes) -> None:
        if len(raw) < ATTR_BYTES:
            raise ValueError(f"attributes are {len(raw)} bytes long, not {ATTR_BYTES}")
        self.raw = raw
        self._fields: AttrFields | None = None

    @classmethod
    def of(cls, fields: AttrFields) -> Attr:
        """The attributes with these fields."""
        made = cls(ATTR.pack(*fields))
        made._fields = fields
        return made

    @property
    def fields(self) -> AttrFields:
        """All fields, decoded once."""
        if self._fields is None:
            self._fields = AttrFields._make(ATTR.unpack_from(self.raw))
        return self._fields

    @property
    def ino(self) -> int:
        return int.from_bytes(self.raw[_U64], "little")

    @property
    def fuse(self) -> bytes:
        """The kernel's struct fuse_attr."""
        return self.raw[:FUSE_ATTR_BYTES]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Attr) and self.raw == other.raw

    def __hash__(self) -> int:
        return hash(self.raw)

    def __repr__(self) -> str:
        f = self.fields
        return f"Attr(ino={f.ino} mode={f.mode:o} size={f.size} nlink={f.nlink} version={f.version})"
