"""Real processes and real faults, for every test in this folder. Needs root and /dev/fuse."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fuse.fixtures import cluster, here, home, mark_real, scratch
from tests.integration.object_servers import Processes, start_moto

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["cluster", "here", "home", "scratch"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_real(items, Path(__file__).parent)


@pytest.fixture(scope="session")
def moto(scratch: Path) -> Iterator[int]:
    """The port of an S3 server that all tests share; each takes a bucket of its own."""
    with Processes(Path(tempfile.mkdtemp(dir=scratch))) as servers:
        yield start_moto(servers)
