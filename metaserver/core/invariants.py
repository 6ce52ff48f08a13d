"""What is always true of the state, checked over all of it. docs/INVARIANTS.md says the same in prose, by number.

For tests, and for a tool that checks a store offline: it holds the whole state in memory. An invariant is a function over
the decoded state that yields what breaks it; the table at the end gives the numbers.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from metaserver.core import acl, acl_change, acl_store, codec, extents, keys, locks, usage, xattrs
from metaserver.core.errors import CorruptState, FsError
from metaserver.core.model import (
    CHUNK_BYTES,
    FIRST_COOKIE,
    SYMLINK_MAX,
    ZEROS,
    Dentry,
    Extent,
    Inode,
    Session,
    Usage,
    Volume,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from metaserver.core.txn import ReadTxn


class Violation(NamedTuple):
    """`number` is that of docs/INVARIANTS.md."""

    number: int
    text: str

    def __str__(self) -> str:
        return f"I{self.number}: {self.text}"


class _State:
    """Everything that is stored, decoded. What cannot be decoded is in `damage`."""

    def __init__(self) -> None:
        self.inodes: dict[int, Inode] = {}
        self.dentries: dict[tuple[int, bytes], Dentry] = {}
        self.listings: dict[tuple[int, int], tuple[int, int, bytes]] = {}
        self.chunks: dict[tuple[int, int], list[Extent]] = {}
        self.inline: dict[int, int] = {}
        self.xattrs: dict[tuple[int, bytes], int] = {}
        self.symlinks: dict[int, bytes] = {}
        self.links: dict[tuple[int, int], int] = {}
        self.orphans: set[int] = set()
        self.doomed: dict[int, codec.Doomed] = {}
        self.further: dict[int, int] = {}
        self.sessions: dict[int, Session] = {}
        self.acked: dict[int, codec.Acked] = {}
        self.results: list[tuple[int, int]] = []
        self.leases: dict[int, list[tuple[int, int]]] = {}
        self.volumes: dict[int, Volume] = {}
        self.names: dict[str, int] = {}
        self.ledgers: dict[int, codec.Ledger] = {}
        self.counters: dict[bytes, int] = {}
        self.acls: dict[int, codec.KeptAcl] = {}
        self.acl_numbers: dict[bytes, int] = {}
        self.locks: dict[tuple[int, int], locks.LockSet] = {}
        self.locked_by: set[tuple[int, int, int]] = set()
        self.lock_waits: dict[tuple[int, int], codec.LockWait] = {}
        self.damage: list[str] = []
        self.names_of: Counter[int] = Counter()
        self.subdirs_of: Counter[int] = Counter()

    def load(self, txn: ReadTxn) -> None:
        for number in range(1, 256):  # what starts with a 0 is the store's own
            prefix = bytes((number,))
            read = _READERS.get(prefix, _State.read_unknown)
            for key, value in txn.scan(prefix):
                try:
                    read(self, key, value)
                except CorruptState as damage:
                    self.damage.append(f"{key!r}: {damage}")
        for dentry in self.dentries.values():
            self.names_of[dentry.ino] += 1
        for (parent, _), dentry in self.dentries.items():
            if dentry.type == _DIR:
                self.subdirs_of[parent] += 1

    def read_inode(self, key: bytes, value: bytes) -> None:
        ino = keys.number_at(key)
        self.inodes[ino] = codec.decode_inode(ino, value)

    def read_dentry(self, key: bytes, value: bytes) -> None:
        self.dentries[keys.number_at(key), key[9:]] = codec.decode_dentry(value)

    def read_listing(self, key: bytes, value: bytes) -> None:
        self.listings[keys.number_at(key), keys.number_at(key, 9)] = codec.decode_listing(value)

    def read_chunk(self, key: bytes, value: bytes) -> None:
        self.chunks[keys.number_at(key), keys.short_at(key, 9)] = extents.decode(value)

    def read_inline(self, key: bytes, value: bytes) -> None:
        self.inline[keys.number_at(key)] = len(value)

    def read_xattr(self, key: bytes, value: bytes) -> None:
        self.xattrs[keys.number_at(key), key[9:]] = len(value)

    def read_symlink(self, key: bytes, value: bytes) -> None:
        self.symlinks[keys.number_at(key)] = value

    def read_link(self, key: bytes, value: bytes) -> None:
        self.links[keys.number_at(key), keys.number_at(key, 9)] = codec.decode_count(value)

    def read_orphan(self, key: bytes, value: bytes) -> None:
        if value not in (codec.ORPHAN_MARK, codec.UNNAMED_MARK):
            raise CorruptState("not an orphan's mark")
        self.orphans.add(keys.number_at(key))

    def read_doomed(self, key: bytes, value: bytes) -> None:
        self.doomed[keys.number_at(key)] = codec.decode_doomed(value)

    def read_unknown(self, key: bytes, value: bytes) -> None:
        raise CorruptState("no such prefix")

    def read_refs(self, key: bytes, value: bytes) -> None:
        self.further[keys.number_at(key)] = codec.decode_counter(value)

    def read_session(self, key: bytes, value: bytes) -> None:
        number = keys.number_at(key)
        self.sessions[number] = codec.decode_session(number, value, 0)

    def read_acked(self, key: bytes, value: bytes) -> None:
        self.acked[keys.number_at(key)] = codec.decode_acked(value)

    def read_result(self, key: bytes, value: bytes) -> None:
        codec.decode_result(value)
        self.results.append((keys.number_at(key), keys.number_at(key, 9)))

    def read_lease(self, key: bytes, value: bytes) -> None:
        self.leases[keys.number_at(key)] = codec.decode_ranges(value)

    def read_volume(self, key: bytes, value: bytes) -> None:
        number = keys.short_at(key, 1)
        self.volumes[number] = codec.decode_volume(number, value)

    def read_name(self, key: bytes, value: bytes) -> None:
        self.names[key[1:].decode("ascii", "backslashreplace")] = codec.decode_count(value)

    def read_ledger(self, key: bytes, value: bytes) -> None:
        self.ledgers[keys.short_at(key, 1)] = codec.decode_ledger(value)

    def read_counter(self, key: bytes, value: bytes) -> None:
        self.counters[key] = codec.decode_counter(value)

    def read_acl(self, key: bytes, value: bytes) -> None:
        self.acls[keys.number_at(key)] = codec.decode_acl(value)

    def read_acl_number(self, key: bytes, value: bytes) -> None:
        self.acl_numbers[key[1:]] = codec.decode_counter(value)

    def read_meta(self, key: bytes, value: bytes) -> None:
        if key == keys.FORMAT and codec.decode_counter(value) != codec.FORMAT_VERSION:
            raise CorruptState("another format")

    def read_locks(self, key: bytes, value: bytes) -> None:
        self.locks[keys.number_at(key), key[9]] = locks.decode(value)

    def read_locked_by(self, key: bytes, value: bytes) -> None:
        if value != codec.MARK:
            raise CorruptState("not a mark")
        self.locked_by.add((keys.number_at(key), keys.number_at(key, 9), key[17]))

    def read_lock_wait(self, key: bytes, value: bytes) -> None:
        self.lock_waits[keys.number_at(key), keys.number_at(key, 9)] = codec.decode_lock_wait(value)


_DIR: Final = 4
_READERS: Final[dict[bytes, Callable[[_State, bytes, bytes], None]]] = {
    keys.INODE: _State.read_inode,
    keys.DENTRY: _State.read_dentry,
    keys.LISTING: _State.read_listing,
    keys.CHUNK: _State.read_chunk,
    keys.INLINE: _State.read_inline,
    keys.XATTR: _State.read_xattr,
    keys.SYMLINK: _State.read_symlink,
    keys.LINK: _State.read_link,
    keys.ORPHAN: _State.read_orphan,
    keys.DOOMED: _State.read_doomed,
    keys.SLICE_REFS: _State.read_refs,
    keys.SESSION: _State.read_session,
    keys.SESSION_ACKED: _State.read_acked,
    keys.RESULT: _State.read_result,
    keys.LEASE: _State.read_lease,
    keys.VOLUME: _State.read_volume,
    keys.VOLUME_NAME: _State.read_name,
    keys.LEDGER: _State.read_ledger,
    keys.COUNTER: _State.read_counter,
    keys.ACL: _State.read_acl,
    keys.ACL_NUMBER: _State.read_acl_number,
    keys.META: _State.read_meta,
    keys.LOCKS: _State.read_locks,
    keys.LOCKED_BY: _State.read_locked_by,
    keys.LOCK_WAIT: _State.read_lock_wait,
}


def check(txn: ReadTxn) -> list[Violation]:
    """Everything that is broken; an empty list when all is well."""
    state = _State()
    state.load(txn)
    return [Violation(number, text) for number, rule in RULES.items() for text in rule(state)]


def _decodable(state: _State) -> Iterator[str]:
    """Every key has a known prefix, and every value decodes."""
    yield from state.damage


def _entries_lead_somewhere(state: _State) -> Iterator[str]:
    """An entry is in a living directory and names an existing inode of the same volume, with its type."""
    for (parent, name), dentry in state.dentries.items():
        directory, inode = state.inodes.get(parent), state.inodes.get(dentry.ino)
        if directory is None or not directory.is_dir or not directory.nlink:
            yield f"entry {name!r} is in {parent}, which is no living directory"
        elif inode is None:
            yield f"entry {name!r} of {parent} names inode {dentry.ino}, which is missing"
        elif inode.mode >> 12 != dentry.type or inode.volume != directory.volume:
            yield f"entry {name!r} of {parent} differs from inode {dentry.ino} in type or volume"


def _both_keys_agree(state: _State) -> Iterator[str]:
    """An entry's two keys say the same."""
    for (parent, name), dentry in state.dentries.items():
        if state.listings.get((parent, dentry.cookie)) != (dentry.ino, dentry.type, name):
            yield f"entry {name!r} of {parent} is not listed under cookie {dentry.cookie}"
    for (parent, cookie), (ino, kind, name) in state.listings.items():
        if state.dentries.get((parent, name)) != (ino, kind, cookie):
            yield f"cookie {cookie} of {parent} lists {name!r}, which is no entry"


