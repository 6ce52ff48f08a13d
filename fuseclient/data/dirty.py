"""What was written to a file and is not committed yet: pure bookkeeping, no I/O, no time.

Data is gathered in runs. A run is contiguous within one chunk and will be one slice, cut into blocks from the run's own
start; or, if it is small and has others beside it when it is sealed, a piece of a slice that they share (pack.py).

Two layers lie on top of what is committed:

    open     disjoint runs that still take data, sorted by position. A run's full blocks are *frozen*: they are on their
             way to the store and can change no more; the rest may be overwritten in place and appended to.
    sealed   runs that take no more data, oldest first. They are committed in this order.

Invariants
 D1  Open data is newer than sealed data wherever they overlap; among sealed runs the later one is newer.
 D2  Open runs of a chunk are sorted and disjoint.
 D3  A frozen block is never touched: a write that hits one seals its run first and goes to a new one.
 D4  A run's `use` bytes are what will be committed: its `length`, less what a truncate cut off after it was frozen.
 D5  The runs of a pack are sealed in one step, one after the other with no other in between, and leave the sealed ones by a
     truncate one by one, or committed or given up all together. They are frozen, and so never inline.

Blocks that have to be uploaded are put in `ready`, with their carrier: the run, or its pack. Whoever writes takes them from
there.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

from fuseclient.data.pack import Pack, shares
from fuseclient.data.slices import CHUNK_BYTES, INLINE_REACH

if TYPE_CHECKING:
    import asyncio

    from fuseclient.errors import FsError


class Run:
    """A slice in the making, or a piece of one: `use` bytes at `pos` of `chunk`."""

    __slots__ = (
        "block_bytes",
        "blocks",
        "chunk",
        "error",
        "failed",
        "frozen",
        "gone",
        "length",
        "off",
        "pack",
        "pos",
        "slice",
        "uploads",
        "use",
    )

    def __init__(self, chunk: int, pos: int, block_bytes: int) -> None:
        self.chunk = chunk
        self.pos = pos
        self.use = 0
        self.block_bytes = block_bytes
        self.blocks: list[bytearray | memoryview | None] = []  # None: uploaded; a view: of a pack's payload
        self.length = 0
        self.frozen = 0  # bytes from the start that change no more
        self.gone = False  # committed, or given up: nothing is left to do about it
        self.pack: Pack | None = None
        self.off = 0  # of the first byte in the carrier's slice
        self.slice = 0  # 0: not numbered yet
        self.uploads: list[asyncio.Task[None]] = []
        self.failed: list[int] = []  # blocks whose upload failed for good, waiting for the next flush
        self.error: FsError | None = None

    def put(self, at: int, data: memoryview) -> int:
        """Write `data` at byte `at` <= length, which is not frozen; by how much the run grew."""
        before = self.length
        size = self.block_bytes
        while data:
            number, start = divmod(at, size)
            if number == len(self.blocks):
                self.blocks.append(bytearray())
            block = self.blocks[number]
            assert type(block) is bytearray
            part = data[: size - start]
            inside = min(len(block) - start, len(part))
            if inside > 0:
                with memoryview(block) as view:
                    view[start : start + inside] = part[:inside]
            if inside < len(part):
                block += part[inside:]
            at += len(part)
            data = data[len(part) :]
        self.length = max(at, before)
        return self.length - before

    def shrink(self, length: int) -> int:
        """Forget the bytes from `length` on, which are not frozen; how many."""
        before = self.length
        keep = -(-length // self.block_bytes)
        del self.blocks[keep:]
        if keep:
            last = self.blocks[-1]
            if type(last) is bytearray:
                del last[length - (keep - 1) * self.block_bytes :]
        self.length = length
        return before - length

    def held(self, number: int) -> int:
        """Bytes of a block that are in memory."""
        block = self.blocks[number]
        return 0 if block is None else len(block)

    def uploaded(self, number: int) -> None:
        self.blocks[number] = None

    @property
    def carrier(self) -> Carrier:
        """What is uploaded for this run, and knows the slice."""
        return self if self.pack is None else self.pack

    @property
    def size(self) -> int:
        """Of the slice, if the run is its own carrier."""
        return self.length

    @property
    def is_durable(self) -> bool:
        """Of a sealed run: nothing is left to upload."""
        return self.is_inline or not any(self.blocks)

    def __repr__(self) -> str:
        return f"Run({self.chunk}:{self.pos}+{self.use} slice={self.slice} frozen={self.frozen})"

    @property
    def end(self) -> int:
        return self.pos + self.use

    @property
    def is_inline(self) -> bool:
        """Of a sealed run: its bytes travel in the commit."""
        return not self.frozen

    def contents(self) -> bytes:
        """The bytes to commit, of an inline run."""
        return b"".join(block for block in self.blocks if block is not None)[: self.use]


Carrier = Run | Pack


class DirtyFile:
    """See the module's text. Sizes and positions are checked by the caller."""

    def __init__(self, block_bytes: int, inline_bytes: int) -> None:
        self._block_bytes = block_bytes
        self._inline_bytes = inline_bytes
        self._open: dict[int, list[Run]] = {}
        self._sealed: dict[int, list[Run]] = {}
        self.ready: list[tuple[Carrier, int]] = []
        self.end = 0  # of the last dirty byte in the file

    def __bool__(self) -> bool:
        return bool(self._open or self._sealed)

    def touches(self, chunk: int) -> bool:
        return chunk in self._open or chunk in self._sealed

    def next_chunk(self, chunk: int, otherwise: int) -> int:
        """The first chunk from `chunk` on in which something is dirty."""
        return min((one for layer in (self._open, self._sealed) for one in layer if one >= chunk), default=otherwise)

    def write(self, chunk: int, pos: int, data: memoryview) -> int:
        """Take a piece of a chunk; by how many bytes the memory grew."""
        self.end = max(self.end, chunk * CHUNK_BYTES + pos + len(data))
        grown = 0
        while data:
            runs = self._open.setdefault(chunk, [])
            at = bisect_right(runs, pos, key=_pos)
            room = (runs[at].pos if at < len(runs) else CHUNK_BYTES) - pos
            run = runs[at - 1] if at else None
            if run is None or pos > run.end:
                run = Run(chunk, pos, self._block_bytes)
                runs.insert(at, run)
            elif pos < run.pos + run.frozen:
                self._seal(run)  # D3
                continue
            part = data[:room]
            grown += run.put(pos - run.pos, part)
            run.use = run.length
            if run.length - run.frozen >= self._block_bytes:
                self._freeze(run, run.length // self._block_bytes * self._block_bytes)
            pos += len(part)
            data = data[len(part) :]
        return grown

    def seal_all(self) -> None:
        """Let no open run take more data. The small ones come last: being disjoint (D2), they may come in any order."""
        for runs in list(self._open.values()):
            small: list[Run] = []
            for run in list(runs):
                if run.frozen or self._may_be_inline(run):
                    self._seal(run)
                else:
                    small.append(run)
            for share in shares(small, self._block_bytes):
                self._seal_together(share)

    def sealed(self) -> list[Run]:
        """All sealed runs; those of one chunk in the order of their commit."""
        return [run for runs in self._sealed.values() for run in runs]

    def all_runs(self) -> list[Run]:
        return [run for layer in (self._sealed, self._open) for runs in layer.values() for run in runs]

    def remove(self, run: Run) -> bool:
        """Forget a sealed run. False: it is not here any more."""
        runs = self._sealed.get(run.chunk, [])
        if run not in runs:
            return False
        runs.remove(run)
        run.gone = True
        if not runs:
            del self._sealed[run.chunk]
        if not self:
            self.end = 0
        return True

    def clear(self) -> None:
        for run in self.all_runs():
            run.gone = True
        self._open.clear()
        self._sealed.clear()
        self.ready.clear()
        self.end = 0

    def pieces(self, chunk: int, pos: int, length: int) -> list[tuple[int, int, Run | None]]:
        """A chunk's range as (pos, length, newest run that holds it or None), in order, no gaps."""
        end = pos + length
        found: list[tuple[int, int, Run | None]] = []
        gaps = _overlay(self._open.get(chunk, ()), [(pos, end)], found)
        for run in reversed(self._sealed.get(chunk, ())):
            if not gaps:
                break
            if run.pos < end and run.end > pos:
                gaps = _overlay((run,), gaps, found)
        found.extend((start, stop - start, None) for start, stop in gaps)
        found.sort(key=_first)
        return found

    def cut(self, size: int) -> tuple[int, list[Run]]:
        """Forget everything beyond `size` of the file: bytes of memory set free, and runs of which nothing is left."""
        freed = 0
        gone: list[Run] = []
        for layer in (self._open, self._sealed):
            for chunk in list(layer):
                keep = max(size - chunk * CHUNK_BYTES, 0)
                for run in [run for run in layer.get(chunk, ()) if run.end > keep]:
                    use = max(keep - run.pos, 0)
                    freed += self._cut_run(run, use, is_open=layer is self._open)
                    if not use:
                        gone.append(run)
        self.end = min(self.end, size) if self else 0
        return freed, gone

    def _cut_run(self, run: Run, use: int, *, is_open: bool) -> int:
        freed = 0
        if is_open:
            if run.length > max(use, run.frozen):
                freed = run.shrink(max(use, run.frozen))
                run.use = run.length
            if use < run.frozen or not use:
                self._seal(run)
        run.use = use  # D4
        if not use:
            run.gone = True
            runs = self._sealed[run.chunk]
            runs.remove(run)
            if not runs:
                del self._sealed[run.chunk]
        return freed

    def _seal(self, run: Run) -> None:
        runs = self._open[run.chunk]
        del runs[bisect_left(runs, run.pos, key=_pos)]
        if not runs:
            del self._open[run.chunk]
        self._sealed.setdefault(run.chunk, []).append(run)
        if run.frozen or not self._may_be_inline(run):
            self._freeze(run, run.length)

    def _seal_together(self, runs: list[Run]) -> None:
        if len(runs) == 1:
            self._seal(runs[0])
            return
        pack = Pack(runs)
        for run in runs:
            self._seal(run)
        self.ready.append((pack, 0))

    def _may_be_inline(self, run: Run) -> bool:
        return not run.chunk and run.length <= self._inline_bytes and run.end <= INLINE_REACH * self._inline_bytes

    def _freeze(self, run: Run, upto: int) -> None:
        first = -(-run.frozen // self._block_bytes)
        run.frozen = upto
        self.ready.extend((run, number) for number in range(first, -(-upto // self._block_bytes)))


def _overlay(
    runs: list[Run] | tuple[Run, ...], gaps: list[tuple[int, int]], found: list[tuple[int, int, Run | None]]
) -> list[tuple[int, int]]:
    """Add to `found` what disjoint, sorted `runs` hold of the gaps; the gaps that are left."""
    left: list[tuple[int, int]] = []
    for pos, end in gaps:
        at = max(bisect_right(runs, pos, key=_pos) - 1, 0)
        while at < len(runs) and runs[at].pos < end:
            run = runs[at]
            at += 1
            if run.end <= pos:
                continue
            if run.pos > pos:
                left.append((pos, run.pos))
                pos = run.pos
            take = min(run.end, end)
            found.append((pos, take - pos, run))
            pos = take
            if pos == end:
                break
        if pos < end:
            left.append((pos, end))
    return left


def _pos(run: Run) -> int:
    return run.pos


def _first(piece: tuple[int, int, Run | None]) -> int:
    return piece[0]
