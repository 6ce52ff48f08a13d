"""The codec: golden frames, and that no bytes whatever do more than raise ProtocolError."""

from __future__ import annotations

import errno
import os
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fuseclient.attr import Attr
from fuseclient.kernel import codec, file_attributes, protocol, replies
from fuseclient.kernel.codec import ProtocolError
from fuseclient.kernel.protocol import InitFlag, Opcode
from fuseclient.operations import DirItem, Opened, StatFs
from protos.attr_layout import ATTR

DECODERS = codec.decoders(InitFlag.SETXATTR_EXT)
REPLIES = replies.Replies(entry_ttl_s=1.5, attr_ttl_s=2, negative_ttl_s=0.25)


def attr(ino: int, mode: int = 0o100644) -> Attr:
    return Attr(ATTR.pack(ino, 5, 8, 1, 2, 3, 4, 5, 6, mode, 1, 1000, 1001, 0, 4096, 0, 0, 1, 9, 9, 0, 0))


def decode(opcode: Opcode, body: bytes, decoders: dict[Opcode, codec.Decoder] = DECODERS) -> object:
    frame = protocol.IN_HEADER.pack(40 + len(body), opcode, 7, 1, 1000, 100, 4242, 0) + body
    # what an earlier request left in the buffer must never be read
    buffer = memoryview(bytearray(frame + b"\xee" * 64))
    return decoders[opcode](buffer, len(frame))


#: opcode, body as the kernel writes it (hex), the request
REQUESTS = [
    (Opcode.LOOKUP, "66696c6500", codec.Named(b"file")),
    (Opcode.UNLINK, "ff0a2000", codec.Named(b"\xff\n ")),
    (Opcode.FORGET, "0300000000000000", codec.Forget(3)),
    (Opcode.GETATTR, "0100000000000000 0900000000000000", codec.GetAttr(1, 9)),
    (
        Opcode.SETATTR,
        "6908000000000000 0500000000000000 0010000000000000 0700000000000000"
        "0100000000000000 ffffffffffffffff 0000000000000000"
        "02000000 03000000 00000000 ed010000 00000000 e8030000 e9030000 00000000",
        codec.SetAttr(0x869, 5, 4096, 7, 1, 2**64 - 1, 0, 2, 3, 0, 0o755, 1000, 1001),
    ),
    (Opcode.READLINK, "", codec.Empty()),
    (Opcode.SYMLINK, "6c00 2e2e2f7400", codec.Symlink(b"l", b"../t")),
    (Opcode.MKNOD, "b6210000 01030000 12000000 00000000 6e756c6c00", codec.Mknod(0o20666, 0x301, 0o22, b"null")),
    (Opcode.MKDIR, "ff010000 12000000 6400", codec.Mkdir(0o777, 0o22, b"d")),
    (Opcode.RENAME, "0500000000000000 6100 6200", codec.Rename(5, 0, b"a", b"b")),
    (Opcode.RENAME2, "0500000000000000 0200000000000000 6100 6200", codec.Rename(5, 2, b"a", b"b")),
    (Opcode.LINK, "0900000000000000 6c00", codec.Link(9, b"l")),
    (Opcode.OPEN, "02800000 01000000", codec.Open(0o100002, 1)),
    (Opcode.CREATE, "c1800000 a4810000 12000000 00000000 6300", codec.Create(0o100301, 0o100644, 0o22, 0, b"c")),
    (
        Opcode.READ,
        "0300000000000000 0000100000000000 00000200 02000000 0400000000000000 00800000 00000000",
        codec.Read(3, 1 << 20, 131072, 2, 4, 0o100000),
    ),
    (Opcode.RELEASE, "0300000000000000 01000000 02000000 0400000000000000", codec.Release(3, 1, 2, 4)),
    (Opcode.FSYNC, "0300000000000000 01000000 00000000", codec.Fsync(3, 1)),
    (Opcode.SETXATTR, "02000000 01000000 00000000 00000000 757365722e6100 7600", codec.SetXattr(1, 0, b"user.a", b"v\0")),
    (Opcode.GETXATTR, "00040000 00000000 757365722e6100", codec.GetXattr(1024, b"user.a")),
    (Opcode.LISTXATTR, "00040000 00000000", codec.ListXattr(1024)),
    (Opcode.FLUSH, "0300000000000000 0000000000000000 0400000000000000", codec.Flush(3, 4)),
    (Opcode.ACCESS, "04000000 00000000", codec.Access(4)),
    (Opcode.INTERRUPT, "0600000000000000", codec.Interrupt(6)),
    (
        Opcode.FALLOCATE,
        "0300000000000000 0010000000000000 0020000000000000 03000000 00000000",
        codec.Fallocate(3, 4096, 8192, 3),
    ),
    (
        Opcode.COPY_FILE_RANGE_64,
        "0100000000000000 0200000000000000 0300000000000000 0400000000000000 0500000000000000 0600000000000000" + "00" * 8,
        codec.CopyFileRange(1, 2, 3, 4, 5, 6),
    ),
    (Opcode.LSEEK, "0300000000000000 0010000000000000 04000000 00000000", codec.Lseek(3, 4096, 4)),
    (
        Opcode.IOCTL,
        "0300000000000000 00000000 02660840 0000000000000000 04000000 00000000 30000000",
        codec.Ioctl(3, 0, 0x40086602, 0, 4, 0, b"0\0\0\0"),
    ),
    (
        Opcode.STATX,
        "01000000 00000000 0300000000000000 00600000 ff0f0000",
        codec.Statx(1, 3, 0x6000, 0xFFF),
    ),
    (
        Opcode.INIT,
        "07000000 2d000000 00000200 00000040 80000000" + "00000000" * 11,
        codec.Init(7, 45, 131072, 0x80_4000_0000),
    ),
    (Opcode.INIT, "07000000 1f000000 00000200 ffffff3f", codec.Init(7, 31, 131072, 0x3FFFFFFF)),
]


