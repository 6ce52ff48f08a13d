"""The log under real processes and real file systems: kill -9 while it acknowledges, and a disk that is really full."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from raft.errors import Refused
from raft.wal import Wal, WalOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 10
ROOT = Path(__file__).resolve().parents[2]
OPTIONS = WalOptions(segment_bytes=64 << 10, first_segment_bytes=32 << 10)

WRITER = textwrap.dedent(
    """
    import asyncio, sys
    from raft.local import LocalOptions, LocalReplicator
    from raft.sync_policy import FixedPolicy
    from raft.wal import WalOptions

    class State:
        index_applied = index_durable = 0
        def apply(self, index, term, payload, hint):
            assert payload == b"%d" % index + b"." * (index % 700), index
            self.index_applied = index
            return index

    async def main(directory, inline):
        options = LocalOptions(wal=WalOptions(segment_bytes=64 << 10, first_segment_bytes=32 << 10))
        replicator = LocalReplicator(directory, State(), options, policy=FixedPolicy(inline=inline == "inline"))
        await replicator.start()
        print("start", replicator.status().index_last, flush=True)
        index = replicator.status().index_last
        while True:
            batch = [replicator.propose(b"%d" % i + b"." * (i % 700)) for i in range(index + 1, index + 9)]
            index = (await asyncio.gather(*batch))[-1]
            print("acked", index, flush=True)

    asyncio.run(main(*sys.argv[1:]))
    """
)


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """The state is empty at each start, so every round replays and checks the whole log."""
    rng = random.Random(9)
    acked = 0
    for number in range(ROUNDS):
        mode = ("inline", "thread")[number % 2]
        command = [sys.executable, "-c", WRITER, str(tmp_path / "node"), mode]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as writer:
            try:
                assert writer.stdout is not None
                word, last = writer.stdout.readline().split()
                assert word == "start"
                assert int(last) >= acked
                for _ in range(rng.randint(1, 60)):
                    acked = int(writer.stdout.readline().split()[1])
                writer.send_signal(signal.SIGKILL)
                for line in writer.stdout:  # what it could still say before it died
                    if line.endswith("\n"):
                        acked = int(line.split()[1])
            finally:
                writer.kill()
    assert acked > ROUNDS


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB of its own."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    mountpoint = tmp_path / "small"
    mountpoint.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "keelfs-test", str(mountpoint)], check=True)
    try:
        yield mountpoint
    finally:
        subprocess.run(["umount", "-l", str(mountpoint)], check=True)


def fill_up(directory: Path) -> Path:
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler


@pytest.mark.fuse
def test_a_really_full_disk_refuses_and_recovers(small_disk: Path) -> None:
    wal = Wal.open(small_disk / "wal", OPTIONS)

    def append() -> int:
        index = wal.last_index + 1
        wal.append([(index, 1, b"%d" % index * 100)])
        return wal.sync()

    for _ in range(50):
        append()
    filler = fill_up(small_disk)
    ballast = wal.last_index
    with pytest.raises(Refused):  # noqa: PT012 (how many fit is the file system's business)
        for _ in range(10000):
            append()
    last = wal.last_index
    assert last > ballast + 50, "the reserved space took entries although the disk was full"
    with pytest.raises(Refused):
        append()
    assert (wal.last_index, wal.durable_index) == (last, last)
    wal.trim(last - 10)
    filler.unlink()
    append()
    first = wal.first_index
    wal.close()
    wal = Wal.open(small_disk / "wal", OPTIONS)
    assert [each.payload for each in wal.read(first, wal.last_index)] == [b"%d" % i * 100 for i in range(first, last + 2)]
    wal.close()


@pytest.mark.fuse
def test_a_disk_too_small_for_a_log_is_an_error_and_leaves_no_log(small_disk: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        Wal.open(small_disk / "wal")
    assert os.listdir(small_disk / "wal") == []
    Wal.open(small_disk / "wal", OPTIONS).close()
