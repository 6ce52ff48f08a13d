"""Which streams may have cached what, and whom to tell when it changes.

A watch is a bit (the stream) on an inode. It covers the inode itself, and if that is a directory, its entries and the
attributes of the inodes whose `parent` it is. The rule that makes it never miss:

    for every stream S and inode c that S may have cached, S watches c, or c.parent is not 0 and S watches c.parent

which is established by whatever shows c to S (`saw`, `saw_entry`), and kept when c.parent changes: whoever was told of a
rename or link watches the inode itself from then on, and an inode that gets a second name is announced to everybody (`parent`
becomes 0, and nothing says what it was).

Watches are not dropped one by one: a stream keeps them until it ends. One that has more than `watches_max` is told of
everything in its volume instead, and its watches are forgotten. So memory is bounded and nothing is missed.

While a volume has one stream, nothing is computed at all beyond the watches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from metaserver.core import entry as ops

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from metaserver.core.entry import Item, Op, Result
    from metaserver.core.model import Inode
    from metaserver.streams import Stream


class Interest:
    """The table of watches and the announcer of changes."""

    def __init__(self, watches_max: int) -> None:
        self._watches_max = watches_max
        self._watches: dict[int, int] = {}  # inode -> bits of streams
        self._streams: dict[int, Stream] = {}  # bit -> stream
        self._counts: dict[int, int] = {}  # bit -> watches
        self._volumes: dict[int, int] = {}  # volume -> bits of its streams
        self._everything: dict[int, int] = {}  # volume -> bits of streams that are told of all changes
        self._sessions: dict[int, Stream] = {}

    @property
    def watches(self) -> int:
        """How many inodes are watched by anybody."""
        return len(self._watches)

    # --- streams ---

    def join(self, stream: Stream) -> None:
        """From now on the stream is told of what it watches."""
        bit = 1
        while bit in self._streams:
            bit <<= 1
        stream.bit = bit
        self._streams[bit] = stream
        self._counts[bit] = 0
        self._volumes[stream.volume] = self._volumes.get(stream.volume, 0) | bit
        self._sessions[stream.session] = stream

    def leave(self, stream: Stream) -> None:
        """The stream has ended."""
        bit = stream.bit
        if self._streams.pop(bit, None) is None:
            return
        self._forget_watches(bit)
        del self._counts[bit]
        for table in (self._volumes, self._everything):
            left = table.get(stream.volume, 0) & ~bit
            if left:
                table[stream.volume] = left
            else:
                table.pop(stream.volume, None)
        if self._sessions.get(stream.session) is stream:
            del self._sessions[stream.session]

    def _forget_watches(self, bit: int) -> None:
        if not self._counts[bit]:
            return
        if len(self._streams) <= (bit in self._streams):
            self._watches.clear()
        else:
            keep = ~bit
            self._watches = {ino: left for ino, bits in self._watches.items() if (left := bits & keep)}
        self._counts[bit] = 0

    # --- what a stream is shown ---

    def watch(self, stream: Stream, ino: int) -> None:
        """The stream may have cached this inode, and as a directory its entries."""
        bits = self._watches.get(ino, 0)
        bit = stream.bit
        if bits & bit or not bit or self._everything.get(stream.volume, 0) & bit:
            return
        self._watches[ino] = bits | bit
        self._counts[bit] += 1
        if self._counts[bit] > self._watches_max:
            self._everything[stream.volume] = self._everything.get(stream.volume, 0) | bit
            self._forget_watches(bit)

    def saw(self, stream: Stream, inode: Inode) -> None:
        """The stream is shown an inode's attributes or contents: watched by way of its directory if it is so already."""
        parent = inode.parent
        if not parent or not self._watches.get(parent, 0) & stream.bit:
            self.watch(stream, inode.ino)

    def saw_entry(self, stream: Stream, directory: int, inode: Inode | None) -> None:
        """The stream is shown what a name in `directory` means; None: that there is none."""
        if not self._watches.get(directory, 0) & stream.bit:
            self.watch(stream, directory)
        if inode is not None and inode.parent != directory:
            self.watch(stream, inode.ino)

    # --- what changes ---

    def observe(self, items: Sequence[Item], results: Sequence[Result]) -> None:
        """Tell everybody else of an applied entry, and note what its authors were shown."""
        sessions = self._sessions
        for item, result in zip(items, results, strict=True):
            if result.errno:
                continue
            kind = type(item.op)
            if kind is ops.Reap:
                self._reaped(item.op)
                continue
            touch = _TOUCHES.get(kind)
            inode = result.inode
            if touch is None or inode is None:
                continue
            author = sessions.get(item.session)
            bit = 0
            if author is not None:
                bit = author.bit
                self._shown(author, item.op, result)
            others = self._volumes.get(inode.volume, 0) & ~bit
            if others:
                touch(self, others, item.op, result)

    def _shown(self, author: Stream, op: Op, result: Result) -> None:
        """The author keeps what the result tells: names in the op's directories, and the inodes."""
        assert result.inode is not None
        parent = result.parent
        if parent is None:
            self.saw(author, result.inode)
            return
        self.saw_entry(author, parent.ino, None)
        if result.parent2 is not None:
            self.saw_entry(author, result.parent2.ino, None)
        if type(op) is ops.MkDir:
            self.watch(author, result.inode.ino)  # its author knows that it is empty, without ever listing it
        elif result.inode.nlink:
            self.saw(author, result.inode)
        if result.other is not None and result.other.nlink:
            self.saw(author, result.other)
        self.saw(author, parent)

    def _reaped(self, op: Op) -> None:
        """Watches of what is gone are of no use; a reader that asks again watches again."""
        assert isinstance(op, ops.Reap)
        for ino in op.inodes:
            bits = self._watches.pop(ino, 0)
            for bit in _bits(bits):
                self._counts[bit] -= 1

    def tell_inode(self, others: int, inode: Inode, data: bool, via: int = 0) -> None:
        """Announce a changed inode to those of `others` who may have it, as a child of `parent` or of `via`."""
        watches = self._watches
        bits = watches.get(inode.ino, 0) | self._everything.get(inode.volume, 0)
        if inode.parent:
            bits |= watches.get(inode.parent, 0)
        if via:
            bits |= watches.get(via, 0)
        for bit in _bits(bits & others):
            self._streams[bit].notify_inode(inode.ino, data)

    def tell_entry(self, others: int, directory: Inode, name: bytes) -> None:
        """Announce that a name means something else, and that its directory changed."""
        bits = self._watches.get(directory.ino, 0) | self._everything.get(directory.volume, 0)
        for bit in _bits(bits & others):
            self._streams[bit].notify_entry(directory.ino, name)
        self.tell_inode(others, directory, data=False)

    def moved(self, others: int, inode: Inode, via: int) -> None:
        """The inode has another `parent` than when it was shown as a child of `via`: tell, and let those who were told watch
        it itself, since they may still hold its pages."""
        bits = self._watches.get(via, 0) & others
        self.tell_inode(others, inode, data=False, via=via)
        for bit in _bits(bits):
            self.watch(self._streams[bit], inode.ino)

    def everybody(self, others: int, inode: Inode) -> None:
        """Tell all others of the volume, who watch the inode itself from now on."""
        for bit in _bits(others):
            stream = self._streams[bit]
            stream.notify_inode(inode.ino, False)
            self.watch(stream, inode.ino)


