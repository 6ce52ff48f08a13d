"""The linearizability checker accepts what it must and refuses what it must."""

from __future__ import annotations

import random

import pytest

from tests.sim.history import NEVER, Call, NotLinearizable, check
from tests.sim.kv import Command, Machine, Op, Value, decode, encode, initial, step

Row = tuple[str, str, float, float, Value | None]  # client, operation, called, returned, answer


def calls(*rows: Row) -> list[Call]:
    return [Call(client, Op(*words.split()), called, returned, answer) for client, words, called, returned, answer in rows]


GOOD: dict[str, list[Row]] = {
    "one after the other": [("a", "add x 1", 0, 1, 1), ("b", "read x", 2, 3, 1)],
    "at the same time, either order": [("a", "add x 1", 0, 5, 1), ("b", "read x", 1, 2, 1), ("c", "read x", 1, 2, 0)],
    "unknown, and it happened": [("a", "add x 1", 0, NEVER, None), ("b", "read x", 8, 9, 1)],
    "unknown, and it did not": [("a", "add x 1", 0, NEVER, None), ("b", "read x", 8, 9, 0)],
    "unknown, and it happened late": [
        ("a", "add x 1", 0, NEVER, None),
        ("b", "read x", 5, 6, 0),
        ("b", "read x", 7, 8, 1),
    ],
    "compare and set, one winner": [("a", "cas x 0 5", 0, 4, 1), ("b", "cas x 0 6", 1, 3, 0), ("c", "read x", 5, 6, 5)],
    "a list": [("a", "append list1 p", 0, 3, 2), ("b", "append list1 q", 0, 3, 1), ("c", "read list1", 4, 5, ("q", "p"))],
    "keys on their own": [("a", "add x 1", 0, 1, 1), ("a", "add y 1", 2, 3, 1)],
}
BAD: dict[str, list[Row]] = {
    "a stale read": [("a", "add x 1", 0, 1, 1), ("b", "read x", 2, 3, 0)],
    "a read that goes back": [("a", "add x 1", 0, NEVER, None), ("b", "read x", 2, 3, 1), ("c", "read x", 4, 5, 0)],
    "an acknowledged write is lost": [("a", "add x 1", 0, 1, 1), ("b", "add x 1", 2, 3, 1)],
    "it happened twice": [("a", "add x 1", 0, 9, 1), ("b", "read x", 10, 11, 2)],
    "a write from the future": [("b", "read x", 0, 1, 7), ("a", "add x 7", 2, 3, 7)],
    "two winners": [("a", "cas x 0 5", 0, 4, 1), ("b", "cas x 0 6", 0, 4, 1)],
    "a lost element": [("a", "append list1 p", 0, 1, 1), ("b", "append list1 q", 2, 3, 1)],
    "two orders of a list": [
        ("a", "append list1 p", 0, NEVER, None),
        ("b", "append list1 q", 0, NEVER, None),
        ("c", "read list1", 2, 3, ("p", "q")),
        ("d", "read list1", 2, 3, ("q", "p")),
    ],
}


@pytest.mark.parametrize("name", GOOD)
def test_explained(name: str) -> None:
    check(calls(*GOOD[name]))


@pytest.mark.parametrize("name", BAD)
def test_refused(name: str) -> None:
    with pytest.raises(NotLinearizable):
        check(calls(*BAD[name]))


def concurrent_history(rng: random.Random, spoil: bool) -> list[Call]:
    """Operations that took effect at one moment between call and return each; `spoil` changes one answer."""
    value: Value = initial("x")
    history: list[Call] = []
    for moment in range(1, 40):
        op = rng.choice((Op("add", "x", "1"), Op("read", "x"), Op("cas", "x", str(value), str(rng.randrange(100)))))
        value, answer = step(value, op)
        unknown = rng.random() < 0.1
        returned = NEVER if unknown else moment + rng.random() * 3
        history.append(Call("c", op, moment - rng.random() * 3, returned, None if unknown else answer))
    if spoil:
        victim = rng.choice([call for call in history if call.op.kind != "cas" and call.answer is not None])
        victim.answer = 1000
    rng.shuffle(history)
    return history


@pytest.mark.parametrize("seed", range(40))
def test_histories_that_were_made_by_an_order_have_one(seed: int) -> None:
    check(concurrent_history(random.Random(seed), spoil=False))


@pytest.mark.parametrize("seed", range(40))
def test_a_spoilt_answer_is_found(seed: int) -> None:
    with pytest.raises(NotLinearizable):
        check(concurrent_history(random.Random(seed), spoil=True))


def test_a_machine_does_a_command_once() -> None:
    machine = Machine()
    command = Command(7, 1, Op("add", "x", "5"), 3)
    assert decode(encode(command)) == command
    assert machine.apply(1, encode(command)) == (5, command)
    machine.skip(2)
    digest = machine.digest
    assert machine.apply(3, encode(command)) == (5, None)
    assert machine.digest != digest
    assert machine.read("x") == 5


def test_a_machine_is_its_dump() -> None:
    machine = Machine()
    machine.apply(1, encode(Command(1, 1, Op("append", "list0", "p"))))
    machine.apply(2, encode(Command(2, 1, Op("add", "n0", "4"))))
    again = Machine.load(machine.dump())
    assert again == machine
    for each in (machine, again):
        each.apply(3, encode(Command(1, 2, Op("append", "list0", "q"))))
    assert again.dump() == machine.dump()