def _links_of_files(state: _State) -> Iterator[str]:
    """nlink of what is no directory is the number of entries that name it."""
    for ino, inode in state.inodes.items():
        if not inode.is_dir and inode.nlink != state.names_of[ino]:
            yield f"inode {ino} has nlink {inode.nlink} and {state.names_of[ino]} names"


def _links_of_directories(state: _State) -> Iterator[str]:
    """nlink of a directory is 2 and one for each subdirectory; 0 when it was removed."""
    for ino, inode in state.inodes.items():
        wanted = 0 if ino in state.orphans else 2 + state.subdirs_of[ino]
        if inode.is_dir and inode.nlink != wanted:
            yield f"directory {ino} has nlink {inode.nlink} and {state.subdirs_of[ino]} subdirectories"


def _tree(state: _State) -> Iterator[str]:
    """A directory has one entry (a root and a removed one have none), `parent` is where, and parents lead to a root."""
    roots = {volume.root for volume in state.volumes.values()}
    for ino, inode in state.inodes.items():
        if not inode.is_dir:
            continue
        named = ino not in roots and ino not in state.orphans
        if state.names_of[ino] != int(named):
            yield f"directory {ino} has {state.names_of[ino]} names"
        if bool(inode.parent) != named:
            yield f"directory {ino} has parent {inode.parent}"
        if not _leads_to_root(state, inode):
            yield f"directory {ino} is its own ancestor, or has a missing one"
    for (parent, name), dentry in state.dentries.items():
        if dentry.type == _DIR and dentry.ino in state.inodes and state.inodes[dentry.ino].parent != parent:
            yield f"directory {dentry.ino} is {name!r} in {parent} and has parent {state.inodes[dentry.ino].parent}"


