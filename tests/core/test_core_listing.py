"""A listing in pages of a directory that changes meanwhile: what stays throughout is seen once."""

from __future__ import annotations

from core_world import DictTxn, World
from hypothesis import given, settings
from hypothesis import strategies as st

from metaserver.core import entry as e
from metaserver.core import reads
from metaserver.core.entry import ROOT

NAMES = [b"n%d" % number for number in range(12)]
CHANGE = st.tuples(
    st.sampled_from(["create", "unlink", "within", "away", "back", "swap"]), st.sampled_from(NAMES), st.sampled_from(NAMES)
)


@given(
    start=st.sets(st.sampled_from(NAMES)),
    rounds=st.lists(st.tuples(st.integers(1, 4), st.lists(CHANGE, max_size=5)), min_size=1, max_size=20),
)
@settings(max_examples=150, deadline=None)
def test_nothing_that_stays_is_missed_or_doubled(
    start: set[bytes], rounds: list[tuple[int, list[tuple[str, bytes, bytes]]]]
) -> None:
    world = World(txn=DictTxn())
    other = world.do(e.MkDir(world.root, b"other", 0o755, 0, ROOT)).inode
    where = world.do(e.MkDir(world.root, b"where", 0o755, 0, ROOT)).inode
    assert other is not None
    assert where is not None
    for name in sorted(start):
        world.do(e.Create(where.ino, name, 0o644, 0, False, ROOT))
    steady = names_of(world, where.ino)
    seen: list[bytes] = []
    cookies: list[int] = []
    after, eof = 0, False
    for limit, changes in rounds:
        page = reads.readdir(world.txn, where.ino, after, limit)
        seen += [one.name for one in page.entries]
        cookies += [one.cookie for one in page.entries]
        after, eof = cookies[-1] if cookies else 0, page.eof
        if eof:
            break
        for change in changes:
            disturb(world, where.ino, other.ino, *change)
            steady &= names_of(world, where.ino)
    if not eof:
        seen += [one.name for one in reads.readdir(world.txn, where.ino, after, 1000).entries]
    assert cookies == sorted(set(cookies))
    for name in steady:
        assert seen.count(name) == 1, f"{name!r} was seen {seen.count(name)} times"


def disturb(world: World, where: int, other: int, what: str, name: bytes, name2: bytes) -> None:
    ops: dict[str, e.Op] = {
        "create": e.Create(where, name, 0o644, 0, True, ROOT),
        "unlink": e.Unlink(where, name, ROOT),
        "within": e.Rename(where, name, where, name2, e.RENAME_NOREPLACE, ROOT),
        "away": e.Rename(where, name, other, name, 0, ROOT),
        "back": e.Rename(other, name, where, name2, e.RENAME_NOREPLACE, ROOT),
        "swap": e.Rename(where, name, other, name2, e.RENAME_EXCHANGE, ROOT),
    }
    world.do(ops[what])


def names_of(world: World, ino: int) -> set[bytes]:
    return {one.name for one in reads.readdir(world.txn, ino, 0, 1000).entries}


@given(st.lists(st.sampled_from(NAMES), min_size=1, max_size=8, unique=True), st.integers(1, 5))
def test_a_file_renamed_within_is_seen_once(names: list[bytes], limit: int) -> None:
    """By inode: each page renames everything that is still to come and everything that was listed."""
    world = World(txn=DictTxn())
    inos = {world.do(e.Create(world.root, name, 0o644, 0, True, ROOT)).inode for name in names}
    seen: list[int] = []
    after, eof, turn = 0, False, 0
    while not eof:
        page = reads.readdir(world.txn, world.root, after, limit)
        seen += [one.dentry.ino for one in page.entries]
        after, eof = page.entries[-1].cookie if page.entries else after, page.eof
        turn += 1
        for name in sorted(names_of(world, world.root)):
            world.do(e.Rename(world.root, name, world.root, b"%d-%s" % (turn, name[-3:]), e.RENAME_NOREPLACE, ROOT))
    assert sorted(seen) == sorted(one.ino for one in inos if one is not None)
