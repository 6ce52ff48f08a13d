"""Every method of pysyncobj's that the node builds on, replaces, or keeps from ever running, in one table.

The package is pinned, and beyond that: the node rests on private parts of it, and its safety on the absence of others. So each
row has a hash of the upstream source that it was written against, and tests/raft/test_private.py compares it with what is
installed, the rows with what upstream.py overrides, and what really runs with what the rows call kept. docs/RAFT.md shows the
table; `python -m raft.private` prints it.

    kept       runs here as upstream wrote it: moves of fields, no decision
    replaced   calls arrive in our own code
    shut       raises: nothing may arrive there

Not in the table: HARMLESS, which only reads, and which nobody here asks.
"""

from __future__ import annotations

from typing import Final, NamedTuple

VERSION: Final = "0.3.17"


class Private(NamedTuple):
    """One method of upstream's class `SyncObj`, `Journal` or `Transport`."""

    name: str  # Class.method; a name with two underscores is the class's own, `_Class__method` outside of it
    use: str  # "kept", "replaced" or "shut"
    by: str  # where in our code it is used, replaced or shut
    hazards: tuple[str, ...]  # what of RAFT_HAZARDS it does or has a part in as shipped (docs/RAFT.md)
    paper: str  # the section of the Raft paper (extended version) or of the thesis that it is about
    source: str  # the first 16 hexadecimal digits of the SHA-256 of its source

    @property
    def attribute(self) -> str:
        """The name that it has on an object."""
        owner, _, method = self.name.partition(".")
        return f"_{owner}{method}" if method.startswith("__") and not method.endswith("__") else method

    @property
    def where(self) -> str:
        """`by`, with its file."""
        return f"{_FILES[self.by.partition('.')[0]]}:{self.by}"


_FILES: Final = {
    "Journal": "raft/journal.py",
    "Port": "raft/upstream.py",
    "RaftNode": "raft/node.py",
    "Replication": "raft/replication.py",
    "Upstream": "raft/upstream.py",
}

