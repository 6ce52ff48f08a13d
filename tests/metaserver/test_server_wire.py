"""wire.py: what goes in comes out, what does not belong is refused, nothing else is raised."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaserver import wire
from metaserver.core import entry as ops
from metaserver.core.errors import CorruptState, FsError
from metaserver.core.model import Ino, Inode
from protos import meta_pb2
from protos.attr_layout import ATTR, NO_XATTRS

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
I64 = st.integers(-(2**63), 2**63 - 1)
NAME = st.binary(max_size=300)
CRED = st.builds(ops.Cred, U32, U32, st.just(()), st.just(False)) | st.builds(
    ops.Cred, U32, U32, st.lists(U32, max_size=5).map(tuple), st.just(True)
)

#: One strategy per op and the fields of its message, in the order of the dataclass.
OPS = {
    "create": (
        ops.Create,
        {"parent": U64, "name": NAME, "mode": U32, "umask": U32, "exclusive": st.booleans(), "cred": CRED, "ino": U64},
    ),
    "mkdir": (ops.MkDir, {"parent": U64, "name": NAME, "mode": U32, "umask": U32, "cred": CRED, "ino": U64}),
    "mknod": (ops.MkNod, {"parent": U64, "name": NAME, "mode": U32, "umask": U32, "rdev": U32, "cred": CRED, "ino": U64}),
    "symlink": (ops.SymLink, {"parent": U64, "name": NAME, "target": NAME, "cred": CRED, "ino": U64}),
    "link": (ops.Link, {"ino": U64, "parent": U64, "name": NAME, "cred": CRED}),
    "unlink": (ops.Unlink, {"parent": U64, "name": NAME, "cred": CRED}),
    "rmdir": (ops.RmDir, {"parent": U64, "name": NAME, "cred": CRED}),
    "rename": (ops.Rename, {"parent": U64, "name": NAME, "parent2": U64, "name2": NAME, "flags": U32, "cred": CRED}),
    "setattr": (
        ops.SetAttr,
        {"ino": U64, "valid": U32, "mode": U32, "uid": U32, "gid": U32, "size": U64}
        | {"atime_ns": I64, "mtime_ns": I64, "ctime_ns": I64, "cred": CRED},
    ),
    "setxattr": (
        ops.SetXattr,
        {"ino": U64, "name": NAME, "value": NAME, "flags": U32, "cred": CRED, "clear_setgid": st.booleans()},
    ),
    "removexattr": (ops.RemoveXattr, {"ino": U64, "name": NAME, "cred": CRED}),
    "lease_ids": (ops.LeaseIds, {"kind": U32, "count": U32}),
    "finish_deletes": (ops.FinishDeletes, {"slices": st.lists(U64, max_size=5).map(tuple)}),
    "set_lock": (
        ops.SetLock,
        {"ino": U64, "owner": U64, "kind": U32, "type": U32, "first": U64, "last": U64, "pid": U32, "wait": st.booleans()},
    ),
    "cancel_lock": (ops.CancelLock, {"seq": U64}),
    "fallocate": (ops.Fallocate, {"ino": U64, "mode": U32, "offset": U64, "length": U64, "kill_priv": st.booleans()}),
    "copy_range": (
        ops.CopyRange,
        {"ino": U64, "offset": U64, "ino2": U64, "offset2": U64, "length": U64, "kill_priv": st.booleans()},
    ),
    "tmpfile": (ops.TmpFile, {"parent": U64, "mode": U32, "umask": U32, "cred": CRED, "ino": U64}),
    "note_reads": (ops.NoteReads, {"inodes": st.lists(U64, max_size=5).map(tuple), "atime_ns": I64}),
    "set_flags": (ops.SetFlags, {"ino": U64, "flags": U32, "cred": CRED}),
}
SLICE = st.builds(ops.NewSlice, U32, U32, U64, U32, U32, U32, st.binary(max_size=20))
COMMIT = st.builds(ops.CommitSlices, U64, st.lists(SLICE, max_size=4).map(tuple), I64, st.booleans())


@st.composite
def client_ops(draw):
    if draw(st.booleans()):
        op = draw(COMMIT)
        request = meta_pb2.Request(id=1)
        made = request.commit_slices
        made.ino, made.mtime_ns, made.kill_priv = op.ino, op.mtime_ns, op.kill_priv
        made.SetInParent()
        for s in op.slices:
            made.slices.add(chunk=s.chunk, pos=s.pos, slice=s.slice, size=s.size, off=s.off, len=s.length, data=s.data)
        return "commit_slices", request, op
    kind = draw(st.sampled_from(sorted(OPS)))
    cls, fields = OPS[kind]
    values = {name: draw(strategy) for name, strategy in fields.items()}
    sent = dict(values)
    if "cred" in sent:
        cred = sent["cred"]
        sent["cred"] = meta_pb2.Cred(uid=cred.uid, gid=cred.gid, groups=cred.groups, enforce=cred.enforce)
    body = type(getattr(meta_pb2.Request(), kind))(**sent)
    return kind, meta_pb2.Request(id=1, **{kind: body}), cls(**values)


SERVICE_OPS = st.one_of(
    st.builds(ops.OpenSession, U64, U64, st.binary(max_size=40), st.text(max_size=20)),
    st.builds(ops.CloseSession, U64, st.booleans()),
    st.builds(ops.CreateVolume, st.text(max_size=20), st.text(max_size=20), U32, U32, U32),
    st.builds(ops.DestroyVolume, U64, U32),
    st.builds(ops.SetVolume, U64, st.text(max_size=20)),
    st.builds(ops.Reap, st.lists(U64, max_size=5).map(tuple), U32),
    st.builds(ops.FinishDeletes, st.lists(U64, max_size=5).map(tuple)),
)


def test_every_change_of_the_protocol_is_translated():
    changes = {field.name for field in meta_pb2.Request.DESCRIPTOR.oneofs_by_name["op"].fields if field.number >= 30}
    assert changes == set(wire.CHANGES)
    assert changes == set(OPS) | {"commit_slices"}


@given(client_ops())
def test_a_request_decodes_to_its_op(sample):
    kind, request, op = sample
    again = meta_pb2.Request.FromString(request.SerializeToString())
    assert again.WhichOneof("op") == kind
    assert wire.decode_change(again, kind) == op


@settings(max_examples=50)
@given(st.lists(st.tuples(U64, U64, U64, client_ops() | SERVICE_OPS), max_size=5), I64)
def test_a_log_entry_replays_as_what_was_proposed(samples, now_ns):
    batch = []
    for session, seq, acked, sample in samples:
        kind_request_op = sample if isinstance(sample, tuple) else (None, None, sample)
        batch.append((ops.Item(session, seq, acked, kind_request_op[2]), kind_request_op[1], None))
    entry = wire.decode_entry(9, wire.encode_payload(now_ns, batch))
    assert entry == ops.Entry(9, now_ns, tuple(item for item, _, _ in batch))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_a_frame_error(raw):
    try:
        frame = wire.decode_frame(raw)
    except wire.FrameError:
        return
    for request in frame.requests:
        kind = request.WhichOneof("op")
        if kind in wire.CHANGES:
            wire.decode_change(request, kind)


@given(st.binary(max_size=100))
def test_any_bytes_are_an_entry_or_corrupt(raw):
    try:
        wire.decode_entry(1, raw)
    except CorruptState:
        return


def inode(**fields) -> Inode:
    numbers = dict.fromkeys(Inode._fields, 0)
    return Inode(**(numbers | {"ino": Ino(7), "mode": 0o100644, "nlink": 1} | fields))


@given(atime=I64, allocated=st.integers(0, 2**57), ino=U64, xattr_bytes=st.integers(0, 65536))
def test_attributes_keep_their_values(atime, allocated, ino, xattr_bytes):
    raw = wire.encode_attr(inode(ino=ino, atime_ns=atime, allocated=allocated, size=12345, xattr_bytes=xattr_bytes))
    fields = ATTR.unpack(raw)
    assert fields[0] == ino
    assert fields[1] == 12345
    assert fields[2] == -(-allocated // 4096) * 8
    assert 0 <= fields[6] < 10**9
    assert fields[3] * 10**9 + fields[6] == atime
    assert (fields[20] & NO_XATTRS == 0) == (xattr_bytes > 0)


def test_a_result_fills_what_it_has():
    frame = meta_pb2.ServerFrame()
    a, b = inode(ino=3), inode(ino=4)
    wire.encode_result(frame, 1, ops.Result(inode=a, parent=b, existed=True))
    wire.encode_result(frame, 2, ops.Result(inode=a, parent=b, parent2=b, other=a))
    wire.encode_result(frame, 3, ops.Result(first=10, count=5))
    wire.encode_result(frame, 4, ops.Result(errno=errno.EEXIST, detail="caf\udce9"))
    one, two, three, four = frame.responses
    assert (one.attr, one.parent_attr, one.existed) == (wire.encode_attr(a), wire.encode_attr(b), True)
    assert (two.parent2_attr, two.other_attr, two.existed) == (wire.encode_attr(b), wire.encode_attr(a), False)
    assert (three.first, three.count, three.attr) == (10, 5, b"")
    assert (four.id, four.errno, four.detail) == (4, errno.EEXIST, "caf\\udce9")


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        ("create", meta_pb2.Create(name=b"x" * 4097), errno.ENAMETOOLONG),
        ("rename", meta_pb2.Rename(name=b"x", name2=b"x" * 4097), errno.ENAMETOOLONG),
        ("setxattr", meta_pb2.SetXattr(name=b"user.x", value=bytes(65537)), errno.E2BIG),
        ("unlink", meta_pb2.Unlink(name=b"x", cred=meta_pb2.Cred(enforce=True, groups=[1] * 65537)), errno.EINVAL),
        (
            "commit_slices",
            meta_pb2.CommitSlices(slices=[meta_pb2.NewSlice(data=bytes((64 << 10) + 1))]),
            errno.EINVAL,
        ),
    ],
)
def test_what_is_too_large_does_not_enter_the_log(kind, body, expected):
    request = meta_pb2.Request(**{kind: body})

    def admit():
        wire.check_change(request, kind)
        wire.decode_change(request, kind)

    with pytest.raises(FsError) as refused:
        admit()
    assert refused.value.errno == expected


def test_limits_themselves_pass():
    wire.check_change(meta_pb2.Request(create=meta_pb2.Create(name=b"x" * 4096)), "create")
    wire.check_change(meta_pb2.Request(setxattr=meta_pb2.SetXattr(name=b"a" * 255, value=bytes(65536))), "setxattr")
