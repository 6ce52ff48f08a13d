"""What clients asked and were told, and whether one order of events explains all of it (linearizability).

Wing and Gong's search, one key at a time (linearizability is local: Herlihy and Wing 1990, theorem 1), remembering
configurations that led nowhere (Lowe 2017). An operation without an answer may have happened at any time after its call, or
never.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.sim.kv import Op, Value, initial, step

if TYPE_CHECKING:
    from collections.abc import Iterable

NEVER = float("inf")


@dataclass(slots=True)
class Call:
    client: str
    op: Op
    called_at: float
    returned_at: float = NEVER
    answer: Value | None = None  # None: unknown, if it happened at all

    def __str__(self) -> str:
        end = "?" if self.answer is None else f"{self.returned_at:.4f}"
        return f"[{self.called_at:.4f}, {end}] {self.client}: {' '.join(word for word in self.op if word)} -> {self.answer}"


class NotLinearizable(AssertionError):
    def __init__(self, key: str, calls: Iterable[Call]) -> None:
        lines = "\n".join(f"  {call}" for call in calls)
        super().__init__(f"no order of these operations on {key} explains their answers:\n{lines}")


def check(calls: Iterable[Call]) -> None:
    """Raises NotLinearizable."""
    by_key: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        if call.answer is not None or call.op.kind != "read":
            by_key[call.op.key].append(call)
    for key, some in sorted(by_key.items()):
        some.sort(key=lambda call: (call.called_at, call.returned_at))
        if not _explained(initial(key), some):
            raise NotLinearizable(key, some)


def _explained(value: Value, calls: list[Call]) -> bool:
    """Depth first over (which calls have taken effect, the value then)."""
    must = sum(1 << i for i, call in enumerate(calls) if call.answer is not None)
    start = (0, value)
    seen = {start}
    stack = [start]
    while stack:
        done, value = stack.pop()
        if done & must == must:
            return True
        for i in _may_be_next(done, calls):
            call = calls[i]
            after, answer = step(value, call.op)
            if call.answer is not None and answer != call.answer:
                continue
            configuration = (done | 1 << i, after)
            if configuration not in seen:
                seen.add(configuration)
                stack.append(configuration)
    return False


def _may_be_next(done: int, calls: list[Call]) -> list[int]:
    """Those that were called before any other that is left has returned. Calls are sorted by when they were called."""
    horizon = NEVER
    open_calls: list[int] = []
    for i, call in enumerate(calls):
        if call.called_at > horizon:
            break
        if not done >> i & 1:
            open_calls.append(i)
            horizon = min(horizon, call.returned_at)
    return [i for i in open_calls if calls[i].called_at <= horizon]
