"""interest.py against its rule: whoever may have cached what an entry changes is told, unless it made the change itself.

The model keeps, for every stream, what it was shown and has not been told to forget. After each op, what is still there
must be the truth.
"""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from instant_log import Bench

from metaserver.core import entry as ops
from metaserver.core import reads
from metaserver.core.errors import FsError
from metaserver.interest import Interest
from metaserver.streams import Stream

NAMES = (b"a", b"b", b"c")
READS = st.tuples(
    st.sampled_from(["getattr", "lookup", "readdir", "pages", "rejoin"]),
    st.integers(0, 2),
    st.integers(0, 4),
    st.sampled_from(NAMES),
)
CHANGES = st.tuples(
    st.sampled_from(["create", "mkdir", "unlink", "rmdir", "link", "rename", "exchange", "chmod", "write", "xattr"]),
    st.integers(0, 2),
    st.integers(0, 4),
    st.sampled_from(NAMES),
    st.integers(0, 4),
    st.sampled_from(NAMES),
)


class Reader:
    """A stream and what its client caches."""

    def __init__(self, world, number):
        self.world = world
        self.session = number
        self.stream = Stream(volume=world.bench.volume.id, session=number)
        self.attrs = {}  # ino -> Inode
        self.entries = {}  # (parent, name) -> ino or None
        self.pages = {}  # ino -> data_version
        world.interest.join(self.stream)

    def getattr(self, ino, _name):
        inode = reads.getattr(self.world.bench.store, ino)
        self.world.interest.saw(self.stream, inode)
        self.attrs[ino] = inode

    def pages_of(self, ino, _name):
        self.getattr(ino, _name)
        self.pages[ino] = self.attrs[ino].data_version

    def lookup(self, parent, name):
        directory = reads.getattr(self.world.bench.store, parent)
        try:
            inode = reads.lookup(self.world.bench.store, parent, name)
        except FsError:
            inode = None
        if not directory.is_dir:
            return
        self.world.interest.saw_entry(self.stream, parent, inode)
        self.entries[parent, name] = inode and inode.ino
        if inode is not None:
            self.attrs[inode.ino] = inode

    def readdir(self, ino, _name):
        page = reads.readdir(self.world.bench.store, ino, 0, 100, True)
        self.world.interest.saw(self.stream, page.directory)
        self.world.interest.watch(self.stream, ino)
        self.attrs[ino] = page.directory
        for name in NAMES:
            self.entries[ino, name] = None
        for entry in page.entries:
            if entry.inode.parent != ino:
                self.world.interest.watch(self.stream, entry.inode.ino)
            self.entries[ino, entry.name] = entry.inode.ino
            self.attrs[entry.inode.ino] = entry.inode

    def keep_own(self, op, result):
        """What a client learns from the answer to its own change: it forgets what is touched, and keeps what it is told."""
        for directory, name in named(op):
            self.entries.pop((directory, name), None)
        for inode in (result.inode, result.parent, result.parent2, result.other):
            if inode is not None:
                self.attrs[inode.ino] = inode
                if inode.ino in self.pages:
                    self.pages[inode.ino] = inode.data_version
                if not inode.nlink:
                    self.attrs.pop(inode.ino)
        if isinstance(op, ops.Create | ops.MkDir):
            self.entries[op.parent, op.name] = result.inode.ino

    def rejoin(self, _ino, _name):
        """The stream breaks; the next one begins with nothing cached."""
        self.world.interest.leave(self.stream)
        self.__init__(self.world, self.session)

    def take_notes(self):
        for note in self.stream.frame.notifications:
            if note.HasField("inval_inode"):
                self.attrs.pop(note.inval_inode.ino, None)
                if note.inval_inode.data:
                    self.pages.pop(note.inval_inode.ino, None)
            else:
                self.entries.pop((note.inval_entry.parent, note.inval_entry.name), None)
        self.stream._drop_all()

    def check(self):
        store = self.world.bench.store
        for (parent, name), ino in self.entries.items():
            dentry = reads.find_dentry(store, parent, name)
            assert (dentry and dentry.ino) == ino, f"stream {self.session} has a stale entry {parent}/{name!r}"
        for ino, inode in self.attrs.items():
            assert reads.getattr(store, ino) == inode, f"stream {self.session} has stale attributes of {ino}"
        for ino, version in self.pages.items():
            try:
                current = reads.getattr(store, ino)
            except FsError:
                continue
            if current.nlink:
                assert current.data_version == version, f"stream {self.session} has stale pages of {ino}"


def named(op):
    match op:
        case ops.Rename():
            return [(op.parent, op.name), (op.parent2, op.name2)]
        case ops.SetAttr() | ops.CommitSlices() | ops.SetXattr():
            return []
        case _:
            return [(op.parent, op.name)]