def _leads_to_root(state: _State, inode: Inode) -> bool:
    seen = set()
    one: Inode | None = inode
    while one is not None and one.parent and one.ino not in seen:
        seen.add(one.ino)
        one = state.inodes.get(one.parent)
    return one is not None and one.ino not in seen


def _parents_of_files(state: _State) -> Iterator[str]:
    """A file with one name knows its directory; one with several has parent 0 and its names counted by directory."""
    counted: Counter[tuple[int, int]] = Counter((dentry.ino, parent) for (parent, _), dentry in state.dentries.items())
    several: dict[tuple[int, int], int] = {}
    for (ino, parent), count in counted.items():
        inode = state.inodes.get(ino)
        if inode is None or inode.is_dir:
            continue
        if inode.nlink > 1:
            several[ino, parent] = count
        wanted = 0 if inode.nlink > 1 else parent
        if inode.parent != wanted:
            yield f"inode {ino} has parent {inode.parent}, not {wanted}"
    if several != state.links:
        yield f"names by directory are {state.links}, not {several}"


def _orphans(state: _State) -> Iterator[str]:
    """Exactly the inodes with nlink 0 are marked as orphans, and they have no parent."""
    for ino in state.orphans - state.inodes.keys():
        yield f"orphan {ino} is missing"
    for ino, inode in state.inodes.items():
        if (inode.nlink == 0) != (ino in state.orphans):
            yield f"inode {ino} has nlink {inode.nlink} and is {'an' if ino in state.orphans else 'no'} orphan"
        if inode.nlink == 0 and inode.parent:
            yield f"orphan {ino} has parent {inode.parent}"


