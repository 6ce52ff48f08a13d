"""The session stream: attach, operations, invalidation, exactly once, bad input, restart. Every test on both transports, framed
and gRPC."""

from __future__ import annotations

import asyncio
import errno

import grpc
import pytest
from framed_call import FramedPeer
from stream_peer import Harness, ino_of, serving

from metaserver import wire
from protos import meta_pb2
from protos.attr_layout import ATTR

pytestmark = pytest.mark.asyncio(loop_scope="session")
Code = grpc.StatusCode


@pytest.fixture(autouse=True, params=["framed", "grpc"])
def transport(request, monkeypatch):
    """What the peers of a test speak."""

    def stranger(harness):
        peer = FramedPeer(harness.listen)
        harness._peers.append(peer)
        return peer

    if request.param == "framed":
        monkeypatch.setattr(Harness, "stranger", stranger)
    return request.param


# --- attach ---------------------------------------------------------------------------------------------------------


async def test_attach_names_the_session_the_root_and_the_settings(tmp_path):
    async with serving(tmp_path) as harness:
        peer = await harness.peer()
        attached = peer.attached
        assert attached.session > 0
        assert len(attached.secret) == 32
        assert attached.ttl_ms == 60_000
        assert not attached.resumed
        assert '"block_bytes":4194304' in attached.settings_json
        assert ino_of(await peer.read(getattr=meta_pb2.GetAttr(ino=attached.root))) == attached.root


async def test_attach_to_a_subdirectory_roots_the_session_there(tmp_path):
    async with serving(tmp_path) as harness:
        peer = await harness.peer()
        made = await peer.change(mkdir=meta_pb2.MkDir(parent=peer.root, name=b"sub", mode=0o755))
        assert (await harness.peer(subdir=b"sub")).root == ino_of(made)


@pytest.mark.parametrize(
    ("fields", "code", "reason"),
    [
        ({"volume": "other"}, Code.NOT_FOUND, "no-volume"),
        ({"subdir": b"missing"}, Code.NOT_FOUND, "no-subdir"),
        ({"subdir": b"file"}, Code.INVALID_ARGUMENT, "not-a-directory"),
        ({"protocol": 2}, Code.INVALID_ARGUMENT, "protocol"),
        ({"session": 4711, "secret": b"x"}, Code.NOT_FOUND, "no-session"),
    ],
)
async def test_attach_is_refused(tmp_path, fields, code, reason):
    async with serving(tmp_path) as harness:
        first = await harness.peer()
        assert not (await first.create(b"file")).errno
        stranger = harness.stranger()
        attach = meta_pb2.Attach(**({"volume": "vol", "protocol": 1} | fields))
        await stranger.send(meta_pb2.ClientFrame(attach=attach))
        told = await stranger.ending()
        assert told[:2] == (code, reason)
        assert told[2]
        assert not (await first.lookup(b"file")).errno


async def test_a_session_is_not_taken_up_with_another_secret(tmp_path):
    async with serving(tmp_path) as harness:
        first = await harness.peer()
        thief = harness.stranger()
        attach = meta_pb2.Attach(volume="vol", protocol=1, session=first.attached.session, secret=b"guessed")
        await thief.send(meta_pb2.ClientFrame(attach=attach))
        assert (await thief.ending())[:2] == (Code.PERMISSION_DENIED, "wrong-secret")
        assert not (await first.create(b"still mine")).errno


async def test_a_newer_stream_replaces_the_older(tmp_path):
    async with serving(tmp_path) as harness:
        first = await harness.peer()
        again = await harness.peer(session=first.attached.session, secret=first.attached.secret)
        assert again.attached.resumed
        assert (await first.ending())[:2] == (Code.ABORTED, "replaced")
        assert not (await again.create(b"f")).errno


async def test_sessions_are_bounded(tmp_path):
    async with serving(tmp_path, sessions_max=1) as harness:
        first = await harness.peer()
        second = harness.stranger()
        await second.send(meta_pb2.ClientFrame(attach=meta_pb2.Attach(volume="vol", protocol=1)))
        assert (await second.ending())[:2] == (Code.RESOURCE_EXHAUSTED, "too-many-sessions")
        await first.send(meta_pb2.ClientFrame(detach=True))
        assert (await first.ending())[0] is Code.OK
        await harness.peer()


