"""What stock pysyncobj makes of its files after a crash, a power loss or a restart: entries gone, votes forgotten, no error.

The states of files are those that a kill or a power cut leaves; nothing in the package calls fsync, so after a power cut any
part of what was written since the last clean end may be missing.
"""

from __future__ import annotations

import random
import shutil
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pysyncobj
import pysyncobj.journal
import pysyncobj.pickle
import pytest
from pysyncobj.journal import FIRST_RECORD_OFFSET, FileJournal

from tests.sim.stock.stock_cluster import SUCCESS, Answers, Clock, Cluster, Network, StockNode, collect, take_over_time

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # upstream leaves files open
COMMAND = b"\0" + b"y" * 200


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return take_over_time(monkeypatch)


def test_nothing_is_ever_synced() -> None:
    sources = list(Path(pysyncobj.__file__).parent.glob("*.py"))
    assert len(sources) > 10
    assert not [path.name for path in sources if "fsync" in path.read_text() or "fdatasync" in path.read_text()]
    assert not hasattr(pysyncobj.SyncObjConf(flushJournal=True), "flushJournal"), "accepted, as is any typo"


def test_e4_a_journal_without_a_dump_file_loses_all_at_a_clean_restart(clock: Clock, tmp_path: Path) -> None:
    options = {"journalFile": str(tmp_path / "journal"), "logCompactionMinEntries": 50}
    cluster = Cluster(clock, "A", **options)
    cluster.elect("A")
    acked: Answers = []
    for i in range(200):
        cluster["A"].put(i, callback=collect(acked))
        cluster["A"].doTick(0)
    clock.now += 1.1
    cluster.run(5)
    assert len(acked) == 200
    cluster["A"]._doDestroy()

    again = Cluster(clock, "A", **options)
    again["A"].campaign()
    again.run(10)
    assert again["A"].values == []


def test_e5_a_kill_between_dump_and_trim_clears_the_journal(clock: Clock, tmp_path: Path) -> None:
    def files(prefix: str) -> dict[str, Any]:
        return {"journalFile": str(tmp_path / f"{prefix}journal"), "fullDumpFile": str(tmp_path / f"{prefix}dump")}

    network = Network(clock)
    node = StockNode(network, "F", "A", useFork=False, **files(""))
    put = node._methodToID["put_v0"]
    entries = [(b"\0" + pysyncobj.pickle.dumps((put, (i,))), i, 1) for i in range(2, 102)]

    def append(prev: int, prev_term: int, part: list[tuple[bytes, int, int]]) -> None:
        message = {"type": "append_entries", "term": 1, "commit_index": 51, "entries": part}
        network.give("A", "F", message | {"prevLogIdx": prev, "prevLogTerm": prev_term})

    append(1, 0, entries[:50])
    node.doTick(0)
    node.forceLogCompaction()
    node.doTick(0)  # the dump is written and renamed; the next tick would trim the journal
    network.queue.clear()
    append(51, 1, entries[50:])
    assert network.queue[-1][2]["success"]
    assert network.queue[-1][2]["next_node_idx"] == 102
    for name in ("journal", "journal.meta", "dump"):
        if (tmp_path / name).exists():
            shutil.copy(tmp_path / name, tmp_path / f"killed-{name}")  # what a kill leaves

    again = StockNode(Network(clock), "F", "A", useFork=False, **files("killed-"))
    assert again.last() == 101
    again.doTick(0)
    assert again.last() == 51, "fifty acknowledged entries are gone"


def test_e6_a_kill_during_compaction_loses_the_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    journal = FileJournal(str(tmp_path / "journal"))
    for index in range(1, 2001):
        journal.add(COMMAND, index, 1)
    added = 0

    def dies(self: FileJournal, *entry: Any, add: Callable[..., None] = FileJournal.add) -> None:
        nonlocal added
        added += 1
        if added > 10:
            raise KeyboardInterrupt
        add(self, *entry)

    monkeypatch.setattr(FileJournal, "add", dies)
    with pytest.raises(KeyboardInterrupt):
        journal.deleteEntriesTo(500)
    shutil.copy(tmp_path / "journal", tmp_path / "killed")
    monkeypatch.undo()
    assert FileJournal(str(tmp_path / "killed"))[-1][1] == 510, "of 2000"


