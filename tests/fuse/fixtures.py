"""What every folder of tests with real processes shares: skipping where no mount is possible, a scratch folder, a cluster.

A conftest.py imports what it needs and calls `mark_real` from its collection hook.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fuse.cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

WHY_NOT = "needs root" if os.geteuid() != 0 else "needs /dev/fuse" if not Path("/dev/fuse").exists() else ""


def mark_real(items: Iterable[pytest.Item], folder: Path) -> None:
    """Every test in `folder` mounts for real."""
    for item in items:
        if folder in item.path.parents:
            item.add_marker(pytest.mark.fuse)
            if WHY_NOT:
                item.add_marker(pytest.mark.skip(reason=f"a real mount {WHY_NOT}"))


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A short path on a local disk: /tmp may be in memory, and pytest's paths are long."""
    base = os.environ.get("KEELFS_TEST_DIR", "/var/tmp")
    with tempfile.TemporaryDirectory(prefix="keel-", dir=base) as folder:
        # Other users walk through it in the permission tests.
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture
def home(scratch: Path) -> Path:
    """A folder of one test's own on that disk."""
    return Path(tempfile.mkdtemp(dir=scratch))


@pytest.fixture(scope="module")
def cluster(scratch: Path) -> Iterator[Cluster]:
    """One server with a volume in a file:// store, mounted once; shared by the tests of a module."""
    with Cluster(Path(tempfile.mkdtemp(dir=scratch))) as running:
        running.start()
        yield running


@pytest.fixture
def here(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A fresh directory on the mount."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)[:80]
    folder = cluster.mountpoint / name
    folder.mkdir()
    yield folder
    subprocess.run(["rm", "-rf", str(folder)], check=True)
