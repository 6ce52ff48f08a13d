"""The state machine of the simulator: a few keys, exactly-once sessions, and a digest of everything that ever happened.

`step` is the whole meaning of an operation on one key; the machine applies it and the linearizability checker explains
histories with it, so the two cannot disagree. Values are immutable. Deterministic: no clock, no randomness.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, NamedTuple

Value = int | tuple[str, ...]
DIGEST_SIZE: Final = 16
EMPTY_DIGEST: Final = bytes(DIGEST_SIZE)


class Op(NamedTuple):
    """add: a number plus `a`; append: a list longer by `a`; cas: a number becomes `b` if it is `a`; read."""

    kind: str
    key: str
    a: str = ""
    b: str = ""


class Command(NamedTuple):
    session: int
    seq: int  # per session, from 1; a session has one command under way at a time
    op: Op
    padding: int = 0  # bytes that only make it longer


def initial(key: str) -> Value:
    return () if key.startswith("list") else 0


def step(value: Value, op: Op) -> tuple[Value, Value]:
    """The value after `op`, and the answer."""
    if op.kind == "read":
        return value, value
    if op.kind == "append":
        assert isinstance(value, tuple)
        longer = (*value, op.a)
        return longer, len(longer)
    assert isinstance(value, int)
    if op.kind == "add":
        return value + int(op.a), value + int(op.a)
    assert op.kind == "cas", op
    return (int(op.b), 1) if value == int(op.a) else (value, 0)


def encode(command: Command) -> bytes:
    session, seq, op, padding = command
    return "\t".join((str(session), str(seq), *op)).encode() + b"\n" + b"." * padding


def decode(payload: bytes) -> Command:
    text, _, padding = payload.partition(b"\n")
    session, seq, kind, key, a, b = text.decode().split("\t")
    return Command(int(session), int(seq), Op(kind, key, a, b), len(padding))


@dataclass
class Machine:
    """`effects` is for the checker, not part of the state: what the last call of `apply` did, if it did something."""

    index: int = 0
    digest: bytes = EMPTY_DIGEST
    values: dict[str, Value] = field(default_factory=dict)
    sessions: dict[int, tuple[int, Value]] = field(default_factory=dict)
    remembers_sessions = True

    def apply(self, index: int, payload: bytes) -> tuple[Value, Command | None]:
        """The answer, and the command if it took effect now (None: it did so before)."""
        self._advance(index)
        command = decode(payload)
        seq_done, answer = self.sessions.get(command.session, (0, 0))
        effective = command.seq > seq_done or not self.remembers_sessions
        if effective:
            key = command.op.key
            self.values[key], answer = step(self.read(key), command.op)
            self.sessions[command.session] = (command.seq, answer)
        done = blake2b(self.digest, digest_size=DIGEST_SIZE)
        done.update(b"%d %d %r " % (index, effective, answer))
        done.update(payload)
        self.digest = done.digest()
        return answer, command if effective else None

    def skip(self, index: int) -> None:
        """An entry of the log's own: the digest does not move."""
        self._advance(index)

    def read(self, key: str) -> Value:
        return self.values.get(key, initial(key))

    def dump(self) -> bytes:
        """The same bytes for the same state."""
        sessions = [[session, *done] for session, done in sorted(self.sessions.items())]
        return json.dumps([self.index, self.digest.hex(), sorted(self.values.items()), sessions]).encode()

    @classmethod
    def load(cls, data: bytes) -> Machine:
        index, digest, values, sessions = json.loads(data)

        def value(raw: int | list[str]) -> Value:
            return tuple(raw) if isinstance(raw, list) else raw

        return cls(
            index,
            bytes.fromhex(digest),
            {key: value(raw) for key, raw in values},
            {session: (seq, value(raw)) for session, seq, raw in sessions},
        )

    def _advance(self, index: int) -> None:
        if index != self.index + 1:
            raise AssertionError(f"entry {index} is applied to a state that has reached {self.index}")
        self.index = index
