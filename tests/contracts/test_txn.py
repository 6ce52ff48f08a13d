"""What every store promises to the core (metaserver/core/txn.py), held against the in-memory twin and the layered store.

The layered store is put through the suite once per place where data can be: a test writes through `World`, which moves the
layers between the writes, so that each test also is a test of what masks what.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from metaserver.store.layered import LayeredStore
from metaserver.store.memory_store import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def checkpoint(store: LayeredStore) -> None:
    store.freeze()
    store.write_frozen()
    store.checkpointed().dissolve()


class World:
    """A store, and where its data lies after each `settle`."""

    def __init__(self, store: LayeredStore | MemoryStore, move: Callable[[LayeredStore], None]) -> None:
        self.store = store
        self._move = move

    def settle(self) -> None:
        self.store.mark_applied(self.store.index_applied)
        if isinstance(self.store, LayeredStore):
            self._move(self.store)

    def fill(self, *keys: bytes) -> None:
        for key in keys:
            self.store.put(key, b"v:" + key)
        self.settle()

    def remove(self, *keys: bytes) -> None:
        for key in keys:
            self.store.delete(key)
        self.settle()

    def keys(self, prefix: bytes, after: bytes = b"") -> list[bytes]:
        pairs = list(self.store.scan(prefix, after))
        assert all(value == b"v:" + key for key, value in pairs)
        return [key for key, _ in pairs]


def stay_hot(store: LayeredStore) -> None:
    """All in the hot layer."""


def freeze_once(store: LayeredStore) -> None:
    """The first settlement is frozen, later ones are hot above it."""
    if not store.is_frozen:
        store.freeze()


def to_disk(store: LayeredStore) -> None:
    checkpoint(store)


class DiskThenFrozenThenHot:
    """Each settlement pushes the one before it one layer down."""

    def __call__(self, store: LayeredStore) -> None:
        if store.is_frozen:
            store.write_frozen()
            store.checkpointed()
        store.freeze()


PLACES: dict[str, Callable[[LayeredStore], None]] = {
    "memory": stay_hot,
    "hot": stay_hot,
    "frozen": freeze_once,
    "disk": to_disk,
    "cascade": DiskThenFrozenThenHot(),
}


@pytest.fixture(params=PLACES)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    store = MemoryStore() if request.param == "memory" else LayeredStore.open(tmp_path / "meta")
    yield World(store, PLACES[request.param])
    store.close()


def inode(number: int, tail: bytes = b"") -> bytes:
    return b"I" + number.to_bytes(8, "big") + tail


def test_a_value_is_read_back_and_a_missing_key_is_none(world: World) -> None:
    world.fill(inode(1), inode(3))
    assert world.store.get(inode(1)) == b"v:" + inode(1)
    assert world.store.get(inode(2)) is None
    assert world.store.get(inode(1)[:-1]) is None
    assert world.store.get(inode(1, b"\0")) is None


def test_a_put_replaces_and_an_empty_value_is_a_value(world: World) -> None:
    world.fill(inode(1))
    world.store.put(inode(1), b"")
    world.settle()
    assert world.store.get(inode(1)) == b""
    assert list(world.store.scan(b"I")) == [(inode(1), b"")]


def test_a_deleted_key_is_gone_from_get_and_scan_and_can_come_back(world: World) -> None:
    world.fill(inode(1), inode(2), inode(3))
    world.remove(inode(2))
    assert world.store.get(inode(2)) is None
    assert world.keys(b"I") == [inode(1), inode(3)]
    world.fill(inode(2))
    assert world.keys(b"I") == [inode(1), inode(2), inode(3)]
    world.remove(inode(1), inode(2), inode(3))
    assert world.keys(b"I") == []


def test_deleting_what_is_not_there_is_no_error(world: World) -> None:
    world.remove(inode(7))
    assert world.store.get(inode(7)) is None
    assert world.keys(b"I") == []


def test_put_and_delete_in_turn_leave_the_last(world: World) -> None:
    for _ in range(3):
        world.fill(inode(1))
        world.remove(inode(1))
    assert world.store.get(inode(1)) is None
    world.fill(inode(1))
    assert world.keys(inode(1)) == [inode(1)]


def test_a_scan_is_in_key_order_whatever_the_order_of_writing(world: World) -> None:
    names = [b"delta", b"alpha", b"", b"charlie", b"bravo", b"alph", b"\xff", b"\0"]
    world.fill(*(inode(5, name) for name in names[:4]))
    world.fill(*(inode(5, name) for name in names[4:]))
    world.fill(inode(4, b"z"), inode(6, b"a"), inode(6))
    assert world.keys(inode(5)) == sorted(inode(5, name) for name in names)
    assert world.keys(b"I") == sorted([*(inode(5, name) for name in names), inode(4, b"z"), inode(6, b"a"), inode(6)])


@pytest.mark.parametrize("prefix", [b"I", inode(5)[:4], inode(5), inode(5, b"a"), inode(5, b"ab"), inode(5, b"zz"), b"J"])
def test_a_scan_gives_exactly_what_starts_with_the_prefix(world: World, prefix: bytes) -> None:
    keys = [
        b"H\xff",
        b"I",
        b"I\0",
        inode(4, b"ab"),
        inode(5),
        inode(5, b"a"),
        inode(5, b"ab"),
        inode(5, b"ac"),
        inode(6),
        b"Ja",
    ]
    world.fill(*keys[::2])
    world.fill(*keys[1::2])
    assert world.keys(prefix) == [key for key in sorted(keys) if key.startswith(prefix)]


def test_prefixes_of_the_highest_byte_have_no_upper_neighbour(world: World) -> None:
    keys = [b"\xfe\xff", b"\xff", b"\xff" * 8, b"\xff" * 9, b"\xff" * 9 + b"\0", b"\xff" * 12, b"\xff" * 511]
    world.fill(*keys[::2])
    world.fill(*keys[1::2])
    for length in (1, 2, 8, 9, 10, 12, 511):
        prefix = b"\xff" * length
        assert world.keys(prefix) == [key for key in keys if key.startswith(prefix)]


def test_after_goes_on_behind_a_key_that_is_or_is_not_there(world: World) -> None:
    keys = [inode(5, bytes([n])) for n in range(0, 100, 2)]
    world.fill(*keys[:30])
    world.fill(*keys[30:], inode(4, b"x"), inode(6, b"x"))
    for after in (inode(5, b"\x04"), inode(5, b"\x05"), inode(5, b"\x62"), inode(5, b"\xff"), inode(5)):
        assert world.keys(inode(5), after) == [key for key in keys if key > after]
    assert world.keys(b"I", inode(5, b"\x60")) == [inode(5, b"\x62"), inode(6, b"x")]


def test_after_may_lie_outside_of_the_prefix(world: World) -> None:
    world.fill(inode(5, b"a"), inode(5, b"b"), inode(6))
    assert world.keys(inode(5), inode(4)) == [inode(5, b"a"), inode(5, b"b")]
    assert world.keys(inode(5), b"A") == [inode(5, b"a"), inode(5, b"b")]
    assert world.keys(inode(5), inode(6)) == []
    assert world.keys(inode(5), b"Z") == []


def test_after_a_key_of_the_greatest_length(world: World) -> None:
    longest = inode(5, b"n" * 502)
    world.fill(inode(5), longest, inode(5, b"o"))
    assert world.keys(inode(5), longest) == [inode(5, b"o")]


def test_paging_with_after_sees_every_key_once_while_others_come_and_go(world: World) -> None:
    stable = [inode(5, b"s%03d" % n) for n in range(60)]
    world.fill(*stable)
    seen: list[bytes] = []
    after = b""
    for page in range(1000):
        keys = [key for _, (key, _) in zip(range(7), world.store.scan(inode(5), after), strict=False)]
        if not keys:
            break
        seen += keys
        after = keys[-1]
        world.store.put(inode(5, b"r%03d" % page), b"")
        world.store.delete(inode(5, b"r%03d" % (page - 2)))
        world.settle()
    assert [key for key in seen if key in set(stable)] == stable


def test_a_scan_that_is_left_early_disturbs_nothing(world: World) -> None:
    world.fill(*(inode(n) for n in range(1, 20)))
    scan = world.store.scan(b"I")
    assert next(scan)[0] == inode(1)
    world.fill(inode(40))
    world.remove(inode(1))
    assert world.keys(b"I", inode(18)) == [inode(19), inode(40)]
    assert next(world.store.scan(b"I"))[0] == inode(2)


def test_a_scan_is_positioned_at_the_call(world: World) -> None:
    """Two open scans do not share a position, and consuming one later gives what was there when it was made."""
    world.fill(*(inode(n) for n in range(1, 6)))
    first, second = world.store.scan(b"I"), world.store.scan(b"I", inode(3))
    assert [key for key, _ in second] == [inode(4), inode(5)]
    assert [key for key, _ in first] == [inode(n) for n in range(1, 6)]


@pytest.mark.parametrize("size", [1, 2000, 4096, 64 << 10, 65537, 1 << 20])
def test_values_of_every_size(world: World, size: int) -> None:
    value = bytes(range(256)) * (size // 256) + b"t" * (size % 256)
    world.fill(inode(1), inode(3))
    world.store.put(inode(2), value)
    world.settle()
    assert world.store.get(inode(2)) == value
    assert dict(world.store.scan(inode(2))) == {inode(2): value}
    world.store.put(inode(2), value[::-1])
    world.settle()
    assert world.store.get(inode(2)) == value[::-1]


def test_keys_of_the_least_and_greatest_length(world: World) -> None:
    world.fill(b"a", b"a" * 511, b"b" * 510)
    assert world.keys(b"a") == [b"a", b"a" * 511]
    assert world.store.get(b"b" * 510) is not None


@pytest.mark.parametrize("key", [b"", b"a" * 512, b"\0state"], ids=["empty", "too long", "reserved"])
def test_a_key_that_the_disk_could_not_take_is_refused_at_once(world: World, key: bytes) -> None:
    world.fill(b"a" * 20)
    with pytest.raises(ValueError, match="key"):
        world.store.put(key, b"v")
    with pytest.raises(ValueError, match="key"):
        world.store.delete(key)
    world.settle()
    assert world.keys(b"a") == [b"a" * 20]


@pytest.mark.parametrize("key", [b"", b"a" * 512])
def test_looking_up_an_impossible_key_is_refused(world: World, key: bytes) -> None:
    with pytest.raises(ValueError, match="key"):
        world.store.get(key)


@pytest.mark.parametrize("prefix", [b"", b"\0", b"a" * 512])
def test_an_impossible_prefix_is_refused(world: World, prefix: bytes) -> None:
    with pytest.raises(ValueError, match="prefix"):
        world.store.scan(prefix)


def test_the_snapshot_is_everything_in_order_and_stays_as_it_was(world: World) -> None:
    world.fill(b"\x01", inode(1), inode(2, b"x"))
    world.fill(b"Z", inode(3), b"\xff" * 20)
    world.remove(inode(1))
    expected = sorted([b"\x01", inode(2, b"x"), b"Z", inode(3), b"\xff" * 20])
    snapshot = world.store.snapshot_scan()
    first = next(snapshot)
    world.remove(inode(3), b"Z")
    world.fill(inode(9))
    assert [first[0], *(key for key, _ in snapshot)] == expected
    assert inode(9) in dict(world.store.snapshot_scan())


def test_the_applied_index_only_rises(world: World) -> None:
    store = world.store
    assert (store.index_applied, store.index_durable) == (0, 0)
    store.mark_applied(5)
    store.mark_applied(5)
    assert store.index_applied == 5
    with pytest.raises(ValueError, match="goes back"):
        store.mark_applied(4)
    world.settle()
    assert store.index_applied == 5
    assert store.index_durable <= 5


def test_the_twin_catches_a_write_during_a_scan() -> None:
    store = MemoryStore()
    for n in range(3):
        store.put(inode(n), b"")
    scan = store.scan(b"I")
    store.delete(next(scan)[0])
    with pytest.raises(RuntimeError, match="during a scan"):
        next(scan)