def _cookies(state: _State) -> Iterator[str]:
    """A cookie is below its directory's next one, and not one of those of "." and ".."."""
    for parent, cookie in state.listings:
        directory = state.inodes.get(parent)
        if directory is not None and not FIRST_COOKIE <= cookie < directory.next_cookie:
            yield f"directory {parent} has cookie {cookie} and would give {directory.next_cookie} next"


def _allocation(state: _State) -> Iterator[str]:
    """`allocated` is what a file's extents cover."""
    covered: Counter[int] = Counter()
    for (ino, _), chunk in state.chunks.items():
        covered[ino] += sum(extent.length for extent in chunk)
    for ino, inode in state.inodes.items():
        if inode.allocated != covered[ino]:
            yield f"inode {ino} has {inode.allocated} bytes allocated, its extents cover {covered[ino]}"


def _extents(state: _State) -> Iterator[str]:
    """A chunk is of a regular file; its extents are sorted, disjoint, none empty, within slice, chunk and (but zeros) size."""
    for (ino, index), chunk in state.chunks.items():
        inode = state.inodes.get(ino)
        if inode is None or not inode.is_reg or not chunk:
            yield f"chunk {index} of {ino} is empty or belongs to no regular file"
            continue
        at = 0
        for one in chunk:
            if one.pos < at or one.length < 1 or not one.slice or not _fits(one, inode.size - index * CHUNK_BYTES):
                yield f"chunk {index} of {ino}, size {inode.size}: {one}"
            at = one.pos + one.length


def _fits(one: Extent, room: int) -> bool:
    """Whether an extent is within its slice and chunk, and the `room` up to the end of the file if it has bytes."""
    end = one.pos + one.length
    if one.slice == ZEROS:
        return end <= CHUNK_BYTES and not one.off and not one.size and not one.inline
    return end <= min(CHUNK_BYTES, room) and one.off + one.length <= one.size <= CHUNK_BYTES


def _owners(state: _State) -> Iterator[str]:
    """A slice is of one size and kind, has as many owners (chunks) as are counted, and is not in the delete queue."""
    kinds: dict[int, tuple[int, bool]] = {}
    owners: Counter[int] = Counter()
    for where, chunk in state.chunks.items():
        for one in chunk:
            kind = (one.size, one.inline)
            if kinds.setdefault(one.slice, kind) != kind:
                yield f"slice {one.slice} is {kinds[one.slice]} and, at {where}, {kind}"
        owners.update({one.slice for one in chunk} - {ZEROS})
    for slice_id in owners.keys() | state.further.keys():
        further = state.further.get(slice_id)
        if owners[slice_id] != 1 + (further or 0) or further == 0:
            yield f"slice {slice_id} has {owners[slice_id]} owners, and beside the first {further} are counted"
        if slice_id in state.doomed:
            yield f"slice {slice_id} is in use and in the delete queue"


def _inline_bytes(state: _State) -> Iterator[str]:
    """Inline bytes are kept for exactly the inline slices in use."""
    used = {one.slice: one.size for chunk in state.chunks.values() for one in chunk if one.inline}
    for slice_id in used.keys() | state.inline.keys():
        if used.get(slice_id) != state.inline.get(slice_id):
            yield f"inline slice {slice_id}: {state.inline.get(slice_id)} bytes kept, {used.get(slice_id)} in use"


def _ledgers(state: _State) -> Iterator[str]:
    """A volume's usage is what a recount gives."""
    counted: Counter[int] = Counter()
    charged: Counter[int] = Counter()
    for inode in state.inodes.values():
        counted[inode.volume] += 1
        charged[inode.volume] += usage.charged(inode.allocated)
    for number in state.ledgers.keys() | counted.keys() | state.volumes.keys():
        held = state.ledgers.get(number)
        recount = Usage(charged[number], counted[number])
        if held is None or held.usage != recount or number not in state.volumes:
            yield f"volume {number} holds {held} by its ledger, {recount} by a recount"


