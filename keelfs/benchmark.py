"""The measurements behind `keelfs bench`: plain system calls on any directory, so that any file system can be compared.

Every figure is taken by the wall clock around the calls; writes end with fsync. The kernel's caches are not dropped: a read
after a write is what a program that just wrote would see. (Comparisons with cold caches and peers are in bench/.)
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from fuseclient.errors import ClientError

if TYPE_CHECKING:
    from collections.abc import Callable

_PIECE: Final = 1 << 20


class Plan(NamedTuple):
    directory: Path
    big_bytes: int
    files: int  # per thread
    threads: int
    small_bytes: int

    @property
    def steps(self) -> int:
        """How often `measure` calls `advance`."""
        return 2 + len(_PHASES)


class Row(NamedTuple):
    what: str
    value: float
    unit: str  # "MiB/s" or "ops/s"
    p50_ms: float  # of one call


def measure(plan: Plan, advance: Callable[[], None]) -> list[Row]:
    """Run everything in a folder of its own, which is removed afterwards. Raises ClientError."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="keelfs-bench-", dir=plan.directory))
    except OSError as error:
        raise ClientError(f"cannot write in {plan.directory}: {error.strerror}") from error
    try:
        rows = []
        for step in (_write_big, _read_big):
            rows.append(step(folder / "big", plan))
            advance()
        for what, call in _PHASES:
            rows.append(_small(what, call, folder, plan))
            advance()
        return rows
    except OSError as error:
        raise ClientError(f"the benchmark stopped: {error.filename or plan.directory}: {error.strerror}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_big(path: Path, plan: Plan) -> Row:
    piece = os.urandom(_PIECE)
    times = []
    started = time.perf_counter()
    with open(path, "wb", buffering=0) as file:
        for _ in range(max(1, plan.big_bytes // _PIECE)):
            before = time.perf_counter()
            file.write(piece)
            times.append(time.perf_counter() - before)
        os.fsync(file.fileno())
    return Row("big file: write + fsync", _mib(plan) / (time.perf_counter() - started), "MiB/s", _p50(times))


def _read_big(path: Path, plan: Plan) -> Row:
    times = []
    started = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        while True:
            before = time.perf_counter()
            if not file.read(_PIECE):
                break
            times.append(time.perf_counter() - before)
    return Row("big file: read", _mib(plan) / (time.perf_counter() - started), "MiB/s", _p50(times))


def _mib(plan: Plan) -> float:
    return max(1, plan.big_bytes // _PIECE)


def _p50(times: list[float]) -> float:
    return statistics.median(times) * 1000 if times else 0.0


def _create(path: Path, size: int) -> None:
    with open(path, "xb", buffering=0) as file:
        file.write(bytes(size))


def _stat(path: Path, _size: int) -> None:
    path.stat()


def _read(path: Path, size: int) -> None:
    with open(path, "rb", buffering=0) as file:
        file.read(size)


def _rename(path: Path, _size: int) -> None:
    path.rename(path.with_suffix(".renamed"))


def _unlink(path: Path, _size: int) -> None:
    path.with_suffix(".renamed").unlink()


_PHASES: Final = (
    ("small files: create + write", _create),
    ("small files: stat", _stat),
    ("small files: read", _read),
    ("small files: rename", _rename),
    ("small files: unlink", _unlink),
)


def _small(what: str, call: Callable[[Path, int], None], folder: Path, plan: Plan) -> Row:
    def work(thread: int) -> list[float]:
        mine = folder / f"t{thread}"
        mine.mkdir(exist_ok=True)
        times = []
        for number in range(plan.files):
            before = time.perf_counter()
            call(mine / f"{number}.dat", plan.small_bytes)
            times.append(time.perf_counter() - before)
        return times

    started = time.perf_counter()
    with ThreadPoolExecutor(plan.threads) as pool:
        times = [t for one in pool.map(work, range(plan.threads)) for t in one]
    return Row(f"{what} ({plan.threads} threads)", len(times) / (time.perf_counter() - started), "ops/s", _p50(times))