class World:
    def __init__(self, bench, watches_max):
        self.bench = bench
        self.interest = Interest(watches_max)
        self.inodes = [bench.volume.root]
        bench.listen(self.interest.observe)

    def op(self, kind, a, name, b, name2):
        a, b = self.inodes[a % len(self.inodes)], self.inodes[b % len(self.inodes)]
        cred = ops.ROOT
        return {
            "create": lambda: ops.Create(a, name, 0o644, 0, False, cred),
            "mkdir": lambda: ops.MkDir(a, name, 0o755, 0, cred),
            "unlink": lambda: ops.Unlink(a, name, cred),
            "rmdir": lambda: ops.RmDir(a, name, cred),
            "link": lambda: ops.Link(b, a, name, cred),
            "rename": lambda: ops.Rename(a, name, b, name2, 0, cred),
            "exchange": lambda: ops.Rename(a, name, b, name2, ops.RENAME_EXCHANGE, cred),
            "chmod": lambda: ops.SetAttr(a, ops.SetAttrValid.MODE, 0o700, 0, 0, 0, 0, 0, 0, cred),
            "write": lambda: ops.SetAttr(a, ops.SetAttrValid.SIZE, 0, 0, 0, 4096 + b, 0, 0, 0, cred),
            "xattr": lambda: ops.SetXattr(a, b"user.x", name2 * int(b), 0, cred),
        }[kind]()


#: What every run begins with, so that short runs get far: two directories, a file in each, both read by one stream.
START = [
    ("mkdir", 1, 0, b"b", 0, b"a"),
    ("mkdir", 1, 0, b"c", 0, b"a"),
    ("create", 1, 0, b"a", 0, b"a"),
    ("create", 1, 1, b"a", 0, b"a"),
    ("readdir", 0, 0, b"a"),
    ("readdir", 0, 1, b"a"),
    ("pages", 0, 3, b"a"),
    ("pages", 0, 4, b"a"),
]


async def run(steps, watches_max):
    bench = Bench()
    await bench.make_volume()
    world = World(bench, watches_max)
    readers = [Reader(world, await bench.open_session()) for _ in range(3)]
    for step in [*START, *steps]:
        bench.now_s += 1
        if len(step) == 4:
            kind, who, at, name = step
            method = {"pages": "pages_of"}.get(kind, kind)
            with contextlib.suppress(FsError):
                getattr(readers[who], method)(world.inodes[at % len(world.inodes)], name)
            continue
        kind, who, *rest = step
        author = readers[who]
        op = world.op(kind, rest[0], rest[1], rest[2], rest[3])
        result = await bench.change(author.session, op)
        if result.errno:
            continue
        author.keep_own(op, result)
        if isinstance(op, ops.Create | ops.MkDir) and result.inode.ino not in world.inodes:
            world.inodes.append(result.inode.ino)
        for reader in readers:
            reader.take_notes()
        for reader in readers:
            reader.check()


@settings(max_examples=400, deadline=None)
@given(st.lists(READS | CHANGES | CHANGES, max_size=12))
def test_nobody_is_left_with_what_is_not_true_any_more(steps):
    asyncio.run(run(steps, 1000))


@settings(max_examples=60, deadline=None)
@given(st.lists(READS | CHANGES, max_size=30))
def test_nor_when_there_are_too_many_watches(steps):
    asyncio.run(run(steps, 2))


@pytest.mark.parametrize(
    "steps",
    [
        # pages are kept while the attributes are dropped, and the file is written in a directory nobody else has read
        [("rename", 1, 1, b"a", 2, b"a"), ("write", 1, 4, b"a", 0, b"a")],
        # a file with two names is found by one, and changed by its number
        [("link", 1, 0, b"x", 4, b"a"), ("rejoin", 0, 0, b"a"), ("lookup", 0, 1, b"a"), ("chmod", 1, 4, b"a", 0, b"a")],
        # the same, and it has lost that name before it is changed
        [("link", 1, 2, b"x", 4, b"a"), ("unlink", 1, 1, b"a", 0, b"a"), ("write", 1, 4, b"a", 0, b"a")],
        # replaced by a rename, with another name left
        [("link", 1, 2, b"x", 4, b"a"), ("rename", 1, 0, b"a", 1, b"a"), ("write", 1, 4, b"a", 0, b"a")],
        # both sides of an exchange have a new directory
        [("exchange", 1, 0, b"a", 1, b"a"), ("chmod", 1, 3, b"a", 0, b"a"), ("write", 1, 4, b"a", 0, b"a")],
    ],
)
async def test_cases_that_once_were_thought_through(steps):
    await run(steps, 1000)


async def test_a_lone_stream_is_told_nothing_and_leaves_nothing():
    bench = Bench()
    await bench.make_volume()
    world = World(bench, 10)
    reader = Reader(world, await bench.open_session())
    reader.readdir(bench.volume.root, b"")
    await bench.change(reader.session, world.op("create", 0, b"a", 0, b"a"))
    assert not reader.stream.frame.notifications
    assert world.interest.watches == 1
    world.interest.leave(reader.stream)
    assert world.interest.watches == 0


async def test_watches_of_a_stream_that_ended_do_not_pass_to_the_next():
    bench = Bench()
    await bench.make_volume()
    world = World(bench, 10)
    first, other = Reader(world, await bench.open_session()), Reader(world, await bench.open_session())
    first.readdir(bench.volume.root, b"")
    world.interest.leave(first.stream)
    heir = Reader(world, await bench.open_session())
    assert heir.stream.bit == first.stream.bit
    await bench.change(other.session, world.op("create", 0, b"a", 0, b"a"))
    assert not heir.stream.frame.notifications


def test_a_frame_says_a_thing_once():
    stream = Stream()
    for data in (False, False, True, False, True):
        stream.notify_inode(5, data)
    stream.notify_inode(6, True)
    told = [(n.inval_inode.ino, n.inval_inode.data) for n in stream.frame.notifications]
    assert told == [(5, False), (5, True), (6, True)]
    stream.cut()
    stream.notify_inode(5, True)
    assert len(stream.frame.notifications) == 1