async def test_a_silent_session_expires_and_is_fenced(tmp_path):
    async with serving(tmp_path, session_ttl_s=0.4) as harness:
        peer = await harness.peer()
        await peer.until(lambda: any(note.HasField("session_expired") for note in peer.notes))
        assert (await peer.ending())[:2] == (Code.ABORTED, "session-expired")
        late = harness.stranger()
        attach = meta_pb2.Attach(volume="vol", protocol=1, session=peer.attached.session, secret=peer.attached.secret)
        await late.send(meta_pb2.ClientFrame(attach=attach))
        assert (await late.ending())[:2] == (Code.NOT_FOUND, "no-session")


async def test_empty_frames_keep_a_session_alive(tmp_path):
    async with serving(tmp_path, session_ttl_s=0.4) as harness:
        peer = await harness.peer()
        end = asyncio.get_running_loop().time() + 1.2
        while asyncio.get_running_loop().time() < end:
            await peer.send(meta_pb2.ClientFrame())
            await asyncio.sleep(0.05)
        assert not (await peer.create(b"f")).errno
        assert not peer.notes


# --- operations -----------------------------------------------------------------------------------------------------


async def test_one_frame_carries_changes_and_reads(tmp_path):
    async with serving(tmp_path) as harness:
        peer = await harness.peer()
        creates = [
            meta_pb2.Request(seq=n, create=meta_pb2.Create(parent=peer.root, name=b"f%d" % n, mode=0o600))
            for n in range(1, 101)
        ]
        answers = await peer.ask([*creates, meta_pb2.Request(getattr=meta_pb2.GetAttr(ino=peer.root))])
        assert not any(answer.errno for answer in answers)
        assert len({ino_of(answer) for answer in answers[:-1]}) == 100
        page = await peer.read(readdir=meta_pb2.ReadDir(ino=peer.root, attrs=True))
        assert page.eof
        assert sorted(entry.name for entry in page.entries) == sorted(b"f%d" % n for n in range(1, 101))
        assert all(int.from_bytes(entry.attr[:8], "little") == entry.ino for entry in page.entries)


async def test_inline_slices_come_back_with_open(tmp_path):
    async with serving(tmp_path) as harness:
        peer = await harness.peer()
        ino = ino_of(await peer.create(b"f"))
        lease = await peer.change(lease_ids=meta_pb2.LeaseIds(kind=2, count=10))
        assert lease.count == 10
        piece = meta_pb2.NewSlice(chunk=0, pos=0, slice=lease.first, size=5, len=5, data=b"hello")
        done = await peer.change(commit_slices=meta_pb2.CommitSlices(ino=ino, slices=[piece]))
        assert ATTR.unpack(done.attr)[1:3] == (5, 8)
        opened = await peer.read(open=meta_pb2.Open(ino=ino, want_slices=True))
        assert [(e.pos, e.len, e.slice, e.inline) for e in opened.extents] == [(0, 5, lease.first, True)]
        assert [(d.slice, d.data) for d in opened.inline_data] == [(lease.first, b"hello")]
        read = await peer.read(read_slices=meta_pb2.ReadSlices(ino=ino, first_chunk=0, chunks=64))
        assert list(read.extents) == list(opened.extents)


async def test_large_listing_comes_in_frames_that_fit(tmp_path):
    async with serving(tmp_path) as harness:
        peer = await harness.peer()
        await peer.ask(
            [
                meta_pb2.Request(seq=n, mknod=meta_pb2.MkNod(parent=peer.root, name=b"%0250d" % n, mode=0o100644))
                for n in range(1, 3001)
            ]
        )
        listing = meta_pb2.Request(readdir=meta_pb2.ReadDir(ino=peer.root, attrs=True, limit=4096))
        copies = [meta_pb2.Request.FromString(listing.SerializeToString()) for _ in range(16)]
        pages = await peer.ask(copies)
        assert [len(page.entries) for page in pages] == [3000] * 16


# --- invalidation ---------------------------------------------------------------------------------------------------


