"""A server's data directory, opened without a server: what a recovery from it would give, checked."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from metaserver.applier import Applier
from metaserver.core import invariants
from metaserver.store.layered import LayeredStore
from raft.local import LocalReplicator

if TYPE_CHECKING:
    from pathlib import Path


def violations(data: Path) -> list[str]:
    """Recover in memory, as a server would after a crash, and check every invariant. The directory stays as it is."""
    return asyncio.run(_violations(data))


async def _violations(data: Path) -> list[str]:
    store = LayeredStore.open(data / "state", create=False)
    replicator = LocalReplicator(data, Applier(store))
    try:
        await replicator.start()
        return [str(violation) for violation in invariants.check(store)]
    finally:
        await replicator.stop()
        store.close()
