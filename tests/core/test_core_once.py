"""Exactly once, and always the same: re-sent items, acknowledgements, replays, and what a batch must not change."""

from __future__ import annotations

import errno

import pytest
from core_world import DictTxn, StrictTxn, World
from hypothesis import given, settings
from hypothesis import strategies as st

from metaserver.core import codec, invariants, keys, machine, reads
from metaserver.core import entry as e
from metaserver.core.entry import ROOT, Entry, Item
from metaserver.core.errors import CorruptState, FsError

NAMES = st.sampled_from([b"a", b"b", b"c"])


def but_for_time(txn: DictTxn) -> dict[bytes, bytes]:
    """The state without the last entry's time, which every entry leaves."""
    return {key: value for key, value in txn.data.items() if key != keys.TIME}


@st.composite
def ops(draw: st.DrawFn) -> e.Op:
    """Ops in the root (inode 2), most of which succeed now and then."""
    name, other = draw(NAMES), draw(NAMES)
    return draw(
        st.sampled_from(
            [
                e.Create(2, name, 0o644, 0, False, ROOT),
                e.MkDir(2, name, 0o755, 0, ROOT),
                e.SymLink(2, name, b"x", ROOT),
                e.Link(3, 2, name, ROOT),
                e.Unlink(2, name, ROOT),
                e.RmDir(2, name, ROOT),
                e.Rename(2, name, 2, other, draw(st.integers(0, 2)), ROOT),
                e.SetAttr(3, 8, 0, 0, 0, 5, 0, 0, 0, ROOT),
                e.CommitSlices(3, (e.NewSlice(0, 3, 0, 0, 0, 9),), 0, False),
                e.SetXattr(3, b"user.a", b"v", 0, ROOT),
                e.LeaseIds(draw(st.integers(1, 2)), 3),
                e.Reap((3, 4, 5), 1),
            ]
        )
    )


@given(st.lists(ops(), min_size=1, max_size=25), st.data())
@settings(max_examples=60, deadline=None)
def test_resent_items_change_nothing_and_get_the_first_result(wanted: list[e.Op], data: st.DataObject) -> None:
    once = World(txn=DictTxn())
    again = World(txn=DictTxn())
    first = {}
    for seq, op in enumerate(wanted, start=1):
        first[seq] = once.apply(Item(once.session, seq, 0, op))[0]
    for seq, op in enumerate(wanted, start=1):
        resent = data.draw(st.lists(st.integers(1, seq), max_size=3))
        items = [Item(again.session, seq, 0, op), *[Item(again.session, old, 0, wanted[old - 1]) for old in resent]]
        results = again.apply(*items)
        assert results == [first[seq], *[first[old] for old in resent]]
    assert once.txn.data == again.txn.data
    assert invariants.check(once.txn) == []


