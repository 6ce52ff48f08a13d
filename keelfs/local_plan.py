"""What a cluster on one machine consists of, and where: `cluster.json` and everything beside it in one directory.

DIR/cluster.json    names and ports of the nodes, made once, so that URLs stay the same
DIR/certs/          ca, n1.., admin (for clients)
DIR/keelfs.toml     KEELFS_CONFIG=DIR/keelfs.toml makes every command find this cluster
DIR/n1/ ..          data directories
DIR/n1.log ..       their logs; mount.log, up.log
DIR/objects/        file data of the volume `main`
DIR/up.lock         locked by the running `keelfs cluster up`; holds its process number
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from fuseclient.errors import ClientError
from fuseclient.tls import TlsFiles
from fuseclient.volume_url import parse_address
from keelfs import node_settings
from keelfs.embedded import VOLUME, free_ports
from keelfs.exit_codes import ExitCode
from raft.atomic_file import replace
from raft.certificates import CA_NAME, CertificateError, make_ca, make_client, make_node
from raft.disk import RealDisk
from raft.tls import TlsFiles as NodeTlsFiles

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from keelfs.node_settings import NodeSettings

FILE_NAME: Final = "cluster.json"
FORMAT: Final = 1
SIZES: Final = (1, 3, 5)
CLIENT: Final = "admin"
_HOSTS: Final = ("127.0.0.1", "localhost")
_PORTS: Final = 3  # clients, administration, other nodes


@dataclass(frozen=True, slots=True)
class LocalNode:
    name: str
    listen: str
    admin: str
    peer: str


@dataclass(frozen=True, slots=True)
class LocalPlan:
    directory: Path
    nodes: tuple[LocalNode, ...]

    @property
    def authority(self) -> str:
        """The nodes' addresses as in a URL."""
        return ",".join(node.listen for node in self.nodes)

    @property
    def url(self) -> str:
        return f"keel://{self.authority}/{VOLUME}"

    @property
    def admin_addresses(self) -> list[str]:
        return [node.admin for node in self.nodes]

    @property
    def certs(self) -> Path:
        return self.directory / "certs"

    @property
    def config(self) -> Path:
        return self.directory / "keelfs.toml"

    @property
    def client_tls(self) -> TlsFiles:
        """What clients show."""
        return TlsFiles(*(self.certs / name for name in (f"{CA_NAME}.crt", f"{CLIENT}.crt", f"{CLIENT}.key")))

    @property
    def client_env(self) -> dict[str, str]:
        """Settings of a command that is to reach this cluster."""
        files = self.client_tls
        return {"KEELFS_TLS_CA": str(files.ca), "KEELFS_TLS_CERT": str(files.cert), "KEELFS_TLS_KEY": str(files.key)}

    def data(self, node: LocalNode) -> Path:
        return self.directory / node.name

    def log(self, node: LocalNode) -> Path:
        return self.directory / f"{node.name}.log"

    def settings(self, node: LocalNode) -> NodeSettings:
        """What the node is told at its start."""
        tls = NodeTlsFiles.of(self.certs, node.name)
        return node_settings.complete(name=node.name, listen=node.listen, admin=node.admin, peer=node.peer, tls=tls)


def plan(directory: Path, count: int | None) -> LocalPlan:
    """The plan of the directory; a new one for `count` nodes where there is none. Raises ClientError."""
    found = load(directory)
    if found is None:
        if count not in SIZES:
            sizes = ", ".join(map(str, SIZES[:-1])) + f" or {SIZES[-1]}"
            raise ClientError(
                f"a cluster has {sizes} nodes: an even number survives no more failures", exit_code=ExitCode.USAGE
            )
        return _make(directory, count)
    if count is not None and count != len(found.nodes):
        raise ClientError(
            f"{directory} holds a cluster of {len(found.nodes)} nodes; give that number, or another directory",
            exit_code=ExitCode.USAGE,
        )
    return found


def load(directory: Path) -> LocalPlan | None:
    """None where there is none. Raises ClientError when it cannot be used."""
    path = directory / FILE_NAME
    try:
        document = json.loads(path.read_bytes())
        if document["format"] != FORMAT:
            raise ClientError(f"{path} has format {document['format']!r}, and this program reads {FORMAT}")
        nodes = tuple(LocalNode(**node) for node in document["nodes"])
        for node in nodes:
            for address in (node.listen, node.admin, node.peer):
                parse_address(address)
        if not nodes:
            raise ValueError("no nodes")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ClientError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ClientError(f"{path} cannot be used: {error!r}; take another directory") from error
    return LocalPlan(directory, nodes)


def _make(directory: Path, count: int) -> LocalPlan:
    nodes = [
        LocalNode(f"n{number}", *(f"127.0.0.1:{port + offset}" for offset in range(_PORTS)))
        for number, port in enumerate(free_ports(count, _PORTS), 1)
    ]
    made = LocalPlan(directory, tuple(nodes))
    _write(directory, FILE_NAME, json.dumps({"format": FORMAT, "nodes": [asdict(node) for node in nodes]}, indent=1) + "\n")
    return made


def prepare(made: LocalPlan) -> None:
    """Certificates and settings, where they are missing. Raises ClientError."""
    try:
        if not (made.certs / f"{CA_NAME}.crt").exists():
            make_ca(made.certs)
        for node in made.nodes:
            if not (made.certs / f"{node.name}.crt").exists():
                make_node(made.certs, node.name, _HOSTS)
        if not (made.certs / f"{CLIENT}.crt").exists():
            make_client(made.certs, CLIENT)
    except CertificateError as error:
        raise ClientError(str(error)) from error
    files = made.client_tls
    given = {"listen": made.authority, "tls_ca": files.ca, "tls_cert": files.cert, "tls_key": files.key}
    text = "".join(f"{key} = {json.dumps(str(value))}\n" for key, value in given.items())
    if not made.config.exists():
        _write(made.directory, made.config.name, text)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """This process runs the cluster. Raises ClientError when another one does."""
    path = directory / "up.lock"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ClientError(f"cannot make {error.filename}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ClientError(f"process {holder(path)} runs the cluster in {directory}; see 'keelfs cluster status'") from None
        os.truncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(fd)


def holder(path: Path) -> int | None:
    """The process that has locked this file, by what it wrote there; None when nobody has."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.read(fd, 32).strip()
        return int(text) if text.isdigit() else None
    finally:
        os.close(fd)
    return None


def running(made: LocalPlan, nodes: Sequence[LocalNode] | None = None) -> dict[str, int]:
    """The processes of nodes that run, by name."""
    found = {node.name: holder(made.data(node) / "state" / "keelfs.lock") for node in nodes or made.nodes}
    return {name: pid for name, pid in found.items() if pid is not None}


def _write(directory: Path, name: str, text: str) -> None:
    try:
        RealDisk().make_directory(os.fspath(directory))
        replace(RealDisk(), os.fspath(directory), name, text.encode())
    except OSError as error:
        raise ClientError(f"cannot write {directory / name}: {error.strerror}") from error
