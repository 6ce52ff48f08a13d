"""The nodes of a cluster compare their whole states by themselves, now and then.

The chain of changes, which is compared with every acknowledgement, shows a node that computed something else. It does not show
a value that changed by itself where it lies. So the leader logs a marker every `interval_s`, give or take a quarter; every node
digests all of its state there (a second or so per million keys, in a worker thread) and reports that to the leader. A node that
differs from a majority of the voters stops for good: raft/state_reports.py and raft/quarantine.py decide and do that.

`keelfs cluster verify` uses markers of its own, which stop nobody: whoever asks decides.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from raft.errors import ReplicationError

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from metaserver.applier import Applier
    from raft.api import ClusterControl

_log = structlog.get_logger(__name__)

MARKER: Final = b"self-verification"
JITTER: Final = 0.25
REPORTS_S: Final = 600.0  # the leader waits so long for the reports of those in reach, to say what came of it
_POLL_S: Final = 0.5


class SelfVerification:
    """`marked` is the state machine's; `run` lives as long as the server and acts while `leads` says so."""

    def __init__(
        self,
        applier: Applier,
        cluster: ClusterControl,
        name: str,
        leads: Callable[[], bool],
        rng: random.Random,
        interval_s: float,
    ) -> None:
        self._applier = applier
        self._cluster = cluster
        self._name = name
        self._leads = leads
        self._rng = rng
        self._interval_s = interval_s
        self._reporting: set[asyncio.Task[None]] = set()

    def marked(self, index: int, payload: bytes) -> None:
        """A marker was applied: if it is ours, report the digest as soon as there is one."""
        if payload == MARKER:
            task = asyncio.get_running_loop().create_task(self._report(index), name=f"self-verification {index}")
            self._reporting.add(task)
            task.add_done_callback(self._reporting.discard)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s * self._rng.uniform(1 - JITTER, 1 + JITTER))
            if self._leads() and len(self._in_reach()) >= 2:
                await self._verify()

    async def close(self) -> None:
        """No task of it runs any more."""
        for task in self._reporting:
            task.cancel()
        await asyncio.gather(*self._reporting, return_exceptions=True)

    async def _report(self, index: int) -> None:
        try:
            digest = await self._applier.state_digest(index)
        except LookupError as error:
            _log.info("the state was not digested for the comparison of nodes", index=index, reason=str(error))
            return
        self._cluster.report_state(index, digest.state)

    def _in_reach(self) -> set[str]:
        """Voters, this node among them: alone it has nobody to compare with."""
        progress = self._cluster.progress()
        voters = self._cluster.membership.voters
        return {name for name in voters if name == self._name or (name in progress and progress[name].reachable)}

    async def _verify(self) -> None:
        try:
            index = await self._cluster.propose_marker(MARKER)
        except ReplicationError as error:
            _log.info("the states of the nodes were not compared", reason=str(error))
            return
        voters = self._cluster.membership.voters
        until = asyncio.get_running_loop().time() + REPORTS_S
        reports = self._cluster.state_reports(index)
        while not self._in_reach() <= reports.keys() and self._leads() and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(_POLL_S)
            reports = self._cluster.state_reports(index)
        if not self._leads():
            return
        silent = sorted(voters - reports.keys())
        if len(set(reports.values())) == 1:
            _log.info("the nodes hold the same state", index=index, nodes=sorted(reports), silent=silent)
        else:
            shown = {name: digest.hex()[:16] for name, digest in sorted(reports.items())}
            _log.error("the nodes do not hold the same state", index=index, digests=shown, silent=silent)