def _entries(peer):
    return {(n.inval_entry.parent, n.inval_entry.name) for n in peer.notes if n.HasField("inval_entry")}


def _inodes(peer):
    return {(n.inval_inode.ino, n.inval_inode.data) for n in peer.notes if n.HasField("inval_inode")}


async def test_the_other_session_hears_of_a_name_that_it_looked_up_in_vain(tmp_path):
    async with serving(tmp_path) as harness:
        a, b = await harness.peer(), await harness.peer()
        assert (await b.lookup(b"f")).errno == errno.ENOENT
        await a.create(b"f")
        await b.until(lambda: (b.root, b"f") in _entries(b))
        assert not a.notes


async def test_a_listing_watches_the_attributes_of_its_children(tmp_path):
    async with serving(tmp_path) as harness:
        a, b = await harness.peer(), await harness.peer()
        ino = ino_of(await a.create(b"f"))
        await b.read(readdir=meta_pb2.ReadDir(ino=b.root, attrs=True))
        await a.change(setattr=meta_pb2.SetAttr(ino=ino, valid=1, mode=0o600))
        await b.until(lambda: (ino, False) in _inodes(b))
        await a.change(setattr=meta_pb2.SetAttr(ino=ino, valid=8, size=100))
        await b.until(lambda: (ino, True) in _inodes(b))


async def test_who_never_looked_hears_nothing(tmp_path):
    async with serving(tmp_path) as harness:
        a, b = await harness.peer(), await harness.peer()
        watched = ino_of(await a.create(b"watched"))
        other = ino_of(await a.change(mkdir=meta_pb2.MkDir(parent=a.root, name=b"d", mode=0o755)))
        await b.read(getattr=meta_pb2.GetAttr(ino=watched))
        await a.create(b"f", parent=other)
        await a.change(setattr=meta_pb2.SetAttr(ino=watched, valid=1, mode=0o600))
        await b.until(lambda: b.notes)
        assert _inodes(b) == {(watched, False)}
        assert not _entries(b)


async def test_a_second_name_is_announced_and_the_inode_watched_itself_from_then_on(tmp_path):
    async with serving(tmp_path) as harness:
        a, b = await harness.peer(), await harness.peer()
        ino = ino_of(await a.create(b"f"))
        await b.read(readdir=meta_pb2.ReadDir(ino=b.root, attrs=True))
        sub = ino_of(await a.change(mkdir=meta_pb2.MkDir(parent=a.root, name=b"d", mode=0o755)))
        await a.change(link=meta_pb2.Link(ino=ino, parent=sub, name=b"g"))
        await b.until(lambda: (ino, False) in _inodes(b))
        b.notes.clear()
        await a.change(setattr=meta_pb2.SetAttr(ino=ino, valid=8, size=7))
        await b.until(lambda: (ino, True) in _inodes(b))


async def test_a_renamed_inode_is_still_watched(tmp_path):
    async with serving(tmp_path) as harness:
        a, b = await harness.peer(), await harness.peer()
        ino = ino_of(await a.create(b"f"))
        sub = ino_of(await a.change(mkdir=meta_pb2.MkDir(parent=a.root, name=b"d", mode=0o755)))
        await b.lookup(b"f")
        await a.change(rename=meta_pb2.Rename(parent=a.root, name=b"f", parent2=sub, name2=b"g"))
        await b.until(lambda: (b.root, b"f") in _entries(b) and (ino, False) in _inodes(b))
        b.notes.clear()
        await a.change(setattr=meta_pb2.SetAttr(ino=ino, valid=8, size=7))
        await b.until(lambda: (ino, True) in _inodes(b))


async def test_the_author_of_a_change_hears_of_the_changes_of_others(tmp_path):
    async with serving(tmp_path) as harness:
        a, b = await harness.peer(), await harness.peer()
        ino = ino_of(await a.create(b"f"))  # a keeps what it was answered
        await b.unlink(b"f")
        await a.until(lambda: (a.root, b"f") in _entries(a) and (ino, False) in _inodes(a))


