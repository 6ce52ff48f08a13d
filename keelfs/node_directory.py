"""A data directory becomes a cluster's node: founding, joining, restoring a snapshot, surviving alone. Offline, no server runs.

The steps are raft's (founding.py, survivor.py) and the store's; here they are put in an order in which a crash or a refusal
leaves a directory on which the same command can be given again, and what goes wrong becomes a message for people.

- `node.json` is written before the step that makes the directory a node's, and taken back when that step is refused.
- An unfinished restore is marked by a file, and nothing starts on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
from typing import TYPE_CHECKING, Final

from fuseclient.errors import ClientError
from keelfs import node_settings
from keelfs.exit_codes import ExitCode
from metaserver.applier import Applier
from metaserver.config import ServerConfig, ServerError
from metaserver.store.errors import StoreBusy, StoreError, StoreMissing
from metaserver.store.layered import LayeredStore
from metaserver.store.lmdb_store import LmdbStore
from raft import identity as identities
from raft import survivor
from raft.base import FILE_NAME as BASE_NAME
from raft.certificates import CertificateError
from raft.disk import RealDisk
from raft.errors import LogCorrupt, Refused, ReplicationError
from raft.founding import STATE_NAME, found_cluster, join_cluster
from raft.hard_state import FILE_NAME as HARD_STATE_NAME
from raft.local import LocalReplicator
from raft.matching import SINGLE_TERM
from raft.reserve import FILE_NAME as RESERVE_NAME
from raft.snapshot_file import SnapshotDamaged, SnapshotReader
from raft.tls import own_principal, server_context

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from keelfs.node_settings import NodeSettings
    from raft.identity import Identity
    from raft.membership import Membership
    from raft.snapshot_file import SnapshotHeader
    from raft.survivor import Survivor

UNFINISHED_NAME: Final = "restore.unfinished"


def is_node(directory: Path) -> bool:
    """Whether it belongs to a cluster's node."""
    return os.path.exists(directory / BASE_NAME)


def check_settings(directory: Path, made: NodeSettings) -> None:
    """Refuse now what the server would refuse at its start. Raises ClientError."""
    try:
        config_of(directory, made).validate()
    except ServerError as error:
        raise ClientError(str(error), exit_code=ExitCode.USAGE) from error
    if made.tls is None:
        return
    try:
        server_context(made.tls)
        principal = own_principal(made.tls)
    except CertificateError as error:
        raise ClientError(str(error), exit_code=ExitCode.USAGE) from error
    if (principal.kind, principal.name) != ("node", made.name):
        raise ClientError(
            f"{made.tls_cert} is the certificate of {principal}, and this is to be node {made.name}: "
            f"make one with 'keelfs certs node {made.name}'",
            exit_code=ExitCode.USAGE,
        )


def config_of(directory: Path, made: NodeSettings) -> ServerConfig:
    """The server's configuration of a node."""
    return ServerConfig(
        data_dir=directory,
        listen=made.listen,
        admin=made.admin,
        insecure=made.insecure,
        name=made.name,
        peer_listen=made.peer,
        advertise_client=made.told_client,
        advertise_admin=made.told_admin,
        advertise_peer=made.told_peer,
        tls=made.tls,
    )


def found(directory: Path, made: NodeSettings) -> Membership:
    """The first node of a new cluster; a single node's directory keeps its volumes. Raises ClientError."""
    check_settings(directory, made)
    _require_no_node(directory)
    with _explained(directory), _with_settings(directory, made):
        if state_index(directory):
            asyncio.run(_bring_up_to_date(directory))
        return _found(directory, made, state_index(directory))


async def _bring_up_to_date(directory: Path) -> None:
    """Apply what a single node's log holds beyond its state, so that the cluster can begin with the state alone."""
    store = LayeredStore.open(directory / STATE_NAME, create=False)
    try:
        replicator = LocalReplicator(directory, Applier(store))
        await replicator.start()
        try:
            store.freeze()
            store.write_frozen()
            store.checkpointed()
        finally:
            await replicator.stop()
    finally:
        store.close()


def _found(directory: Path, made: NodeSettings, index: int, term: int = SINGLE_TERM) -> Membership:
    disk = RealDisk()
    path = os.fspath(directory)
    disk.make_directory(path)
    identity = identities.load_or_create(disk, path)
    return found_cluster(disk, path, made.member(identity.node_id), state_index=index, state_term=term)


def join(directory: Path, made: NodeSettings, cluster_id: str) -> Identity:
    """An empty directory is prepared for the cluster; may be repeated until the node is started. Raises ClientError."""
    check_settings(directory, made)
    with _explained(directory), _with_settings(directory, made):
        return join_cluster(RealDisk(), os.fspath(directory), cluster_id)


def forget(directory: Path) -> None:
    """Undo `join`, after the cluster has refused the node: the directory holds nothing of ours any more."""
    for name in (BASE_NAME, node_settings.FILE_NAME, HARD_STATE_NAME, RESERVE_NAME, identities.FILE_NAME):
        with contextlib.suppress(FileNotFoundError):
            (directory / name).unlink()