@pytest.mark.parametrize(("opcode", "body", "request_"), REQUESTS, ids=[f"{row[0].name}-{i}" for i, row in enumerate(REQUESTS)])
def test_a_request_is_read(opcode: Opcode, body: str, request_: tuple[object, ...]) -> None:
    found = decode(opcode, bytes.fromhex(body))
    assert found == request_
    assert type(found) is type(request_)


#: READLINK has no body, and the end of INIT's is optional
BOUNDED = [row for row in REQUESTS if row[0] not in (Opcode.READLINK, Opcode.INIT)]


@pytest.mark.parametrize(("opcode", "body"), [row[:2] for row in BOUNDED], ids=[row[0].name for row in BOUNDED])
def test_a_request_that_is_one_byte_short_is_refused(opcode: Opcode, body: str) -> None:
    whole = bytes.fromhex(body)
    with pytest.raises(ProtocolError):
        decode(opcode, whole[:-1])


def test_a_write_is_a_window_into_the_frame() -> None:
    body = bytes.fromhex("0300000000000000 0010000000000000 05000000 04000000 0000000000000000 01800000 00000000") + b"hello"
    found = decode(Opcode.WRITE, body)
    assert isinstance(found, codec.Write)
    assert found[:6] == (3, 4096, 5, 4, 0, 0o100001)
    assert bytes(found.data) == b"hello"
    with pytest.raises(ProtocolError):
        decode(Opcode.WRITE, body + b"!")


def test_setxattr_has_a_shorter_form_when_the_longer_was_not_agreed() -> None:
    body = bytes.fromhex("01000000 02000000 6100 76")
    assert decode(Opcode.SETXATTR, body, codec.decoders(0)) == codec.SetXattr(2, 0, b"a", b"v")


