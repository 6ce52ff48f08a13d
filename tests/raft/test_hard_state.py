"""Term and vote: what `save` returned for is never forgotten, and what cannot be read is never guessed."""

from __future__ import annotations

import random

import pytest
from faulty_disk import Fault, FaultyDisk, PowerLoss

from raft.errors import LogCorrupt, Stopped
from raft.hard_state import FILE_NAME, HardState, HardStateFile

DIRECTORY = "/node"
NODE = "0b7b2a54-5a2b-4a10-8f6c-6f2a0d3a7a11"


def test_a_new_node_has_not_voted() -> None:
    assert HardStateFile(FaultyDisk(), DIRECTORY).state == HardState(0, "")


@pytest.mark.parametrize("seed", range(200))
def test_a_saved_vote_survives_whatever_happens_next(seed: int) -> None:
    rng = random.Random(seed)
    disk, saved, tried = FaultyDisk(), HardState(), HardState()
    for _ in range(8):
        disk.plan(rng.randint(1, 30), rng.choice((Fault.POWER, Fault.SYNC_FAILS, Fault.NO_SPACE)), rng.random())
        try:
            file = HardStateFile(disk, DIRECTORY)
            assert file.state in (saved, tried)
            saved = tried = file.state
            for _ in range(4):
                tried = HardState(saved.term + 1, rng.choice(("", NODE)))
                file.save(tried)
                saved = tried
        except (PowerLoss, Stopped, OSError):
            pass
        disk = disk.rebooted(rng) if rng.random() < 0.6 else disk.killed()
    assert HardStateFile(disk, DIRECTORY).state in (saved, tried)


def test_a_file_that_cannot_be_read_is_refused_whatever_is_wrong_with_it() -> None:
    origin = FaultyDisk()
    HardStateFile(origin, DIRECTORY).save(HardState(7, NODE))
    file = origin.names[f"{DIRECTORY}/{FILE_NAME}"]
    whole = bytes(file.cached)
    for at in range(len(whole)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :]):
            file.cached[:] = damaged
            with pytest.raises(LogCorrupt, match="two leaders"):
                HardStateFile(origin, DIRECTORY)
    file.cached[:] = whole
    assert HardStateFile(origin, DIRECTORY).state == HardState(7, NODE)


def test_after_a_failed_save_nothing_is_saved_any_more() -> None:
    disk = FaultyDisk()
    file = HardStateFile(disk, DIRECTORY)
    disk.plan(1, Fault.SYNC_FAILS)
    for _ in range(2):
        with pytest.raises(Stopped):
            file.save(HardState(1, NODE))
    assert file.state == HardState(0, "")


def test_a_node_id_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="too long"):
        HardStateFile(FaultyDisk(), DIRECTORY).save(HardState(1, "x" * 65))
