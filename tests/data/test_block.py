"""The object format: what is encoded comes back, and a single flipped bit never does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuseclient.data import block
from fuseclient.data.block import SEGMENT_BYTES, BlockCorrupt

sizes = st.one_of(
    st.integers(1, 300), st.sampled_from([SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 3 * SEGMENT_BYTES + 7])
)


def _payload(size: int) -> bytes:
    return (b"%d;" % size * (size // 2 + 1))[:size]


@given(sizes)
def test_round_trip(size: int) -> None:
    payload = _payload(size)
    data = b"".join(block.encode(payload))
    assert len(data) == block.object_bytes(size)
    assert data.startswith(payload)
    segments = block.split(data, size)
    assert b"".join(segments) == payload
    assert all(len(segment) == SEGMENT_BYTES for segment in segments[:-1])


@given(sizes, st.data())
def test_ranges_are_proved_alone(size: int, draw: st.DataObject) -> None:
    payload = _payload(size)
    data = b"".join(block.encode(payload))
    trailer = block.parse_trailer(data[size:], size)
    first = draw.draw(st.integers(0, block.segment_count(size) - 1))
    count = draw.draw(st.integers(1, block.segment_count(size) - first))
    start, length = block.segment_range(first, count, size)
    assert b"".join(block.verify(trailer, first, data[start : start + length])) == payload[start : start + length]
    if block.segment_count(size) > 1 and first:
        with pytest.raises(BlockCorrupt):
            block.verify(trailer, first - 1, data[start : start + length])


@given(sizes, st.data())
def test_no_flipped_bit_is_missed(size: int, draw: st.DataObject) -> None:
    data = bytearray(b"".join(block.encode(_payload(size))))
    bit = draw.draw(st.integers(0, len(data) * 8 - 1))
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BlockCorrupt):
        block.split(bytes(data), size)


@given(sizes, st.integers(-5, 5).filter(bool))
def test_another_size_is_refused(size: int, by: int) -> None:
    data = b"".join(block.encode(_payload(size)))
    with pytest.raises(BlockCorrupt):
        block.split(data, size + by if size + by > 0 else size + 1)
    with pytest.raises(BlockCorrupt):
        block.split(data + bytes(by) if by > 0 else data[:by], size)


def test_the_payload_is_not_copied() -> None:
    payload = bytearray(b"x" * 1000)
    assert block.encode(payload)[0] is payload


def test_unknown_flags_are_refused() -> None:
    data = bytearray(b"".join(block.encode(b"hello")))
    at = len(data) - block.FOOTER.size + len(block.MAGIC) + 1
    data[at] = 1
    body = bytes(data[5:-4])
    data[-4:] = block._crc32c(body).to_bytes(4, "little")
    with pytest.raises(BlockCorrupt, match="newer"):
        block.split(bytes(data), 5)


def test_known_bytes() -> None:
    """The format is on disks: it does not change by accident. CRC32C("123456789") is e3069283."""
    assert b"".join(block.encode(b"123456789")).hex() == (
        b"123456789".hex() + "839206e3" + "4b45454c424c4b0a" + "01001000" + "09000000" * 2 + _KNOWN_CRC
    )


_KNOWN_CRC = "1178b8f7"


def test_checksums_are_computed_in_c() -> None:
    assert block.checksums_are_fast()


def test_empty_and_huge_are_refused() -> None:
    with pytest.raises(ValueError, match="a block holds"):
        block.encode(b"")