@given(st.lists(ops(), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_how_items_are_cut_into_entries_does_not_matter_to_replay(wanted: list[e.Op]) -> None:
    world = World(txn=DictTxn())
    items = tuple(Item(world.session, seq, max(0, seq - 5), op) for seq, op in enumerate(wanted, start=1))
    world.apply(*items)
    twin = DictTxn()
    for entry in world.log:
        machine.apply(twin, entry)
    assert twin.data == world.txn.data
    assert reads.results_kept(twin, world.session) <= 6


def test_acknowledged_results_are_forgotten_and_may_not_be_asked_for() -> None:
    world = World()
    for number in range(10):
        assert world.send(e.MkDir(world.root, b"%d" % number, 0o755, 0, ROOT)).errno == 0
    assert reads.results_kept(world.txn, world.session) == 10
    assert machine.find_result(world.txn, world.session, 4) is not None
    assert world.send(e.MkDir(world.root, b"x", 0o755, 0, ROOT), acked=7).errno == 0
    assert [seq for seq in range(1, 12) if machine.find_result(world.txn, world.session, seq)] == [8, 9, 10, 11]
    before = but_for_time(world.txn)
    refused = world.apply(Item(world.session, 7, 0, e.MkDir(world.root, b"6", 0o755, 0, ROOT)))[0]
    assert refused.errno == errno.EINVAL
    assert but_for_time(world.txn) == before


def test_an_acknowledgement_far_ahead_forgets_all() -> None:
    world = World()
    world.send(e.MkDir(world.root, b"a", 0o755, 0, ROOT))
    world.apply(Item(world.session, 2**64 - 1, 2**64 - 2, e.MkDir(world.root, b"b", 0o755, 0, ROOT)))
    assert reads.results_kept(world.txn, world.session) == 1
    one = reads.session(world.txn, world.session)
    assert one is not None
    assert one.acked_seq == 2**64 - 2


def test_an_unknown_session_leaves_nothing() -> None:
    world = World()
    before = but_for_time(world.txn)
    result = world.apply(Item(99, 1, 5, e.MkDir(world.root, b"a", 0o755, 0, ROOT)))[0]
    assert result.errno == errno.ESTALE
    assert but_for_time(world.txn) == before


def test_closing_a_session_takes_its_results_and_leases() -> None:
    world = World()
    world.send(e.LeaseIds(e.LEASE_INODES, 5))
    assert world.serve(e.CloseSession(world.session, True)).count == 1
    assert reads.session(world.txn, world.session) is None
    assert not [key for key in world.txn.data if key[:1] in (keys.RESULT, keys.LEASE, keys.SESSION_ACKED)]


def test_a_lease_used_out_of_order_stays_bounded() -> None:
    world = World()
    first = world.do(e.LeaseIds(e.LEASE_INODES, 1000)).first
    for number in range(1, 400, 2):
        made = world.do(e.Create(world.root, b"%d" % number, 0o644, 0, True, ROOT, first + number))
        assert made.errno == 0
    assert len(world.txn.data[keys.lease(world.session)]) <= 1 + 16 * 64
    assert invariants.check(world.txn) == []


def test_the_list_of_attributes_has_a_limit() -> None:
    world = World()
    for number in range(256):
        assert world.do(e.SetXattr(world.root, b"user.%0250d" % number, b"", 0, ROOT)).errno == 0
    assert world.do(e.SetXattr(world.root, b"user.x", b"", 0, ROOT)).errno == errno.ENOSPC
    assert world.do(e.SetXattr(world.root, b"user.%0250d" % 7, b"again", 0, ROOT)).errno == 0
    assert len(b"".join(name + b"\0" for name in reads.listxattr(world.txn, world.root))) == 65536


def test_inline_bytes_of_one_op_have_a_limit() -> None:
    world = World('{"inline_bytes": 65536}')
    first = world.do(e.LeaseIds(e.LEASE_SLICES, 10)).first
    ino = world.do(e.Create(world.root, b"f", 0o644, 0, False, ROOT)).inode
    assert ino is not None
    half = 32768
    slices = [e.NewSlice(0, half * at, first + at, half, 0, half, b"x" * half) for at in range(3)]
    assert world.do(e.CommitSlices(ino.ino, tuple(slices), 0, False)).errno == errno.EINVAL
    assert world.do(e.CommitSlices(ino.ino, tuple(slices[:2]), 0, False)).errno == 0
    assert world.do(e.CommitSlices(ino.ino, (slices[2], slices[2]), 0, False)).errno == errno.EINVAL
    found = reads.read_slices(world.txn, ino.ino, 0, 1)
    assert found.inline == {first: b"x" * half, first + 1: b"x" * half}


def test_a_slice_that_one_op_brings_and_covers_is_released() -> None:
    world = World()
    first = world.do(e.LeaseIds(e.LEASE_SLICES, 10)).first
    made = world.do(e.Create(world.root, b"f", 0o644, 0, False, ROOT)).inode
    assert made is not None
    slices = (
        e.NewSlice(0, 0, first, 10, 0, 10),
        e.NewSlice(0, 0, first + 1, 10, 0, 10, b"i" * 10),
        e.NewSlice(0, 0, first + 2, 10, 0, 10),
    )
    assert world.do(e.CommitSlices(made.ino, slices, 0, False)).errno == 0
    assert [one.slice for one in reads.doomed(world.txn)] == [first]
    assert invariants.check(world.txn) == []


def test_damage_stops_instead_of_answering() -> None:
    world = World()
    world.txn.data[keys.inode(world.root)] = b"\x01damage"
    with pytest.raises(CorruptState):
        world.do(e.MkDir(world.root, b"a", 0o755, 0, ROOT))


def test_another_format_is_refused() -> None:
    world = World()
    machine.require_format(world.txn)
    machine.require_format(StrictTxn())
    world.txn.data[keys.FORMAT] = codec.encode_counter(2)
    with pytest.raises(CorruptState, match="format 2"):
        machine.require_format(world.txn)


def test_every_op_is_dispatched() -> None:
    assert set(machine.OPS) == set(e.Op.__args__)  # type: ignore[attr-defined]


@pytest.mark.parametrize("flags", [e.RENAME_NOREPLACE, 0])
def test_a_big_volume_is_taken_apart_in_steps_that_each_leave_a_sound_state(flags: int) -> None:
    world = World()
    parent = world.root
    for depth in range(6):
        for number in range(4):
            made = world.do(e.MkDir(parent, b"d%d" % number, 0o755, 0, ROOT)).inode
            assert made is not None
            file = world.do(e.Create(made.ino, b"f", 0o644, 0, False, ROOT)).inode
            assert file is not None
            world.do(e.Link(file.ino, parent, b"link%d" % number, ROOT))
        parent = made.ino
        world.do(e.Rename(world.root, b"link%d" % (depth % 4), parent, b"moved", flags, ROOT))
    steps = 0
    while world.serve(e.DestroyVolume(world.volume, 3)).count:
        steps += 1
        assert invariants.check(world.txn) == []
    assert 20 <= steps <= 60
    assert {key[:1] for key in world.txn.data} == {keys.COUNTER, keys.META}
    with pytest.raises(FsError):
        reads.volume_by_name(world.txn, "vol")
    assert Entry(1, 2, ()).items == ()


def test_time_does_not_run_back_when_a_leader_with_a_slower_clock_takes_over() -> None:
    world = World()
    machine.apply(world.txn, Entry(100, 5_000, (Item(world.session, 1, 0, e.MkDir(world.root, b"a", 0o755, 0, ROOT)),)))
    late = machine.last_time(world.txn)
    assert late > 5_000  # the world's own entries were stamped later
    made = machine.apply(world.txn, Entry(101, 6_000, (Item(world.session, 2, 0, e.MkDir(world.root, b"b", 0o755, 0, ROOT)),)))
    assert made[0].inode is not None
    assert made[0].inode.mtime_ns == late == machine.last_time(world.txn)
