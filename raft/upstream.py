"""pysyncobj's SyncObj, made fit to be built upon: its state under readable names, its unsafe methods replaced or shut.

pysyncobj 0.3.17 gives the frame of a Raft node: roles, term and vote, commit and apply positions, the set of connected nodes,
the journal that it writes them to. Its handling of messages, its ticks, dumps, command queue and pickles lose or falsely
acknowledge writes (docs/RAFT.md lists how), so they are replaced wholesale: elections.py, replication.py and node.py stand
where they stood, and everything that could still reach the old code ends in `_shut`. private.py names every upstream method
that is replaced, shut, or used although it is private, with the hash of its source: a test compares it with what is installed,
so that an upgrade cannot change a part that we rely on or believe to be out of the way.

Not here: any decision. This file only knows where upstream keeps things.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NoReturn

from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from raft.journal import Journal
    from raft.messages import Message

FOLLOWER: Final = 0  # pysyncobj's _RAFT_STATE
CANDIDATE: Final = 1
LEADER: Final = 2
ROLE_NAMES: Final = {FOLLOWER: "follower", CANDIDATE: "candidate", LEADER: "leader"}


class Port(Transport):  # type: ignore[misc]  # pysyncobj is untyped
    """pysyncobj's idea of a transport, ending in a function."""

    ready = True

    def __init__(self, send: Callable[[str, Message], bool]) -> None:
        super().__init__(None, None, [])
        self._send = send

    def send(self, node: Node, message: Message) -> bool:
        return self._send(str(node.id), message)

    def addNode(self, node: Node) -> None:
        """Connections follow the membership (peer_transport.py), not these calls."""

    dropNode = addNode

    def destroy(self) -> None:
        pass


