"""One layer of changes in memory, on top of whatever lies below it.

Owns: a dict from key to value, None meaning deleted, and an index that makes prefix scans cheap without making `put`
dear. A new key is only appended to its *group* (all keys that share their first nine bytes: one prefix byte and one
8-byte id, which is how far the core's hot scans reach); sorting is left to the first scan of that group, and costs little
when only a few keys came since the last one. Groups are listed by their first byte for the scans that are shorter.

It also keeps the writes of the entry that is being applied, in order, for the chain digest (chain.py): `trace`, which the owner
empties after each entry. Two appends to a list per write are what that costs.

Keys are never taken out, only marked deleted, until the whole layer is dropped. A scan is positioned when it is called;
writing to the layer while it is open is a caller's error (core/txn.py). Not thread-safe, except that any number of threads
may read `changes` of a layer that nobody writes to any more.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from itertools import chain
from typing import TYPE_CHECKING, Final

from metaserver.store.api import KEY_MAX, check_key
from metaserver.store.chain import DELETED
from metaserver.store.pacing import STRETCH_KEYS, rest

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Bytes that name a group: the prefix byte and an 8-byte id.
GROUP_BYTES: Final = 9

#: What a key costs in memory beyond its value's bytes (itself, two objects' heads, its places in the index). Measured with
#: tracemalloc at 20,000 keys: 207 for keys that are alone in their group, 123 for keys of one group.
KEY_OVERHEAD_BYTES: Final = 200

#: Up to so many new keys are inserted one by one into a sorted group; more are worth a sort of the group.
_INSERT_LIMIT: Final = 32

Change = tuple[bytes, bytes | None]


class _Absent:
    """The type of ABSENT, so that a lookup's three outcomes are told apart by the type checker too."""


ABSENT: Final = _Absent()


class Overlay:
    __slots__ = ("_groups", "_heads", "_sorted", "_sorted_heads", "changes", "trace", "value_bytes")

    def __init__(self) -> None:
        #: The layer itself: what get() of the layers reads.
        self.changes: dict[bytes, bytes | None] = {}
        self.value_bytes = 0
        self.trace: list[bytes] = []  # the writes since it was last emptied, as chain.fold wants them
        self._groups: dict[bytes, list[bytes]] = {}
        self._heads: dict[int, list[bytes]] = {}  # first byte -> the groups' names
        self._sorted: dict[bytes, int] = {}  # group -> how many of its keys, from the front, are in order
        self._sorted_heads: dict[int, int] = {}

    @property
    def memory_bytes(self) -> int:
        """About what the layer holds of memory."""
        return self.value_bytes + len(self.changes) * KEY_OVERHEAD_BYTES

    def get(self, key: bytes) -> bytes | _Absent | None:
        """The value, None when the key is deleted here, ABSENT when this layer says nothing."""
        return self.changes.get(key, ABSENT)

    def put(self, key: bytes, value: bytes) -> None:
        changes = self.changes
        if key in changes:
            old = changes[key]
            if old is not None:
                self.value_bytes -= len(old)
        else:
            self._admit(key)
        changes[key] = value
        self.value_bytes += len(value)
        trace = self.trace
        trace.append(key)
        trace.append(value)

    def delete(self, key: bytes) -> None:
        changes = self.changes
        if key in changes:
            old = changes[key]
            if old is not None:
                self.value_bytes -= len(old)
        else:
            self._admit(key)
        changes[key] = None
        trace = self.trace
        trace.append(DELETED)
        trace.append(key)

    def scan(self, prefix: bytes, after: bytes = b"") -> Iterator[Change] | None:
        """Changes whose key starts with `prefix` and is greater than `after`, in key order; None when there are none."""
        if len(prefix) >= GROUP_BYTES:
            keys = self._group_range(prefix[:GROUP_BYTES], prefix, after)
        else:
            heads = self._head_range(prefix, after)
            keys = chain.from_iterable(self._group_range(head, prefix, after) for head in heads)
        first = next(keys, None)
        if first is None:
            return None
        changes = self.changes
        return ((key, changes[key]) for key in chain((first,), keys))

    def detach(self) -> Overlay:
        """Move everything into a new layer and be empty again. What is bound to this object's methods stays valid."""
        other = Overlay()
        for name in Overlay.__slots__:
            mine = getattr(self, name)
            setattr(self, name, getattr(other, name))
            setattr(other, name, mine)
        return other

    def absorb(self, newer: Overlay) -> None:
        """Put the changes of a newer layer on top of this one's."""
        for key, value in newer.changes.items():
            if value is None:
                self.delete(key)
            else:
                self.put(key, value)
        self.trace.clear()  # these were digested when they were made

    def dissolve(self) -> None:
        """Free the layer's memory bit by bit, resting in between: at once it would stop every thread for milliseconds."""
        for part in (self.changes, self._groups, self._sorted):
            while part:
                for _ in range(min(len(part), STRETCH_KEYS)):
                    part.popitem()
                rest()
        self._heads.clear()

    def _admit(self, key: bytes) -> None:
        """Index a key that this layer did not have."""
        head = key[:GROUP_BYTES]
        group = self._groups.get(head)
        if group is not None:
            if len(key) > KEY_MAX:
                check_key(key)
            group.append(key)
            return
        check_key(key)
        self._groups[head] = [key]
        first = head[0]
        if first in self._heads:
            self._heads[first].append(head)
        else:
            self._heads[first] = [head]

    def _group_range(self, head: bytes, prefix: bytes, after: bytes) -> Iterator[bytes]:
        """The keys of one group that a scan of `prefix` after `after` wants; read as they are asked for, not copied,
        because the group of a large directory has many more than the page that is wanted."""
        group = self._groups.get(head)
        if group is None:
            return iter(())
        in_order = self._sorted.get(head, 0)
        if in_order != len(group):
            _restore_order(group, in_order)
            self._sorted[head] = len(group)
        start = bisect_right(group, after) if after >= prefix else bisect_left(group, prefix)
        stop = len(group) if len(prefix) <= GROUP_BYTES else _end_of(group, prefix, start)
        return map(group.__getitem__, range(start, stop))

    def _head_range(self, prefix: bytes, after: bytes) -> list[bytes]:
        first = prefix[0]
        heads = self._heads.get(first)
        if heads is None:
            return []
        in_order = self._sorted_heads.get(first, 0)
        if in_order != len(heads):
            _restore_order(heads, in_order)
            self._sorted_heads[first] = len(heads)
        start = bisect_left(heads, max(prefix, after[:GROUP_BYTES]))
        return heads[start : _end_of(heads, prefix, start)]


def _restore_order(keys: list[bytes], in_order: int) -> None:
    """Sort `keys`, of which the first `in_order` are sorted already."""
    fresh = sorted(keys[in_order:])
    if in_order == 0 or keys[in_order - 1] < fresh[0]:
        keys[in_order:] = fresh
    elif len(fresh) <= _INSERT_LIMIT:
        del keys[in_order:]
        for key in fresh:
            insort(keys, key)
    else:
        keys.sort()


def _end_of(keys: list[bytes], prefix: bytes, start: int) -> int:
    """The position behind the last key that starts with `prefix`; those that do are contiguous from `start` on."""
    return bisect_left(keys, True, lo=start, key=lambda key: not key.startswith(prefix))
