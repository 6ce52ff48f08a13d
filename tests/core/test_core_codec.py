"""Values survive encoding, are the same bytes each time, stay small, and damage is always CorruptState."""

from __future__ import annotations

import contextlib
import stat
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.core import codec, extents, keys
from metaserver.core.codec import Ledger
from metaserver.core.entry import Result
from metaserver.core.errors import CorruptState
from metaserver.core.model import Dentry, Inode, Session, Settings, Usage, Volume

if TYPE_CHECKING:
    from collections.abc import Callable

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
I64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
KINDS = {
    "reg": (stat.S_IFREG, "allocated"),
    "dir": (stat.S_IFDIR, "next_cookie"),
    "chr": (stat.S_IFCHR, "rdev"),
    "lnk": (stat.S_IFLNK, "rdev"),
}


@st.composite
def inodes(draw: st.DrawFn) -> Inode:
    kind, own = draw(st.sampled_from(list(KINDS.values())))
    fields = {"rdev": 0, "allocated": 0, "next_cookie": 0} | {own: draw(U64)}
    return Inode(
        ino=draw(U64),
        mode=kind | draw(st.integers(0, 0o7777)),
        **{name: draw(U32) for name in ("uid", "gid", "nlink", "volume")},
        **{name: draw(U64) for name in ("size", "parent", "version", "data_version")},
        **{name: draw(I64) for name in ("atime_ns", "mtime_ns", "ctime_ns", "btime_ns")},
        **fields,
        xattr_bytes=draw(st.sampled_from([0, 7, 65536])),
        **draw(st.sampled_from([{}, {"acl": 1}, {"default_acl": 2**64 - 1}, {"flags": 2**32 - 1}])),
    )


INODES = inodes()
RESULTS = st.one_of(
    st.builds(Result, st.integers(1, 200), TEXT),
    st.builds(
        Result,
        st.just(0),
        st.just(""),
        *[st.none() | INODES] * 4,
        st.booleans(),
        U64,
        U64,
    ),
)


@given(INODES)
def test_inode(inode: Inode) -> None:
    value = codec.encode_inode(inode)
    assert codec.decode_inode(inode.ino, value) == inode
    rare = inode.acl or inode.default_acl or inode.flags
    assert len(value) == (115 if rare else 95 if inode.xattr_bytes else 91)


@given(RESULTS)
def test_result(result: Result) -> None:
    assert codec.decode_result(codec.encode_result(result)) == result


@given(U64, st.integers(0, 15), U64, st.binary(min_size=1, max_size=255))
def test_entry(ino: int, kind: int, cookie: int, name: bytes) -> None:
    assert codec.decode_dentry(codec.encode_dentry(ino, kind, cookie)) == Dentry(ino, kind, cookie)
    assert codec.decode_listing(codec.encode_listing(ino, kind, name)) == (ino, kind, name)


@given(U32, U64, st.binary(max_size=40), TEXT, I64, st.booleans(), U64)
def test_records(small: int, large: int, secret: bytes, text: str, time: int, flag: bool, seq: int) -> None:
    session = Session(large, small, seq, secret, text, time, 5)
    assert codec.decode_session(large, codec.encode_session(session), 5) == session
    volume = Volume(small, text, large, text * 2, time, flag)
    assert codec.decode_volume(small, codec.encode_volume(volume)) == volume
    assert codec.decode_acked(codec.encode_acked(seq, small)) == (seq, small)
    assert codec.decode_doomed(codec.encode_doomed(small, small, time)) == (small, small, time)
    assert codec.decode_counter(codec.encode_counter(large)) == large
    assert codec.decode_acl(codec.encode_acl(large, secret + b"x")) == (large, secret + b"x")
    assert codec.decode_count(codec.encode_count(small)) == small
    ledger = Ledger(Usage(large, seq), Settings(seq, large, small, flag))
    assert codec.decode_ledger(codec.encode_ledger(ledger)) == ledger
    assert codec.decode_ranges(codec.encode_ranges([(seq, large), (1, 2)])) == [(seq, large), (1, 2)]


DECODERS: dict[str, Callable[[bytes], Any]] = {
    "inode": lambda value: codec.decode_inode(1, value),
    "dentry": codec.decode_dentry,
    "listing": codec.decode_listing,
    "result": codec.decode_result,
    "session": lambda value: codec.decode_session(1, value, 0),
    "volume": lambda value: codec.decode_volume(1, value),
    "acked": codec.decode_acked,
    "doomed": codec.decode_doomed,
    "counter": codec.decode_counter,
    "count": codec.decode_count,
    "ledger": codec.decode_ledger,
    "ranges": codec.decode_ranges,
    "acl": codec.decode_acl,
    "extents": extents.decode,
    "key": keys.number_at,
}


@pytest.mark.parametrize("name", DECODERS)
@given(value=st.binary(max_size=130) | st.binary(max_size=130).map(lambda tail: b"\x01" + tail))
def test_damage_is_one_kind_of_error(name: str, value: bytes) -> None:
    with contextlib.suppress(CorruptState):
        DECODERS[name](value)


@pytest.mark.parametrize("name", sorted(set(DECODERS) - {"key"}))
def test_nothing_and_another_version_are_damage(name: str) -> None:
    for value in (b"", b"\x7f" * 91, b"\xff" * 13):
        with pytest.raises(CorruptState):
            DECODERS[name](value)


@given(RESULTS, st.data())
def test_a_cut_result_is_damage(result: Result, data: st.DataObject) -> None:
    value = codec.encode_result(result)
    with pytest.raises(CorruptState):
        codec.decode_result(value[: data.draw(st.integers(0, len(value) - 1))])
    with pytest.raises(CorruptState):
        codec.decode_result(value + b"\0")


def test_a_file_with_a_ten_byte_name_takes_at_most_200_bytes() -> None:
    inode = Inode(2**40, 0o100644, 1000, 1000, 1, 2**40, 1, 2**40, 0, 2**40, 0, 1, 2, 3, 4, 5, 6)
    name = b"0123456789"
    pairs = [
        (keys.inode(inode.ino), codec.encode_inode(inode)),
        (keys.dentry(5, name), codec.encode_dentry(inode.ino, 8, 1_000_000)),
        (keys.listing(5, 1_000_000), codec.encode_listing(inode.ino, 8, name)),
    ]
    assert sum(len(key) + len(value) for key, value in pairs) <= 200


def test_order_of_keys_is_order_of_numbers() -> None:
    numbers = [0, 1, 255, 256, 2**32 - 1, 2**32, 2**63, 2**64 - 1]
    for make in (keys.inode, keys.doomed, lambda number: keys.listing(7, number), lambda number: keys.chunk(number, 0)):
        made = [make(number) for number in numbers]
        assert made == sorted(made)


def test_prefixes_are_one_byte_and_different() -> None:
    prefixes = [kind.prefix for kind in keys.TABLE]
    assert len(set(prefixes)) == len(prefixes)
    assert all(len(prefix) == 1 for prefix in prefixes)