def hundred_entries(tmp_path: Path) -> bytearray:
    journal = FileJournal(str(tmp_path / "journal"))
    for index in range(1, 101):
        journal.add(COMMAND, index, 1)
    journal._destroy()
    return bytearray((tmp_path / "journal").read_bytes())


def record_at(index: int) -> int:
    first: int = FIRST_RECORD_OFFSET
    return first + (index - 1) * (len(COMMAND) + 16 + 8)


@pytest.mark.parametrize("damage", ["one bit of a command", "half of the last record"])
def test_e7_a_damaged_journal_opens_without_a_word(tmp_path: Path, damage: str) -> None:
    data = hundred_entries(tmp_path)
    if damage == "one bit of a command":
        data[record_at(61) + 4 + 16 + 50] ^= 1
    else:
        data[record_at(100) + 60 : record_at(101)] = bytes(record_at(101) - record_at(100) - 60)
    (tmp_path / "damaged").write_bytes(data)
    journal = FileJournal(str(tmp_path / "damaged"))
    assert len(journal) == 100
    assert [entry[1] for entry in journal if entry[0] != COMMAND] == [61 if damage.startswith("one") else 100]


@pytest.mark.parametrize("lost", [(8192, 12288), (record_at(100), record_at(101))], ids=["a page", "the last record"])
def test_e7_a_torn_journal_cannot_be_opened(tmp_path: Path, lost: tuple[int, int]) -> None:
    """An ordinary power cut during a write: the header's offset has landed, the data has not."""
    data = hundred_entries(tmp_path)
    data[lost[0] : lost[1]] = bytes(lost[1] - lost[0])
    (tmp_path / "damaged").write_bytes(data)
    with pytest.raises(struct.error):
        FileJournal(str(tmp_path / "damaged"))


def test_e8_an_emptied_meta_file_gives_a_second_vote_in_the_same_term(clock: Clock, tmp_path: Path) -> None:
    def vote(node: StockNode, candidate: str) -> list[tuple[str, int]]:
        request = {"type": "request_vote", "term": 7, "last_log_index": 1, "last_log_term": 0}
        node.network.give(candidate, "A", request)
        votes = [(to, m["term"]) for _, to, m in node.network.queue if m["type"] == "response_vote"]
        node.network.queue.clear()
        return votes

    journal = tmp_path / "journal"
    node = StockNode(Network(clock), "A", "BC", journalFile=str(journal))
    assert vote(node, "B") == [("B", 7)]
    node._doDestroy()
    (tmp_path / "journal.meta").write_bytes(b"")  # the rename has reached the disk, the data has not
    again = StockNode(Network(clock), "A", "BC", journalFile=str(journal))
    assert vote(again, "C") == [("C", 7)]


def test_e9_a_commit_index_beyond_the_log_acknowledges_without_a_single_copy(clock: Clock, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    StockNode(Network(clock), "A", "BC", journalFile=str(journal))._doDestroy()
    meta = {"raftCommitIndex": 100, "currentTerm": 3, "votedForNodeId": None}
    (tmp_path / "journal.meta").write_bytes(pysyncobj.pickle.dumps(meta))  # on the disk; the journal's tail is not

    network = Network(clock)
    node = StockNode(network, "A", "BC", journalFile=str(journal))
    node.campaign()
    network.give("B", "A", {"type": "response_vote", "term": 4})
    assert node.leads()
    network.queue.clear()
    acked: Answers = []
    node.put("nowhere but here", callback=collect(acked))
    for _ in range(4):
        node.doTick(0)
        network.queue.clear()  # nothing is ever delivered
    assert acked == [("nowhere but here", SUCCESS)]


def test_e17_the_journal_ends_at_four_gigabytes(tmp_path: Path) -> None:
    journal = FileJournal(str(tmp_path / "journal"))
    with pytest.raises(struct.error):
        journal._FileJournal__setLastRecordOffset(1 << 32)


def test_an_unreadable_meta_file_is_taken_for_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "meta").write_bytes(random.Random(0).randbytes(100))
    assert pysyncobj.journal.MetaStorer(str(tmp_path / "meta")).getMeta() == {}
