"""What this node remembers of the disks of others, so that it notices when one of them comes back as it once was.

Raft rests on disks that do not forget. An old copy of a disk (a restored image, a clone of a virtual machine) has the right
incarnation and a log that lacks what it acknowledged, and with its vote the cluster could lose that. Three things give it away:
- Every start of a node is counted on its disk, and every handshake tells the count: less than was seen is an older copy.
- Each start has a nonce: the same count with another nonce is a second copy that was started as often.
- What a node is known to have made durable and what is committed: a log that ends before that has lost it.

One file, replaced as a whole and checksummed. Starts are saved before a handshake goes on, progress from time to time: what a
crash forgets is a check that is less sharp. When the file cannot be written the node goes on with what is in memory. When it
cannot be read the node does not start: it would count from one again, and the others would take it for an old copy.

The book is about mistakes of operators and lying disks. That log and vote are safe does not rest on it.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import google_crc32c

from raft import atomic_file
from raft.errors import LogCorrupt
from raft.membership import NAME
from raft.peer_wire import NONCE_SIZE, NUMBER_MAX
from raft.reserve import Reserve

if TYPE_CHECKING:
    from collections.abc import Callable

    from raft.disk import Disk

FILE_NAME: Final = "peers"
PEERS_MAX: Final = 64

_MAGIC: Final = b"KEELPEERS1"
_SIZE_MAX: Final = 64 << 10
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Memory:
    """What is known of one disk. (`term`, `index`): an entry that it had durably and that was committed; 0 = none yet."""

    incarnation: str
    start: int
    nonce: bytes
    term: int = 0
    index: int = 0


class PeerBook:
    """Owns the file `peers` of a directory that its user has locked. Raft thread only."""

    def __init__(self, disk: Disk, directory: str, start: int, nonce: bytes, peers: dict[str, Memory]) -> None:
        self.start = start  # of this disk, counted
        self.nonce = nonce
        self._reserve = Reserve(disk, directory)  # a node must be able to start on a full disk
        self._peers = peers  # by name; the one met last is the last
        self._dirty = False

    @classmethod
    def open(cls, disk: Disk, directory: str, *, random: Callable[[int], bytes] = os.urandom) -> PeerBook:
        """Counts this start; durable on return. Raises LogCorrupt, OSError."""
        data = atomic_file.load(disk, directory, FILE_NAME, _SIZE_MAX)
        start, peers = (0, {}) if data is None else _decode(data, os.path.join(directory, FILE_NAME))
        book = cls(disk, directory, start + 1, random(NONCE_SIZE), peers)
        book._write()
        return book

    def get(self, name: str) -> Memory | None:
        return self._peers.get(name)

    def objection(self, name: str, met: Memory) -> str | None:
        """Why the disk that presents itself (`met.term`, `met.index`: its log's end) is an old copy; None when it is not."""
        known = self._peers.get(name)
        if known is None or known.incarnation != met.incarnation:
            return None
        if met.start < known.start:
            return f"it counts {met.start} starts, and {known.start} were seen"
        if met.start == known.start and met.nonce != known.nonce:
            return f"another copy of it was started as often ({met.start} times)"
        if met.index < known.index or met.term < known.term:
            return (
                f"its log ends with entry {met.index} of term {met.term}, and it had acknowledged entry {known.index} of term "
                f"{known.term}"
            )
        return None

    def met(self, name: str, met: Memory) -> None:
        """A disk without objection: remember this start of it. Saved on return, or logged that it could not be."""
        known = self._peers.pop(name, None)
        if known is None or known.incarnation != met.incarnation:
            known = replace(met, start=0, term=0, index=0)
        self._peers[name] = replace(known, start=met.start, nonce=met.nonce)
        while len(self._peers) > PEERS_MAX:
            del self._peers[next(iter(self._peers))]
        if known.start != met.start:
            self._dirty = True
            self.save()

    def note_committed(self, name: str, term: int, index: int) -> None:
        """Entry `index`, which is of `term`, is durable at `name` and committed. Cheap; saved some time later.

        `term` is the entry's, not the leader's: the log of `name` may end right there.
        """
        known = self._peers.get(name)
        if known is not None and index > known.index:
            self._peers[name] = replace(known, term=max(term, known.term), index=index)
            self._dirty = True

    def save(self) -> None:
        """Write what has changed. A disk that fails is logged: the others' safety must not depend on this file."""
        if not self._dirty:
            return
        try:
            self._write()
        except OSError as error:
            log.warning("what is known of other nodes' disks could not be saved: %s", error)
        else:
            self._dirty = False

    def _write(self) -> None:
        self._reserve.replace(FILE_NAME, _encode(self.start, self._peers))


def _encode(start: int, peers: dict[str, Memory]) -> bytes:
    facts = {
        name: {
            "incarnation": known.incarnation,
            "start": known.start,
            "nonce": known.nonce.hex(),
            "term": known.term,
            "index": known.index,
        }
        for name, known in peers.items()
    }
    text = json.dumps({"start": start, "peers": facts}, indent=1).encode() + b"\n"
    return b"%s %08x\n" % (_MAGIC, google_crc32c.value(text)) + text


def _decode(data: bytes, path: str) -> tuple[int, dict[str, Memory]]:
    head, _, text = data.partition(b"\n")
    try:
        if head != b"%s %08x" % (_MAGIC, google_crc32c.value(text)):
            raise ValueError("it does not match its checksum")
        fields = json.loads(text)
        return _number(fields["start"]), {_name(name): _memory(known) for name, known in fields["peers"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LogCorrupt(
            f"{path}: cannot be read ({error}). It counts this node's starts, and without it the others would take the disk "
            "for an old copy. Restore the file, or remove this node from the cluster and add it anew"
        ) from error


def _memory(fields: dict[str, Any]) -> Memory:
    nonce = bytes.fromhex(fields["nonce"])
    return Memory(
        str(fields["incarnation"]), _number(fields["start"]), nonce, _number(fields["term"]), _number(fields["index"])
    )


def _name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError("a name that no node can have")
    return name


def _number(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value <= NUMBER_MAX:
        raise ValueError("a number out of bounds")
    return value
