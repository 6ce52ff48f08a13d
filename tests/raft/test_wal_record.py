"""The record codec: what goes in comes out, and nothing else does."""

from __future__ import annotations

import struct

import google_crc32c
from hypothesis import given
from hypothesis import strategies as st

from raft.record import (
    ALIGNMENT,
    HEADER_SIZE,
    KINDS,
    MEMBERSHIP,
    Entry,
    encode_batch,
    header_at,
    payload_at,
    record_size,
    run_of_records,
)
from raft.segment import SegmentHeader

TAGS = st.integers(1, 2**32 - 1)
PAYLOADS = st.lists(st.binary(max_size=80), min_size=1, max_size=8)


def decode(buffer: bytes, at: int, tag: int) -> Entry | None:
    header = header_at(buffer, at, tag)
    payload = None if header is None else payload_at(buffer, at, tag, header)
    return None if header is None or payload is None else Entry(header.index, header.term, payload, header.kind)


@given(TAGS, PAYLOADS, st.integers(0, 2**63), st.integers(0, 2**64 - 1), st.sampled_from(sorted(KINDS)))
def test_a_batch_comes_back_as_it_was(tag: int, payloads: list[bytes], durable: int, term: int, kind: int) -> None:
    entries = [Entry(durable + 1 + i, term, payload, kind) for i, payload in enumerate(payloads)]
    buffer, offsets = encode_batch(tag, entries, durable)
    assert [decode(buffer, at, tag) for at in offsets] == entries
    assert all(at % ALIGNMENT == 0 for at in offsets)
    assert len(buffer) == sum(record_size(len(payload)) for payload in payloads)
    for at in offsets:
        header = header_at(buffer, at, tag)
        assert header is not None
        assert header.durable == durable


@given(TAGS, st.binary(max_size=40), st.data())
def test_no_bit_flips_unnoticed(tag: int, payload: bytes, data: st.DataObject) -> None:
    buffer, _ = encode_batch(tag, [Entry(7, 3, payload)], 6)
    bit = data.draw(st.integers(0, len(buffer) * 8 - 1))
    damaged = bytearray(buffer)
    damaged[bit // 8] ^= 1 << bit % 8
    assert decode(bytes(damaged), 0, tag) is None


@given(TAGS, st.binary(max_size=40))
def test_no_part_of_a_record_is_one(tag: int, payload: bytes) -> None:
    buffer, _ = encode_batch(tag, [Entry(7, 3, payload)], 6)
    assert [decode(buffer[:size], 0, tag) for size in range(len(buffer))] == [None] * len(buffer)


@given(TAGS, TAGS, st.binary(max_size=40))
def test_a_record_of_another_segment_is_none_of_ours(tag: int, other: int, payload: bytes) -> None:
    """Neither as it is, nor with the tag in front changed: the tag seeds the checksum too."""
    if tag == other:
        return
    buffer, _ = encode_batch(tag, [Entry(7, 3, payload)], 6)
    assert decode(buffer, 0, other) is None
    assert decode(other.to_bytes(4, "little") + buffer[4:], 0, other) is None


def test_zeros_are_no_record() -> None:
    assert header_at(bytes(HEADER_SIZE), 0, 1) is None


def test_a_length_beyond_the_limit_is_refused_before_anything_is_read() -> None:
    buffer, _ = encode_batch(5, [Entry(1, 1, b"x")], 0)
    huge = buffer[:8] + (2**32 - 1).to_bytes(4, "little") + buffer[12:]
    assert header_at(huge, 0, 5) is None


def test_every_segment_has_a_tag_of_its_own() -> None:
    headers = [
        SegmentHeader(owner, sequence, base, 0, False)
        for owner in (b"a" * 16, b"b" * 16)
        for sequence in range(1, 60)
        for base in (1, 2, 77, 1 << 40)
    ]
    assert len({header.tag for header in headers}) == len(headers)


def test_the_bytes_of_a_command_are_those_that_the_first_version_wrote() -> None:
    """Logs of single nodes were written before records had kinds."""
    payload, tag = b"as ever", 0x12345678
    body = struct.pack("<IIQQ", len(payload), 1 << 24 | 2, 8, 3)
    crc = google_crc32c.extend(google_crc32c.extend(tag, body), payload)
    buffer, offsets = encode_batch(tag, [Entry(8, 3, payload)], 6)
    assert buffer == struct.pack("<II", tag, crc) + body + payload + b"\0"
    assert offsets == [0]


def test_a_kind_that_is_not_known_is_damage() -> None:
    tag = 5
    for kind in range(256):
        buffer, _ = encode_batch(tag, [Entry(1, 1, b"x", kind)], 0)
        assert (header_at(buffer, 0, tag) is not None) == (kind in KINDS)


BATCHES = st.lists(st.tuples(st.integers(0, 2), st.binary(max_size=40), st.sampled_from(sorted(KINDS))), min_size=1, max_size=8)


@given(TAGS, BATCHES, st.integers(0, 100), st.data())
def test_a_run_ends_where_the_first_record_is_not_whole(
    tag: int, batch: list[tuple[int, bytes, int]], durable: int, data: st.DataObject
) -> None:
    """The loop over many records says what the two functions say of each."""
    term, entries = 5, []
    for index, (rise, payload, kind) in enumerate(batch, durable + 1):
        term += rise
        entries.append(Entry(index, term, payload, kind))
    buffer, offsets = encode_batch(tag, entries, durable)
    damaged = bytearray(buffer)
    if data.draw(st.booleans()):
        damaged[data.draw(st.integers(0, len(buffer) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    del damaged[data.draw(st.integers(0, len(buffer))) :]
    count_max = data.draw(st.integers(1, 9))
    run = run_of_records(bytes(damaged), tag, durable + 1, count_max, 5)
    whole = [decode(bytes(damaged), at, tag) for at in offsets]
    count = min(next((i for i, found in enumerate(whole) if found != entries[i]), len(entries)), count_max)
    kept = entries[:count]
    assert run.offsets == offsets[:count]
    assert run.end == sum(record_size(len(each.payload)) for each in kept)
    assert run.last == (header_at(buffer, offsets[count - 1], tag) if count else None)
    assert run.memberships == [each.index for each in kept if each.kind == MEMBERSHIP]
    before = [5, *(each.term for each in kept)]
    assert run.terms == [(each.index, each.term) for each, last in zip(kept, before, strict=False) if each.term != last]


def test_a_run_begins_with_the_index_that_is_expected() -> None:
    buffer, _ = encode_batch(5, [Entry(7, 1, b"x"), Entry(8, 1, b"y")], 6)
    assert run_of_records(buffer, 5, 6, 9, 1).offsets == run_of_records(buffer, 5, 8, 9, 1).offsets == []
    assert run_of_records(buffer, 5, 7, 9, 1).offsets == [0, 40]
