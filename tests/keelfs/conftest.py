"""The command line, run as a user would. Tests in test_cli_*.py mount for real; a cluster is shared by those of a module."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fuse.fixtures import cluster, here, home, mark_real, scratch
from tests.keelfs.command_zygote import Zygote

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["cluster", "here", "home", "scratch"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_real([item for item in items if item.path.name.startswith("test_cli_")], Path(__file__).parent)


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """Runs commands quickly."""
    with Zygote() as running:
        yield running
