"""What the data path is told once: the volume's block size and this mount's limits. Checked where it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fuseclient.data.block import SEGMENT_BYTES
from fuseclient.data.slices import CHUNK_BYTES

MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class DataSettings:
    """`buffer_bytes` bounds what the data path keeps in memory: two thirds for data not uploaded yet, a third for blocks
    that were read or are read ahead."""

    volume: str  # the first part of every object's key
    block_bytes: int = 4 * MIB
    inline_bytes: int = 4096
    buffer_bytes: int = 300 * MIB
    readahead_bytes: int = 32 * MIB  # the most that is fetched ahead of one sequential reader
    upload_threads: int = 8
    read_threads: int = 16
    flush_after_s: float = 5.0  # data is not kept back longer than this
    upload_deadline_s: float = 600.0  # how long a writer waits for a store that is away
    read_deadline_s: float = 30.0  # the same for a reader

    def __post_init__(self) -> None:
        if self.block_bytes % SEGMENT_BYTES or not 0 < self.block_bytes <= CHUNK_BYTES or CHUNK_BYTES % self.block_bytes:
            raise ValueError(f"block_bytes is {self.block_bytes}, which does not divide {CHUNK_BYTES} into whole segments")
        if self.buffer_bytes < 4 * self.block_bytes:
            raise ValueError(f"buffer_bytes is {self.buffer_bytes}, less than four blocks of {self.block_bytes}")
        if not self.volume or "/" in self.volume:
            raise ValueError(f"not a volume's name: {self.volume!r}")

    @property
    def dirty_bytes_max(self) -> int:
        return self.buffer_bytes * 2 // 3

    @property
    def cached_bytes_max(self) -> int:
        return self.buffer_bytes // 3
