"""How directories become a cluster's, and what is refused on the way."""

from __future__ import annotations

import copy
import uuid
from typing import TYPE_CHECKING

import pytest
from faulty_disk import FaultyDisk, InlineHousekeeper
from journal_harness import DIRECTORY, OPTIONS, WAL, add, change, contents, entry, fill, member, opened, power_losses

from raft.disk import RealDisk
from raft.errors import LogCorrupt, Refused
from raft.founding import found_cluster, join_cluster
from raft.identity import Identity, create, load_identity, load_or_create
from raft.membership import Member, Membership, initial
from raft.wal import Wal

if TYPE_CHECKING:
    from pathlib import Path

CLUSTER = str(uuid.UUID(int=5))


def uuids(first: int = 70) -> object:
    return iter(uuid.UUID(int=number) for number in range(first, first + 9)).__next__


def found(disk: FaultyDisk, state_index: int = 0, state_term: int = 1) -> Membership:
    me = seat(load_or_create(disk, DIRECTORY, uuids()))  # type: ignore[arg-type]
    return found_cluster(
        disk,
        DIRECTORY,
        me,
        state_index=state_index,
        state_term=state_term,
        options=WAL,
        housekeeper=InlineHousekeeper(),
    )


def found_or_founded(disk: FaultyDisk, state_index: int = 0, state_term: int = 1) -> bool:
    """Whether it was still to be done."""
    if "base" in disk.list(DIRECTORY):
        with pytest.raises(Refused, match="belongs to a cluster"):
            found(disk, state_index, state_term)
        return False
    found(disk, state_index, state_term)
    return True


def join(disk: FaultyDisk, cluster_id: str = CLUSTER) -> Identity:
    return join_cluster(disk, DIRECTORY, cluster_id, uuids())  # type: ignore[arg-type]


def identity_of(disk: FaultyDisk) -> Identity:
    identity = load_identity(disk, DIRECTORY)
    assert identity is not None
    return identity


def seat(identity: Identity) -> Member:
    return Member("n1", identity.node_id, "a:1", "a:2", "a:3")


def single_node(disk: FaultyDisk, entries: int) -> None:
    """What a single node leaves behind."""
    owner = load_or_create(disk, DIRECTORY, uuids()).owner  # type: ignore[arg-type]
    wal = Wal.open(f"{DIRECTORY}/wal", WAL, disk=disk, owner=owner, housekeeper=InlineHousekeeper())
    for index in range(1, entries + 1):
        wal.append([(index, 1, entry(index).payload)])
        wal.sync()
    wal.close()


# -- founding ----------------------------------------------------------------------------------------------------------------


def test_an_empty_directory_becomes_a_cluster_of_one() -> None:
    disk = FaultyDisk()
    membership = found(disk)
    assert membership == initial(seat(identity_of(disk)))
    journal = opened(disk, identity=identity_of(disk))
    assert journal.membership == membership
    assert (journal.last_index, journal.term, journal.voted_for) == (0, 1, "n1")


def test_a_single_nodes_log_is_kept() -> None:
    disk = FaultyDisk()
    single_node(disk, 30)
    membership = found(disk)
    journal = opened(disk, 12, identity=identity_of(disk))
    assert contents(journal) == [entry(index) for index in range(1, 31)]
    assert (journal.membership, journal.membership_at(12)) == (membership, membership)
    assert (journal.term, journal.voted_for, journal.last_term) == (1, "n1", 1)
    journal.save_vote(2, "n1")
    add(journal, entry(31, 2))


def test_a_single_nodes_log_that_the_state_holds_completely_is_dropped_so_that_others_begin_with_the_state() -> None:
    disk = FaultyDisk()
    single_node(disk, 30)
    found(disk, 30)
    journal = opened(disk, 30, identity=identity_of(disk))
    assert (journal.base_index, journal.base_term, journal.last_index) == (30, 1, 30)


def test_a_restored_state_comes_with_the_index_and_term_of_its_snapshot() -> None:
    disk = FaultyDisk()
    found(disk, 5000, 17)
    journal = opened(disk, 5000, identity=identity_of(disk))
    assert (journal.base_index, journal.base_term, journal.last_index) == (5000, 17, 5000)
    assert (journal.term, journal.voted_for) == (17, "n1")


def test_nobody_founds_twice_nor_on_a_cluster_nodes_log() -> None:
    disk = FaultyDisk()
    found(disk)
    with pytest.raises(Refused, match="belongs to a cluster"):
        found(disk)
    disk = FaultyDisk()
    join(disk)
    with pytest.raises(Refused, match="belongs to a cluster"):
        found(disk)
    for more in ([entry(1, 2)], [change(1, 1, "n1")]):
        disk = FaultyDisk()
        journal = opened(disk, identity=load_or_create(disk, DIRECTORY))
        journal.save_vote(2, "")
        add(journal, *more)
        journal.close()
        with pytest.raises(Refused, match="that of a cluster's node"):
            found(disk)
    assert not disk._locks
    assert not disk._handles


