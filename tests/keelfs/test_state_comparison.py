"""Which nodes hold another state."""

from __future__ import annotations

from keelfs.state_comparison import Comparison, compare
from tests.keelfs.fake_admin import FakeCluster, FakeNode


def compared(cluster: FakeCluster) -> Comparison:
    return compare(FakeNode(cluster, "n1").members().members, 9, 1.0, cluster.connect)


def differing(found: Comparison) -> list[str]:
    return [node.name for node in found.nodes if node.differs]


def test_all_the_same() -> None:
    found = compared(FakeCluster.of("n1", "n2", learners=("n3",)))
    assert found.equal
    assert found.complete
    assert (found.index, [node.state for node in found.nodes]) == (9, [b"same".hex()] * 3)


def test_the_minority_is_wrong() -> None:
    cluster = FakeCluster.of("n1", "n2", "n3")
    cluster.digests = {"n2": b"other"}
    found = compared(cluster)
    assert not found.equal
    assert differing(found) == ["n2"]


def test_of_two_nobody_is_right() -> None:
    cluster = FakeCluster.of("n1", "n2")
    cluster.digests = {"n2": b"other"}
    assert differing(compared(cluster)) == ["n1", "n2"]


def test_who_does_not_answer_says_nothing() -> None:
    cluster = FakeCluster.of("n1", "n2", "n3")
    cluster.silent = {"n3"}
    found = compared(cluster)
    assert found.equal
    assert not found.complete
    assert "no server answers" in found.nodes[2].why


def test_silence_is_no_majority() -> None:
    cluster = FakeCluster.of("n1", "n2", "n3", "n4", "n5")
    cluster.silent, cluster.digests = {"n3", "n4", "n5"}, {"n1": b"other"}
    assert differing(compared(cluster)) == ["n1", "n2"]