async def test_a_stream_with_too_many_watches_is_told_everything(tmp_path):
    async with serving(tmp_path, watches_per_stream=2) as harness:
        a, b = await harness.peer(), await harness.peer()
        dirs = [ino_of(await a.change(mkdir=meta_pb2.MkDir(parent=a.root, name=b"d%d" % n, mode=0o755))) for n in range(4)]
        for ino in dirs:
            await b.read(readdir=meta_pb2.ReadDir(ino=ino))
        for ino in dirs:
            await a.create(b"f", parent=ino)
        await b.until(lambda: {(ino, b"f") for ino in dirs} <= _entries(b))


# --- open files that lose their name --------------------------------------------------------------------------------


async def test_an_open_file_lives_until_it_is_released(tmp_path):
    async with serving(tmp_path) as harness:
        a, b = await harness.peer(), await harness.peer()
        ino = ino_of(await a.create(b"f"))
        assert not (await b.read(open=meta_pb2.Open(ino=ino))).errno
        assert not (await a.unlink(b"f")).errno
        await a.ask([meta_pb2.Request(statfs=meta_pb2.StatFs(ino=a.root))], released=[ino])
        for _ in range(3):  # entries that give the reaper every chance
            await a.change(lease_ids=meta_pb2.LeaseIds(kind=1, count=1))
        assert not (await b.read(getattr=meta_pb2.GetAttr(ino=ino))).errno
        await b.send(meta_pb2.ClientFrame(released=[ino]))
        await _gone(b, ino)


async def test_a_closed_session_holds_nothing(tmp_path):
    async with serving(tmp_path) as harness:
        a, b = await harness.peer(), await harness.peer()
        ino = ino_of(await b.create(b"f"))
        await a.unlink(b"f")
        assert not (await a.read(getattr=meta_pb2.GetAttr(ino=ino))).errno
        await b.send(meta_pb2.ClientFrame(detach=True))
        await _gone(a, ino)


async def test_after_a_restart_nothing_is_reaped_until_all_are_back(tmp_path):
    async with serving(tmp_path) as harness:
        a, b = await harness.peer(), await harness.peer()
        ino = ino_of(await b.create(b"f"))
        await a.unlink(b"f")
        await a.close()
        await b.close()
    async with serving(tmp_path, volume=False) as harness:
        a2 = await harness.peer(session=a.attached.session, secret=a.attached.secret)
        a2.seq = a.seq
        await a2.create(b"another entry")
        assert not (await a2.read(getattr=meta_pb2.GetAttr(ino=ino))).errno
        b2 = await harness.peer(session=b.attached.session, secret=b.attached.secret, open_inodes=[ino])
        await a2.create(b"and another")
        assert not (await b2.read(getattr=meta_pb2.GetAttr(ino=ino))).errno
        await b2.send(meta_pb2.ClientFrame(released=[ino]))
        await _gone(a2, ino)


async def _gone(peer, ino):
    deadline = asyncio.get_running_loop().time() + 5
    while (await peer.read(getattr=meta_pb2.GetAttr(ino=ino))).errno != errno.ENOENT:
        assert asyncio.get_running_loop().time() < deadline, "never reaped"
        await asyncio.sleep(0.01)


# --- exactly once ---------------------------------------------------------------------------------------------------


async def test_a_change_sent_again_on_a_new_stream_returns_its_first_result(tmp_path):
    async with serving(tmp_path) as harness:
        first = await harness.peer()
        create = meta_pb2.Create(parent=first.root, name=b"f", mode=0o644, exclusive=True)
        ino = ino_of(await first.change(seq=1, create=create))
        await first.close()
        again = await harness.peer(session=first.attached.session, secret=first.attached.secret)
        assert ino_of(await again.change(seq=1, create=create)) == ino
        assert (await again.change(seq=2, create=create)).errno == errno.EEXIST


