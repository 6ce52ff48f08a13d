"""raft/private.py is true: of the pysyncobj that is installed, of what upstream.py does with it, and of what runs."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pysyncobj.syncobj
import pysyncobj.transport
import pytest
from node_harness import Lab
from pysyncobj import SyncObj
from pysyncobj.journal import Journal as UpstreamJournal
from pysyncobj.transport import Transport

from raft import membership as members
from raft.journal import Journal
from raft.messages import Append
from raft.node import RaftNode
from raft.private import FIELDS, HARMLESS, PRIVATE, VERSION, Private, table
from raft.upstream import CANDIDATE, FOLLOWER, LEADER, Port, Upstream
from raft.wal import PAYLOAD_MAX

if TYPE_CHECKING:
    from types import FrameType

ROOT = Path(__file__).resolve().parents[2]
CLASSES = {"SyncObj": SyncObj, "Journal": UpstreamJournal, "Transport": Transport}
OURS = {"SyncObj": Upstream, "Journal": Journal, "Transport": Port}
OF_CLASS = {name: [row for row in PRIVATE if row.name.startswith(f"{name}.")] for name in CLASSES}


def source_of(row: Private) -> Any:
    found = CLASSES[row.name.partition(".")[0]].__dict__[row.attribute]
    return found.fget if isinstance(found, property) else found


def methods(cls: type) -> set[str]:
    """Functions and properties that the class itself defines."""
    return {name for name, value in vars(cls).items() if callable(value) or isinstance(value, property)}


def mangled(name: str) -> str:
    return f"_SyncObj{name}"


def test_the_version_is_the_one_that_was_read() -> None:
    assert importlib.metadata.version("pysyncobj") == VERSION
    assert f'"pysyncobj=={VERSION}"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("row", PRIVATE, ids=lambda row: row.name)
def test_the_source_is_the_one_that_was_read(row: Private) -> None:
    digest = hashlib.sha256(inspect.getsource(source_of(row)).encode()).hexdigest()
    assert digest[:16] == row.source, f"{row.name} has changed: read it, and what rests on it, before this hash"


def test_each_method_has_one_row_that_makes_sense() -> None:
    assert len({row.name for row in PRIVATE}) == len(PRIVATE)
    assert {row.use for row in PRIVATE} == {"kept", "replaced", "shut"}
    for row in PRIVATE:
        assert (ROOT / row.where.partition(":")[0]).is_file(), row
        assert all(hazard in {f"E{number}" for number in range(1, 23)} for hazard in row.hazards), row


def test_every_method_of_syncobj_is_accounted_for() -> None:
    """In the table, or on the list of those that only read; and no name of either is invented."""
    rows = {row.attribute for row in OF_CLASS["SyncObj"]}
    assert not rows & HARMLESS
    assert methods(SyncObj) == rows | HARMLESS


def test_every_method_of_the_journal_is_replaced() -> None:
    rows = {row.attribute: row.use for row in OF_CLASS["Journal"]}
    assert rows == dict.fromkeys(methods(UpstreamJournal), "replaced")
    assert rows.keys() <= vars(Journal).keys()


def test_rows_and_overrides_are_the_same() -> None:
    for name in ("SyncObj", "Transport"):
        upstream, ours = CLASSES[name], vars(OURS[name])
        uses = {row.attribute: row.use for row in OF_CLASS[name]}
        for method in methods(upstream):
            if method in ours and method != "__init__":
                shut = ours[method] is vars(Upstream)["_shut"]
                assert uses[method] == ("shut" if shut else "replaced"), method
            else:
                assert uses.get(method, "kept") == "kept", method


def test_what_is_above_upstream_overrides_no_more_of_it() -> None:
    """elections.py, replication.py and node.py know the readable names only."""
    for cls in RaftNode.__mro__[: RaftNode.__mro__.index(Upstream)]:
        assert not methods(cls) & methods(SyncObj) - {"__init__"}, cls


def test_shut_is_shut() -> None:
    node = Lab(1).node
    for row in OF_CLASS["SyncObj"]:
        if row.use == "shut":
            with pytest.raises(RuntimeError, match="replaced"):
                getattr(node, row.attribute)(1, callback=None)


def test_only_upstream_py_reaches_into_syncobj_and_only_for_what_is_listed() -> None:
    listed = {mangled(name) for name in FIELDS} | {row.attribute for row in OF_CLASS["SyncObj"]}
    used: set[str] = set()
    for path in sorted((ROOT / "raft").glob("*.py")):
        tree = ast.parse(path.read_text())
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        names |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        mine = {name for name in names if name.startswith("_SyncObj__")}
        assert not mine or path.name == "upstream.py", (path.name, mine)
        assert mine <= listed, mine - listed
        used |= mine
    assert {mangled(name) for name in FIELDS} <= used


def test_the_roles_have_upstreams_numbers() -> None:
    states = pysyncobj.syncobj._RAFT_STATE
    assert (FOLLOWER, CANDIDATE, LEADER) == (states.FOLLOWER, states.CANDIDATE, states.LEADER)


def test_nothing_runs_that_is_not_kept() -> None:
    """All that a node does, with an eye on every upstream function that is entered."""
    files = {pysyncobj.syncobj.__file__: "SyncObj", pysyncobj.transport.__file__: "Transport"}
    entered: set[str] = set()

    def watch(frame: FrameType, event: str, _: object) -> None:
        owner, _, name = frame.f_code.co_qualname.partition(".")
        if event == "call" and files.get(frame.f_code.co_filename) == owner and "<" not in name:
            entered.add(f"{owner}.{name}")

    sys.setprofile(watch)
    try:
        _a_full_life()
    finally:
        sys.setprofile(None)
    kept = {row.name for row in PRIVATE if row.use == "kept"}
    # The constructor looks at every attribute for replicated methods; properties answer.
    read = {f"SyncObj.{name}" for name in HARMLESS if isinstance(vars(SyncObj)[name], property)}
    assert entered - read <= kept
    assert kept - entered == set(), "called kept, and not used"


def _a_full_life() -> None:
    lab = Lab(1, 1, learners="n4")
    lab.lead()
    lab.node.propose(bytes(PAYLOAD_MAX), "large")
    lab.node.read("read")
    lab.node.change(lambda now: members.remove(now, "n4"), "change")
    lab.flush()
    lab.ack("n2", "n3")
    lab.apply_all()
    lab.node.transfer("n2", "transfer")
    lab.node.trim(3)
    lab.receive("n2", Append(9, 3, lab.journal.term_at(3), 3, 0))
    lab.node.disconnected("n2")
    lab.pass_time(3.0)
    lab.restart()
    lab.pass_time(3.0)
    lab.node.doTick()


def test_the_document_shows_the_table() -> None:
    text = (ROOT / "docs" / "RAFT.md").read_text()
    assert table() in text, "docs/RAFT.md: put in what `python -m raft.private` prints"


def test_the_document_has_every_hazard_with_its_tests() -> None:
    """A row for each number; and it names tests on both sides where there are such tests."""
    text = (ROOT / "docs" / "RAFT.md").read_text()
    rows = {number: next(line for line in text.splitlines() if line.startswith(f"| E{number} |")) for number in range(1, 23)}
    for folder, pattern in (("tests/sim/stock", "test_*.py"), ("tests/sim", "test_sim_hazards.py")):
        for path in (ROOT / folder).glob(pattern):
            for number in {int(found) for found in re.findall(r"^def test_e(\d+)_", path.read_text(), re.MULTILINE)}:
                assert f"`{folder}/{path.name}:test_e" in rows[number], (number, path.name)
