"""Where bytes are: every range is covered once, in order, whatever the numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuseclient.data.layout import block_pieces, block_size, chunk_pieces, extent_pieces, object_key, object_keys
from fuseclient.data.slices import CHUNK_BYTES, Extent


@given(st.integers(0, 5 * CHUNK_BYTES), st.integers(0, 3 * CHUNK_BYTES))
def test_chunk_pieces_cover_the_range(offset: int, size: int) -> None:
    at = offset
    for chunk, pos, length in chunk_pieces(offset, size):
        assert chunk * CHUNK_BYTES + pos == at
        assert 0 < length <= CHUNK_BYTES - pos
        at += length
    assert at == offset + size


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), max_size=8), st.integers(0, 300), st.integers(1, 300))
def test_extent_pieces_cover_the_range(steps: list[tuple[int, int]], pos: int, length: int) -> None:
    extents, at = [], 0
    for number, (gap, size) in enumerate(steps):
        extents.append(Extent(at + gap, size, number + 1, 7, 100, False))
        at += gap + size
    owner = {e.pos + n: (e.slice, e.off + n) for e in extents for n in range(e.length)}
    seen = pos
    for start, amount, extent, off in extent_pieces(extents, pos, length):
        assert start == seen
        assert amount > 0
        for n in range(amount):
            assert owner.get(start + n) == (None if extent is None else (extent.slice, off + n))
        seen += amount
    assert seen == pos + length


@given(st.integers(1, 10_000), st.integers(1, 999), st.data())
def test_block_pieces_cover_the_range(size: int, block_bytes: int, data: st.DataObject) -> None:
    off = data.draw(st.integers(0, size))
    length = data.draw(st.integers(0, size - off))
    at = off
    for number, start, amount, whole in block_pieces(size, off, length, block_bytes):
        assert number * block_bytes + start == at
        assert whole == block_size(size, number, block_bytes)
        assert 0 < amount <= whole - start
        at += amount
    assert at == off + length


def test_names_of_objects() -> None:
    assert object_key("vol", 1234567, 3, 4096) == "vol/chunks/1/1234/1234567_3_4096"
    assert object_keys("vol", 5, 10, 4) == ["vol/chunks/0/0/5_0_4", "vol/chunks/0/0/5_1_4", "vol/chunks/0/0/5_2_2"]
    assert object_keys("vol", 5, 8, 4) == ["vol/chunks/0/0/5_0_4", "vol/chunks/0/0/5_1_4"]


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="no such range"):
        list(chunk_pieces(-1, 5))
    with pytest.raises(ValueError, match="no such range"):
        list(block_pieces(10, 5, 6, 4))
    with pytest.raises(ValueError, match="no block"):
        block_size(10, 3, 4)