def test_the_member_must_be_this_very_disk() -> None:
    disk = FaultyDisk()
    with pytest.raises(Refused, match="is the disk"):
        found_cluster(disk, DIRECTORY, member("n1"), options=WAL, housekeeper=InlineHousekeeper())
    me = identity_of(disk)
    with pytest.raises(Refused, match="no node name"):
        found_cluster(disk, DIRECTORY, Member("N 1", me.node_id, "a:1", "a:2", "a:3"), options=WAL)


def test_a_running_server_keeps_others_off() -> None:
    disk = FaultyDisk()
    found(disk)
    journal = opened(disk, identity=identity_of(disk))
    for call in (lambda: found(disk), lambda: join(disk)):
        with pytest.raises(OSError, match="in use"):
            call()
    journal.close()


@pytest.mark.parametrize(("state_index", "state_term"), [(0, 1), (40, 6)])
def test_power_may_fail_at_any_change_while_a_cluster_is_founded(state_index: int, state_term: int) -> None:
    """Founded again afterwards, or founded already: the same cluster."""
    again = 0
    for what, disk in power_losses(FaultyDisk, lambda disk: found(disk, state_index, state_term)):
        again += found_or_founded(disk, state_index, state_term)
        journal = opened(disk, state_index, identity=identity_of(disk))
        assert journal.membership == initial(seat(identity_of(disk))), what
        assert (journal.last_index, journal.term, journal.voted_for) == (state_index, state_term, "n1"), what
    assert again


def test_a_single_nodes_log_survives_a_power_loss_while_a_cluster_is_founded() -> None:
    def make() -> FaultyDisk:
        disk = FaultyDisk()
        single_node(disk, 9)
        return disk

    for what, disk in power_losses(make, found):
        found_or_founded(disk)
        assert contents(opened(disk, 4, identity=identity_of(disk))) == [entry(index) for index in range(1, 10)], what


# -- joining -----------------------------------------------------------------------------------------------------------------


def test_who_joins_has_the_clusters_id_and_a_disk_of_its_own(tmp_path: Path) -> None:
    one, two = (join_cluster(RealDisk(), str(tmp_path / name), CLUSTER.upper()) for name in ("a", "b"))
    assert one.cluster_id == two.cluster_id == CLUSTER
    assert one.node_id != two.node_id
    assert join_cluster(RealDisk(), str(tmp_path / "a"), CLUSTER) == one
    (tmp_path / "a" / "state").mkdir()
    with pytest.raises(Refused, match="a log or a state"):
        join_cluster(RealDisk(), str(tmp_path / "a"), CLUSTER)


def test_a_prepared_directory_starts_without_members() -> None:
    disk = FaultyDisk()
    journal = opened(disk, identity=join(disk))
    assert (journal.membership, journal.last_index, journal.term) == (Membership(), 0, 0)


def test_nobody_joins_with_a_past() -> None:
    disk = FaultyDisk()
    create(disk, DIRECTORY, str(uuid.UUID(int=6)))
    with pytest.raises(Refused, match="belongs to cluster"):
        join(disk)
    disk = FaultyDisk()
    opened(disk, identity=join(disk)).close()
    with pytest.raises(Refused, match="a log or a state"):
        join(disk)
    disk = FaultyDisk()
    disk.open(f"{DIRECTORY}/state/data.mdb", create=True)
    with pytest.raises(Refused, match="a log or a state"):
        join(disk)
    with pytest.raises(Refused, match="no cluster id"):
        join(FaultyDisk(), "../../etc")


def test_a_node_that_joined_and_lost_its_log_or_its_vote_stays_down() -> None:
    origin = FaultyDisk()
    identity = join(origin)
    journal = opened(origin, identity=identity)
    journal.save_vote(4, "n2")
    fill(journal, 20)
    journal.close()
    disk = copy.deepcopy(origin)
    for path in [path for path in disk.names if "/wal/" in path]:
        del disk.names[path]
    with pytest.raises(LogCorrupt, match="an old copy"):
        opened(disk, 20, identity=identity)
    del origin.names[f"{DIRECTORY}/hard_state"]
    with pytest.raises(LogCorrupt, match="hard_state: the file is missing"):
        opened(origin, 20, identity=identity)


def test_power_may_fail_at_any_change_while_a_directory_is_prepared() -> None:
    for what, disk in power_losses(FaultyDisk, join):
        identity = join(disk)
        assert identity.cluster_id == CLUSTER, what
        assert opened(disk, identity=identity).membership == Membership()


def test_the_options_used_here_are_small() -> None:
    assert OPTIONS.wal is WAL