async def test_a_change_sent_again_after_a_restart_returns_its_first_result(tmp_path):
    async with serving(tmp_path) as harness:
        first = await harness.peer()
        create = meta_pb2.Create(parent=first.root, name=b"f", mode=0o644, exclusive=True)
        ino = ino_of(await first.change(seq=1, create=create))
        unlink = meta_pb2.Unlink(parent=first.root, name=b"g")
        assert (await first.change(seq=2, unlink=unlink)).errno == errno.ENOENT
    async with serving(tmp_path, volume=False) as harness:
        again = await harness.peer(session=first.attached.session, secret=first.attached.secret)
        assert again.attached.resumed
        assert not (await again.change(seq=3, mkdir=meta_pb2.MkDir(parent=again.root, name=b"g", mode=0o755))).errno
        assert ino_of(await again.change(seq=1, create=create)) == ino
        assert (await again.change(seq=2, unlink=unlink)).errno == errno.ENOENT
        assert (await again.lookup(b"f")).errno == 0


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attached", [False, True])
async def test_garbage_ends_its_own_stream_only(tmp_path, attached):
    async with serving(tmp_path) as harness:
        good = await harness.peer()
        bad = await harness.peer() if attached else harness.stranger()
        await bad.call.write(b"\xff\xff\xff garbage")
        code, reason, detail = await bad.ending()
        assert (code, reason) == (Code.INVALID_ARGUMENT, "bad-frame")
        assert "not a ClientFrame" in detail
        assert not (await good.create(b"f")).errno


@pytest.mark.parametrize(
    "frame",
    [
        meta_pb2.ClientFrame(),
        meta_pb2.ClientFrame(requests=[meta_pb2.Request(id=1)]),
        meta_pb2.ClientFrame(attach=meta_pb2.Attach(volume="vol", protocol=1), requests=[meta_pb2.Request(id=1)]),
        meta_pb2.ClientFrame(attach=meta_pb2.Attach(volume="vol", protocol=1, subdir=b"x" * 5000)),
    ],
)
async def test_the_first_frame_must_be_an_attach_alone(tmp_path, frame):
    async with serving(tmp_path) as harness:
        bad = harness.stranger()
        await bad.send(frame)
        assert (await bad.ending())[:2] == (Code.INVALID_ARGUMENT, "bad-frame")


async def test_a_second_attach_ends_the_stream(tmp_path):
    async with serving(tmp_path) as harness:
        peer = await harness.peer()
        await peer.send(meta_pb2.ClientFrame(attach=meta_pb2.Attach(volume="vol", protocol=1)))
        assert (await peer.ending())[:2] == (Code.INVALID_ARGUMENT, "bad-frame")


async def test_too_many_requests_in_a_frame(tmp_path):
    async with serving(tmp_path) as harness:
        peer = await harness.peer()
        requests = [meta_pb2.Request(id=n) for n in range(wire.REQUESTS_MAX + 1)]
        await peer.send(meta_pb2.ClientFrame(requests=requests))
        code, reason, detail = await peer.ending()
        assert (code, reason) == (Code.INVALID_ARGUMENT, "bad-frame")
        assert "4097 requests" in detail


@pytest.mark.parametrize(
    ("size", "code"), [(wire.FRAME_BYTES_MAX + 1, Code.INVALID_ARGUMENT), (32 << 20, Code.RESOURCE_EXHAUSTED)]
)
async def test_an_oversized_message(tmp_path, size, code, transport):
    if transport == "framed":  # judges every length by itself, before the frame has arrived
        code = Code.RESOURCE_EXHAUSTED
    async with serving(tmp_path) as harness:
        good, bad = await harness.peer(), await harness.peer()
        await bad.call.write(bytes(size))
        assert (await bad.ending())[0] is code
        assert not (await good.create(b"f")).errno


