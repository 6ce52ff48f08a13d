"""Splicing extents beside a byte map."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.core import extents
from metaserver.core.errors import CorruptState
from metaserver.core.extents import Held
from metaserver.core.model import CHUNK_BYTES, Extent

ROOM = 120
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["lay", "lay", "lay", "hole", "truncate"]),
        st.integers(0, ROOM - 1),
        st.integers(1, 40),
        st.integers(0, 5),
        st.booleans(),
    ),
    max_size=30,
)


@given(CHANGES)
def test_splice_is_painting_bytes(changes: list[tuple[str, int, int, int, bool]]) -> None:
    value = extents.EMPTY
    painted: dict[int, tuple[int, int]] = {}
    sizes: dict[int, Held] = {}
    for number, (what, pos, length, off, inline) in enumerate(changes, start=1):
        before = {slice_id for slice_id, _ in painted.values()}
        covered = len(painted)
        if what == "truncate":
            after = extents.truncate(value, pos)
            painted = {at: one for at, one in painted.items() if at < pos}
        elif what == "hole":
            after = extents.splice(value, Extent(pos, length, 0, 0, 0, False))
            painted = {at: one for at, one in painted.items() if not pos <= at < pos + length}
        else:
            sizes[number] = Held(number, off + length + 3, inline)
            after = extents.splice(value, Extent(pos, length, number, off, off + length + 3, inline))
            painted |= {pos + at: (number, off + at) for at in range(length)}
        value = after.value
        decoded = extents.decode(value)
        assert {one.pos + at: (one.slice, one.off + at) for one in decoded for at in range(one.length)} == painted
        assert all(one.pos + one.length <= other.pos for one, other in pairwise(decoded))
        assert all((one.slice, one.size, one.inline) == sizes[one.slice] for one in decoded)
        assert after.allocated == len(painted) - covered
        gone = before - {slice_id for slice_id, _ in painted.values()}
        assert sorted(after.freed) == sorted(sizes[one] for one in gone)
        assert extents.encode(decoded) == value
        assert set(extents.slices(value)) == {sizes[slice_id] for slice_id, _ in painted.values()}


def test_rewriting_one_page_does_not_grow_a_chunk() -> None:
    value = extents.splice(extents.EMPTY, Extent(0, CHUNK_BYTES, 1, 0, CHUNK_BYTES, False)).value
    for number in range(2, 2000):
        done = extents.splice(value, Extent(8192, 4096, number, 0, 4096, False))
        value = done.value
        assert done.allocated == 0
        assert done.freed == ([Held(number - 1, 4096, False)] if number > 2 else [])
    assert len(value) == 1 + 3 * extents.RECORD_BYTES


def test_a_slice_number_that_looks_like_another_field_is_not_found() -> None:
    """Held slices are searched for as bytes: a match that is not at the place of a slice number does not count."""
    number = 5 << 32 | 5
    value = extents.splice(extents.EMPTY, Extent(0, 100, number, 0, 100, False)).value
    value = extents.splice(value, Extent(0, 5, 7, 0, 5, False)).value
    value = extents.splice(value, Extent(5, 5, 8, 0, 5, False)).value
    assert struct.pack(">Q", number) in value[1 + extents.RECORD_BYTES :]
    done = extents.splice(value, Extent(10, 90, 9, 0, 90, False))
    assert done.freed == [Held(number, 100, False)]


@pytest.mark.parametrize("value", [b"", b"\x02", b"\x01" + b"x" * 23, b"\x00" + b"x" * 24])
def test_damage_is_named(value: bytes) -> None:
    for call in (extents.check, extents.decode, lambda one: extents.truncate(one, 0)):
        with pytest.raises(CorruptState):
            call(value)
