"""Any order of our calls, others' changes, answers and resets: when all is quiet, what this mount believes is true."""

from __future__ import annotations

import asyncio
import contextlib
import os

import pytest
from fs_fakes import ROOT, USER, FakeData, FakeMeta
from hypothesis import given, settings
from hypothesis import strategies as st
from test_filesystem_listing import walk
from test_filesystem_names import answer

from fuseclient.access_times import NOATIME
from fuseclient.errors import FsError
from fuseclient.filesystem import FileSystem, Options
from fuseclient.operations import Changes
from protos import meta_pb2 as pb

NAMES = [b"a", b"b", b"c", b"d", b"e", b"f"]
name = st.sampled_from(NAMES)
DIRS = 2

step = st.one_of(
    st.tuples(
        st.sampled_from(["lookup", "create", "mkdir", "unlink", "rmdir", "chmod", "getattr"]), st.integers(0, DIRS), name
    ),
    st.tuples(st.sampled_from(["rename", "link"]), st.integers(0, DIRS), name, st.integers(0, DIRS), name),
    st.tuples(st.just("list"), st.integers(0, DIRS)),
    st.tuples(st.sampled_from(["their create", "their unlink", "their chmod"]), st.integers(0, DIRS), name),
    st.tuples(st.just("their rename"), st.integers(0, DIRS), name, st.integers(0, DIRS), name),
    st.tuples(st.just("answer"), st.integers(0, 5)),
    st.tuples(st.just("turn")),
    st.tuples(st.just("reset")),
)


class Run:
    def __init__(self, cookies: bool, huge: int) -> None:
        self.meta = FakeMeta(cookies=cookies)
        self.fs = FileSystem(self.meta, FakeData(self.meta), Options(page_entries=3, huge_directory=huge, atime=NOATIME))
        self.calls: list[asyncio.Task] = []
        self.busy: set[tuple[int, bytes]] = set()

    def dir(self, number: int) -> int:
        return ROOT if not number else ROOT + number

    async def prepare(self) -> None:
        for number in range(1, DIRS + 1):
            self.meta.next_ino = ROOT + number - 1
            made = await self.fs.mkdir(ROOT, b"dir%d" % number, 0o755, 0, USER)
            assert made.ino == ROOT + number
        self.meta.next_ino = 100
        self.meta.populate(ROOT, NAMES[:4])
        self.meta.populate(ROOT + 1, NAMES[1:5])
        self.meta.reset("lost")
        self.meta.holding = True

    def start(self, coroutine, *places: tuple[int, bytes]) -> None:
        """A call of ours. The kernel lets only one change of a name be under way (it locks the directory)."""
        self.busy |= set(places)

        async def run() -> None:
            try:
                await answer(coroutine())
            except FsError:
                pass
            finally:
                self.busy -= set(places)

        self.calls.append(asyncio.ensure_future(run()))

    def ino_of(self, parent: int, name: bytes) -> int:
        found = self.meta.nodes[parent].entries.get(name)
        return found[0] if found else 10**9

    def do(self, action: str, *args) -> None:
        places = [(self.dir(args[i]), args[i + 1]) for i in range(0, len(args) - 1, 2)]
        if places and not action.startswith(("their", "lookup", "getattr")) and self.busy & set(places):
            return
        if action.startswith("their"):
            self.theirs(action, places)
        elif action == "answer":
            if self.meta.held:
                future, outcome = self.meta.held.pop(args[0] % len(self.meta.held))
                self.meta._settle(future, outcome)
        elif action == "reset":
            self.meta.reset("lost")
        elif action == "list":
            self.start(lambda: walk(self.fs, self.dir(args[0]), take=2))
        elif action != "turn":
            self.ours(action, places)

    def ours(self, action: str, places: list[tuple[int, bytes]]) -> None:
        fs, (parent, one) = self.fs, places[0]
        ino = self.ino_of(parent, one)
        if action == "lookup":
            self.start(lambda: fs.lookup(parent, one, USER))
        elif action == "getattr":
            self.start(lambda: fs.getattr(ino, None))
        elif action == "chmod":
            self.start(lambda: fs.setattr(ino, Changes(1, self.meta.index & 0o777, 0, 0, 0, 0, 0, 0), None, USER))
        elif action == "create":
            self.start(lambda: self.create(parent, one), *places)
        elif action == "mkdir":
            self.start(lambda: fs.mkdir(parent, one, 0o755, 0, USER), *places)
        elif action == "link":
            self.start(lambda: fs.link(ino, *places[1], USER), places[1])
        elif action == "rename":
            if ino != self.ino_of(*places[1]):
                self.start(lambda: fs.rename(*places[0], *places[1], 0, USER), *places)
        else:
            self.start(lambda: getattr(fs, action)(parent, one, USER), *places)

    async def create(self, parent: int, one: bytes) -> None:
        attr, opened = await self.fs.create(parent, one, 0o644, 0, os.O_RDWR, USER._replace(uid=0))
        self.fs.release(attr.ino, opened.fh)

    def theirs(self, action: str, places: list[tuple[int, bytes]]) -> None:
        (parent, one) = places[0]
        ino = self.ino_of(parent, one)
        requests = {
            "their create": lambda: pb.Request(create=pb.Create(parent=parent, name=one, mode=0o644, exclusive=True)),
            "their unlink": lambda: pb.Request(unlink=pb.Unlink(parent=parent, name=one)),
            "their chmod": lambda: pb.Request(setattr=pb.SetAttr(ino=ino, valid=1, mode=self.meta.index & 0o777)),
            "their rename": lambda: pb.Request(
                rename=pb.Rename(parent=parent, name=one, parent2=places[1][0], name2=places[1][1])
            ),
        }
        if action == "their rename" and ino == self.ino_of(*places[1]):
            return
        with contextlib.suppress(FsError):
            self.meta.foreign(requests[action]())

    async def finish(self) -> None:
        self.meta.holding = False
        self.meta.deliver()
        while self.calls:
            await self.calls.pop()
        await self.fs.known.settled()

    async def check(self) -> None:
        """Lookups, listings and attributes, from the caches as far as they know, against the truth."""
        fs, meta = self.fs, self.meta
        for parent in range(ROOT, ROOT + DIRS + 1):
            truth = meta.nodes[parent].entries
            for one in NAMES:
                found = await answer(fs.lookup(parent, one, USER))
                assert (found and found.ino) == (truth[one][0] if one in truth else None), (parent, one)
                if found is not None:
                    assert found.raw == meta.nodes[found.ino].raw()
            listed = await walk(fs, parent, take=2)
            assert [item.name for item in listed[2:]] == sorted(truth, key=lambda one: truth[one][1])
            assert [item.cookie for item in listed[2:]] == sorted(cookie for _, cookie in truth.values())
            for item in listed[2:]:
                assert item.attr is None or item.attr.raw == meta.nodes[item.ino].raw()
            assert (await answer(fs.getattr(parent, None))).raw == meta.nodes[parent].raw()
        assert not meta.holds


@pytest.mark.parametrize("huge", [10**6, 3])
@pytest.mark.parametrize("cookies", [True, False])
@given(steps=st.lists(step, max_size=40))
@settings(max_examples=150, deadline=None)
def test_what_is_believed_is_true(cookies: bool, huge: int, steps: list[tuple]) -> None:
    async def run() -> None:
        one = Run(cookies, huge)
        await one.prepare()
        for action in steps:
            one.do(*action)
            for _ in range(4):
                await asyncio.sleep(0)
        await one.finish()
        await one.check()

    asyncio.run(run())