def _counters(state: _State) -> Iterator[str]:
    """A counter is above every number that was given."""
    leased = [last for ranges in state.leases.values() for _, last in ranges]
    in_use = [one.slice for chunk in state.chunks.values() for one in chunk if one.slice != ZEROS]
    given: dict[bytes, list[int]] = {
        keys.NEXT_INO: [*state.inodes, *leased],
        keys.NEXT_SLICE: [*in_use, *state.doomed],
        keys.NEXT_SESSION: [*state.sessions],
        keys.NEXT_VOLUME: [*state.volumes],
        keys.NEXT_ACL: [*state.acls],
    }
    for key, numbers in given.items():
        following = state.counters.get(key, keys.FIRST_NUMBER[key])
        if numbers and max(numbers) >= following:
            yield f"counter {key!r} would give {following}, {max(numbers)} is in use"
    for key in state.counters.keys() - given.keys():
        yield f"counter {key!r} is not known"


def _sessions(state: _State) -> Iterator[str]:
    """What is kept by session belongs to an open one of an existing volume; no result is kept that was acknowledged."""
    if state.sessions.keys() != state.acked.keys():
        yield f"sessions {sorted(state.sessions)} are open, {sorted(state.acked)} have an acknowledged seq"
    for number, session in state.sessions.items():
        acked = state.acked.get(number)
        if session.volume not in state.volumes or (acked is not None and acked.volume != session.volume):
            yield f"session {number} is of volume {session.volume}"
    for number, seq in state.results:
        if number not in state.acked or seq <= state.acked[number].seq:
            yield f"result {seq} of session {number} is kept and nobody may ask for it"


def _leases(state: _State) -> Iterator[str]:
    """Leased inode numbers are unused, leased once, and the session (0 = the service) is open."""
    spans = sorted(one for ranges in state.leases.values() for one in ranges)
    for before, after in pairwise(spans):
        if before[1] >= after[0]:
            yield f"inode numbers {before} and {after} are leased twice"
    for number, ranges in state.leases.items():
        if number and number not in state.sessions:
            yield f"session {number} has a lease and is not open"
        for first, last in ranges:
            if first > last or any(first <= ino <= last for ino in state.inodes):
                yield f"inode numbers {first}..{last} are leased and in use, or none"


def _attributes(state: _State) -> Iterator[str]:
    """Attributes belong to an inode, which knows the length of their list, in which ACLs are."""
    listed: Counter[int] = Counter()
    for ino, name in state.xattrs:
        listed[ino] += len(name) + 1
        if ino not in state.inodes:
            yield f"attribute {name!r} belongs to inode {ino}, which is missing"
    for ino, inode in state.inodes.items():
        listed[ino] += sum(xattrs.listed(name) for name in acl.NAMES if acl_change.number_of(inode, name))
        if inode.xattr_bytes != listed[ino]:
            yield f"inode {ino} lists {inode.xattr_bytes} bytes of attribute names, {listed[ino]} are there"


def _symlinks(state: _State) -> Iterator[str]:
    """A symbolic link, and nothing else, has a target, whose length is its size."""
    for ino in state.symlinks.keys() | {ino for ino, inode in state.inodes.items() if inode.is_symlink}:
        target, inode = state.symlinks.get(ino), state.inodes.get(ino)
        if target is None or inode is None or not inode.is_symlink or inode.size != len(target):
            yield f"symbolic link {ino} and its target do not fit"
        elif not 1 <= len(target) <= SYMLINK_MAX:
            yield f"symbolic link {ino} has a target of {len(target)} bytes"


def _volumes(state: _State) -> Iterator[str]:
    """A volume is found by its name; its root is a living directory of its own."""
    if {volume.name: number for number, volume in state.volumes.items()} != state.names:
        yield f"volume names {state.names} are not those of {state.volumes}"
    for number, volume in state.volumes.items():
        root = state.inodes.get(volume.root)
        if root is None or not root.is_dir or root.volume != number or not root.nlink or root.parent:
            yield f"volume {number} has root {root}"


def _acl_uses(state: _State) -> Iterator[str]:
    """An ACL is kept with the number of the uses that inodes make of it, and not without one."""
    used = Counter(number for inode in state.inodes.values() for number in (inode.acl, inode.default_acl) if number)
    for number in used.keys() | state.acls.keys():
        held = state.acls.get(number)
        if held is None or held.uses != used[number]:
            yield f"ACL {number} is used {used[number]} times, kept as {held}"


