"""`keelfs certs make|init|node|client|show`."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fuseclient.errors import ClientError
from keelfs.console import emit_json, emit_table, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raft.certificates import Description

app = typer.Typer(help="Make the certificates of a cluster, and show what is in them.", no_args_is_help=True)

DirectoryOption = Annotated[Path, typer.Option("--dir", help="Where the CA is and the files go.")]
HostOption = Annotated[
    list[str],
    typer.Option("--host", metavar="ADDR", help="A host name or IP address of the node, without port; again for another one."),
]
DaysOption = Annotated[int, typer.Option(min=1, max=36500, help="How long it is valid; never longer than the CA.")]
DAYS = 1826


@app.command("make")
def make(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where the files go.")],
    nodes: Annotated[str, typer.Option(help="Names of nodes, with commas between them.")] = "n1,n2,n3",
    host: HostOption = ["127.0.0.1"],  # noqa: B006  # typer reads the default and copies it
    clients: Annotated[str, typer.Option(help="Names of clients, with commas between them.")] = "admin",
    days: DaysOption = DAYS,
) -> None:
    """Make everything at once: a CA, and certificates for nodes at the same addresses and for clients."""
    from raft.certificates import make_all

    with _refusals():
        made = make_all(directory, _names(nodes), _names(",".join(host)), _names(clients), days=days)
    for path in made:
        _tell(path)


@app.command("init")
def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where ca.crt and ca.key go; made when it is missing.")],
    days: Annotated[int, typer.Option(min=1, max=36500, help="How long it is valid.")] = 3652,
) -> None:
    """Make a CA for one cluster. Who has its key decides who belongs to the cluster: keep ca.key off the nodes."""
    from raft.certificates import make_ca

    with _refusals():
        _tell(make_ca(directory, days=days))


@app.command("node")
def node(
    name: Annotated[str, typer.Argument(help="The node's name in the cluster.")],
    host: HostOption,
    directory: DirectoryOption = Path(),
    days: DaysOption = DAYS,
) -> None:
    """Make a node's certificate. It needs ca.crt and these two files on its machine, and nothing else of the directory."""
    from raft.certificates import make_node

    with _refusals():
        _tell(make_node(directory, name, _names(",".join(host)), days=days))


@app.command("client")
def client(
    name: Annotated[str, typer.Argument(help="Who it is for, such as a machine or a person.")],
    directory: DirectoryOption = Path(),
    days: DaysOption = DAYS,
) -> None:
    """Make a certificate for mounts and administration."""
    from raft.certificates import make_client

    with _refusals():
        _tell(make_client(directory, name, days=days))


@app.command("show")
def show(
    path: Annotated[Path, typer.Argument(help="A .crt file, or a directory with such files.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Show whom certificates are for, and until when they are valid."""
    from raft.certificates import describe, describe_all

    with _refusals():
        found = describe_all(path) if path.is_dir() else [describe(path)]
    now = time.time()
    if as_json:
        emit_json([_facts(one, now) for one in found])
        return
    emit_table(
        "",
        ("file", "for", "name", "addresses", "valid until", ""),
        (
            (Path(c.path).name, c.kind, c.name, ", ".join(c.hosts), f"{c.not_after:%Y-%m-%d %H:%M} UTC", _verdict(c, now))
            for c in found
        ),
    )


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    from raft.certificates import CertificateError

    try:
        yield
    except CertificateError as error:
        raise ClientError(str(error)) from error


def _names(text: str) -> list[str]:
    return [name for name in (part.strip() for part in text.split(",")) if name]


def _tell(path: Path) -> None:
    say(f"made {path} and {path.with_suffix('.key').name}")


def _facts(one: Description, now: float) -> dict[str, Any]:
    """A certificate as JSON (schema in docs/OPERATING.md)."""
    return {
        "path": one.path,
        "kind": one.kind,
        "name": one.name,
        "hosts": list(one.hosts),
        "serial": one.serial,
        "issuer": one.issuer,
        "not_before_ns": int(one.not_before.timestamp()) * 10**9,
        "not_after_ns": int(one.not_after.timestamp()) * 10**9,
        "valid": _verdict(one, now) not in ("expired", "not valid yet"),
    }


def _verdict(one: Description, now: float) -> str:
    left = one.not_after.timestamp() - now
    if left < 0:
        return "expired"
    if one.not_before.timestamp() > now:
        return "not valid yet"
    return f"{left / 86400:.0f} days left"
