"""What people do with a source tree: unpack it, walk it, ask git, copy it, remove it.

The tree is made once, the same in every run: 2,000 files in 120 directories, sizes like those of sources (median about 5 KiB,
some of hundreds of KiB), a git repository of one commit.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Any

from bench.data import drop_kernel_caches
from bench.processes import cpu_s
from bench.programs import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.systems import System

FILES, FOLDERS, SEED = 2000, 120, 20260101

#: name, cold, shell command; $T is the archive, $M a fresh folder on the mount
STEPS = (
    ("tar_x", False, 'tar xf "$T" -C "$M"'),
    ("find_cold", True, 'find "$M/tree" -type f | wc -l'),
    ("du_cold", True, 'du -s "$M/tree"'),
    ("git_status_cold", True, 'git -C "$M/tree" status --porcelain | wc -l'),
    ("cp_r", True, 'cp -r "$M/tree" "$M/copy"'),
    ("cat_all_cold", True, 'find "$M/copy" -type f -print0 | xargs -0 cat | wc -c'),
    ("rm_rf", False, 'rm -rf "$M/copy"'),
)


def make_archive(home: Path) -> Path:
    """The archive; built when it is not there."""
    archive = home / "tree.tar"
    if archive.exists():
        return archive
    tree = home / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    rng = random.Random(SEED)
    for number in range(FILES):
        folder = tree / f"d{number % 12:02d}" / f"s{number % FOLDERS:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        size = min(int(rng.lognormvariate(8.5, 1.3)), 2_000_000)
        words = bytes(rng.randrange(97, 123) for _ in range(64))
        (folder / f"file{number:04d}.c").write_bytes((words * (size // 64 + 1))[:size])
    git = ["git", "-C", str(tree), "-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    run(["git", "init", "-q", str(tree)])
    run([*git, "add", "."])
    run([*git, "commit", "-q", "-m", "the tree"])
    run(["tar", "-C", str(home), "-cf", str(archive), "tree"])
    shutil.rmtree(tree)
    return archive


def measure(system: System, archive: Path, round_number: int) -> Iterator[dict[str, Any]]:
    """One row a step: seconds, and CPU seconds of the system."""
    work = system.mount / f"scenario-{round_number}"
    work.mkdir()
    for name, cold, command in STEPS:
        if cold:
            drop_kernel_caches()
        before, started = cpu_s(system.pids()), time.perf_counter()
        done = subprocess.run(
            ["sh", "-c", command],
            env={"PATH": "/usr/bin:/bin", "T": str(archive), "M": str(work)},
            capture_output=True,
            check=False,
        )
        yield {
            "part": "scenario",
            "system": system.name,
            "round": round_number,
            "phase": name,
            "seconds": time.perf_counter() - started,
            "cpu_s": cpu_s(system.pids()) - before,
            "errors": done.returncode,
        }
    run(["rm", "-rf", str(work)])