def _acl_values(state: _State) -> Iterator[str]:
    """An ACL is a good one, in the one form that it has, kept once, and found by its bytes."""
    for number, held in state.acls.items():
        try:
            entries = acl.decode(held.value)
            acl.require_valid(entries)
        except FsError as refusal:
            yield f"ACL {number}: {refusal}"
            continue
        if acl.encode(entries) != held.value:
            yield f"ACL {number} has ids where none count"
    found = {number: digest for digest, number in state.acl_numbers.items()}
    if found != {number: acl_store.digest(held.value) for number, held in state.acls.items()}:
        yield f"ACLs {sorted(state.acls)} are found by their bytes as {sorted(found)}"


def _acl_modes(state: _State) -> Iterator[str]:
    """An access ACL says more than a mode can, and the mode's permission bits are what it says: the group's its mask."""
    for ino, inode in state.inodes.items():
        held = state.acls.get(inode.acl)
        if held is None:
            continue
        with contextlib.suppress(FsError):  # which is another invariant's to tell
            entries = acl.decode(held.value)
            if not acl.says_more(entries) or acl.mode_bits(entries) != inode.mode & 0o777:
                yield f"inode {ino} has mode {inode.mode:o} and ACL {entries}"


def _acl_places(state: _State) -> Iterator[str]:
    """A default ACL is a directory's, and a symbolic link has none at all."""
    for ino, inode in state.inodes.items():
        if (inode.default_acl and not inode.is_dir) or (inode.acl and inode.is_symlink):
            yield f"inode {ino} of mode {inode.mode:o} has ACLs {inode.acl} and {inode.default_acl}"


def _lock_owners(state: _State) -> Iterator[str]:
    """A lock is of an open session, on a regular file of its volume; both indexes say what the locks say."""
    locked_by: set[tuple[int, int, int]] = set()
    waits: dict[tuple[int, int], codec.LockWait] = {}
    for (ino, kind), found in state.locks.items():
        inode = state.inodes.get(ino)
        for lock in (*found.held, *[one.lock for one in found.waiters]):
            locked_by.add((lock.session, ino, kind))
            session = state.sessions.get(lock.session)
            if inode is None or not inode.is_reg or session is None or session.volume != inode.volume:
                yield f"inode {ino} is locked by session {lock.session}: one of them does not exist, or they do not fit"
        waits.update({(one.lock.session, one.seq): codec.LockWait(ino, kind, one.lock.owner) for one in found.waiters})
    if locked_by != state.locked_by:
        yield f"sessions lock {sorted(locked_by)}, the index says {sorted(state.locked_by)}"
    if waits != state.lock_waits:
        yield f"waits for locks are {waits}, the index says {state.lock_waits}"


def _lock_ranges(state: _State) -> Iterator[str]:
    """Locks are sorted, no two conflict, an owner's are disjoint and joined; who waits is blocked by a lock that is held."""
    for (ino, kind), found in state.locks.items():
        held = found.held
        if list(held) != sorted(held, key=lambda lock: (lock.first, lock.last, lock.session, lock.owner)):
            yield f"the locks of inode {ino} are not sorted"
        for at, one in enumerate(held):
            if not 0 <= one.first <= one.last <= locks.LAST or one.type not in (locks.F_RDLCK, locks.F_WRLCK):
                yield f"inode {ino}, kind {kind}: {one}"
            for other in held[at + 1 :]:
                touches = one.who == other.who and other.first <= one.last + 1
                if one.blocks(other) or (touches and (other.first <= one.last or one.type == other.type)):
                    yield f"inode {ino}, kind {kind}: {one} and {other}"
        for waiter in found.waiters:
            if not found.blockers(waiter.lock):
                yield f"inode {ino}, kind {kind}: nobody is in the way of {waiter}"


#: The numbers are those of docs/INVARIANTS.md and are never given to another rule.
RULES: Final[dict[int, Callable[[_State], Iterator[str]]]] = {
    1: _decodable,
    2: _entries_lead_somewhere,
    3: _links_of_files,
    4: _links_of_directories,
    5: _both_keys_agree,
    6: _tree,
    7: _parents_of_files,
    8: _orphans,
    9: _cookies,
    10: _allocation,
    11: _extents,
    12: _owners,
    13: _inline_bytes,
    14: _ledgers,
    15: _counters,
    16: _sessions,
    17: _leases,
    18: _attributes,
    19: _symlinks,
    20: _volumes,
    21: _acl_uses,
    22: _acl_values,
    23: _acl_modes,
    24: _acl_places,
    25: _lock_owners,
    26: _lock_ranges,
}
