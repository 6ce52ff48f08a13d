"""How the writing thread shares the interpreter with the event loop.

Python hands the interpreter lock over when its holder blocks, or, when asked, after the switch interval (5 ms). A loop that
wakes up while another thread computes therefore waits for milliseconds. So whatever the writing thread does to thousands of
keys, it does in stretches of about 100 us at most and *rests* in between. A rest is a real sleep: a thread that only lets go
of the lock has it again before the loop's thread is awake. Long single C calls hold the lock too; `sorted_runs` is sorting
without one.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from itertools import islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

#: Keys that are handled between two rests where each costs about half a microsecond.
STRETCH_KEYS: Final = 256

#: Keys per run that goes to LMDB. Its binding drops the lock and takes it back for every key, and a waiter
#: seldom wins it in between: the loop can wait for a whole run. Very large layers get longer runs, not more than so many.
RUN_KEYS: Final = 64
_RUNS_MAX: Final = 1024

_REST_S: Final = 50e-6


def rest() -> None:
    """Let the event loop's thread run, if it wants to."""
    time.sleep(_REST_S)


def sorted_runs(keys: Collection[bytes]) -> Iterator[list[bytes]]:
    """All `keys` in order, in lists of RUN_KEYS or a few less or, of very many keys, more.

    A sample sort: every `run_keys`-th key is a splitter, the keys are dealt into the buckets between the splitters, and each
    bucket is sorted when its turn comes.
    """
    run_keys = max(RUN_KEYS, len(keys) // _RUNS_MAX)
    splitters = sorted(islice(keys, 0, None, run_keys))
    buckets: list[list[bytes]] = [[] for _ in range(len(splitters) + 1)]
    source = iter(keys)
    while stretch := list(islice(source, STRETCH_KEYS)):
        for key in stretch:
            buckets[bisect_right(splitters, key)].append(key)
        rest()
    for bucket in buckets:
        bucket.sort()
        for start in range(0, len(bucket), run_keys):
            yield bucket[start : start + run_keys]
