"""What the journal keeps in memory, against plain lists: the tail of the log and the terms."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raft.record import Entry, record_size
from raft.tail import Tail
from raft.terms import Terms

BOUND = 3000


def entry(index: int, size: int) -> Entry:
    return Entry(index, 1, bytes(size))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(st.sampled_from([0, 7, 100, 900, 4000]), min_size=1, max_size=12)),
        st.tuples(st.just("truncate"), st.integers(0, 12)),
        st.tuples(st.just("clear"), st.integers(1, 50)),
    ),
    max_size=30,
)


@given(STEPS, st.integers(0, 2000))
@example([("append", [0] * 11 + [900]), ("truncate", 8)], 0)  # what was cut off at the front stayed, and was most of it
def test_the_tail_holds_the_newest_entries_that_fit(steps: list[tuple[str, object]], bytes_max: int) -> None:
    tail, model, base = Tail(BOUND, 1), list[Entry](), 0
    for step, value in steps:
        last = base + len(model)
        if step == "append":
            assert isinstance(value, list)
            more = [entry(last + 1 + i, size) for i, size in enumerate(value)]
            tail.append(more)
            model += more
        elif step == "truncate":
            assert isinstance(value, int)
            del model[max(len(model) - value, 0) :]
            tail.truncate(base + len(model))
        else:
            assert isinstance(value, int)
            base, model = last + value, []
            tail.clear(base + 1)
        last = base + len(model)
        assert base < tail.first <= last + 1
        assert tail.size_bytes <= BOUND
        assert len(tail._entries) <= (last + 1 - tail.first) * 4 / 3 + 1
        for first in range(tail.first, last + 1):
            found = tail.read(first, last, bytes_max)
            assert list(found) == model[first - base - 1 :][: len(found)]
            sizes = [record_size(len(each.payload)) for each in found]
            assert len(found) == 1 or sum(sizes) <= bytes_max
            if found[-1].index < last:
                assert sum(sizes) + record_size(len(model[found[-1].index - base].payload)) > bytes_max


def test_the_tail_keeps_what_it_can() -> None:
    tail = Tail(BOUND, 1)
    tail.append([entry(index, 100) for index in range(1, 101)])
    assert tail.first == 100 - BOUND // 300 + 1
    tail.append([entry(101, BOUND)])
    assert (tail.first, tail.size_bytes) == (102, 0)


@given(st.lists(st.integers(0, 2), max_size=40), st.integers(0, 5), st.data())
def test_terms_are_those_of_the_entries(rises: list[int], base: int, data: st.DataObject) -> None:
    terms, model = Terms(base, 3), [3]
    for index, rise in enumerate(rises, base + 1):
        model.append(model[-1] + max(rise - 1, 0))
        terms.append(index, model[-1])
    last = data.draw(st.integers(base, base + len(rises)))
    del model[last - base + 1 :]
    terms.truncate(last)
    first = data.draw(st.integers(base, last))
    terms.trim(first)
    for index in range(first, last + 1):
        term = model[index - base]
        assert terms.at(index) == term
        assert terms.start(index) == max(base + model.index(term), first)
    assert terms.last == model[-1]
    terms.reset(99, 7)
    assert (terms.at(99), terms.last, terms.start(99)) == (7, 7, 99)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 100])
def test_reading_counts_what_a_log_would_hold(size: int) -> None:
    tail = Tail(1 << 20, 1)
    tail.append([entry(index, size) for index in range(1, 10)])
    assert len(tail.read(1, 9, 4 * record_size(size))) == 4
    assert len(tail.read(1, 9, 4 * record_size(size) - 1)) == 3
