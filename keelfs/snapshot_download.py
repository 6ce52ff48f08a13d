"""A snapshot from a node becomes a file: received beside its final name, checked as a whole, then renamed.

What has the final name is complete, durable and intact, and readable by its owner alone: it holds every name and small file.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fuseclient.errors import ClientError
from keelfs.node_directory import open_snapshot
from raft.snapshot_file import FILE_MAX, SnapshotDamaged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from protos import admin_pb2


@dataclass(frozen=True, slots=True)
class Saved:
    index: int
    size: int
    checksum: str  # hexadecimal


def download(
    pieces: Iterable[admin_pb2.SnapshotPiece],
    target: Path,
    *,
    replace: bool = False,
    advance: Callable[[int, int], None] = lambda count, size: None,
) -> Saved:
    """Write the pieces to `target`. `advance` is told how many bytes have come, of how many in all. Raises ClientError."""
    if os.path.lexists(target) and not replace:
        raise ClientError(f"{target} exists; give --force to replace it, or another name")
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ClientError(f"cannot write {draft}: {error.strerror}") from error
    try:
        with os.fdopen(fd, "wb") as file:
            got = size = 0
            for piece in pieces:
                got, size = got + len(piece.data), piece.size
                if not got <= size <= FILE_MAX:
                    raise ClientError(f"the node sends {got} bytes of a snapshot of {size}; try another node")
                file.write(piece.data)
                advance(len(piece.data), size)
            file.flush()
            os.fsync(file.fileno())
        if got != size or not size:
            raise ClientError(f"the snapshot ended after {got} of {size} bytes; try again")
        saved = inspect(draft)
        os.replace(draft, target)
        _sync_directory(target.parent)
        return saved
    except OSError as error:
        raise ClientError(f"cannot write {target}: {error.strerror}") from error
    finally:
        draft.unlink(missing_ok=True)


def inspect(file: Path, advance: Callable[[int], None] = lambda size: None) -> Saved:
    """Read the whole file. Raises ClientError when it is not what was written."""
    with open_snapshot(file) as reader:
        try:
            for chunk in reader.chunks():
                advance(len(chunk))
        except SnapshotDamaged as error:
            raise ClientError(f"the snapshot is damaged: {error}; use another copy of it") from error
        except OSError as error:
            raise ClientError(f"cannot read {file}: {error.strerror}") from error
        return Saved(reader.header.index, reader.size, reader.checksum.hex())


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
