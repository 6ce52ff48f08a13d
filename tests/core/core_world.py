"""What the tests of the core share: a store made of a dict, one that enforces "decide, then write", and a world that
applies ops one at a time. Not the product's store: that one has its own contract suite.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaserver.core import machine, reads
from metaserver.core.entry import CreateVolume, Entry, Item, OpenSession

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metaserver.core.entry import Op, Result
    from metaserver.core.model import Ino

SECOND = 1_000_000_000


class DictTxn:
    """An ordered map by sorting when asked; the plainest thing that keeps the contract of txn.py."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}

    def get(self, key: bytes, /) -> bytes | None:
        return self.data.get(key)

    def scan(self, prefix: bytes, /, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        assert prefix
        return iter([(key, self.data[key]) for key in sorted(self.data) if key.startswith(prefix) and key > after])

    def put(self, key: bytes, value: bytes, /) -> None:
        assert 0 < len(key) <= 511
        self.data[key] = bytes(value)

    def delete(self, key: bytes, /) -> None:
        self.data.pop(key, None)


class StrictTxn(DictTxn):
    """Refuses a scan's iterator that is advanced after a write, and counts writes so that a refusal can be checked."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    def scan(self, prefix: bytes, /, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        writes = self.writes
        for pair in super().scan(prefix, after):
            assert self.writes == writes, "a scan was used after a write"
            yield pair

    def put(self, key: bytes, value: bytes, /) -> None:
        self.writes += 1
        super().put(key, value)

    def delete(self, key: bytes, /) -> None:
        self.writes += 1
        super().delete(key)


class World:
    """A state with one volume and one session; each op is an entry of its own, one second after the last."""

    def __init__(self, settings_json: str = "{}", txn: DictTxn | None = None) -> None:
        self.txn = StrictTxn() if txn is None else txn
        self.index = 0
        self.log: list[Entry] = []
        made = self.serve(CreateVolume("vol", settings_json, 0, 0, 0o777))
        assert made.inode is not None
        self.volume = made.first
        self.root: Ino = made.inode.ino
        self.session = self.open_session()
        self.seq = 0
        self.acked = 0

    @property
    def now_ns(self) -> int:
        return self.index * SECOND

    def open_session(self) -> int:
        return self.serve(OpenSession(self.volume, self.root, b"secret", "test")).first

    def apply(self, *items: Item) -> list[Result]:
        self.index += 1
        entry = Entry(self.index, self.now_ns, items)
        self.log.append(entry)
        return machine.apply(self.txn, entry)

    def serve(self, op: Op) -> Result:
        """An op of the service itself; a refusal must leave no write."""
        return self._checked(Item(0, 0, 0, op))

    def do(self, op: Op) -> Result:
        """An op of the session, not deduplicated; a refusal must leave no write."""
        return self._checked(Item(self.session, 0, 0, op))

    def send(self, op: Op, acked: int = 0) -> Result:
        """An op of the session with the next seq."""
        self.seq += 1
        return self.apply(Item(self.session, self.seq, acked, op))[0]

    def resolve(self, path: str) -> Ino:
        return reads.resolve(self.txn, self.root, path.encode()).ino

    def _checked(self, item: Item) -> Result:
        before = getattr(self.txn, "writes", 0)
        result = self.apply(item)[0]
        clock = 1  # every entry leaves its time
        assert not result.errno or getattr(self.txn, "writes", clock) == before + clock, f"{item.op} was refused and wrote"
        return result