def _bits(mask: int) -> Iterator[int]:
    while mask:
        bit = mask & -mask
        yield bit
        mask ^= bit


# --- what each op touches: one row per op ---------------------------------------------------------------------------


def _unseen(interest: Interest, others: int, op: Op, result: Result) -> None:
    """Nobody else can know of it."""


def _made(interest: Interest, others: int, op: Op, result: Result) -> None:
    """A new name for a new inode, which nobody can have cached."""
    assert isinstance(op, ops.Create | ops.MkDir | ops.MkNod | ops.SymLink)
    if not result.existed and result.parent is not None:
        interest.tell_entry(others, result.parent, op.name)


def _linked(interest: Interest, others: int, op: Op, result: Result) -> None:
    assert isinstance(op, ops.Link)
    assert result.inode is not None
    if result.parent is not None:
        interest.tell_entry(others, result.parent, op.name)
    if result.inode.nlink == 2:  # the second name: `parent` became 0
        interest.everybody(others, result.inode)
    else:
        interest.tell_inode(others, result.inode, data=False)


def _removed(interest: Interest, others: int, op: Op, result: Result) -> None:
    assert isinstance(op, ops.Unlink | ops.RmDir)
    assert result.inode is not None
    if result.parent is not None:
        interest.tell_entry(others, result.parent, op.name)
    interest.moved(others, result.inode, via=op.parent)


def _renamed(interest: Interest, others: int, op: Op, result: Result) -> None:
    assert isinstance(op, ops.Rename)
    assert result.inode is not None
    if result.parent is not None:
        interest.tell_entry(others, result.parent, op.name)
        interest.tell_entry(others, result.parent2 or result.parent, op.name2)
    interest.moved(others, result.inode, via=op.parent)
    if result.other is not None:
        interest.moved(others, result.other, via=op.parent2)


def _changed(interest: Interest, others: int, op: Op, result: Result) -> None:
    assert result.inode is not None
    data = isinstance(op, ops.CommitSlices | ops.Fallocate | ops.CopyRange) or (
        isinstance(op, ops.SetAttr) and bool(op.valid & ops.SetAttrValid.SIZE)
    )
    interest.tell_inode(others, result.inode, data)


def _locked(interest: Interest, others: int, op: Op, result: Result) -> None:
    """A lock changes nothing of the inode; its holder is shown the attributes."""


_TOUCHES: Final[dict[type[Op], Callable[[Interest, int, Op, Result], None]]] = {
    ops.Create: _made,
    ops.MkDir: _made,
    ops.MkNod: _made,
    ops.SymLink: _made,
    ops.Link: _linked,
    ops.Unlink: _removed,
    ops.RmDir: _removed,
    ops.Rename: _renamed,
    ops.SetAttr: _changed,
    ops.CommitSlices: _changed,
    ops.Fallocate: _changed,
    ops.CopyRange: _changed,
    ops.TmpFile: _unseen,
    ops.SetXattr: _changed,
    ops.RemoveXattr: _changed,
    ops.SetFlags: _changed,
    ops.SetLock: _locked,
}