class Upstream(SyncObj):  # type: ignore[misc]  # pysyncobj is untyped
    """SyncObj on a journal and a send function of ours. One thread; no clock, socket, file or random number of its own."""

    def __init__(self, name: str, journal: Journal, send: Callable[[str, Message], bool], commit_index: int) -> None:
        """`commit_index`: what the state machine has applied already, hence what is known to be committed."""
        self.name = name  # first: upstream's constructor looks at every attribute, properties too
        self.journal = journal
        conf = SyncObjConf(autoTick=False, appendEntriesUseBatch=True, commandsQueueSize=1)
        super().__init__(Node(name), [], conf, transport=Port(send))
        self._poller = None  # frees its descriptor: nothing is polled here
        self._SyncObj__raftLog = journal
        self._SyncObj__raftCurrentTerm = journal.getCurrentTerm()
        self._SyncObj__votedForNodeId = journal.getVotedForNodeId()
        self._SyncObj__raftCommitIndex = commit_index
        self._SyncObj__raftLastApplied = commit_index
        self._nodes: dict[str, Node] = {}

    # -- the state, by name --------------------------------------------------------------------------------------------------

    @property
    def role(self) -> int:
        """FOLLOWER, CANDIDATE or LEADER."""
        return int(self._SyncObj__raftState)

    @role.setter
    def role(self, role: int) -> None:
        self._SyncObj__setState(role)

    @property
    def term(self) -> int:
        return int(self._SyncObj__raftCurrentTerm)

    @property
    def voted_for(self) -> str:
        """Who got this node's vote in this term; "" when nobody did."""
        return str(self._SyncObj__votedForNodeId or "")

    def set_term(self, term: int, voted_for: str) -> None:
        """Durable on return (figure 2: updated on stable storage before responding to RPCs). Raises Stopped, Refused."""
        self.journal.save_vote(term, voted_for)  # first: memory must not know what the disk does not
        self._SyncObj__setCurrentTerm(term, voted_for or None)

    @property
    def leader(self) -> str | None:
        """Who leads this term, as far as this node knows."""
        node = self._SyncObj__raftLeader
        return None if node is None else str(node.id)

    @leader.setter
    def leader(self, name: str | None) -> None:
        self._SyncObj__raftLeader = None if name is None else self._node(name)

    @property
    def commit_index(self) -> int:
        return int(self._SyncObj__raftCommitIndex)

    @commit_index.setter
    def commit_index(self, index: int) -> None:
        self._SyncObj__raftCommitIndex = index

    @property
    def handed_index(self) -> int:
        """The last entry that was handed over to be applied (upstream's lastApplied)."""
        return int(self._SyncObj__raftLastApplied)

    @handed_index.setter
    def handed_index(self, index: int) -> None:
        self._SyncObj__raftLastApplied = index

    @property
    def connected_names(self) -> set[str]:
        return {node.id for node in self._SyncObj__connectedNodes}

    def is_connected(self, name: str) -> bool:
        return self._node(name) in self._SyncObj__connectedNodes

    def send(self, name: str, message: Message) -> bool:
        """Hand a message over; False when it is certainly lost."""
        return bool(self._SyncObj__transport.send(self._node(name), message))

    def connected(self, name: str) -> None:
        self._SyncObj__onNodeConnected(self._node(name))

    def disconnected(self, name: str) -> None:
        self._SyncObj__onNodeDisconnected(self._node(name))

    def _node(self, name: str) -> Node:
        node = self._nodes.get(name)
        if node is None:
            node = self._nodes[name] = Node(name)
        return node

    # -- what upstream would do ----------------------------------------------------------------------------------------------

    def _onTick(self, timeToWait: float = 0.0) -> None:
        self.tick()
        self.flush()

    def _SyncObj__onMessageReceived(self, node: Node, message: Message) -> None:
        self.receive(node.id, message)

    def _SyncObj__onBecomeLeader(self) -> None:
        self._become_leader()

    def _SyncObj__sendAppendEntries(self) -> None:
        self._send_appends()

    def _SyncObj__applyLogEntries(self) -> None:
        self._hand_over()

    def tick(self) -> float:
        raise NotImplementedError

    def flush(self) -> None:
        raise NotImplementedError

    def receive(self, sender: str, message: Message) -> None:
        raise NotImplementedError

    def _become_leader(self) -> None:
        raise NotImplementedError

    def _send_appends(self) -> None:
        raise NotImplementedError

    def _hand_over(self) -> None:
        raise NotImplementedError

    def _shut(self, *_: Any, **__: Any) -> NoReturn:
        """Upstream code that must never run here."""
        raise RuntimeError("a part of pysyncobj that this node has replaced was called")

    _applyCommand = _shut
    _checkCommandsToApply = _shut
    _autoTickThread = _shut
    destroy = _destroy = _doDestroy = destroy_synchronous = _shut
    addNodeToCluster = _addNodeToCluster = _shut
    removeNodeFromCluster = _removeNodeFromCluster = _shut
    setCodeVersion = _setCodeVersion = _SyncObj__setCodeVersion = _shut
    transferLeadership = _transferLeadership = _shut
    forceLogCompaction = _forceLogCompaction = _shut
    _SyncObj__callErrCallback = _shut
    _SyncObj__getCurrentLogIndex = _shut
    _SyncObj__getEntries = _shut
    _SyncObj__getPrevLogIndexTerm = _shut
    _SyncObj__sendNextNodeIdx = _shut
    _SyncObj__connectedToAnyone = _shut
    _SyncObj__deleteEntriesFrom = _shut
    _SyncObj__deleteEntriesTo = _shut
    _SyncObj__onLeaderChanged = _shut
    _SyncObj__changeCluster = _shut
    _SyncObj__doChangeCluster = _shut
    _SyncObj__parseChangeClusterRequest = _shut
    _SyncObj__updateClusterConfiguration = _shut
    _SyncObj__doApplyCommand = _shut
    _SyncObj__tryLogCompaction = _shut
    _SyncObj__loadDumpFile = _shut
    _SyncObj__onReadonlyNodeConnected = _shut
    _SyncObj__onReadonlyNodeDisconnected = _shut
