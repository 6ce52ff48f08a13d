"""Real processes and real faults, for every test in this folder. Needs root and /dev/fuse."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.fuse.fixtures import cluster, here, home, mark_real, scratch

if TYPE_CHECKING:
    import pytest

__all__ = ["cluster", "here", "home", "scratch"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_real(items, Path(__file__).parent)