async def test_refusals_leave_the_stream_and_the_state_alone(tmp_path):
    async with serving(tmp_path) as harness:
        peer = await harness.peer()
        root = peer.root
        ino = ino_of(await peer.create(b"f"))
        slices = [meta_pb2.NewSlice(chunk=0, pos=0, slice=1, size=1, len=1)] * 1025
        refused = [
            ({"create": meta_pb2.Create(parent=root, name=b"x" * 256)}, errno.ENAMETOOLONG),
            ({"create": meta_pb2.Create(parent=root, name=b"x" * 100_000)}, errno.ENAMETOOLONG),
            ({"symlink": meta_pb2.SymLink(parent=root, name=b"s", target=b"x" * 4096)}, errno.ENAMETOOLONG),
            ({"setxattr": meta_pb2.SetXattr(ino=ino, name=b"user.a", value=bytes(65537))}, errno.E2BIG),
            ({"setxattr": meta_pb2.SetXattr(ino=ino, name=b"user." + b"a" * 251, value=b"")}, errno.ERANGE),
            ({"commit_slices": meta_pb2.CommitSlices(ino=ino, slices=slices)}, errno.E2BIG),
            ({"lease_ids": meta_pb2.LeaseIds(kind=1, count=0)}, errno.EINVAL),
            ({"lease_ids": meta_pb2.LeaseIds(kind=1, count=1 << 31)}, errno.EINVAL),
            ({"finish_deletes": meta_pb2.FinishDeletes(slices=range(4097))}, errno.E2BIG),
            ({"unlink": meta_pb2.Unlink(parent=2**64 - 1, name=b"x")}, errno.ENOENT),
        ]
        for op, expected in refused:
            assert (await peer.change(**op)).errno == expected, op
        assert (await peer.change(seq=0, create=meta_pb2.Create(parent=root, name=b"x"))).errno == errno.EINVAL
        assert (await peer.read(resolve=meta_pb2.ResolvePath(path=b"x" * 5000))).errno == errno.ENAMETOOLONG
        assert (await peer.read(read_slices=meta_pb2.ReadSlices(ino=ino, chunks=65))).errno == errno.EINVAL
        assert (await peer.read(getattr=meta_pb2.GetAttr(ino=2**64 - 1))).errno == errno.ENOENT
        page = await peer.read(readdir=meta_pb2.ReadDir(ino=root))
        assert [entry.name for entry in page.entries] == [b"f"]


async def test_an_unknown_operation_is_enosys(tmp_path):
    async with serving(tmp_path) as harness:
        peer = await harness.peer()
        unknown = meta_pb2.Request(seq=1)
        unknown.MergeFromString(b"\x9a\x3f\x03abc")  # field 1011, length-delimited: an operation of a later version
        assert (await peer.ask([unknown]))[0].errno == errno.ENOSYS


async def test_an_inode_of_another_volume_is_out_of_reach(tmp_path):
    async with serving(tmp_path) as harness:
        await harness.make_volume("other")
        a, b = await harness.peer(), await harness.peer(volume="other")
        ino = ino_of(await a.create(b"f"))
        assert (await b.read(getattr=meta_pb2.GetAttr(ino=ino))).errno == errno.ENOENT
        assert (await b.read(open=meta_pb2.Open(ino=ino))).errno == errno.ENOENT
        assert (await b.lookup(b"f", parent=a.root)).errno == errno.ENOENT
        assert (await b.change(setattr=meta_pb2.SetAttr(ino=ino, valid=1))).errno == errno.ENOENT
        assert (await b.read(readdir=meta_pb2.ReadDir(ino=a.root))).errno == errno.ENOENT


# --- deletes --------------------------------------------------------------------------------------------------------


async def test_deleted_slices_are_claimed_once_and_finished(tmp_path):
    async with serving(tmp_path, delete_delay_s=0.0) as harness:
        peer, other = await harness.peer(), await harness.peer()
        ino = ino_of(await peer.create(b"f"))
        first = (await peer.change(lease_ids=meta_pb2.LeaseIds(kind=2, count=1))).first
        piece = meta_pb2.NewSlice(chunk=0, pos=0, slice=first, size=1 << 20, len=1 << 20)
        assert not (await peer.change(commit_slices=meta_pb2.CommitSlices(ino=ino, slices=[piece]))).errno
        await peer.unlink(b"f")
        await peer.send(meta_pb2.ClientFrame(released=[ino]))
        await _gone(peer, ino)
        claimed = (await peer.read(claim_deletes=meta_pb2.ClaimDeletes(limit=10))).doomed
        assert [(d.slice, d.size, d.volume_id) for d in claimed] == [(first, 1 << 20, peer.attached.volume_id)]
        assert not (await other.read(claim_deletes=meta_pb2.ClaimDeletes(limit=10))).doomed
        await peer.change(finish_deletes=meta_pb2.FinishDeletes(slices=[first]))
        assert not (await peer.read(claim_deletes=meta_pb2.ClaimDeletes(limit=10))).doomed
