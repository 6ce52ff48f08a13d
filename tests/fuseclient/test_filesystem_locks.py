"""Locks of a mount against a metadata service in memory: what is asked, what is not, and what losses do."""

from __future__ import annotations

import asyncio
import errno
import os

import pytest
from fs_fakes import ROOT, USER, FakeData, FakeKernel, FakeMeta

from fuseclient.errors import FsError
from fuseclient.filesystem import FileSystem
from fuseclient.locks import F_UNLCK, LAST
from fuseclient.operations import LockRange
from protos import meta_pb2 as pb

WRITE = LockRange(7, 0, 1, 0, LAST, 99)
FLOCK = WRITE._replace(kind=1)
UNLOCK = WRITE._replace(type=F_UNLCK)


class LockingMeta(FakeMeta):
    """`grants`: the answers of the next SetLocks with a wait, by count; without more, everything is granted."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[pb.SetLock] = []
        self.queues = False
        self.still_waits = True
        self.cancelled_count = 0
        self.order: list[str] = []

    def _set_lock(self, r: pb.SetLock) -> pb.Response:
        self.sent.append(r)
        self.order.append(f"lock {r.type}")
        if r.wait and self.queues:
            return pb.Response(count=1)
        return pb.Response() if r.type == F_UNLCK else pb.Response(attr=self._node(r.ino).raw())

    def _cancel_lock(self, r: pb.CancelLock) -> pb.Response:
        return pb.Response(count=self.cancelled_count)

    def _lock_wait(self, r: pb.LockWait) -> pb.Response:
        return pb.Response(count=int(self.still_waits))

    def commit(self, *arguments: object) -> object:
        self.order.append("commit")
        return super().commit(*arguments)  # type: ignore[arg-type]


class Mount:
    def __init__(self) -> None:
        self.meta = LockingMeta()
        self.meta.populate(ROOT, [b"f", b"g"])
        self.data = FakeData(self.meta)
        self.fs = FileSystem(self.meta, self.data)
        self.kernel = FakeKernel()
        self.fs.attach_kernel(self.kernel)
        self.ino = self.meta.path(b"f").ino

    async def open(self, flags: int = os.O_RDWR) -> int:
        return (await self.fs.open(self.ino, flags, USER)).fh

    async def set(self, fh: int, lock: LockRange, *, wait: bool = False) -> None:
        waiting = self.fs.setlk(self.ino, fh, lock, wait=wait)
        if waiting is not None:
            await waiting

    async def flush(self, fh: int, owner: int = 7) -> None:
        waiting = self.fs.flush(self.ino, fh, owner)
        if waiting is not None:
            await waiting

    def unlocked(self) -> list[tuple[int, int, int, int]]:
        return [(one.owner, one.kind, one.first, one.last) for one in self.meta.sent if one.type == F_UNLCK]

    async def waiting(self, fh: int, lock: LockRange = WRITE) -> asyncio.Task[None]:
        """A SetLock that is queued."""
        self.meta.queues = True
        task = asyncio.ensure_future(self.set(fh, lock, wait=True))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not task.done()
        return task

    def granted(self) -> None:
        (seq,) = self.fs._locks._waits
        self.meta.notify(pb.Notification(lock_granted=pb.LockGranted(seq=seq)))


@pytest.fixture
async def mount() -> Mount:
    return Mount()


async def test_closing_a_file_that_is_not_locked_asks_nobody(mount: Mount) -> None:
    fh, other = await mount.open(), await mount.open()
    await mount.set(other, WRITE._replace(owner=8))
    before = mount.meta.requests
    assert mount.fs.flush(mount.ino, fh, 7) is None
    mount.fs.release(mount.ino, fh)
    assert mount.meta.requests == before


async def test_giving_up_what_is_not_held_asks_nobody(mount: Mount) -> None:
    fh = await mount.open()
    before = mount.meta.requests
    assert mount.fs.setlk(mount.ino, fh, UNLOCK, wait=False) is None
    assert mount.meta.requests == before


async def test_a_close_gives_up_the_record_locks_of_its_owner_alone(mount: Mount) -> None:
    fh = await mount.open()
    for lock in (WRITE, WRITE._replace(owner=8), FLOCK._replace(owner=9)):
        await mount.set(fh, lock)
    await mount.flush(fh)
    assert mount.unlocked() == [(7, 0, 0, LAST)]
    await mount.flush(fh)
    assert mount.unlocked() == [(7, 0, 0, LAST)], "once is enough"


async def test_the_last_close_gives_up_what_was_locked_through_the_handle(mount: Mount) -> None:
    fh, other = await mount.open(), await mount.open()
    await mount.set(fh, FLOCK)
    await mount.set(fh, WRITE._replace(owner=8))
    await mount.set(other, FLOCK._replace(owner=9))
    mount.fs.release(mount.ino, fh)
    await mount.fs.known.settled()
    assert sorted(mount.unlocked()) == [(7, 1, 0, LAST), (8, 0, 0, LAST)]
    assert mount.meta.holds[mount.ino] == 2, "the other handle keeps the file"
    mount.fs.release(mount.ino, other)
    await mount.fs.known.settled()
    assert len(mount.unlocked()) == 3
    assert mount.meta.holds[mount.ino] == 0


@pytest.mark.parametrize("how", ["unlock", "flush", "downgrade"])
async def test_what_was_written_is_stored_before_a_lock_is_given_up(mount: Mount, how: str) -> None:
    fh = await mount.open()
    await mount.set(fh, WRITE)
    mount.fs.write(mount.ino, fh, 0, memoryview(b"data"), False)
    if how == "flush":
        await mount.flush(fh)
    else:
        await mount.set(fh, UNLOCK if how == "unlock" else WRITE._replace(type=0))
    assert mount.meta.order == ["lock 1", "commit", f"lock {0 if how == 'downgrade' else 2}"]


async def test_a_lock_is_given_up_also_when_the_data_cannot_be_stored(mount: Mount) -> None:
    fh = await mount.open()
    await mount.set(fh, WRITE)
    mount.fs.write(mount.ino, fh, 0, memoryview(b"data"), False)
    mount.data.files[mount.ino].error = FsError(errno.EIO)
    with pytest.raises(FsError):
        await mount.set(fh, UNLOCK)
    assert mount.unlocked() == [(7, 0, 0, LAST)]


async def test_whoever_gets_a_lock_sees_what_others_wrote_before(mount: Mount) -> None:
    """Also when the notification has not come: the answer that grants says how the file is."""
    fh = await mount.open()
    mount.meta.foreign_write(mount.ino, b"theirs", told=False)
    await mount.set(fh, WRITE)
    assert (mount.ino, True) in mount.kernel.inodes
    assert bytes(mount.fs.read(mount.ino, fh, 0, 100)[0]) == b"theirs"
    mount.kernel.inodes.clear()
    await mount.set(fh, WRITE)
    assert mount.kernel.inodes == [], "nothing has changed since"


async def test_a_wait_ends_with_the_push_and_then_the_file_is_asked_for(mount: Mount) -> None:
    fh = await mount.open()
    task = await mount.waiting(fh)
    mount.meta.foreign_write(mount.ino, b"theirs", told=False)
    mount.granted()
    await task
    assert bytes(mount.fs.read(mount.ino, fh, 0, 100)[0]) == b"theirs"


async def test_a_push_before_the_answer_counts(mount: Mount) -> None:
    fh = await mount.open()
    mount.meta.holding = mount.meta.queues = True
    task = asyncio.ensure_future(mount.set(fh, WRITE, wait=True))
    await asyncio.sleep(0)
    mount.granted()
    mount.meta.holding = False
    mount.meta.deliver()
    await task


@pytest.mark.parametrize("answered", [True, False])
async def test_after_a_lost_stream_each_wait_is_asked_for(mount: Mount, answered: bool) -> None:
    fh = await mount.open()
    mount.meta.still_waits = False
    mount.meta.holding = not answered
    if answered:
        task = await mount.waiting(fh)
    else:
        mount.meta.queues = True
        task = asyncio.ensure_future(mount.set(fh, WRITE, wait=True))
        await asyncio.sleep(0)
    mount.meta.reset("reconnected")
    mount.meta.holding = False
    mount.meta.deliver()
    await asyncio.wait_for(task, 5)


async def test_a_wait_that_lasts_goes_on_after_a_lost_stream(mount: Mount) -> None:
    fh = await mount.open()
    task = await mount.waiting(fh)
    mount.meta.reset("reconnected")
    await mount.fs.known.settled()
    assert not task.done()
    mount.granted()
    await task


async def test_an_interrupted_wait_is_given_up(mount: Mount) -> None:
    fh = await mount.open()
    task = await mount.waiting(fh)
    task.cancel()
    with pytest.raises(FsError) as refused:
        await task
    assert refused.value.errno == errno.EINTR
    assert mount.meta.counts["cancel_lock"] == 1
    assert mount.fs.flush(mount.ino, fh, 7) is None, "nothing is held"


async def test_an_interrupt_that_comes_after_the_grant_leaves_the_lock(mount: Mount) -> None:
    fh = await mount.open()
    task = await mount.waiting(fh)
    mount.meta.cancelled_count = 1
    task.cancel()
    await task
    await mount.flush(fh)
    assert mount.unlocked() == [(7, 0, 0, LAST)]


async def test_an_interrupted_request_that_was_refused_says_why(mount: Mount) -> None:
    fh = await mount.open()
    mount.meta.holding = True
    mount.meta.failures["set_lock"] = FsError(errno.EDEADLK)
    mount.meta.cancelled_count = 1
    task = asyncio.ensure_future(mount.set(fh, WRITE, wait=True))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    mount.meta.deliver()
    with pytest.raises(FsError) as refused:
        await task
    assert refused.value.errno == errno.EDEADLK


async def test_a_session_that_ends_takes_locks_and_waits_along(mount: Mount) -> None:
    fh, waiter = await mount.open(), await mount.open()
    await mount.set(fh, WRITE)
    task = await mount.waiting(waiter, WRITE._replace(owner=8))
    mount.meta.reset("expired")
    with pytest.raises(FsError) as lost:
        await task
    assert lost.value.errno == errno.EIO
    await mount.fs.known.settled()
    mount.meta.queues = False
    with pytest.raises(FsError) as told:
        await mount.set(fh, WRITE)
    assert told.value.errno == errno.EIO
    await mount.set(fh, WRITE)
    for _ in range(2):
        with pytest.raises(FsError) as fenced:
            await mount.fs.write(mount.ino, fh, 0, memoryview(b"late"), False)  # type: ignore[misc]
        assert fenced.value.errno == errno.EIO
    assert mount.fs.write(mount.ino, waiter, 0, memoryview(b"fine"), False) == 4


async def test_lost_locks_are_forgotten_with_the_close(mount: Mount) -> None:
    fh = await mount.open()
    await mount.set(fh, WRITE)
    await mount.set(fh, FLOCK)
    mount.meta.reset("expired")
    await mount.fs.known.settled()
    await mount.flush(fh)
    mount.fs.release(mount.ino, fh)
    assert mount.fs._locks._lost == {}
    fresh = await mount.open()
    await mount.set(fresh, WRITE)
    await mount.set(fresh, FLOCK)