PRIVATE: Final = (
    Private("SyncObj.__init__", "kept", "Upstream.__init__", (), "", "09df12cd7fd7d727"),
    Private("SyncObj.__onSetCodeVersion", "kept", "Upstream.__init__", (), "", "17b050edb193c853"),
    Private("SyncObj.__generateRaftTimeout", "kept", "Upstream.__init__", (), "", "92ed37d3620e781a"),
    Private("SyncObj.__getCurrentLogTerm", "kept", "Upstream.__init__", (), "", "1cb8867e6a13d397"),
    Private("SyncObj.__setState", "kept", "Upstream.role", (), "5.1", "2c1f239f7bd79b39"),
    Private("SyncObj.__setCurrentTerm", "kept", "Upstream.set_term", ("E8",), "5.1, 5.2", "0ad5bf456ac06bd3"),
    Private("SyncObj.__onNodeConnected", "kept", "Upstream.connected", (), "", "2655afb481b4c69b"),
    Private("SyncObj.__onNodeDisconnected", "kept", "Upstream.disconnected", (), "", "a81c0475ba2218cc"),
    Private("SyncObj.doTick", "kept", "Upstream._onTick", (), "", "bef78c2ba06d784b"),
    Private("SyncObj._onTick", "replaced", "RaftNode.tick", ("E9", "E16", "E20"), "5.2, 5.3", "cc9eb08232d005ba"),
    Private(
        "SyncObj.__onMessageReceived",
        "replaced",
        "RaftNode.receive",
        ("E2", "E3", "E13", "E14", "E20", "E21"),
        "5.1 to 5.4, 7",
        "ddfe34b6c0282179",
    ),
    Private("SyncObj.__onBecomeLeader", "replaced", "Replication._become_leader", (), "5.2, 5.4.2", "5a3fd97bc17dc1cf"),
    Private(
        "SyncObj.__sendAppendEntries", "replaced", "Replication._send_appends", ("E3", "E19"), "5.3, 7", "9cb9073128c392fa"
    ),
    Private("SyncObj.__applyLogEntries", "replaced", "RaftNode._hand_over", ("E11", "E22"), "5.3", "073db677773b5a2d"),
    Private("SyncObj._applyCommand", "shut", "Upstream._shut", ("E15", "E16"), "5.3", "827f207d515b2d64"),
    Private("SyncObj._checkCommandsToApply", "shut", "Upstream._shut", ("E1", "E13", "E16", "E18"), "5.3", "a386a8079361d204"),
    Private("SyncObj._autoTickThread", "shut", "Upstream._shut", ("E11",), "", "0edc1a54be46aed2"),
    Private("SyncObj._doDestroy", "shut", "Upstream._shut", ("E7",), "", "8a6c9f892614a4b9"),
    Private("SyncObj._destroy", "shut", "Upstream._shut", ("E7",), "", "fff3254a544295c3"),
    Private("SyncObj.destroy", "shut", "Upstream._shut", ("E7",), "", "2d032c9fe266b3cd"),
    Private("SyncObj.destroy_synchronous", "shut", "Upstream._shut", ("E7",), "", "652d1b57d8b8da0c"),
    Private("SyncObj.addNodeToCluster", "shut", "Upstream._shut", ("E1", "E15"), "6", "409209c3165ec2dc"),
    Private("SyncObj._addNodeToCluster", "shut", "Upstream._shut", ("E1", "E15"), "6", "1052d05207626fff"),
    Private("SyncObj.removeNodeFromCluster", "shut", "Upstream._shut", ("E1", "E15"), "6", "a655f3c1f1472998"),
    Private("SyncObj._removeNodeFromCluster", "shut", "Upstream._shut", ("E1", "E15"), "6", "dfd1ddfdeb62d45d"),
    Private("SyncObj.__changeCluster", "shut", "Upstream._shut", ("E1",), "6", "66b42884f9d2dbd1"),
    Private("SyncObj.__doChangeCluster", "shut", "Upstream._shut", ("E1",), "6", "247d4d4101b8cd3c"),
    Private("SyncObj.__parseChangeClusterRequest", "shut", "Upstream._shut", ("E1", "E15"), "6", "b2d5d695b12e592f"),
    Private("SyncObj.__updateClusterConfiguration", "shut", "Upstream._shut", ("E1",), "6", "e2de42f3d1a46c96"),
    Private("SyncObj.setCodeVersion", "shut", "Upstream._shut", ("E15", "E22"), "", "a157058e46debd78"),
    Private("SyncObj._setCodeVersion", "shut", "Upstream._shut", ("E15", "E22"), "", "50bb678a18be46c9"),
    Private("SyncObj.__setCodeVersion", "shut", "Upstream._shut", ("E22",), "", "49b1ea076c238f0d"),
    Private("SyncObj.transferLeadership", "shut", "Upstream._shut", ("E15",), "thesis 3.10", "c3ac67963962d9aa"),
    Private("SyncObj._transferLeadership", "shut", "Upstream._shut", ("E15",), "thesis 3.10", "9eb7da3a81694ac1"),
    Private("SyncObj.forceLogCompaction", "shut", "Upstream._shut", ("E5", "E6"), "7", "00154a6c3c106824"),
    Private("SyncObj._forceLogCompaction", "shut", "Upstream._shut", ("E5", "E6"), "7", "93f935ff11e723b2"),
    Private("SyncObj.__tryLogCompaction", "shut", "Upstream._shut", ("E4", "E5", "E6", "E15"), "7", "c2f8a0ec14cc7312"),
    Private("SyncObj.__loadDumpFile", "shut", "Upstream._shut", ("E5", "E14", "E15", "E21"), "7", "ec66e83905de703b"),
    Private("SyncObj.__doApplyCommand", "shut", "Upstream._shut", ("E11", "E15", "E22"), "5.3", "1ea7aa506e950d0a"),
    Private("SyncObj.__deleteEntriesFrom", "shut", "Upstream._shut", ("E3",), "5.3", "3b23c411bb903d36"),
    Private("SyncObj.__deleteEntriesTo", "shut", "Upstream._shut", ("E4", "E6"), "7", "b7b29988856a66b3"),
    Private("SyncObj.__sendNextNodeIdx", "shut", "Upstream._shut", ("E2",), "5.3", "68aaeefc267b8896"),
    Private("SyncObj.__callErrCallback", "shut", "Upstream._shut", ("E13",), "", "6037c14ef64c2763"),
    Private("SyncObj.__onLeaderChanged", "shut", "Upstream._shut", ("E13", "E18"), "8", "53b7685e1d897887"),
    Private("SyncObj.__connectedToAnyone", "shut", "Upstream._shut", ("E20",), "5.2", "acd40e9e3ac6c4cc"),
    Private("SyncObj.__onReadonlyNodeConnected", "shut", "Upstream._shut", ("E15",), "", "88ae4a6d87507838"),
    Private("SyncObj.__onReadonlyNodeDisconnected", "shut", "Upstream._shut", ("E15",), "", "9dc1fe5296c63ca7"),
    Private("SyncObj.__getCurrentLogIndex", "shut", "Upstream._shut", (), "5.3", "e5af22ca246686bd"),
    Private("SyncObj.__getPrevLogIndexTerm", "shut", "Upstream._shut", ("E3",), "5.3", "6766914806ae2311"),
    Private("SyncObj.__getEntries", "shut", "Upstream._shut", ("E3",), "5.3", "e29c4b33293b2101"),
    Private("Journal.add", "replaced", "Journal.add", ("E7", "E17"), "5.3", "0e090e17aaad526e"),
    Private("Journal.clear", "replaced", "Journal.clear", ("E5", "E6"), "5.3", "413a15e034910581"),
    Private("Journal.deleteEntriesFrom", "replaced", "Journal.deleteEntriesFrom", ("E3",), "5.3", "3f73744e16794746"),
    Private("Journal.deleteEntriesTo", "replaced", "Journal.deleteEntriesTo", ("E4", "E6"), "7", "e054666eb7665bd9"),
    Private("Journal.__getitem__", "replaced", "Journal.__getitem__", (), "", "60c44df67230e43f"),
    Private("Journal.__len__", "replaced", "Journal.__len__", (), "", "b158b0447907ce71"),
    Private("Journal._destroy", "replaced", "Journal._destroy", ("E7",), "", "79e3e2aaa8b68cf8"),
    Private("Journal.setRaftCommitIndex", "replaced", "Journal.setRaftCommitIndex", ("E9",), "figure 2", "b485d5e36b8c6dd8"),
    Private("Journal.getRaftCommitIndex", "replaced", "Journal.getRaftCommitIndex", ("E9",), "figure 2", "0310574c19f07eb5"),
    Private("Journal.setCurrentTerm", "replaced", "Journal.setCurrentTerm", ("E8",), "figure 2", "58e76658fc5b2b02"),
    Private("Journal.getCurrentTerm", "replaced", "Journal.getCurrentTerm", ("E8",), "figure 2", "12b7374edf03a519"),
    Private("Journal.getVotedForNodeId", "replaced", "Journal.getVotedForNodeId", ("E8",), "figure 2", "3e9167db2b79ddef"),
    Private("Journal.onOneSecondTimer", "replaced", "Journal.onOneSecondTimer", ("E9",), "", "956d7004c2a7813e"),
    Private("Transport.__init__", "kept", "Port.__init__", (), "", "f9672d42247cf45e"),
    Private("Transport.setOnMessageReceivedCallback", "kept", "Port.__init__", (), "", "0ebce7aacf0b7beb"),
    Private("Transport.setOnNodeConnectedCallback", "kept", "Port.__init__", (), "", "906d4bea2cc57b0c"),
    Private("Transport.setOnNodeDisconnectedCallback", "kept", "Port.__init__", (), "", "813604e391d0b744"),
    Private("Transport.setOnReadonlyNodeConnectedCallback", "kept", "Port.__init__", (), "", "c409540a11810b7d"),
    Private("Transport.setOnReadonlyNodeDisconnectedCallback", "kept", "Port.__init__", (), "", "cbd89eeb5d53d9db"),
    Private("Transport.setOnUtilityMessageCallback", "kept", "Port.__init__", (), "", "9d429192a2b5a95f"),
    Private("Transport.ready", "replaced", "Port", (), "", "114b2eadcd8046fd"),
    Private("Transport.send", "replaced", "Port.send", ("E15",), "", "26b61d8b1bea09be"),
    Private("Transport.addNode", "replaced", "Port.addNode", ("E10", "E15"), "", "940f94054cad20b9"),
    Private("Transport.dropNode", "replaced", "Port.addNode", ("E10", "E15"), "", "d5ece800deaf8c6c"),
    Private("Transport.destroy", "replaced", "Port.destroy", (), "", "71730dc1afe26f0f"),
)

