"""Whether this node leads, and the reign that there is meanwhile.

The replicator calls `switch` on the loop whenever that changes; each change is carried out at once, so that quick ones cannot
overtake each other. Everything that must not outlive a reign belongs to its Reign object; that is the whole guard against what
comes late. `current` is what a stream that begins is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import structlog

from metaserver.reign import Reign
from metaserver.streams import STARTING, STOPPING, Ending
from raft.errors import NotLeader, Stopped

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.applier import Applier
    from metaserver.conversations import Conversations
    from metaserver.observed import ObservedState
    from metaserver.reign import Realm
    from raft.api import ClusterControl
    from raft.membership import Member

_log = structlog.get_logger(__name__)


class Leadership:
    """`reign` is None while this node does not lead. `on_change` is called after each change."""

    def __init__(
        self,
        realm: Realm,
        state: ObservedState,
        applier: Applier,
        cluster: ClusterControl | None,
        name: str,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """`cluster`: None on a single node; `name` is this node's own in it."""
        self._realm = realm
        self._state = state
        self._applier = applier
        self._cluster = cluster
        self._name = name
        self._on_change = on_change
        self._closed: Ending | None = STARTING
        self._past: list[Reign] = []
        self.reign: Reign | None = None
        self.reigns = 0  # how many there were: a generation

    # --- what others ask ---

    @property
    def leader(self) -> Member | None:
        """Who leads, as far as this node knows."""
        return self._cluster.leader() if self._cluster is not None else None

    @property
    def is_open(self) -> bool:
        """The state is recovered, and the server is not stopping."""
        return self._closed is None

    def current(self) -> Conversations | Ending:
        """Who talks to clients now, or why nobody does."""
        if self._closed is not None:
            return self._closed
        return self.reign.conversations if self.reign is not None else self.elsewhere()

    def elsewhere(self) -> Ending:
        """How a stream ends at a node that does not lead."""
        leader = self.leader
        if leader is not None and leader.name == self._name and self.reign is not None:
            leader = None  # that is what is ending now
        if leader is None:
            detail = f"{self._me} does not lead, and knows of no leader yet; try again, here or at another node"
        elif leader.name == self._name:
            detail = f"{self._me} was elected just now and does not serve yet; try again"
        else:
            detail = f"{self._me} does not lead the cluster; {leader.name!r} does, at {leader.client}"
        return Ending(grpc.StatusCode.UNAVAILABLE, "not-leader", detail, leader=leader.client if leader is not None else "")

    @property
    def _me(self) -> str:
        return f"node {self._name!r}" if self._name else "this node"

    # --- what happens ---

    def open(self) -> None:
        """The state is recovered: who leads may serve."""
        self._closed = None

    def switch(self, leading: bool) -> None:
        """This node leads, or may lead no longer."""
        try:
            if self.reign is not None:
                self._end(self.elsewhere(), NotLeader(None))
            if leading:
                self._begin()
        except Exception as error:
            self._realm.on_fatal(error)
        self._on_change()

    def close(self) -> None:
        """The server stops: end every stream, begin no other."""
        self._closed = STOPPING
        if self.reign is not None:
            self._end(STOPPING, Stopped("the server is stopping"))

    async def stopped(self) -> None:
        """Return when no task of any reign runs any more."""
        for reign in (*self._past, *([self.reign] if self.reign is not None else [])):
            await reign.stopped()
        self._past.clear()

    def _begin(self) -> None:
        reign = Reign(self._realm, log_ns=self._applier.last_now_ns)
        reign.begin()
        self._state.observers = reign.observers
        self.reign = reign
        self.reigns += 1
        if self._cluster is not None:
            _log.info("this node leads", node=self._name, reign=self.reigns, sessions=len(reign.sessions))

    def _end(self, ending: Ending, error: NotLeader | Stopped) -> None:
        reign, self.reign = self.reign, None
        assert reign is not None
        self._state.observers = ()
        streams = len(reign.conversations)
        reign.end(ending, error)
        self._past = [one for one in self._past if not one.is_stopped] + [reign]
        if self._cluster is not None:
            _log.info("this node leads no longer", node=self._name, reign=self.reigns, streams=streams)
