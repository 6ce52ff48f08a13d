"""kill -9 of the server and of the client at random moments under load: what was acknowledged is there, nothing is half there.

The seed of a run is in the test's output; KEELFS_CRASH_SEED repeats one.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.fuse.cluster import DEADLINE_S, Cluster, wait_for
from tests.integration.crash_model import Seen, check, look, read_journal
from tests.integration.offline import violations
from tests.integration.tcp_proxy import Proxy

if TYPE_CHECKING:
    from pathlib import Path

THREADS = 5


class Load:
    """The process that works on the mount (crash_load.py)."""

    def __init__(self, mountpoint: Path, home: Path, seed: str) -> None:
        name = seed.replace("/", "-")
        self.folder = mountpoint / name
        self.journals = home / f"journal-{name}"
        self.folder.mkdir()
        self.journals.mkdir()
        command = [sys.executable, "-m", "tests.integration.crash_load", self.folder, self.journals, seed, str(THREADS)]
        self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL)

    def calls(self) -> int:
        """Lines in the journals: about two for each call that returned."""
        return sum(path.read_bytes().count(b"\n") for path in self.journals.iterdir())

    def wait_for_calls(self, more: int) -> None:
        """Until so many more lines are in the journals."""
        wanted = self.calls() + more
        wait_for(lambda: self.calls() >= wanted or self.process.poll() is not None, f"{more} more calls of the load")

    def failures(self) -> list[str]:
        return [failure for path in self.journals.iterdir() for failure in read_journal(path).failures]

    def stop(self) -> None:
        """Politely."""
        self.process.terminate()
        self.process.wait(DEADLINE_S)

    def abandon(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE_S)


class Rounds:
    """A cluster, loads one after the other, and what was found of each of them."""

    def __init__(self, cluster: Cluster, proxy: Proxy, seed: int) -> None:
        self._cluster = cluster
        self._proxy = proxy
        self._url = f"keel://127.0.0.1:{proxy.port}/{Cluster.VOLUME}"
        self._rng = random.Random(seed)
        self._seed = seed
        self._lives = 0
        self._looks: dict[Path, dict[str, Seen]] = {}
        self.kills = 0

    def mount(self) -> None:
        """Over a line on which answers can be lost."""
        self._cluster.mount("mnt", url=self._url)

    def life(self) -> None:
        """One load: some kills of the server, which it must not notice, then an end."""
        self._lives += 1
        load = Load(self._cluster.mountpoint, self._cluster.home, f"{self._seed}/{self._lives}")
        try:
            for _ in range(self._rng.choice((1, 1, 2, 3))):
                self._wait(load)
                self._kill_server()
            self._wait(load)
            assert load.process.poll() is None, f"the load noticed a kill of the server: {load.failures()}"
            lost = self._rng.choice((self._end_well, self._kill_client, self._kill_client, self._kill_both))(load)
            self._verify(load, lost=lost)
        finally:
            load.abandon()

    def _wait(self, load: Load) -> None:
        """Some calls, and then a moment more, so that the kill falls anywhere between two of them."""
        load.wait_for_calls(self._rng.choice((20, 100, 300, 700)))
        time.sleep(self._rng.uniform(0, 0.03))

    def _kill_server(self) -> None:
        self.kills += 1
        self._lose_answers()
        self._cluster.server.kill()
        self._proxy.muted = False
        if self._rng.random() < 0.2:  # and again, before anybody is back
            self._cluster.server.start()
            self._cluster.server.kill()
        self._cluster.server.start()

    def _lose_answers(self) -> None:
        """Most of the time the server carries out a little more than it can tell, and is asked for it again after its restart;
        sometimes the line is cut in the same way before, and the same server is asked again."""
        if self._rng.random() < 0.7:
            self._proxy.muted = True
            time.sleep(self._rng.uniform(0.002, 0.03))
            if self._rng.random() < 0.3:
                self._proxy.off()
                self._proxy.muted = False
                self._proxy.on()
                time.sleep(self._rng.uniform(0.1, 0.5))

    def _end_well(self, load: Load) -> bool:
        load.stop()
        assert not load.failures()
        return False

    def _kill_client(self, load: Load) -> bool:
        self.kills += 1
        assert self._cluster.mounts["mnt"].child is not None
        self._cluster.mounts["mnt"].kill()
        load.process.wait(DEADLINE_S)
        self._cluster.kill_mount("mnt")
        self.mount()
        return True

    def _kill_both(self, load: Load) -> bool:
        self._cluster.server.kill()
        self._cluster.mounts["mnt"].kill()
        load.process.wait(DEADLINE_S)
        self._cluster.server.start()
        return self._kill_client(load)

    def _verify(self, load: Load, *, lost: bool) -> None:
        wrong = []
        for journal in sorted(load.journals.iterdir()):
            folder = load.folder / journal.name
            found = self._looks[folder] = look(folder)
            wrong += check(journal, found, lost=lost)
        assert not wrong, "\n".join(wrong)

    def finish(self) -> None:
        """Once more, cold: nothing has changed since it was looked at; and the state is sound."""
        cluster = self._cluster
        cluster.unmount("mnt")
        cluster.server.kill()
        assert violations(cluster.home / "meta") == []
        cluster.server.start()
        cluster.mount("mnt")
        for folder, before in self._looks.items():
            assert look(folder) == before, folder
        # Dead clients' sessions end; what they held open without a name goes with them.
        wait_for(lambda: cluster.status()["orphans"] == 0, "the orphans of dead clients to be reaped")
        cluster.unmount("mnt")
        assert cluster.server.stop() == 0
        assert violations(cluster.home / "meta") == []


def crash(home: Path, kills: int) -> None:
    seed = int(os.environ.get("KEELFS_CRASH_SEED") or random.SystemRandom().randrange(10**6))
    print(f"KEELFS_CRASH_SEED={seed}")
    with Cluster(home) as cluster, Proxy(int(cluster.address.rpartition(":")[2])) as proxy:
        cluster.start_unmounted("--block-size", "256KiB")
        rounds = Rounds(cluster, proxy, seed)
        rounds.mount()
        while rounds.kills < kills:
            rounds.life()
        rounds.finish()


def test_what_was_acknowledged_survives_kills(home: Path) -> None:
    crash(home, kills=10)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_what_was_acknowledged_survives_a_hundred_kills(home: Path) -> None:
    crash(home, kills=100)