#: Fields of SyncObj that upstream.py gives readable names. Everything that is kept only moves these.
FIELDS: Final = frozenset(
    {
        "__connectedNodes",
        "__raftCommitIndex",
        "__raftCurrentTerm",
        "__raftLastApplied",
        "__raftLeader",
        "__raftLog",
        "__raftState",
        "__transport",
        "__votedForNodeId",
    }
)

#: Of SyncObj: getters and properties, their wrappers, and a list of callbacks that nobody calls. (What they say is of
#: upstream's own idea of a cluster, which has no other nodes here: ask RaftNode instead.)
HARMLESS: Final = frozenset(
    {
        "_getConf",
        "_getEncryptor",
        "_getFuncName",
        "_getLeader",
        "_getRaftLogSize",
        "_getStatus",
        "_getTerm",
        "_isLeader",
        "_isReady",
        "_printStatus",
        "addOnTickCallback",
        "conf",
        "encryptor",
        "getCodeVersion",
        "getStatus",
        "hasQuorum",
        "isNodeConnected",
        "isReady",
        "otherNodes",
        "printStatus",
        "raftCommitIndex",
        "raftCurrentTerm",
        "raftLastApplied",
        "readonlyNodes",
        "removeOnTickCallback",
        "selfNode",
        "tick_thread_alive",
        "waitBinded",
        "waitReady",
    }
)


def table() -> str:
    """The rows, as docs/RAFT.md has them."""
    head = ("| pysyncobj | here | where | hazards | paper | source |", "|---|---|---|---|---|---|")
    rows = (
        f"| `{row.name}` | {row.use} | `{row.where}` | {' '.join(row.hazards) or '-'} | {row.paper or '-'} | {row.source} |"
        for row in PRIVATE
    )
    return "\n".join((*head, *rows))


if __name__ == "__main__":
    print(table())
