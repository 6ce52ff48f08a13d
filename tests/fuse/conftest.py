"""Real processes: a server, a mount and a store, for every test in this folder. Needs root and /dev/fuse."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fuse.cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

WHY_NOT = "needs root" if os.geteuid() != 0 else "needs /dev/fuse" if not Path("/dev/fuse").exists() else ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
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