@pytest.mark.parametrize("name", [b"", b"no nul", b"two\0nuls\0", b"\0\0"])
def test_a_name_ends_with_its_only_nul(name: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(Opcode.LOOKUP, name)


def test_extensions_are_no_part_of_the_body() -> None:
    assert codec.body_end(104, 2) == 88
    with pytest.raises(ProtocolError):
        codec.body_end(48, 2)


def test_batch_forget_reads_what_it_counts() -> None:
    body = struct.pack("<II", 2, 0) + struct.pack("<QQQQ", 10, 1, 11, 3)
    frame = memoryview(bytes(40) + body + b"\xee" * 32)
    assert codec.batch_forget(frame, 40 + len(body)) == [(10, 1), (11, 3)]
    with pytest.raises(ProtocolError):
        codec.batch_forget(frame, 40 + len(body) - 1)
    with pytest.raises(ProtocolError):
        codec.batch_forget(memoryview(bytes(40) + struct.pack("<II", 2**32 - 1, 0)), 48)


def test_a_header_must_tell_its_length() -> None:
    frame = protocol.IN_HEADER.pack(40, 1, 2, 3, 4, 5, 6, 7)
    assert codec.header(memoryview(frame), 40) == (40, 1, 2, 3, 4, 5, 6, 7)
    for size in (0, 39, 41):
        with pytest.raises(ProtocolError):
            codec.header(memoryview(frame + b"x"), size)


@given(st.sampled_from(sorted(DECODERS)), st.binary(max_size=200), st.booleans())
@example(Opcode.RENAME2, b"", True)
def test_no_bytes_do_more_than_be_refused(opcode: Opcode, body: bytes, ext: bool) -> None:
    decoders = codec.decoders(InitFlag.SETXATTR_EXT if ext else 0)
    try:
        found = decode(opcode, body, decoders)
    except ProtocolError:
        return
    assert isinstance(found, tuple)


@given(st.binary(max_size=300))
def test_no_batch_forget_does_more_than_be_refused(body: bytes) -> None:
    try:
        pairs = codec.batch_forget(memoryview(bytes(40) + body), 40 + len(body))
    except ProtocolError:
        return
    assert all(len(pair) == 2 for pair in pairs)


# --- replies

ATTR_HEX = attr(10).raw[:88].hex()


def hexes(reply: bytes, expected: str) -> None:
    assert reply.hex() == expected.replace(" ", "")


def test_errors_and_bare_successes() -> None:
    hexes(replies.error(7, errno.ENOENT), "10000000 feffffff 0700000000000000")
    hexes(replies.done(2**63 | 1), "10000000 00000000 0100000000000080")


@pytest.mark.parametrize("code", [0, -2, 512, 99999])
def test_what_is_no_errno_becomes_eio(code: int) -> None:
    hexes(replies.error(7, code), "10000000 fbffffff 0700000000000000")


def test_an_entry() -> None:
    ttl = "0000000000000000 0100000000000000 0200000000000000 0065cd1d 00000000"
    hexes(REPLIES.entry(7, 10, attr(10)), f"90000000 00000000 0700000000000000 0a00000000000000 {ttl} {ATTR_HEX}")


def test_absence_is_an_entry_without_a_node() -> None:
    ttl = "0000000000000000 0000000000000000 0000000000000000 80b2e60e 00000000"
    hexes(REPLIES.absent(7), f"90000000 00000000 0700000000000000 0000000000000000 {ttl} {'00' * 88}")
    forgetful = replies.Replies(entry_ttl_s=1, attr_ttl_s=1, negative_ttl_s=0)
    assert forgetful.absent(7) == replies.error(7, errno.ENOENT)


def test_attributes() -> None:
    hexes(REPLIES.attr(7, attr(10)), f"78000000 00000000 0700000000000000 0200000000000000 00000000 00000000 {ATTR_HEX}")


def test_statx_tells_when_a_file_was_born() -> None:
    born = attr(10).fields._replace(btime_ns=-1, rdev=0x12345678 & 0xFFF0FFFF | 0x300)
    reply = REPLIES.statx(7, Attr.of(born))
    assert len(reply) == 16 + 32 + 256
    hexes(reply[:48], "30010000 00000000 0700000000000000 0200000000000000 00000000" + "00" * 20)
    mask, blksize = struct.unpack_from("<II", reply, 48)
    assert (mask, blksize) == (0xFFF, 4096)
    assert struct.unpack_from("<IIIH", reply, 64) == (1, 1000, 1001, 0o100644)
    assert struct.unpack_from("<QQQ", reply, 80) == (10, 5, 8)
    times = [struct.unpack_from("<qI", reply, 48 + 64 + 16 * n) for n in range(4)]
    assert times == [(1, 4), (-1, 999_999_999), (3, 6), (2, 5)]
    major, minor = struct.unpack_from("<II", reply, 48 + 128)
    assert (major, minor) == (os.major(born.rdev), os.minor(born.rdev))


@pytest.mark.parametrize(
    ("cmd", "out_size", "flags", "answer"),
    [
        (0x80086601, 4, 0x50, "50000000"),
        (0x80086601, 8, 0x50, "5000000000000000"),
        (0x80046601, 4, 0x20, "20000000"),
        (0x801C581F, 28, 0x10, "08000000" + "00" * 24),
        (0x801C581F, 28, 0x70, "98000000" + "00" * 24),
        (0x40086602, 0, 0x10, ""),
    ],
)
def test_inode_flags_are_answered_in_the_size_that_was_asked_for(cmd: int, out_size: int, flags: int, answer: str) -> None:
    request_ = codec.Ioctl(3, 0, cmd, 0, 0, out_size, b"")
    hexes(file_attributes.answer(request_, flags), "00" * 16 + answer)


def test_created_is_an_entry_and_an_open_file() -> None:
    reply = REPLIES.created(7, 10, attr(10), Opened(3, keep_cache=True))
    assert reply[16:144] == REPLIES.entry(7, 10, attr(10))[16:]
    assert struct.unpack_from("<I", reply) == (160,) == (len(reply),)
    assert reply[144:] == struct.pack("<QII", 3, 2, 0)


@pytest.mark.parametrize(
    ("file", "extra", "flags"),
    [
        (Opened(3), 0, 0),
        (Opened(3), protocol.FOPEN_NOFLUSH, 32),
        (Opened(3, keep_cache=True), 0, 2),
        (Opened(3, direct_io=True), 0, 1 | 64),
        (Opened(3, keep_cache=True, cache_dir=True), 0, 2 | 8),
    ],
)
def test_open_flags(file: Opened, extra: int, flags: int) -> None:
    assert replies.opened(7, file, extra) == struct.pack("<IiQQII", 32, 0, 7, 3, flags, 0)


def test_small_values() -> None:
    assert replies.written(7, 9) == struct.pack("<IiQII", 24, 0, 7, 9, 0)
    assert replies.length(7, 9) == struct.pack("<IiQII", 24, 0, 7, 9, 0)
    assert replies.position(7, 9) == struct.pack("<IiQQ", 24, 0, 7, 9)
    assert replies.body(7, b"abc") == struct.pack("<IiQ", 19, 0, 7) + b"abc"
    packed = struct.pack("<QQQQQIII28x", 100, 40, 40, 9, 5, 4096, 255, 4096)
    assert replies.statfs(7, StatFs(4096, 100, 40, 9, 5, 255)) == struct.pack("<IiQ", 96, 0, 7) + packed


def test_read_data_is_not_copied_and_never_more_than_asked() -> None:
    piece = memoryview(b"abcdef")
    head, *rest = replies.buffers(7, [piece[:2], b"xyz"], 5)
    assert head == struct.pack("<IiQ", 21, 0, 7)
    assert rest[0] == b"ab"
    assert isinstance(rest[0], memoryview)
    with pytest.raises(ValueError, match="6 bytes answer a read of 5"):
        replies.buffers(7, [piece], 5)


ITEMS = [
    DirItem(b".", 1, 4, 1, attr(1, 0o40755)),
    DirItem(b"..", 2, 4, 2, attr(2, 0o40755)),
    DirItem(b"known", 10, 8, 3, attr(10)),
    DirItem(b"exactly8", 11, 8, 4, None),
    DirItem(b"\xff" * 255, 12, 8, 5, attr(12)),
]


def unpack_listing(body: bytes, head: int) -> list[tuple[int, bytes, int, int, int]]:
    """(nodeid, name, ino, cookie, type), read as the kernel does."""
    found, at = [], 0
    while at < len(body):
        nodeid = struct.unpack_from("<Q", body, at)[0] if head else 0
        ino, cookie, length, kind = struct.unpack_from("<QQII", body, at + head)
        start = at + head + 24
        found.append((nodeid, body[start : start + length], ino, cookie, kind))
        at = start + (length + 7) // 8 * 8
    assert at == len(body)
    return found


def test_a_listing() -> None:
    found = unpack_listing(replies.directory(ITEMS, 4096), 0)
    assert found == [(0, item.name, item.ino, item.cookie, item.type) for item in ITEMS]


def test_a_listing_with_attributes_references_only_real_entries() -> None:
    listing = REPLIES.directory_plus(ITEMS, 4096)
    assert [entry[0] for entry in unpack_listing(listing.body, 128)] == [0, 0, 10, 0, 12]
    assert listing.referenced == [10, 12]
    assert listing.body[2 * 160 :][:128] == REPLIES.entry(7, 10, attr(10))[16:]


@given(st.integers(0, 2000))
def test_a_listing_takes_as_many_entries_as_fit(size: int) -> None:
    plus = REPLIES.directory_plus(ITEMS, size)
    plain = replies.directory(ITEMS, size)
    for body, head in ((plus.body, 128), (plain, 0)):
        assert len(body) <= size
        taken = unpack_listing(body, head)
        assert [entry[1] for entry in taken] == [item.name for item in ITEMS[: len(taken)]]
        if len(taken) < len(ITEMS):
            name = ITEMS[len(taken)].name
            assert len(body) + head + 24 + (len(name) + 7) // 8 * 8 > size
    assert plus.referenced == [i.ino for i in ITEMS[2 : len(unpack_listing(plus.body, 128))] if i.attr]


@pytest.mark.parametrize(
    ("seconds", "split"), [(0, (0, 0)), (1.5, (1, 500_000_000)), (-3, (0, 0)), (1e-9, (0, 1)), (0.9999999999, (1, 0))]
)
def test_lifetimes_split_into_whole_nanoseconds(seconds: float, split: tuple[int, int]) -> None:
    assert replies.split_seconds(seconds) == split