def restore(
    file: Path, directory: Path, made: NodeSettings, advance: Callable[[int], None] = lambda size: None
) -> SnapshotHeader:
    """A new cluster of this node alone, with the state of a snapshot file. Its id is new. Raises ClientError.

    `advance` is told how many bytes have been read since the last time.
    """
    check_settings(directory, made)
    _require_no_node(directory)
    marker = directory / UNFINISHED_NAME
    disk = RealDisk()
    path = os.fspath(directory)
    with _explained(directory), open_snapshot(file) as reader:
        if not marker.exists():
            _require_empty(directory)
        disk.make_directory(path)
        marker.touch()
        for name in (STATE_NAME, "wal"):
            shutil.rmtree(directory / name, ignore_errors=True)
        disk.sync_directory(path)
        header = reader.header
        asyncio.run(_install(directory, reader, advance))
        with _with_settings(directory, made):
            _found(directory, made, header.index, header.term)
        marker.unlink()
        disk.sync_directory(path)
        return header


async def _install(directory: Path, reader: SnapshotReader, advance: Callable[[int], None]) -> None:
    def chunks() -> Iterator[bytes]:
        for chunk in reader.chunks():
            advance(len(chunk))
            yield chunk

    store = LayeredStore.open(directory / STATE_NAME)
    try:
        await Applier(store).install(reader.header.index, reader.header.digest, chunks())
    finally:
        store.close()


def open_snapshot(file: Path) -> SnapshotReader:
    """Raises ClientError."""
    try:
        if not file.is_file():  # the disk's `open` would make it
            raise ClientError(f"{file}: there is no such file", exit_code=ExitCode.USAGE)
        return SnapshotReader(RealDisk(), os.fspath(file))
    except SnapshotDamaged as error:
        raise _damaged(error) from error
    except OSError as error:
        raise ClientError(f"cannot read {file}: {error.strerror}") from error


def survivor_of(directory: Path) -> Survivor:
    """What a node's directory has, to compare survivors. Raises ClientError."""
    with _explained(directory):
        return survivor.look(RealDisk(), os.fspath(directory), state_index(directory))


def go_alone(directory: Path) -> tuple[Survivor, Survivor]:
    """Make a survivor a cluster of one; what it was and what it is. Raises ClientError."""
    with _explained(directory):
        return survivor.make_alone(RealDisk(), os.fspath(directory), state_index(directory))


def state_index(directory: Path) -> int:
    """How far the directory's state has come, 0 when it has none. Raises StoreError."""
    try:
        store = LmdbStore.open(directory / STATE_NAME, create=False, readonly=True)
    except StoreMissing:
        return 0
    try:
        return store.index
    finally:
        store.close()


def _require_no_node(directory: Path) -> None:
    if is_node(directory):
        raise ClientError(
            f"{directory} belongs to a cluster's node already; start it with 'keelfs server --data {directory}', or take "
            "another directory"
        )


def _require_empty(directory: Path) -> None:
    try:
        if directory.exists() and {path.name for path in directory.iterdir()} - {"lost+found"}:
            raise ClientError(f"{directory} is not empty; a snapshot is restored into an empty directory")
    except NotADirectoryError:
        raise ClientError(f"{directory} is no directory", exit_code=ExitCode.USAGE) from None


@contextlib.contextmanager
def _with_settings(directory: Path, made: NodeSettings) -> Iterator[None]:
    """node.json is there when the body has succeeded, and as before when it has not."""
    path = directory / node_settings.FILE_NAME
    before = path.read_bytes() if path.exists() else None
    node_settings.write(directory, made)
    try:
        yield
    except BaseException:
        if before is None:
            node_settings.remove(directory)
        else:
            path.write_bytes(before)
        raise


@contextlib.contextmanager
def _explained(directory: Path) -> Iterator[None]:
    """What goes wrong below, for people."""
    try:
        yield
    except Refused as error:
        raise ClientError(str(error)) from error
    except LogCorrupt as error:
        raise ClientError(f"the data in {directory} cannot be used: {error}") from error
    except SnapshotDamaged as error:
        raise _damaged(error) from error
    except StoreBusy as error:
        raise ClientError(f"a server runs on {directory}; stop it first") from error
    except (ReplicationError, StoreError) as error:
        raise ClientError(f"{directory}: {error}") from error
    except ValueError as error:
        raise ClientError(f"the snapshot cannot be used: {error}") from error
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.EAGAIN):
            raise ClientError(f"a server runs on {directory}; stop it first") from error
        code = ExitCode.DENIED if error.errno in (errno.EACCES, errno.EPERM) else ExitCode.FAILURE
        raise ClientError(f"{error.filename or directory}: {error.strerror}", exit_code=code) from error


def _damaged(error: SnapshotDamaged) -> ClientError:
    return ClientError(f"the snapshot is damaged: {error}; use another copy of it")
