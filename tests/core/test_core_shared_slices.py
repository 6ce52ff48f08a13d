"""Small writes share a slice: one object, several places of one chunk, freed with the last of them."""

from __future__ import annotations

import errno
import random

import pytest
from core_world import World

from metaserver.core import entry as e
from metaserver.core import invariants, keys, reads
from metaserver.core.entry import ROOT
from metaserver.core.model import CHUNK_BYTES, EXTENTS_MAX, Extent


def opened(settings: str = "{}") -> tuple[World, int, int]:
    """A world with a file, and the first of a thousand slice numbers."""
    world = World(settings)
    first = world.do(e.LeaseIds(e.LEASE_SLICES, 1000)).first
    inode = world.do(e.Create(world.root, b"f", 0o644, 0, False, ROOT)).inode
    assert inode is not None
    return world, inode.ino, first


def commit(world: World, ino: int, *slices: e.NewSlice) -> int:
    return world.do(e.CommitSlices(ino, slices, 0, False)).errno


def doomed(world: World) -> set[int]:
    return {one.slice for one in reads.doomed(world.txn)}


def test_one_slice_in_many_places() -> None:
    world, ino, pack = opened()
    pieces = [e.NewSlice(0, 1000 * n, pack, 30, 10 * n, 10) for n in range(3)]
    assert commit(world, ino, *pieces) == 0
    assert reads.read_slices(world.txn, ino, 0, 1).chunks[0] == [
        Extent(1000 * n, 10, pack, 10 * n, 30, False) for n in range(3)
    ]
    assert invariants.check(world.txn) == []


def test_it_is_freed_with_its_last_place() -> None:
    world, ino, pack = opened()
    assert commit(world, ino, e.NewSlice(0, 0, pack, 20, 0, 10), e.NewSlice(0, 5000, pack, 20, 10, 10)) == 0
    assert commit(world, ino, e.NewSlice(0, 5000, pack + 1, 10, 0, 10)) == 0
    assert doomed(world) == set()
    assert commit(world, ino, e.NewSlice(0, 0, pack + 2, 10, 0, 10)) == 0
    assert doomed(world) == {pack}
    assert invariants.check(world.txn) == []


def test_covered_and_laid_again_in_one_op_it_lives() -> None:
    """The op's second slice covers the first place of the pack before the third brings it back."""
    world, ino, pack = opened()
    first, cover, again = (
        e.NewSlice(0, 0, pack, 20, 0, 10),
        e.NewSlice(0, 0, pack + 1, 10, 0, 10),
        e.NewSlice(0, 50, pack, 20, 10, 10),
    )
    assert commit(world, ino, first, cover, again) == 0
    assert doomed(world) == set()
    assert world.txn.get(keys.doomed(pack)) is None
    assert invariants.check(world.txn) == []


def test_not_of_two_chunks_two_sizes_or_inline() -> None:
    world, ino, pack = opened()
    base = e.NewSlice(0, 0, pack, 20, 0, 10)
    for other in (
        e.NewSlice(1, 0, pack, 20, 10, 10),
        e.NewSlice(0, 50, pack, 30, 10, 10),
        e.NewSlice(0, 50, pack, 20, 0, 20, b"x" * 20),
    ):
        assert commit(world, ino, base, other) == errno.EINVAL
    assert reads.read_slices(world.txn, ino, 0, 2).chunks == {}


def test_inline_bytes_are_for_the_start_of_a_file() -> None:
    world, ino, first = opened('{"inline_bytes": 100}')
    assert commit(world, ino, e.NewSlice(0, 1500, first, 100, 0, 100, b"i" * 100)) == 0
    assert commit(world, ino, e.NewSlice(0, 1501, first + 1, 100, 0, 100, b"i" * 100)) == errno.EINVAL
    assert commit(world, ino, e.NewSlice(1, 0, first + 1, 100, 0, 100, b"i" * 100)) == errno.EINVAL


@pytest.mark.parametrize("seed", range(8))
def test_against_a_map_of_bytes(seed: int) -> None:
    """Random packs over a small range: every byte comes from where the last write put it, and what is freed is unreferenced."""
    rng = random.Random(seed)
    world, ino, next_slice = opened()
    truth: dict[int, tuple[int, int]] = {}
    for _ in range(40):
        slices = []
        for _ in range(rng.randint(1, 3)):
            size = rng.randint(4, 40)
            at = 0
            while at < size:
                length = rng.randint(1, size - at)
                slices.append(e.NewSlice(0, rng.randint(0, 200), next_slice, size, at, length))
                at += length
            next_slice += 1
        rng.shuffle(slices)
        assert commit(world, ino, *slices) == 0, f"seed {seed}"
        for one in slices:
            truth |= {one.pos + n: (one.slice, one.off + n) for n in range(one.length)}
        found = reads.read_slices(world.txn, ino, 0, 1).chunks[0]
        laid = {x.pos + n: (x.slice, x.off + n) for x in found for n in range(x.length)}
        assert laid == truth, f"seed {seed}"
        assert doomed(world) & {x.slice for x in found} == set(), f"seed {seed}"
        assert invariants.check(world.txn) == [], f"seed {seed}"


def test_a_chunk_has_a_largest_number_of_pieces() -> None:
    """The value of a chunk, and the answer that holds it, stay bounded."""
    from metaserver.core import extents

    world, ino, first = opened()
    full = extents.encode([Extent(4 * n, 1, first, 0, 1, False) for n in range(EXTENTS_MAX)])
    assert 4 * EXTENTS_MAX < CHUNK_BYTES
    world.txn.put(keys.chunk(ino, 0), full)
    assert commit(world, ino, e.NewSlice(0, 4 * EXTENTS_MAX + 10, first + 1, 1, 0, 1)) == errno.EFBIG
    assert commit(world, ino, e.NewSlice(0, 0, first + 1, 1, 0, 1)) == 0
