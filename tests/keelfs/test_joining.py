"""A node joins: what is done once, what again, what is taken back."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from fuseclient.errors import ClientError
from keelfs import joining, node_settings
from keelfs.exit_codes import ExitCode
from protos import admin_pb2
from raft.disk import RealDisk
from raft.identity import load_identity
from tests.keelfs.fake_admin import CLUSTER, FakeCluster, FakeNode, member, refusal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SETTINGS = node_settings.complete(name="n2", listen="127.0.0.1:200")


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster.of("n1")


@pytest.fixture
def leader(cluster: FakeCluster) -> FakeNode:
    return FakeNode(cluster, "n1")


def test_an_empty_directory_becomes_a_learner(cluster: FakeCluster, leader: FakeNode, tmp_path: Path) -> None:
    joining.add(leader, tmp_path / "n2", SETTINGS)
    added = cluster.membership.get("n2")
    assert added is not None
    assert (added.peer, added.client, added.admin, added.voter) == ("127.0.0.1:202", "127.0.0.1:200", "127.0.0.1:201", False)
    identity = load_identity(RealDisk(), str(tmp_path / "n2"))
    assert identity is not None
    assert (identity.cluster_id, identity.node_id) == (CLUSTER, added.incarnation)
    assert node_settings.read(tmp_path / "n2") == SETTINGS


def test_the_same_again_changes_nothing(cluster: FakeCluster, leader: FakeNode, tmp_path: Path) -> None:
    joining.add(leader, tmp_path, SETTINGS)
    before = cluster.membership
    joining.add(leader, tmp_path, SETTINGS)
    assert cluster.membership == before
    assert cluster.calls.count("n1 add") == 1


def test_what_the_cluster_refuses_leaves_the_directory_empty(cluster: FakeCluster, leader: FakeNode, tmp_path: Path) -> None:
    taken = node_settings.complete(name="n1", listen="127.0.0.1:200")
    with pytest.raises(ClientError, match="another disk"):
        joining.add(leader, tmp_path, taken)
    assert list(tmp_path.iterdir()) == []
    joining.add(leader, tmp_path, SETTINGS)  # and it can be used


def test_a_lost_answer_leaves_the_directory_prepared(cluster: FakeCluster, leader: FakeNode, tmp_path: Path) -> None:
    def lose(call: str) -> None:
        if call == "add":
            raise ClientError("did not answer in time.", exit_code=ExitCode.UNAVAILABLE)

    cluster.refuse = lose
    with pytest.raises(ClientError, match="not known; give the same command again"):
        joining.add(leader, tmp_path, SETTINGS)
    identity = load_identity(RealDisk(), str(tmp_path))
    cluster.refuse = lambda call: None
    joining.add(leader, tmp_path, SETTINGS)
    added = cluster.membership.get("n2")
    assert added is not None
    assert identity is not None
    assert added.incarnation == identity.node_id


def test_a_directory_of_another_cluster_is_refused(leader: FakeNode, tmp_path: Path) -> None:
    other = FakeCluster.of("n1")
    other.clusters = {"n1": "22222222-2222-2222-2222-222222222222"}
    joining.add(FakeNode(other, "n1"), tmp_path, SETTINGS)
    with pytest.raises(ClientError, match="belongs to cluster 2222"):
        joining.add(leader, tmp_path, SETTINGS)
    assert node_settings.read(tmp_path) == SETTINGS


def test_a_directory_with_a_state_is_refused_and_keeps_it(leader: FakeNode, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "data.mdb").write_bytes(b"precious")
    with pytest.raises(ClientError, match="empty directory"):
        joining.add(leader, tmp_path, SETTINGS)
    assert (tmp_path / "state" / "data.mdb").read_bytes() == b"precious"
    assert node_settings.read(tmp_path) is None


class Time:
    """Passes when it is slept through; `then` happens at the moments that it names."""

    def __init__(self, then: dict[int, object]) -> None:
        self.now = 0.0
        self._then: Iterator[tuple[int, object]] = iter(sorted(then.items()))
        self._next = next(self._then, None)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        while self._next is not None and self._next[0] <= self.now:
            self._next[1]()  # type: ignore[operator]
            self._next = next(self._then, None)


def promoted(cluster: FakeCluster, then: dict[int, object]) -> list[str]:
    """What is told while n2 is promoted; it has 10 s."""
    told: list[str] = []
    time = Time(then)
    joining.promote(FakeNode(cluster, "n1"), "n2", 10.0, told.append, clock=time, sleep=time.sleep)
    return told


def test_a_learner_is_promoted_when_it_has_started_and_caught_up() -> None:
    cluster = FakeCluster.of("n1", learners=("n2",))
    cluster.silent, cluster.lags = {"n2"}, {"n2": 40_000}
    told = promoted(cluster, {2: cluster.silent.clear, 4: lambda: cluster.lags.update(n2=100)})
    assert told == ["waiting: node n2 is not connected; is it started?", "waiting: node n2 lacks 40000 entries"]
    assert cluster.membership.voters == {"n1", "n2"}


def test_a_voter_is_promoted_already() -> None:
    assert promoted(FakeCluster.of("n1", "n2"), {}) == []


def test_the_leaders_word_counts() -> None:
    cluster = FakeCluster.of("n1", learners=("n2",))
    cluster.refuse = refusal(errno.EBUSY, times=3, of="promote")
    assert promoted(cluster, {}) == ["waiting: EBUSY"]
    assert cluster.calls.count("n1 promote") == 4


def test_time_is_over() -> None:
    cluster = FakeCluster.of("n1", learners=("n2",))
    cluster.lags = {"n2": 40_000}
    with pytest.raises(ClientError, match=r"within 10 s: node n2 lacks 40000 entries. It stays a learner") as raised:
        promoted(cluster, {})
    assert raised.value.exit_code == ExitCode.UNAVAILABLE


def test_nobody_of_that_name() -> None:
    with pytest.raises(ClientError, match="no node 'n2'"):
        promoted(FakeCluster.of("n1"), {})


class ForgetsAtFirst:
    """A node that was just started, and has not heard yet that it is a member."""

    def __init__(self, node: FakeNode, times: int) -> None:
        self._node = node
        self._times = times

    def members(self) -> admin_pb2.MembersReply:
        self._times -= 1
        return admin_pb2.MembersReply() if self._times >= 0 else self._node.members()

    def __getattr__(self, name: str) -> object:
        return getattr(self._node, name)


def test_a_node_that_has_not_heard_of_itself_yet_is_asked_again() -> None:
    cluster = FakeCluster.of("n1", learners=("n2",))
    time = Time({})
    joining.promote(ForgetsAtFirst(FakeNode(cluster, "n1"), 3), "n2", 10, clock=time, sleep=time.sleep)  # type: ignore[arg-type]
    assert cluster.membership.voters == {"n1", "n2"}


def test_another_refusal_is_final() -> None:
    cluster = FakeCluster.of("n1", learners=("n2",))
    cluster.refuse = refusal(errno.EINVAL, times=1, of="promote")
    with pytest.raises(ClientError, match="EINVAL"):
        promoted(cluster, {})


def test_the_fake_refuses_as_the_cluster_does() -> None:
    cluster = FakeCluster.of("n1")
    joined = FakeNode(cluster, "n1")
    new = member("n3")
    joined.add_member(new.name, new.incarnation, new.peer, new.client, new.admin)
    with pytest.raises(ClientError, match="already a member"):
        joined.add_member(new.name, new.incarnation, new.peer, new.client, new.admin)
