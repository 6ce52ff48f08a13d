"""Each invariant notices its own damage, and the documents name what the code has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from core_world import DictTxn, World

from metaserver.core import acl, acl_store, codec, extents, invariants, keys, locks
from metaserver.core import entry as e
from metaserver.core.codec import Ledger
from metaserver.core.entry import ROOT
from metaserver.core.model import Extent, Settings, Usage
from tests.acl_text import to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

DOCS = Path(__file__).parents[2] / "docs"


def world() -> World:
    """Inodes: 2 root, 3 directory d, 4 file d/f with two names and data, 5 symlink s, 6 orphan."""
    one = World(txn=DictTxn())
    one.do(e.MkDir(2, b"d", 0o755, 0, ROOT))
    one.do(e.Create(3, b"f", 0o644, 0, False, ROOT))
    one.do(e.Link(4, 2, b"g", ROOT))
    one.do(e.SymLink(2, b"s", b"target", ROOT))
    one.do(e.Create(2, b"o", 0o644, 0, False, ROOT))
    one.do(e.Unlink(2, b"o", ROOT))
    one.do(e.LeaseIds(e.LEASE_SLICES, 10))
    one.do(e.LeaseIds(e.LEASE_INODES, 10))
    one.do(e.CommitSlices(4, (e.NewSlice(0, 0, 1, 10, 0, 10), e.NewSlice(0, 10, 2, 5, 0, 5, b"i" * 5)), 0, False))
    one.do(e.SetXattr(4, b"user.a", b"b", 0, ROOT))
    one.send(e.MkDir(2, b"e", 0o755, 0, ROOT))
    one.do(e.SetXattr(4, acl.ACCESS, LIST, 0, ROOT))
    one.do(e.SetXattr(3, acl.DEFAULT, LIST, 0, ROOT))
    one.send(e.SetLock(4, 7, e.LOCK_RECORD, locks.F_WRLCK, 0, 9, 1))
    one.send(e.SetLock(4, 8, e.LOCK_RECORD, locks.F_WRLCK, 5, 6, 1, wait=True))
    return one


def change(ino: int, **fields: int) -> Callable[[dict[bytes, bytes]], None]:
    def damage(data: dict[bytes, bytes]) -> None:
        key = keys.inode(ino)
        data[key] = codec.encode_inode(codec.decode_inode(ino, data[key])._replace(**fields))

    return damage


def put(key: bytes, value: bytes) -> Callable[[dict[bytes, bytes]], None]:
    return lambda data: data.update({key: value})


def drop(key: bytes) -> Callable[[dict[bytes, bytes]], None]:
    return lambda data: data.pop(key) and None


def rewrite(old: bytes, new: bytes) -> Callable[[dict[bytes, bytes]], None]:
    """The ACL that is kept, with other bytes and found by them."""

    def damage(data: dict[bytes, bytes]) -> None:
        del data[keys.acl_number(acl_store.digest(old))]
        data[keys.acl_number(acl_store.digest(new))] = codec.encode_counter(1)
        data[keys.acl(1)] = codec.encode_acl(2, new)

    return damage


def lock(ino: int, *held: locks.Lock) -> Callable[[dict[bytes, bytes]], None]:
    """Other held locks; who waits stays."""

    def damage(data: dict[bytes, bytes]) -> None:
        key = keys.locks(ino, e.LOCK_RECORD)
        before = locks.decode(data[key]) if key in data else locks.LockSet()
        data[key] = locks.encode(before._replace(held=held))

    return damage


LIST = to_bytes("u::rw-,u:1000:r--,g::r--,m::r--,o::---")
LOCK = locks.Lock(1, 7, locks.F_WRLCK, 0, 9, 1)
SLICE = Extent(0, 10, 1, 0, 10, False)
DAMAGE = {
    1: [put(b"?", b""), put(keys.inode(9), b"x"), put(keys.orphan(6), b""), put(b"Ishort", b"x" * 91)],
    2: [put(keys.dentry(3, b"f"), codec.encode_dentry(99, 8, 3)), put(keys.dentry(4, b"x"), codec.encode_dentry(4, 8, 3))],
    3: [change(4, nlink=3), change(5, nlink=2)],
    4: [change(2, nlink=9)],
    5: [drop(keys.listing(3, 3)), drop(keys.dentry(3, b"f")), put(keys.listing(3, 3), codec.encode_listing(4, 8, b"x"))],
    6: [change(3, parent=4), change(3, parent=3), change(2, parent=3)],
    7: [change(4, parent=3), drop(keys.link(4, 2)), put(keys.link(5, 2), codec.encode_count(1)), change(5, parent=3)],
    8: [drop(keys.orphan(6)), put(keys.orphan(5), b"\x01"), put(keys.orphan(99), b"\x01"), change(6, parent=2)],
    9: [change(3, next_cookie=3)],
    10: [change(4, allocated=14), drop(keys.chunk(4, 0))],
    11: [
        change(4, size=14),
        put(keys.chunk(5, 0), extents.encode([SLICE])),
        put(keys.chunk(4, 0), extents.encode([SLICE, SLICE._replace(pos=9)])),
        put(keys.chunk(4, 0), extents.encode([SLICE._replace(length=11)])),
    ],
    12: [put(keys.doomed(1), codec.encode_doomed(10, 1, 0)), put(keys.chunk(4, 1), extents.encode([SLICE]))],
    13: [drop(keys.inline(2)), put(keys.inline(3), b"x"), put(keys.inline(2), b"x")],
    14: [
        put(keys.ledger(1), codec.encode_ledger(Ledger(Usage(8192, 6), Settings(0, 0, 4096)))),
        drop(keys.ledger(1)),
        change(4, volume=7),
    ],
    15: [put(keys.NEXT_INO, codec.encode_counter(4)), drop(keys.NEXT_SLICE), put(b"Nx", codec.encode_counter(4))],
    16: [
        drop(keys.session(1)),
        put(keys.session_acked(1), codec.encode_acked(1, 1)),
        put(keys.result(9, 1), codec.encode_result(e.DONE)),
    ],
    17: [
        put(keys.lease(1), codec.encode_ranges([(4, 4)])),
        put(keys.lease(1), codec.encode_ranges([(9, 10), (10, 11)])),
        put(keys.lease(9), codec.encode_ranges([(9, 9)])),
    ],
    18: [change(4, xattr_bytes=8), drop(keys.xattr(4, b"user.a")), put(keys.xattr(99, b"user.a"), b"")],
    19: [drop(keys.symlink(5)), put(keys.symlink(4), b"x"), change(5, size=5)],
    20: [drop(keys.volume_name("vol")), change(2, mode=0o100644)],
    21: [
        put(keys.acl(1), codec.encode_acl(3, LIST)),
        put(keys.acl(2), codec.encode_acl(1, LIST)),
        drop(keys.acl(1)),
        change(4, acl=2),
    ],
    22: [
        drop(keys.acl_number(acl_store.digest(LIST))),
        put(keys.acl_number(b"x" * 32), codec.encode_counter(1)),
        rewrite(LIST, LIST[:-8]),
        rewrite(LIST, LIST[:-4] + bytes(4)),
    ],
    23: [change(4, mode=0o100666), rewrite(LIST, to_bytes("u::rw-,g::r--,o::---"))],
    24: [change(4, default_acl=1), change(5, acl=1)],
    25: [
        drop(keys.locked_by(1, 4, 0)),
        put(keys.locked_by(1, 5, 0), codec.MARK),
        drop(keys.lock_wait(1, 3)),
        put(keys.lock_wait(1, 4), codec.encode_lock_wait(codec.LockWait(4, 0, 8))),
        lock(4, LOCK._replace(session=9)),
        lock(5, LOCK),
        lock(99, LOCK),
    ],
    26: [
        lock(4, LOCK, LOCK._replace(owner=8)),
        lock(4, LOCK._replace(first=5), LOCK._replace(last=3)),
        lock(4, LOCK._replace(last=3), LOCK._replace(first=4)),
        lock(4, LOCK._replace(last=2**63)),
        lock(4, LOCK._replace(type=2)),
        lock(4, LOCK._replace(first=7)),
    ],
}


def test_a_sound_state_breaks_nothing() -> None:
    assert invariants.check(world().txn) == []


@pytest.mark.parametrize(
    ("number", "which"), [(number, which) for number, list_ in DAMAGE.items() for which in range(len(list_))]
)
def test_damage_is_noticed_by_its_own_invariant(number: int, which: int) -> None:
    one = world()
    DAMAGE[number][which](one.txn.data)
    broken = invariants.check(one.txn)
    assert number in {violation.number for violation in broken}, broken
    assert all(str(violation).startswith(f"I{violation.number}: ") for violation in broken)


def test_every_invariant_is_damaged_once() -> None:
    assert DAMAGE.keys() == invariants.RULES.keys()


def test_the_document_has_every_invariant_in_the_words_of_the_code() -> None:
    text = (DOCS / "INVARIANTS.md").read_text()
    documented = dict(re.findall(r"^\| I(\d+) \| (.+?) \|", text, re.MULTILINE))
    words = {str(number): " ".join((rule.__doc__ or "").split()) for number, rule in invariants.RULES.items()}
    assert documented == words


def test_the_document_has_every_key() -> None:
    text = (DOCS / "KEYSPACE.md").read_text()
    documented = re.findall(r"^\| `(.)` \| (.+?) \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    assert documented == [(kind.prefix.decode(), kind.name, kind.key, kind.value) for kind in keys.TABLE]
