"""Whether a cluster is well, as its nodes tell it."""

from __future__ import annotations

import pytest

from fuseclient.errors import ClientError
from keelfs.cluster_view import LAG_MAX, ClusterView, Level, Verdict, judge, look
from keelfs.exit_codes import ExitCode
from tests.keelfs.fake_admin import CLUSTER, FakeCluster, admin_of


def seen(cluster: FakeCluster, *asked: str) -> ClusterView:
    return look([admin_of(name) for name in asked or ("n1",)], cluster.connect)


def verdict(cluster: FakeCluster, *asked: str) -> Verdict:
    return judge(seen(cluster, *asked))


def three() -> FakeCluster:
    return FakeCluster.of("n1", "n2", "n3")


def test_all_is_well() -> None:
    view = seen(three())
    assert (view.cluster_id, view.leader, view.term, view.quorum, view.together) == (CLUSTER, "n1", 3, 2, 3)
    assert [(node.name, node.role, node.answers, node.reachable, node.lag) for node in view.nodes] == [
        ("n1", "leader", True, True, 0),
        ("n2", "follower", True, True, 0),
        ("n3", "follower", True, True, 0),
    ]
    assert judge(view) == (Level.OK, (), 1)


def test_every_node_is_asked_whoever_was_named() -> None:
    cluster = three()
    assert seen(cluster, "n3").leader == "n1"
    assert {call.split()[0] for call in cluster.calls} == {"n1", "n2", "n3"}


def test_a_dead_follower_degrades() -> None:
    cluster = three()
    cluster.silent = {"n2"}
    level, problems, may_lose = verdict(cluster)
    assert (level, may_lose) == (Level.DEGRADED, 0)
    assert problems == ("n2 does not answer at h:201", "n2 is not connected to the leader n1")


def test_the_first_address_may_be_the_dead_one() -> None:
    cluster = three()
    cluster.silent = {"n2"}
    assert verdict(cluster, "n2", "n3").level is Level.DEGRADED


def test_a_follower_that_answers_but_is_cut_off_from_the_leader_degrades() -> None:
    cluster = three()
    cluster.cut = {"n3"}
    assert verdict(cluster) == (Level.DEGRADED, ("n3 is not connected to the leader n1",), 0)


def test_without_a_majority_it_is_down() -> None:
    cluster = three()
    cluster.silent, cluster.leader = {"n2", "n3"}, ""
    level, problems, may_lose = verdict(cluster)
    assert (level, may_lose) == (Level.DOWN, 0)
    assert problems[0] == "no node leads: 1 of 3 voters answer, 2 are needed"


def test_a_leader_whose_followers_are_gone_does_not_count_for_one() -> None:
    cluster = three()
    cluster.silent = {"n2", "n3"}
    level, problems, _ = verdict(cluster)
    assert level is Level.DOWN
    assert problems[0] == "the leader n1 reaches 1 of 3 voters, 2 are needed"


def test_a_leader_of_an_older_term_is_none() -> None:
    cluster = three()
    cluster.leader, cluster.term, cluster.stale = "n2", 4, {"n1": ("n1", 3)}
    view = seen(cluster, "n1")
    assert (view.leader, view.term) == ("n2", 4)


def test_a_leader_that_does_not_answer_is_none() -> None:
    cluster = three()
    cluster.silent = {"n1"}
    view = seen(cluster, "n2")
    assert view.leader == ""
    assert judge(view).level is Level.DOWN
    assert all(node.lag is None for node in view.nodes)


@pytest.mark.parametrize(("lag", "level"), [(LAG_MAX, Level.OK), (LAG_MAX + 1, Level.DEGRADED)])
def test_a_voter_may_be_behind_by_so_much(lag: int, level: Level) -> None:
    cluster = three()
    cluster.lags = {"n3": lag}
    assert verdict(cluster).level is level


def test_learners_count_for_nothing() -> None:
    cluster = FakeCluster.of("n1", learners=("n2",))
    cluster.silent = {"n2"}
    view = seen(cluster)
    assert [node.name for node in view.nodes] == ["n1", "n2"]
    assert judge(view) == (Level.OK, (), 0)


def test_a_full_disk_degrades() -> None:
    cluster = three()
    cluster.read_only = {"n1": "no space"}
    assert verdict(cluster) == (Level.DEGRADED, ("n1 is read-only: no space",), 1)


def test_another_disk_under_a_members_name_is_named() -> None:
    cluster = three()
    cluster.disks = {"n2": "another"}
    assert "runs on another disk" in verdict(cluster).problems[0]


def test_a_node_of_another_cluster_at_a_members_address_does_not_count() -> None:
    cluster = three()
    cluster.clusters = {"n3": "another"}
    view = seen(cluster)
    assert [node.answers for node in view.nodes] == [True, True, False]
    assert "another" in view.nodes[2].why


def test_nobody_answers() -> None:
    cluster = three()
    cluster.silent = {"n1", "n2", "n3"}
    with pytest.raises(ClientError, match=r"h:101.*h:201") as raised:
        seen(cluster, "n1", "n2")
    assert raised.value.exit_code == ExitCode.UNAVAILABLE


def test_the_exit_codes() -> None:
    assert [level.exit_code for level in Level] == [0, 3, 11]
