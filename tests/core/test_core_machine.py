"""The core beside a naive model: the same random calls, the same errno, the same tree, and every invariant after each."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any

from core_model import No, Node, Tree, User
from core_world import DictTxn, World
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from metaserver.core import entry as e
from metaserver.core import invariants, machine, reads
from metaserver.core.entry import Cred, Entry, Item, Result
from metaserver.core.errors import FsError
from metaserver.core.model import CHUNK_BYTES, INLINE_REACH, Extent
from tests import acl_text

if TYPE_CHECKING:
    from collections.abc import Callable

USERS = [User(0, 0), User(1000, 1000, (3000,)), User(1001, 1001), User(1002, 1000)]
NAMES = st.one_of(st.sampled_from([b"a", b"b", b"c", b"d"]), st.sampled_from([b".", b"..", b"x" * 255, b"x" * 256]))
FEW = st.integers(0, 10**6)
USER = st.sampled_from(USERS)
PERMS = st.sampled_from([0o777, 0o755, 0o700, 0o1777, 0o2777, 0o2755, 0o6755, 0o666, 0o000, 0o644])
#: Positions around the border of the first two chunks.
POSITIONS = st.one_of(st.integers(0, 60), st.integers(CHUNK_BYTES - 30, CHUNK_BYTES + 30))


#: Access control lists, of the users and groups above.
LISTS = st.sampled_from(
    [
        "-",
        "u::rwx,g::r-x,o::r-x",
        "u::rw-,g::---,o::rw-",
        "u::rwx,u:1000:r--,g::rwx,m::rwx,o::---",
        "u::rwx,u:1001:rwx,u:1002:---,g::r-x,g:3000:-wx,m::rwx,o::r--",
        "u::rwx,g::-w-,g:1000:r-x,g:1001:rwx,m::r-x,o::rwx",
        "u::---,u:1000:rwx,g::rwx,m::---,o::rwx",
        "u::rwx,g::rwx,m::rwx,o::rwx",
    ]
)


def as_dict(text: str) -> dict[str, int]:
    """A list as the model has it."""
    parts = [part.split(":") for part in text.split(",") if part != "-"]
    return {letter + who: sum({"r": 4, "w": 2, "x": 1}.get(right, 0) for right in rights) for letter, who, rights in parts}


def cred(user: User) -> Cred:
    return Cred(user.uid, user.gid, user.groups, True)


class CoreBesideModel(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.world = World()
        self.tree = Tree(0o777, self.world.root, self.world.log[0].now_ns)
        first = self.world.do(e.LeaseIds(e.LEASE_SLICES, 1000))
        self.next_slice = first.first

    # --- helpers ------------------------------------------------------------------------------------------------------

    def directory(self, number: int) -> Node:
        """Mostly a directory, also one that was removed; at times something else."""
        found = [node for node in self.tree.nodes if node.is_dir]
        if number % 10 == 0:
            found = self.tree.nodes
        return found[number // 10 % len(found)]

    def node(self, number: int) -> Node:
        return self.tree.nodes[number % len(self.tree.nodes)]

    def both(self, op: e.Op, model: Callable[[int], Any]) -> tuple[Result, Any]:
        """Apply to both; a refusal must be the same refusal."""
        now = (self.world.index + 1) * 1_000_000_000
        try:
            expected, number = model(now), 0
        except No as refusal:
            expected, number = None, refusal.number
        result = self.world.do(op)
        assert result.errno == number, f"{op}: the core says {result.errno} ({result.detail}), the model {number}"
        return result, expected

    def compare(self, node: Node) -> None:
        inode = reads.getattr(self.world.txn, node.ino)
        got = (inode.mode, inode.uid, inode.gid, inode.nlink, inode.size, inode.allocated)
        assert got == (node.kind | node.perm, node.uid, node.gid, self.tree.nlink(node), node.size, len(node.bytes)), node
        assert (inode.atime_ns, inode.mtime_ns, inode.ctime_ns) == (node.atime, node.mtime, node.ctime), node

    # --- rules --------------------------------------------------------------------------------------------------------

    @rule(where=FEW, name=NAMES, perm=PERMS, user=USER)
    def create(self, where: int, name: bytes, perm: int, user: User) -> None:
        parent = self.directory(where)
        op = e.Create(parent.ino, name, perm, 0, False, cred(user))
        result, made = self.both(op, lambda now: self.tree.create(parent, name, perm, user, now))
        if made:
            node, existed = made
            assert result.existed == existed
            self.named(node, result)

    @rule(where=FEW, name=NAMES, perm=PERMS, user=USER, kind=st.sampled_from([stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK]))
    def mknod(self, where: int, name: bytes, perm: int, user: User, kind: int) -> None:
        parent = self.directory(where)
        op = e.MkNod(parent.ino, name, kind | perm, 0, 0, cred(user))
        self.named(*reversed(self.both(op, lambda now: self.tree.make(parent, name, kind, perm, user, now))))

    @rule(where=FEW, name=NAMES, perm=PERMS, user=USER)
    def mkdir(self, where: int, name: bytes, perm: int, user: User) -> None:
        parent = self.directory(where)
        op = e.MkDir(parent.ino, name, perm, 0, cred(user))
        model = lambda now: self.tree.make(parent, name, stat.S_IFDIR, perm & 0o1777, user, now)  # noqa: E731
        self.named(*reversed(self.both(op, model)))

    @rule(where=FEW, name=NAMES, user=USER)
    def symlink(self, where: int, name: bytes, user: User) -> None:
        parent = self.directory(where)
        op = e.SymLink(parent.ino, name, b"to", cred(user))
        model = lambda now: self.tree.make(parent, name, stat.S_IFLNK, 0o777, user, now, b"to")  # noqa: E731
        self.named(*reversed(self.both(op, model)))

    def named(self, node: Node | None, result: Result) -> None:
        if node is not None:
            assert result.inode is not None
            assert node.ino in (0, result.inode.ino)
            node.ino = result.inode.ino

    @rule(which=FEW, where=FEW, name=NAMES, user=USER)
    def link(self, which: int, where: int, name: bytes, user: User) -> None:
        node, parent = self.node(which), self.directory(where)
        self.both(e.Link(node.ino, parent.ino, name, cred(user)), lambda now: self.tree.link(node, parent, name, user, now))

    @rule(where=FEW, name=NAMES, user=USER, directory=st.booleans())
    def remove(self, where: int, name: bytes, user: User, directory: bool) -> None:
        parent = self.directory(where)
        if directory:
            self.both(e.RmDir(parent.ino, name, cred(user)), lambda now: self.tree.rmdir(parent, name, user, now))
        else:
            self.both(e.Unlink(parent.ino, name, cred(user)), lambda now: self.tree.unlink(parent, name, user, now))

    @rule(where=FEW, name=NAMES, where2=FEW, name2=NAMES, flags=st.sampled_from([0, 0, 0, 1, 2, 2, 3, 4]), user=USER)
    def rename(self, where: int, name: bytes, where2: int, name2: bytes, flags: int, user: User) -> None:
        old, new = self.directory(where), self.directory(where2)
        op = e.Rename(old.ino, name, new.ino, name2, flags, cred(user))
        self.both(op, lambda now: self.tree.rename(old, name, new, name2, flags, user, now))

    @rule(which=FEW, perm=PERMS, user=USER)
    def chmod(self, which: int, perm: int, user: User) -> None:
        node = self.node(which)
        op = e.SetAttr(node.ino, e.SetAttrValid.MODE, perm, 0, 0, 0, 0, 0, 0, cred(user))
        self.both(op, lambda now: self.tree.chmod(node, perm, user, now))

    @rule(which=FEW, uid=st.sampled_from([0, 1000, 1001]), gid=st.sampled_from([0, 1000, 3000]), user=USER)
    def chown(self, which: int, uid: int, gid: int, user: User) -> None:
        node = self.node(which)
        op = e.SetAttr(node.ino, e.SetAttrValid.UID | e.SetAttrValid.GID, 0, uid, gid, 0, 0, 0, 0, cred(user))
        self.both(op, lambda now: self.tree.chown(node, uid, gid, user, now))

    @rule(which=FEW, size=POSITIONS, user=USER)
    def truncate(self, which: int, size: int, user: User) -> None:
        node = self.node(which)
        op = e.SetAttr(node.ino, e.SetAttrValid.SIZE, 0, 0, 0, size, 0, 0, 0, cred(user))
        self.both(op, lambda now: self.tree.truncate(node, size, user, now))

    @rule(which=FEW, at=POSITIONS, length=st.integers(1, 40), what=st.sampled_from(["objects", "inline", "hole"]))
    def write(self, which: int, at: int, length: int, what: str) -> None:
        node = self.node(which)
        chunk, pos = divmod(at, CHUNK_BYTES)
        length = min(length, CHUNK_BYTES - pos)
        slice_id = 0
        if what != "hole":
            slice_id = self.next_slice
            self.next_slice += 1
        near = at + length <= INLINE_REACH * 4096
        new = e.NewSlice(chunk, pos, slice_id, length, 0, length, b"i" * length if what == "inline" and near else b"")
        op = e.CommitSlices(node.ino, (new,), 0, False)
        self.both(op, lambda now: self.tree.write(node, at, length, slice_id, now))

    @rule(which=FEW, name=st.sampled_from([b"user.a", b"user.b"]), user=USER, remove=st.booleans())
    def attribute(self, which: int, name: bytes, user: User, remove: bool) -> None:
        node = self.node(which)
        if remove:
            op: e.Op = e.RemoveXattr(node.ino, name, cred(user))
            self.both(op, lambda now: self.tree.remove_attribute(node, name, user, now))
        else:
            op = e.SetXattr(node.ino, name, b"value", 0, cred(user))
            self.both(op, lambda now: self.tree.set_attribute(node, name, b"value", user, now))

    @rule(which=FEW, text=LISTS, default=st.booleans(), user=USER)
    def access_list(self, which: int, text: str, default: bool, user: User) -> None:
        node = self.node(which)
        name = (acl_text.DEFAULT if default else acl_text.ACCESS).encode()
        op = e.SetXattr(node.ino, name, acl_text.to_bytes(text), 0, cred(user))
        self.both(op, lambda now: self.tree.set_acl(node, as_dict(text), default, user, now))

    @rule(which=FEW, mask=st.integers(0, 7), user=USER)
    def access(self, which: int, mask: int, user: User) -> None:
        node = self.node(which)
        try:
            reads.access(self.world.txn, node.ino, mask, cred(user))
            got = True
        except FsError:
            got = False
        assert got == node.may(user, mask), (node, mask, user)

    @precondition(lambda self: any(not self.tree.nlink(node) for node in self.tree.nodes))
    @rule(limit=st.integers(1, 2))
    def reap(self, limit: int) -> None:
        gone = [node for node in self.tree.nodes if not self.tree.nlink(node)]
        for _ in range(3):
            result = self.world.serve(e.Reap(tuple(node.ino for node in gone), limit))
            if not result.first:
                break
        else:
            raise AssertionError("a file of two chunks takes more than two steps to reap")
        self.tree.nodes = [node for node in self.tree.nodes if self.tree.nlink(node)]
        assert not list(reads.orphans(self.world.txn))

    # --- what must hold after every step ------------------------------------------------------------------------------

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "world"):
            return
        txn = self.world.txn
        assert invariants.check(txn) == []
        for node in self.tree.nodes:
            self.compare(node)
            if node.is_dir:
                page = reads.readdir(txn, node.ino, 0, 1000, attrs=True)
                assert {one.name: one.dentry.ino for one in page.entries} == {name: one.ino for name, one in node.names.items()}
                assert page.eof
            elif node.kind == stat.S_IFREG:
                chunks = reads.read_slices(txn, node.ino, 0, 4).chunks
                assert bytes_of(chunks) == node.bytes
            lists = [(acl_text.ACCESS.encode(), node.acl), (acl_text.DEFAULT.encode(), node.default)]
            names = [*node.attributes, *(name for name, acl in lists if acl)]
            assert reads.listxattr(txn, node.ino) == sorted(names)
            for name, acl in lists:
                if acl:
                    assert as_dict(acl_text.to_text(reads.getxattr(txn, node.ino, name))) == acl
        doomed = {one.slice for one in reads.doomed(txn)}
        assert not doomed & self.tree.slices()

    def teardown(self) -> None:
        """The same log gives the same bytes."""
        if hasattr(self, "world"):
            assert replayed(self.world.log).data == self.world.txn.data


def bytes_of(chunks: dict[int, list[Extent]]) -> dict[int, tuple[int, int]]:
    return {
        index * CHUNK_BYTES + one.pos + at: (one.slice, one.off + at)
        for index, chunk in chunks.items()
        for one in chunk
        for at in range(one.length)
    }


def replayed(log: list[Entry]) -> DictTxn:
    txn = DictTxn()
    for entry in log:
        machine.apply(txn, entry)
    return txn


TestCoreBesideModel = CoreBesideModel.TestCase
TestCoreBesideModel.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_a_refused_op_is_the_same_on_replay() -> None:
    """The smallest log with a refusal and a re-sent item, replayed."""
    world = World()
    item = Item(world.session, 1, 0, e.MkDir(world.root, b"d", 0o755, 0, e.ROOT))
    again = Item(world.session, 2, 0, e.MkDir(world.root, b"d", 0o755, 0, e.ROOT))
    first = world.apply(item, again, item)
    assert [one.errno for one in first] == [0, 17, 0]
    assert first[0] == first[2]
    assert replayed(world.log).data == world.txn.data
