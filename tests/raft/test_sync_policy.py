"""Where syncs run: on the loop while the disk is fast, beside it when it is not."""

from __future__ import annotations

import pytest

from raft.sync_policy import AdaptivePolicy, FixedPolicy

FAST, SLOW = 0.0002, 0.005


def after(*syncs: tuple[float, int]) -> AdaptivePolicy:
    policy = AdaptivePolicy()
    for seconds, count in syncs:
        for _ in range(count):
            policy.observe(seconds)
    return policy


def test_it_starts_in_the_thread_until_the_disk_has_shown_itself() -> None:
    assert not AdaptivePolicy().inline(100)
    assert after((FAST, 50)).inline(100)


def test_a_slow_disk_moves_the_syncs_to_the_thread_and_a_fast_one_back() -> None:
    assert not after((FAST, 50), (SLOW, 5)).inline(100)
    assert after((FAST, 50), (SLOW, 5), (FAST, 50)).inline(100)


def test_one_hiccup_changes_nothing() -> None:
    assert after((FAST, 50), (SLOW, 1)).inline(100)


def test_between_the_thresholds_it_stays_where_it_is() -> None:
    assert after((FAST, 50), (0.00085, 200)).inline(100)
    assert not after((SLOW, 50), (0.00085, 200)).inline(100)


def test_large_batches_never_run_on_the_loop() -> None:
    assert not after((FAST, 50)).inline(1 << 20)


def test_thresholds_must_make_sense() -> None:
    with pytest.raises(ValueError, match="thresholds"):
        AdaptivePolicy(enter_seconds=0.002, leave_seconds=0.001)


@pytest.mark.parametrize("inline", [True, False])
def test_a_fixed_policy_is_fixed(inline: bool) -> None:
    policy = FixedPolicy(inline=inline)
    policy.observe(10)
    assert policy.inline(1 << 30) is inline
