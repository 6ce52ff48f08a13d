"""A program on a mount that makes one empty file after the other and remembers when each was acknowledged.

It never has a file open: whoever starts a process would inherit that, and close it, and wait for a cluster that a test has cut.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from typing import TYPE_CHECKING, Self

from tests.fuse.cluster import DEADLINE_S, wait_for

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType


class SteadyWriter:
    """`done`: the times at which f0, f1, ... were acknowledged, by the monotonic clock."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.done: list[float] = []
        self.failed: list[OSError] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                os.mknod(self.folder / f"f{len(self.done)}", 0o644)
                self.done.append(time.monotonic())
        except OSError as error:
            self.failed.append(error)

    def more(self, count: int) -> None:
        """Wait for so many more; the test fails when the program did."""
        wanted = len(self.done) + count
        wait_for(lambda: len(self.done) >= wanted or self.failed, f"{count} more files")
        self.check()

    def check(self) -> None:
        assert not self.failed, self.failed

    def longest_gap(self, since: float) -> float:
        """Seconds between two acknowledgements, from this moment on."""
        times = [since, *(at for at in self.done if at > since)]
        return max((later - sooner for sooner, later in itertools.pairwise(times)), default=0.0)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(DEADLINE_S)
        if kind is None:
            assert not self._thread.is_alive(), "the program hangs"
            self.check()
            names = set(os.listdir(self.folder))
            missing = [number for number in range(len(self.done)) if f"f{number}" not in names]
            assert not missing, f"acknowledged and not there: {missing[:10]}"
