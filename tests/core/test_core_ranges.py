"""Files as naive maps of bytes beside the core: fallocate, copy_range, commit, truncate, link and reap in any order.

A model's file is a dict from position to what is there: (slice, byte of the slice), or ZERO where it is allocated and was never
written. Who owns a slice, what is free, and what a volume holds is counted from that by looking at every byte. Positions are in
units around the borders of the first chunks, so that a whole file is a few hundred units; a shift moves whole units.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
from core_world import DictTxn, World
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from metaserver.core import codec, extents, invariants, keys, machine, ranges, reads, usage
from metaserver.core import entry as e
from metaserver.core.entry import ROOT
from metaserver.core.model import CHUNK_BYTES, FILE_SIZE_MAX, ZEROS, Extent
from metaserver.core.ops import copy_range
from metaserver.core.ops.fallocate import COLLAPSE_RANGE, INSERT_RANGE, KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE

if TYPE_CHECKING:
    from metaserver.core.model import Ino

UNIT = 2 << 20
PER_CHUNK = CHUNK_BYTES // UNIT
ZERO = (ZEROS, 0)
#: Units near the start and around the ends of the first two chunks.
UNITS = st.one_of(
    st.integers(0, 6), st.integers(PER_CHUNK - 3, PER_CHUNK + 3), st.integers(2 * PER_CHUNK - 3, 2 * PER_CHUNK + 3)
)
LENGTHS = st.one_of(st.integers(1, 5), st.integers(PER_CHUNK - 2, PER_CHUNK + 2))
WHICH = st.integers(0, 2)


class File:
    """`units`: unit number -> what it holds."""

    def __init__(self, ino: Ino) -> None:
        self.ino = ino
        self.units: dict[int, tuple[int, int]] = {}
        self.size = 0  # in units
        self.named = True


class Files(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.world = World()
        self.next_slice = self.world.do(e.LeaseIds(e.LEASE_SLICES, 100_000)).first
        self.files: list[File] = []
        self.written: set[int] = set()
        for number in range(3):
            self.files.append(self.made(number))

    def made(self, number: int) -> File:
        op = e.Create(self.world.root, b"f%d" % number, 0o644, 0, True, ROOT)
        inode = self.world.do(op).inode
        assert inode is not None
        return File(inode.ino)

    # --- what the model does ------------------------------------------------------------------------------------------

    def expect(self, op: e.Op, number: int = 0) -> e.Result:
        result = self.world.do(op)
        assert result.errno == number, f"{op}: {errno.errorcode.get(result.errno)} {result.detail}"
        return result

    @rule(which=WHICH, at=UNITS, length=LENGTHS)
    def write(self, which: int, at: int, length: int) -> None:
        file = self.files[which]
        length = min(length, PER_CHUNK - at % PER_CHUNK)
        number, self.next_slice = self.next_slice, self.next_slice + 1
        chunk, pos = divmod(at, PER_CHUNK)
        size = length * UNIT
        new = e.NewSlice(chunk, pos * UNIT, number, size, 0, size)
        self.expect(e.CommitSlices(file.ino, (new,), 0, False))
        self.written.add(number)
        file.units |= {at + n: (number, n) for n in range(length)}
        file.size = max(file.size, at + length)

    @rule(which=WHICH, size=UNITS)
    def truncate(self, which: int, size: int) -> None:
        file = self.files[which]
        self.expect(e.SetAttr(file.ino, e.SetAttrValid.SIZE, 0, 0, 0, size * UNIT, 0, 0, 0, ROOT))
        if size <= file.size:
            file.units = {at: what for at, what in file.units.items() if at < size}
        file.size = size

    @rule(which=WHICH, at=UNITS, length=LENGTHS, keep=st.booleans())
    def allocate(self, which: int, at: int, length: int, keep: bool) -> None:
        file = self.files[which]
        self.expect(e.Fallocate(file.ino, KEEP_SIZE if keep else 0, at * UNIT, length * UNIT))
        for unit in range(at, at + length):
            file.units.setdefault(unit, ZERO)
        file.size = file.size if keep else max(file.size, at + length)

    @rule(which=WHICH, at=UNITS, length=LENGTHS, keep=st.booleans())
    def zero(self, which: int, at: int, length: int, keep: bool) -> None:
        file = self.files[which]
        self.expect(e.Fallocate(file.ino, ZERO_RANGE | (KEEP_SIZE if keep else 0), at * UNIT, length * UNIT))
        file.units |= dict.fromkeys(range(at, at + length), ZERO)
        file.size = file.size if keep else max(file.size, at + length)

    @rule(which=WHICH, at=UNITS, length=LENGTHS)
    def punch(self, which: int, at: int, length: int) -> None:
        file = self.files[which]
        self.expect(e.Fallocate(file.ino, PUNCH_HOLE | KEEP_SIZE, at * UNIT, length * UNIT))
        file.units = {unit: what for unit, what in file.units.items() if not at <= unit < at + length}

    @rule(which=WHICH, at=UNITS, length=LENGTHS)
    def collapse(self, which: int, at: int, length: int) -> None:
        file = self.files[which]
        op = e.Fallocate(file.ino, COLLAPSE_RANGE, at * UNIT, length * UNIT)
        if at + length >= file.size:
            self.expect(op, errno.EINVAL)
            return
        self.expect(op)
        moved = {unit - length: what for unit, what in file.units.items() if unit >= at + length}
        file.units = {unit: what for unit, what in file.units.items() if unit < at} | moved
        file.size -= length

    @rule(which=WHICH, at=UNITS, length=LENGTHS)
    def insert(self, which: int, at: int, length: int) -> None:
        file = self.files[which]
        op = e.Fallocate(file.ino, INSERT_RANGE, at * UNIT, length * UNIT)
        if at >= file.size:
            self.expect(op, errno.EINVAL)
            return
        self.expect(op)
        file.units = {unit if unit < at else unit + length: what for unit, what in file.units.items()}
        file.size += length

    @rule(which=WHICH, at=UNITS, to=WHICH, at2=UNITS, length=LENGTHS)
    def copy(self, which: int, at: int, to: int, at2: int, length: int) -> None:
        source, target = self.files[which], self.files[to]
        op = e.CopyRange(source.ino, at * UNIT, target.ino, at2 * UNIT, length * UNIT)
        length = max(min(length, source.size - at), 0)
        if source is target and length and abs(at - at2) < length:
            self.expect(op, errno.EINVAL)
            return
        assert self.expect(op).count == length * UNIT
        if not length:
            return
        copied = {at2 + n: source.units[at + n] for n in range(length) if at + n in source.units}
        target.units = {unit: what for unit, what in target.units.items() if not at2 <= unit < at2 + length} | copied
        target.size = max(target.size, at2 + length)

    @rule(which=WHICH)
    def replace(self, which: int) -> None:
        """The file loses its name and is reaped; another takes its place."""
        self.expect(e.Unlink(self.world.root, b"f%d" % which, ROOT))
        while self.world.serve(e.Reap((self.files[which].ino,), 1)).first:
            pass
        self.files[which] = self.made(which)

    # --- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "world"):
            return
        txn = self.world.txn
        assert invariants.check(txn) == []
        owners: dict[int, set[tuple[int, int]]] = {}
        charged = 0
        for file in self.files:
            inode = reads.getattr(txn, file.ino)
            assert (inode.size, inode.allocated) == (file.size * UNIT, len(file.units) * UNIT)
            charged += usage.charged(inode.allocated)
            assert units_of(txn, file.ino) == file.units
            for unit, (number, _) in file.units.items():
                owners.setdefault(number, set()).add((file.ino, unit // PER_CHUNK))
        assert reads.statfs(txn, self.world.volume).usage.bytes == charged
        owners.pop(ZEROS, None)
        further = {keys.number_at(key): codec.decode_counter(value) for key, value in txn.scan(keys.SLICE_REFS)}
        assert further == {number: len(where) - 1 for number, where in owners.items() if len(where) > 1}
        doomed = {one.slice for one in reads.doomed(txn)}
        assert doomed == self.written - owners.keys()

    def teardown(self) -> None:
        """The same log gives the same bytes."""
        if hasattr(self, "world"):
            again = DictTxn()
            for entry in self.world.log:
                machine.apply(again, entry)
            assert again.data == self.world.txn.data


def units_of(txn: DictTxn, ino: int) -> dict[int, tuple[int, int]]:
    """What every unit of a file holds, also beyond its end."""
    found = {}
    for key, value in txn.scan(keys.chunks(ino)):
        base = keys.short_at(key, 9) * PER_CHUNK
        for one in extents.decode(value):
            assert not (one.pos | one.length | one.off) % UNIT
            for n in range(one.length // UNIT):
                number = one.off // UNIT + n if one.slice != ZEROS else 0
                found[base + one.pos // UNIT + n] = (one.slice, number)
    return found


TestFiles = Files.TestCase
TestFiles.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.soak
def test_files_for_long() -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        Files, settings=settings(max_examples=2000, stateful_step_count=60, deadline=None, print_blob=True)
    )


# --- single rules -----------------------------------------------------------------------------------------------------


def opened(settings_json: str = "{}", files: int = 2) -> tuple[World, list[Ino], int]:
    """A world with files f0, f1, ..., and the first of a thousand slice numbers."""
    world = World(settings_json)
    first = world.do(e.LeaseIds(e.LEASE_SLICES, 1000)).first
    made = [world.do(e.Create(world.root, b"f%d" % n, 0o644, 0, True, ROOT)).inode for n in range(files)]
    return world, [inode.ino for inode in made if inode is not None], first


def extents_of(world: World, ino: int) -> dict[int, list[Extent]]:
    return reads.read_slices(world.txn, ino, 0, 4).chunks


def write(world: World, ino: int, at: int, length: int, number: int, data: bytes = b"") -> e.Result:
    chunk, pos = divmod(at, CHUNK_BYTES)
    return world.do(e.CommitSlices(ino, (e.NewSlice(chunk, pos, number, length, 0, length, data),), 0, False))


@pytest.mark.parametrize(
    ("mode", "offset", "length", "number"),
    [
        (0, 0, 0, errno.EINVAL),
        (0, FILE_SIZE_MAX, 1, errno.EFBIG),
        (0, 2**64 - 1, 2**64 - 1, errno.EFBIG),
        (0, 0, (ranges.CHUNKS_MAX + 1) * CHUNK_BYTES, errno.EFBIG),
        (PUNCH_HOLE, 0, 1, errno.EOPNOTSUPP),
        (64, 0, 1, errno.EOPNOTSUPP),  # UNSHARE_RANGE
        (4, 0, 1, errno.EOPNOTSUPP),  # NO_HIDE_STALE
        (KEEP_SIZE | COLLAPSE_RANGE, 0, 4096, errno.EOPNOTSUPP),
        (COLLAPSE_RANGE, 1, 4096, errno.EINVAL),
        (COLLAPSE_RANGE, 0, 4095, errno.EINVAL),
        (COLLAPSE_RANGE, 0, 8192, errno.EINVAL),  # up to the end
        (INSERT_RANGE, 1, 4096, errno.EINVAL),
        (INSERT_RANGE, 8192, 4096, errno.EINVAL),  # at the end
        (INSERT_RANGE, 0, FILE_SIZE_MAX, errno.EFBIG),
    ],
)
def test_what_fallocate_refuses(mode: int, offset: int, length: int, number: int) -> None:
    world, (ino, _), first = opened()
    assert write(world, ino, 0, 8192, first).errno == 0
    assert world.do(e.Fallocate(ino, mode, offset, length)).errno == number
    assert invariants.check(world.txn) == []


def test_only_regular_files_have_ranges() -> None:
    world, (ino, _), _ = opened()
    fifo = world.do(e.MkNod(world.root, b"p", 0o010644, 0, 0, ROOT)).inode
    assert fifo is not None
    assert world.do(e.Fallocate(world.root, 0, 0, 1)).errno == errno.EISDIR
    assert world.do(e.Fallocate(fifo.ino, 0, 0, 1)).errno == errno.ENODEV
    assert world.do(e.CopyRange(world.root, 0, ino, 0, 1)).errno == errno.EISDIR
    assert world.do(e.CopyRange(ino, 0, fifo.ino, 0, 1)).errno == errno.EINVAL
    assert world.do(e.CopyRange(99, 0, ino, 0, 1)).errno == errno.ENOENT


def test_a_file_that_is_allocated_bit_by_bit_stays_one_extent() -> None:
    world, (ino, _), _ = opened()
    for n in range(50):
        assert world.do(e.Fallocate(ino, 0, 100 * n, 150)).errno == 0
    assert extents_of(world, ino) == {0: [Extent(0, 5050, ZEROS, 0, 0, False)]}
    assert world.do(e.Fallocate(ino, ZERO_RANGE, 0, 6000)).errno == 0
    assert extents_of(world, ino) == {0: [Extent(0, 6000, ZEROS, 0, 0, False)]}


def test_zeros_are_cut_like_everything_else() -> None:
    world, (ino, _), first = opened()
    assert world.do(e.Fallocate(ino, 0, 0, 1000)).errno == 0
    assert write(world, ino, 400, 100, first).errno == 0
    assert extents_of(world, ino)[0] == [
        Extent(0, 400, ZEROS, 0, 0, False), Extent(400, 100, first, 0, 100, False), Extent(500, 500, ZEROS, 0, 0, False)
    ]  # fmt: skip
    assert invariants.check(world.txn) == []


def test_what_is_allocated_beyond_the_end_goes_with_a_truncation_to_the_same_size() -> None:
    world, (ino, _), first = opened()
    assert write(world, ino, 0, 100, first).errno == 0
    assert world.do(e.Fallocate(ino, KEEP_SIZE, 3 * CHUNK_BYTES, 4096)).errno == 0
    inode = reads.getattr(world.txn, ino)
    assert (inode.size, inode.allocated) == (100, 4196)
    longer = e.SetAttr(ino, e.SetAttrValid.SIZE, 0, 0, 0, 200, 0, 0, 0, ROOT)
    assert world.do(longer).inode.allocated == 4196  # type: ignore[union-attr]
    assert world.do(longer).inode.allocated == 100  # type: ignore[union-attr]
    assert invariants.check(world.txn) == []


def test_allocated_space_is_paid_at_once_and_shared_space_in_full() -> None:
    world, (ino, other), first = opened('{"capacity_bytes": 65536}')
    assert world.do(e.Fallocate(ino, 0, 0, 65537)).errno == errno.ENOSPC
    assert world.do(e.Fallocate(ino, 0, 0, 32768)).errno == 0
    assert write(world, ino, 0, 32768, first).errno == 0
    assert world.do(e.CopyRange(ino, 0, other, 0, 32768)).count == 32768
    assert world.do(e.CopyRange(ino, 0, other, 32768, 1)).errno == errno.ENOSPC
    assert reads.statfs(world.txn, world.volume).usage.bytes == 65536


def test_a_shared_slice_ends_with_its_last_owner() -> None:
    world, (ino, other), first = opened()
    assert write(world, ino, 0, 100, first).errno == 0
    assert world.do(e.CopyRange(ino, 0, other, 0, 50)).count == 50
    assert world.do(e.CopyRange(ino, 50, other, CHUNK_BYTES - 25, 50)).count == 50
    assert world.txn.get(keys.slice_refs(first)) == codec.encode_counter(2)
    for file, left in ((ino, 1), (other, 0)):
        assert world.do(e.SetAttr(file, e.SetAttrValid.SIZE, 0, 0, 0, 0 if file == ino else 10, 0, 0, 0, ROOT)).errno == 0
        assert world.txn.get(keys.slice_refs(first)) == (codec.encode_counter(left) if left else None)
        assert not list(reads.doomed(world.txn))
    assert write(world, other, 0, 10, first + 1).errno == 0
    assert [one.slice for one in reads.doomed(world.txn)] == [first]


def test_inline_bytes_are_shared_anywhere_and_go_with_the_last_owner() -> None:
    world, (ino, other), first = opened()
    assert write(world, ino, 0, 100, first, b"i" * 100).errno == 0
    assert world.do(e.CopyRange(ino, 0, other, 2 * CHUNK_BYTES - 50, 100)).count == 100
    found = reads.read_slices(world.txn, other, 1, 2)
    assert found.inline == {first: b"i" * 100}
    assert world.do(e.Fallocate(ino, PUNCH_HOLE | KEEP_SIZE, 0, 100)).errno == 0
    assert world.do(e.Fallocate(other, ZERO_RANGE, 2 * CHUNK_BYTES, 50)).errno == 0
    assert world.txn.get(keys.inline(first)) is not None
    assert world.do(e.Fallocate(other, ZERO_RANGE, CHUNK_BYTES, CHUNK_BYTES)).errno == 0
    assert world.txn.get(keys.inline(first)) is None
    assert invariants.check(world.txn) == []


def test_a_chunk_takes_so_many_inline_bytes_and_no_more() -> None:
    """They come in one answer. What cannot be shared is copied by whoever asked."""
    world, (ino, other), first = opened('{"inline_bytes": 65536}')
    for n in range(17):
        assert write(world, ino, 0, 65536, first + n, bytes(65536)).errno == 0
        result = world.do(e.CopyRange(ino, 0, other, n * 65536, 65536))
        assert result.errno == (errno.EOPNOTSUPP if n == 16 else 0)
    found = reads.read_slices(world.txn, other, 0, 1)
    assert sum(map(len, found.inline.values())) == ranges.INLINE_CHUNK_MAX


def test_a_shared_slice_cannot_be_committed() -> None:
    """What a client invents is refused: the slice has owners, and would get one that nobody counts."""
    world, (ino, other), first = opened()
    assert write(world, ino, 0, 100, first).errno == 0
    assert world.do(e.CopyRange(ino, 0, other, 0, 100)).count == 100
    third = world.do(e.Create(world.root, b"g", 0o644, 0, True, ROOT)).inode
    assert third is not None
    assert write(world, third.ino, 0, 100, first).errno == errno.EINVAL
    assert write(world, third.ino, 0, 100, ZEROS).errno == errno.EINVAL


def test_a_copy_stops_where_the_source_ends_and_after_what_one_op_may_touch(monkeypatch: pytest.MonkeyPatch) -> None:
    world, (ino, other), first = opened()
    for n in range(6):
        assert write(world, ino, 20 * n, 10, first + n).errno == 0
    assert world.do(e.CopyRange(ino, 100, other, 0, 1000)).count == 10
    assert world.do(e.CopyRange(ino, 110, other, 500, 1000)).count == 0
    assert reads.getattr(world.txn, other).size == 10
    monkeypatch.setattr(copy_range, "PIECES_MAX", 2)
    assert world.do(e.CopyRange(ino, 5, other, 0, 1000)).count == 35
    assert world.do(e.CopyRange(ino, 0, other, FILE_SIZE_MAX - 5, 100)).count == 5
    assert world.do(e.CopyRange(ino, 0, other, FILE_SIZE_MAX, 100)).errno == errno.EFBIG
    assert invariants.check(world.txn) == []


def test_a_shift_of_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    world, (ino, _), first = opened()
    for n in range(4):
        assert write(world, ino, 8192 * n, 4096, first + n).errno == 0
    monkeypatch.setattr(ranges, "PIECES_MAX", 3)
    assert world.do(e.Fallocate(ino, INSERT_RANGE, 0, 4096)).errno == errno.EFBIG
    monkeypatch.setattr(ranges, "PIECES_MAX", 4)
    assert world.do(e.Fallocate(ino, INSERT_RANGE, 0, 4096)).errno == 0


def test_writing_in_any_way_takes_set_ids_away() -> None:
    world, (ino, other), _ = opened()
    for op in (e.Fallocate(ino, 0, 0, 10, True), e.CopyRange(other, 0, ino, 0, 10, True)):
        world.do(e.SetAttr(ino, e.SetAttrValid.MODE, 0o6755, 0, 0, 0, 0, 0, 0, ROOT))
        write(world, other, 0, 10, 1) if isinstance(op, e.CopyRange) else None
        changed = world.do(op).inode
        assert changed is not None
        assert changed.mode & 0o7777 == 0o755
        assert changed.data_version == changed.version == world.index
        assert changed.mtime_ns == changed.ctime_ns == world.now_ns


# --- files without a name ---------------------------------------------------------------------------------------------


def unnamed(world: World, cred: e.Cred = ROOT) -> e.Result:
    return world.do(e.TmpFile(world.root, 0o666, 0o022, cred))


def test_a_file_without_a_name_gets_one() -> None:
    world, _, first = opened()
    before = reads.getattr(world.txn, world.root)
    inode = unnamed(world).inode
    assert inode is not None
    assert (inode.nlink, inode.parent, inode.mode) == (0, 0, 0o100644)
    assert list(reads.orphans(world.txn)) == [inode.ino]
    assert reads.getattr(world.txn, world.root) == before
    assert write(world, inode.ino, 0, 10, first).errno == 0
    assert invariants.check(world.txn) == []
    linked = world.do(e.Link(inode.ino, world.root, b"name", ROOT)).inode
    assert linked is not None
    assert (linked.nlink, linked.parent, linked.size) == (1, world.root, 10)
    assert not list(reads.orphans(world.txn))
    assert world.do(e.Link(inode.ino, world.root, b"name2", ROOT)).errno == 0
    assert invariants.check(world.txn) == []


def test_a_file_that_lost_its_name_gets_none() -> None:
    """Only what never had one: a link races with the removal of the last name, and loses."""
    world, (ino, _), _ = opened()
    assert world.do(e.Unlink(world.root, b"f0", ROOT)).errno == 0
    assert world.do(e.Link(ino, world.root, b"name", ROOT)).errno == errno.ENOENT
    inode = unnamed(world).inode
    assert inode is not None
    assert world.do(e.Link(inode.ino, world.root, b"name", ROOT)).errno == 0
    assert world.do(e.Unlink(world.root, b"name", ROOT)).errno == 0
    assert world.do(e.Link(inode.ino, world.root, b"name", ROOT)).errno == errno.ENOENT


def test_a_file_without_a_name_is_reaped_and_gets_none_when_half_gone() -> None:
    world, _, first = opened()
    inode = unnamed(world).inode
    assert inode is not None
    for n in range(3):
        assert write(world, inode.ino, n * CHUNK_BYTES, 10, first + n).errno == 0
    assert world.serve(e.Reap((inode.ino,), 1)).first == 1
    assert world.do(e.Link(inode.ino, world.root, b"name", ROOT)).errno == errno.ENOENT
    while world.serve(e.Reap((inode.ino,), 1)).first:
        pass
    assert invariants.check(world.txn) == []
    assert {one.slice for one in reads.doomed(world.txn)} == {first, first + 1, first + 2}


def test_a_file_without_a_name_needs_a_directory_that_may_be_written() -> None:
    world, (ino, _), _ = opened('{"capacity_inodes": 4}')
    assert world.do(e.SetAttr(world.root, e.SetAttrValid.MODE, 0o755, 0, 0, 0, 0, 0, 0, ROOT)).errno == 0
    assert unnamed(world, e.Cred(1000, 1000, (), True)).errno == errno.EACCES
    assert world.do(e.TmpFile(ino, 0o644, 0, ROOT)).errno == errno.ENOTDIR
    assert world.do(e.TmpFile(99, 0o644, 0, ROOT)).errno == errno.ENOENT
    assert unnamed(world).errno == 0
    assert unnamed(world).errno == errno.ENOSPC
