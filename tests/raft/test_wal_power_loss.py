"""Power losses, kills, full disks and failed syncs at random moments, against a model of what may be in the log.

The model keeps the entries that must be there and those that may follow them; after every recovery the log must be exactly
the first and a prefix of the second, from wherever it begins after trimming.
"""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass, field

import pytest
from faulty_disk import Fault, FaultyDisk, InlineHousekeeper, PowerLoss

from raft.errors import Refused, Stopped
from raft.record import Entry
from raft.segment import FIRST_RECORD
from raft.wal import Wal, WalOptions

DIRECTORY = "/wal"
OPTIONS = WalOptions(segment_bytes=FIRST_RECORD + 2048, first_segment_bytes=FIRST_RECORD + 1024)
SEEDS = 400
LIVES = 6
STEPS = 25


@dataclass
class Model:
    must: list[Entry] = field(default_factory=list)  # from index 1 (or after a reset from `start`), trimmed ones included
    may: list[Entry] = field(default_factory=list)
    trimmed: int = 0
    start: int = 0

    def check(self, wal: Wal) -> None:
        first = wal.first_index
        found = wal.read(first, wal.last_index) if wal.last_index >= first else []
        assert self.start < first <= max(self.trimmed, self.start) + 1
        must = self.must[first - self.start - 1 :]
        assert found[: len(must)] == must
        extra = found[len(must) :]
        assert extra == self.may[: len(extra)]
        self.must += extra
        self.may = []
        assert wal.last_index == self.start + len(self.must) == wal.durable_index


class Life:
    """One process: opens the log, works on it, until something ends it."""

    def __init__(self, rng: random.Random, disk: FaultyDisk, model: Model) -> None:
        self.rng, self.disk, self.model = rng, disk, model
        self.wal = Wal.open(DIRECTORY, OPTIONS, disk=disk, housekeeper=InlineHousekeeper())
        model.check(self.wal)

    def run(self) -> None:
        steps = [self.append] * 12 + [self.trim] * 2 + [self.truncate]
        for _ in range(STEPS):
            self.rng.choice(steps)()
        if self.rng.random() < 0.5:
            self.wal.close()

    def append(self) -> None:
        rng, wal, model = self.rng, self.wal, self.model
        term = rng.randrange(1 << 30)
        sizes = [rng.choice((0, 5, 30, 300, 700)) for _ in range(rng.randint(1, 6))]
        batch = [Entry(wal.last_index + 1 + i, term, rng.randbytes(size)) for i, size in enumerate(sizes)]
        model.may = batch
        wal.append(batch)
        try:
            wal.sync()
        except Refused:
            model.may = []
            assert wal.last_index == wal.durable_index == model.start + len(model.must)
            return
        model.must, model.may = model.must + batch, []

    def trim(self) -> None:
        index = self.rng.randint(self.wal.first_index - 1, self.wal.last_index)
        self.model.trimmed = max(self.model.trimmed, index)
        self.wal.trim(index)

    def truncate(self) -> None:
        wal, model = self.wal, self.model
        index = self.rng.randint(max(wal.first_index - 1, wal.last_index - 8), wal.last_index)
        kept, gone = model.must[: index - model.start], model.must[index - model.start :]
        model.must, model.may = kept, gone
        model.trimmed = min(model.trimmed, index)
        try:
            wal.truncate_suffix(index)
        except Refused:
            model.must, model.may = kept + gone, []
        else:
            model.may = []


def simulate(seed: int) -> None:
    rng = random.Random(seed)
    disk, model = FaultyDisk(), Model()
    for _ in range(LIVES):
        fault = rng.choice((Fault.POWER, Fault.POWER, Fault.NO_SPACE, Fault.SYNC_FAILS))
        disk.plan(rng.randint(1, 60), fault, rng.random())
        with contextlib.suppress(PowerLoss, Stopped, OSError):
            Life(rng, disk, model).run()
        disk = disk.rebooted(rng) if rng.random() < 0.6 else disk.killed()
    Life(rng, disk, model)


@pytest.mark.parametrize("block", range(8))
def test_every_acknowledged_entry_survives_and_no_other_appears(block: int) -> None:
    for seed in range(block * SEEDS // 8, (block + 1) * SEEDS // 8):
        try:
            simulate(seed)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
