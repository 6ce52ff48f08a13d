"""The driver against a stand-in for the kernel: a socket that keeps frames apart, as /dev/fuse does."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_filesystem import ROOT, ToyFilesystem

from fuseclient.errors import ClientError
from fuseclient.kernel import callers, protocol
from fuseclient.kernel.loop import KernelDriver
from fuseclient.kernel.negotiation import DriverOptions
from fuseclient.kernel.protocol import Opcode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ALL_FLAGS = struct.pack("<IIIII44x", 7, 45, 131072, 0xFFFFFFFF, 0x7FF)


class FakeKernel:
    """Asks, and reads what comes back."""

    def __init__(self) -> None:
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.setblocking(False)
        self.toy = ToyFilesystem()
        self.fd = theirs.detach()
        self.driver = KernelDriver(self.fd, self.toy, DriverOptions(stop_grace_s=0.2))
        self.serving = asyncio.ensure_future(self.driver.serve())
        self.unique = 100

    async def ask(self, opcode: int, nodeid: int = 1, body: bytes = b"", **fields: int) -> tuple[int, bytes]:
        """The error and the body of the reply."""
        unique = await self.tell(opcode, nodeid, body, **fields)
        reply = await self.reply()
        length, error, answered = protocol.OUT_HEADER.unpack_from(reply)
        assert length == len(reply)
        assert answered == unique
        return error, reply[16:]

    async def tell(self, opcode: int, nodeid: int = 1, body: bytes = b"", pid: int = 1, unique: int = 0) -> int:
        self.unique += 2
        unique = unique or self.unique
        frame = protocol.IN_HEADER.pack(40 + len(body), opcode, unique, nodeid, 0, 0, pid, 0) + body
        await self.send(frame)
        return unique

    async def send(self, frame: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.ours, frame)

    async def reply(self) -> bytes:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.ours, 1 << 21), 5)

    async def close(self) -> None:
        self.ours.close()
        await asyncio.wait_for(self.serving, 5)
        os.close(self.fd)


@pytest.fixture
async def kernel() -> AsyncIterator[FakeKernel]:
    made = FakeKernel()
    error, body = await made.ask(Opcode.INIT, 0, ALL_FLAGS)
    assert error == 0
    assert len(body) == protocol.INIT_OUT.size
    yield made
    await made.close()


async def test_init_takes_what_both_know() -> None:
    kernel = FakeKernel()
    error, body = await kernel.ask(Opcode.INIT, 0, struct.pack("<IIII", 7, 31, 65536, 0x0FFFFFFF))
    assert error == 0
    major, minor, readahead, flags, _, _, max_write, gran, pages, _, flags2 = protocol.INIT_OUT.unpack(body)
    assert (major, minor, readahead, max_write, gran, pages) == (7, 31, 65536, 1 << 20, 1, 256)
    assert flags & ~0x0FFFFFFF == 0
    assert flags2 == 0
    assert flags & protocol.InitFlag.DONT_MASK
    assert kernel.driver.ready.is_set()
    await kernel.close()


async def test_a_later_major_version_is_asked_to_come_back() -> None:
    kernel = FakeKernel()
    error, body = await kernel.ask(Opcode.INIT, 0, struct.pack("<IIII", 8, 0, 0, 0))
    assert (error, struct.unpack_from("<I", body)) == (0, (7,))
    assert not kernel.driver.ready.is_set()
    assert (await kernel.ask(Opcode.INIT, 0, ALL_FLAGS))[0] == 0
    assert kernel.driver.ready.is_set()
    await kernel.close()


async def test_an_old_kernel_is_refused_with_a_reason() -> None:
    kernel = FakeKernel()
    error, _ = await kernel.ask(Opcode.INIT, 0, struct.pack("<IIII", 7, 30, 0, 0))
    assert error == -errno.EPROTO
    with pytest.raises(ClientError, match=r"7\.30.*7\.31.*Linux 5\.4"):
        await kernel.serving
    kernel.ours.close()
    os.close(kernel.fd)


async def test_the_root_is_translated_both_ways(kernel: FakeKernel) -> None:
    error, body = await kernel.ask(Opcode.GETATTR, 1, bytes(16))
    assert error == 0
    assert struct.unpack_from("<Q", body, 16) == (ROOT,)
    error, body = await kernel.ask(Opcode.MKDIR, 1, struct.pack("<II", 0o755, 0) + b"d\0")
    nodeid = struct.unpack_from("<Q", body)[0]
    assert kernel.toy.nodes[nodeid].parent == ROOT
    error, body = await kernel.ask(Opcode.LOOKUP, nodeid, b"..\0")
    assert struct.unpack_from("<Q", body) == (1,)
    error, _ = await kernel.ask(Opcode.RENAME, 1, struct.pack("<Q", 1) + b"d\0e\0")
    assert error == 0
    assert b"e" in kernel.toy.nodes[ROOT].entries
    assert kernel.driver.stats()["nodes"] == 1


@pytest.mark.parametrize(
    "frame",
    [b"x", bytes(39), bytes(40), struct.pack("<II", 41, 1) + bytes(32), bytes(5000)],
    ids=["one byte", "short", "length 0", "length wrong", "zeros"],
)
async def test_what_is_no_request_is_counted_and_the_next_is_served(kernel: FakeKernel, frame: bytes) -> None:
    await kernel.send(frame)
    if len(frame) >= 40:
        assert struct.unpack_from("<i", await kernel.reply(), 4) == (-errno.EIO,)
    assert (await kernel.ask(Opcode.STATFS))[0] == 0
    assert kernel.driver.stats()["malformed"] == 1


@pytest.mark.parametrize(
    ("opcode", "body", "code"),
    [
        (Opcode.LOOKUP, b"no nul", errno.EIO),
        (Opcode.READ, b"short", errno.EIO),
        (Opcode.IOCTL, bytes(32), errno.ENOTTY),
        (Opcode.IOCTL, protocol.IOCTL_IN.pack(0, 0, 0x40086602, 0, 2, 0) + b"ab", errno.EINVAL),
        (Opcode.IOCTL, protocol.IOCTL_IN.pack(0, 0, 0x401C5820, 0, 28, 0) + b"\xff" * 28, errno.EOPNOTSUPP),
        (Opcode.SETLK, bytes(40), errno.EIO),
        (Opcode.COPY_FILE_RANGE, bytes(55), errno.EIO),
        (Opcode.TMPFILE, bytes(16), errno.EIO),
        (4096, b"", errno.ENOSYS),
        (0xFFFFFFFF, b"", errno.ENOSYS),
        (0, b"", errno.ENOSYS),
        (Opcode.GETATTR, bytes(16), errno.ENOENT),
    ],
)
async def test_refusals(kernel: FakeKernel, opcode: int, body: bytes, code: int) -> None:
    assert await kernel.ask(opcode, 99, body) == (-code, b"")


async def test_forgetting_is_not_answered(kernel: FakeKernel) -> None:
    _, body = await kernel.ask(Opcode.MKDIR, 1, struct.pack("<II", 0o755, 0) + b"d\0")
    nodeid = struct.unpack_from("<Q", body)[0]
    for _ in range(3):
        await kernel.ask(Opcode.LOOKUP, 1, b"d\0")
    await kernel.tell(Opcode.FORGET, nodeid, struct.pack("<Q", 3))
    assert (await kernel.ask(Opcode.STATFS))[0] == 0
    assert kernel.toy.forgotten == []
    await kernel.tell(Opcode.BATCH_FORGET, 0, struct.pack("<IIQQQQ", 2, 0, nodeid, 1, 4711, 9))
    assert (await kernel.ask(Opcode.STATFS))[0] == 0
    assert kernel.toy.forgotten == [nodeid]
    await kernel.tell(Opcode.FORGET, nodeid, b"")
    await kernel.reply()  # malformed; the kernel would ignore what nobody waits for
    assert (await kernel.ask(Opcode.STATFS))[0] == 0


async def test_a_caller_that_dies_is_let_go(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    dying: set[int] = set()
    monkeypatch.setattr("fuseclient.kernel.loop.is_dying", lambda pid: pid in dying)
    unique = await kernel.tell(Opcode.LOOKUP, 1, b"hanglookup\0", pid=4242)
    await kernel.tell(Opcode.INTERRUPT, 0, struct.pack("<Q", unique), unique=unique + 1)
    assert (await kernel.ask(Opcode.STATFS))[0] == 0
    assert kernel.driver.stats()["in_flight"] == 1, "a signal that does not kill changes nothing"
    dying.add(4242)
    reply = await kernel.reply()  # found by looking again
    assert protocol.OUT_HEADER.unpack(reply) == (16, -errno.EINTR, unique)
    kernel.toy.unhang()
    assert (await kernel.ask(Opcode.STATFS))[0] == 0
    assert kernel.driver.stats()["in_flight"] == 0


async def test_a_change_is_waited_for_by_a_dying_caller(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuseclient.kernel.loop.is_dying", lambda pid: True)
    gate: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    kernel.toy.mkdir = lambda *_: gate  # type: ignore[method-assign,assignment]
    unique = await kernel.tell(Opcode.MKDIR, 1, struct.pack("<II", 0o755, 0) + b"d\0")
    await kernel.tell(Opcode.INTERRUPT, 0, struct.pack("<Q", unique))
    assert (await kernel.ask(Opcode.STATFS))[0] == 0
    gate.set_result(kernel.toy.getattr(ROOT, None))
    length, error, answered = protocol.OUT_HEADER.unpack_from(await kernel.reply())
    assert (length, error, answered) == (144, 0, unique)


async def test_an_interrupt_for_nothing_is_ignored(kernel: FakeKernel) -> None:
    await kernel.tell(Opcode.INTERRUPT, 0, struct.pack("<Q", 4711))
    assert (await kernel.ask(Opcode.STATFS))[0] == 0


async def test_a_done_future_is_answered_in_the_same_turn(kernel: FakeKernel) -> None:
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    done.set_result(b"target")
    kernel.toy.readlink = lambda ino: done  # type: ignore[method-assign,assignment,return-value]
    before = len(asyncio.all_tasks())
    assert await kernel.ask(Opcode.READLINK) == (0, b"target")
    assert len(asyncio.all_tasks()) == before


async def test_answers_in_many_pieces_are_whole(kernel: FakeKernel) -> None:
    kernel.toy.read = lambda *_: [b"%04d" % k for k in range(1500)]  # type: ignore[method-assign]
    body = struct.pack("<QQIIQII", 1, 0, 6000, 0, 0, 0, 0)
    error, data = await kernel.ask(Opcode.READ, 1, body)
    assert error == 0
    assert data == b"".join(b"%04d" % k for k in range(1500))


async def test_what_keeps_the_data_of_a_write_cannot_read_the_next_request(kernel: FakeKernel) -> None:
    kept: list[memoryview] = []

    def write(ino: int, fh: int, offset: int, data: memoryview, kill_priv: bool) -> int:
        kept.append(data)
        return len(data)

    kernel.toy.write = write  # type: ignore[method-assign]
    body = struct.pack("<QQIIQII", 1, 0, 5, 0, 0, 0, 0) + b"hello"
    assert (await kernel.ask(Opcode.WRITE, 1, body))[0] == 0
    with pytest.raises(ValueError, match="released"):
        bytes(kept[0])


async def test_what_is_under_way_at_the_end_is_cancelled_after_its_grace() -> None:
    kernel = FakeKernel()
    await kernel.ask(Opcode.INIT, 0, ALL_FLAGS)
    await kernel.tell(Opcode.LOOKUP, 1, b"hanglookup\0")
    await kernel.ask(Opcode.STATFS)
    assert kernel.driver.stats()["in_flight"] == 1
    await kernel.close()
    assert kernel.driver.stats()["in_flight"] == 0
    assert len(asyncio.all_tasks()) == 1


@settings(max_examples=60, deadline=None)
@given(frames=st.lists(st.tuples(st.integers(0, 60), st.binary(max_size=120)), max_size=30))
def test_no_frames_end_the_driver(frames: list[tuple[int, bytes]]) -> None:
    async def run() -> None:
        kernel = FakeKernel()
        await kernel.ask(Opcode.INIT, 0, ALL_FLAGS)
        for opcode, body in frames:
            if opcode not in (Opcode.DESTROY, Opcode.INIT):
                await kernel.tell(opcode, 1, body)
        unique = await kernel.tell(Opcode.STATFS)
        while protocol.OUT_HEADER.unpack_from(await kernel.reply())[2] != unique:
            pass
        await kernel.close()

    asyncio.run(run())


def test_dying_is_read_from_the_process_status() -> None:
    alive = "Name:\tcat\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000002000\n"
    assert not callers.parse_dying(alive)
    assert callers.parse_dying(alive.replace("SigPnd:\t0000000000000000", "SigPnd:\t0000000000000100"))
    assert callers.parse_dying(alive.replace("ShdPnd:\t0000000000002000", "ShdPnd:\t0000000000000100"))
    assert not callers.is_dying(0)
    assert not callers.is_dying(os.getpid())
    assert not callers.is_dying(1 << 30)


def lk(owner: int, kind: int = 0, type_: int = 1, pid: int = 77) -> bytes:
    return protocol.LK_IN.pack(3, owner, 5, 2**63 - 1, type_, pid, kind)


async def test_a_lock_reaches_the_file_system_and_who_is_in_the_way_comes_back(kernel: FakeKernel) -> None:
    assert await kernel.ask(Opcode.SETLK, body=lk(1)) == (0, b"")
    assert kernel.toy.calls[-1] == ("setlk", 0, 1, 5, 2**63 - 1, False, True)
    assert (await kernel.ask(Opcode.SETLK, body=lk(2)))[0] == -errno.EAGAIN
    assert await kernel.ask(Opcode.GETLK, body=lk(2)) == (0, protocol.LK_OUT.pack(5, 2**63 - 1, 1, 77))
    assert await kernel.ask(Opcode.GETLK, body=lk(1)) == (0, protocol.LK_OUT.pack(5, 2**63 - 1, 2, 77))
    await kernel.ask(Opcode.SETLK, body=lk(1, protocol.LK_FLOCK))
    assert kernel.toy.calls[-1][1] == 1


async def test_any_signal_ends_a_wait_for_a_lock(kernel: FakeKernel) -> None:
    """This very process stands for the caller, and it is not dying."""
    await kernel.ask(Opcode.SETLK, body=lk(1))
    unique = await kernel.tell(Opcode.SETLKW, body=lk(2), pid=os.getpid())
    await kernel.tell(Opcode.INTERRUPT, 0, struct.pack("<Q", unique))
    _, error, answered = protocol.OUT_HEADER.unpack_from(await kernel.reply())
    assert (error, answered) == (-errno.EINTR, unique)


async def test_a_read_only_close_is_told_of_once_somebody_locks(kernel: FakeKernel) -> None:
    kernel.toy.open_files = 0

    async def flags() -> int:
        _, body = await kernel.ask(Opcode.OPEN, body=struct.pack("<II", os.O_RDONLY, 0))
        found: int = protocol.OPEN_OUT.unpack(body)[1]
        return found

    assert await flags() & protocol.FOPEN_NOFLUSH
    await kernel.ask(Opcode.SETLK, body=lk(1, protocol.LK_FLOCK))
    assert await flags() & protocol.FOPEN_NOFLUSH, "flock does not need it"
    await kernel.ask(Opcode.SETLK, body=lk(1))
    assert not await flags() & protocol.FOPEN_NOFLUSH


@pytest.mark.parametrize(
    ("syscall", "found"),
    [
        ("running\n", None),
        ("72 0x3 0x26 0x7ffe 0x0 0x0 0x0 0x7ffe 0x7f\n", True),
        ("72 0x3 0x7 0x7ffe 0x0 0x0 0x0 0x7ffe 0x7f\n", False),
        ("-1 0x7ffe 0x7f\n", False),
        ("", False),
    ],
)
def test_the_kind_of_a_wait_is_read_from_its_system_call(syscall: str, found: bool | None) -> None:
    assert callers.parse_locks_open_file(syscall) is found
