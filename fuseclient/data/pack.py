"""Small runs of one chunk that share a slice, so that many scattered small writes cost one object and not one each.

A pack is made when its runs are sealed: their bytes are put one after the other into one payload, and each run is left
with a view of its part. The payload is block 0, and all, of the slice; each run is committed as a piece of it.

Rules
 - The runs of a pack lie in one chunk, are disjoint and follow each other among the sealed ones. They are committed by one
   request: between two, the metadata service might see the pack's last place overwritten and have its object deleted.
 - The pack lives as long as any of its runs. A run that was cut off leaves its bytes behind in the object, unused.
 - A pack is uploaded, fails and is tried again as a whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Iterator

    from fuseclient.data.dirty import Run
    from fuseclient.errors import FsError

#: Below what one commit may hold.
PACK_RUNS_MAX: Final = 900


class Pack:
    """See the module's text. Has what whoever uploads wants to know of a Run, too."""

    __slots__ = ("blocks", "error", "failed", "runs", "size", "slice", "uploads")

    def __init__(self, runs: list[Run]) -> None:
        """Of at least two runs, whose bytes change no more and lie in one block each."""
        payload = b"".join(block for run in runs for block in run.blocks if block is not None)
        self.runs = runs
        self.blocks: list[bytes | None] = [payload]
        self.size = len(payload)
        self.slice = 0  # 0: not numbered yet
        self.uploads: list[asyncio.Task[None]] = []
        self.failed: list[int] = []
        self.error: FsError | None = None
        view = memoryview(payload)
        at = 0
        for run in runs:
            run.pack, run.off, run.frozen = self, at, run.length
            run.blocks[0] = view[at : at + run.length]
            at += run.length

    @property
    def gone(self) -> bool:
        return all(run.gone for run in self.runs)

    def held(self, number: int) -> int:
        """Bytes of block `number`, which is 0, that are in memory."""
        return 0 if self.blocks[number] is None else self.size

    def uploaded(self, number: int) -> None:
        self.blocks[number] = None
        for run in self.runs:
            run.blocks[0] = None

    def __repr__(self) -> str:
        return f"Pack({len(self.runs)} runs, {self.size} bytes, slice={self.slice})"


def shares(runs: Iterable[Run], block_bytes: int) -> Iterator[list[Run]]:
    """The runs in their order, so many at a time as one pack may hold."""
    share: list[Run] = []
    size = 0
    for run in runs:
        if share and (len(share) == PACK_RUNS_MAX or size + run.length > block_bytes):
            yield share
            share, size = [], 0
        share.append(run)
        size += run.length
    if share:
        yield share
