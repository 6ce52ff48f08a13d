"""`keelfs cluster snapshot save|show|restore`: backups of the metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from keelfs.commands.cluster.options import (
    AdminListenOption,
    AdminOption,
    AdvertiseAdminOption,
    AdvertiseClientOption,
    AdvertisePeerOption,
    CertsOption,
    DataOption,
    InsecureOption,
    JsonOption,
    ListenOption,
    NameOption,
    PeerOption,
    ServerArgument,
    TlsCaOption,
    TlsCertOption,
    TlsKeyOption,
    asked,
    settings_given,
)
from keelfs.commands.connection import reaching
from keelfs.console import byte_progress, emit_fields, emit_json, say, size_text, time_text

app = typer.Typer(help="Save, examine and restore the metadata of a cluster.", no_args_is_help=True)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The snapshot.")]


@app.command("save")
@reaching
def save(
    file: FileArgument,
    server: ServerArgument = "",
    force: Annotated[bool, typer.Option("--force", help="Replace FILE.")] = False,
    admin_at: AdminOption = "",
    as_json: JsonOption = False,
) -> None:
    """Save the metadata as of now, while everything goes on. The file is complete, checked and durable when it has its name."""
    from keelfs.snapshot_download import download

    with asked(server, admin_at) as client, byte_progress("saving") as advance:
        saved = download(client.save_snapshot(), file, replace=force, advance=advance)
    if as_json:
        emit_json({"file": str(file), "index": saved.index, "size": saved.size, "checksum": saved.checksum})
    else:
        emit_fields((("file", file), ("index", saved.index), ("size", size_text(saved.size)), ("checksum", saved.checksum)))


def describe(file: Path) -> dict[str, Any]:
    """A snapshot file as JSON (schema in docs/OPERATING.md); all of it is read and checked. Raises ClientError."""
    from keelfs.node_directory import open_snapshot
    from keelfs.snapshot_download import inspect

    with open_snapshot(file) as reader:
        header, size = reader.header, reader.size
    with byte_progress("checking", size) as advance:
        checked = inspect(file, lambda count: advance(count, size))
    return {
        "file": str(file),
        "cluster_id": header.cluster_id,
        "index": header.index,
        "term": header.term,
        "created_ns": header.created_ns,
        "creator": header.creator,
        "members": [{"name": m.name, "client": m.client, "voter": m.voter} for m in header.membership.members],
        "digest": header.digest.hex(),
        "size": checked.size,
        "checksum": checked.checksum,
    }


@app.command("show")
def show(file: FileArgument, as_json: JsonOption = False) -> None:
    """Show what a snapshot is of, and check every byte of it."""
    facts = describe(file)
    if as_json:
        emit_json(facts)
        return
    shown = {
        "created_ns": ("created", time_text(facts["created_ns"])),
        "size": ("size", size_text(facts["size"])),
        "members": ("members", ", ".join(member["name"] for member in facts["members"])),
    }
    emit_fields(shown.get(key, (key, value)) for key, value in facts.items())


@app.command("restore")
def restore(
    file: FileArgument,
    data: DataOption,
    name: NameOption,
    listen: ListenOption,
    admin_at: AdminListenOption = "",
    peer: PeerOption = "",
    advertise_client: AdvertiseClientOption = "",
    advertise_admin: AdvertiseAdminOption = "",
    advertise_peer: AdvertisePeerOption = "",
    certs: CertsOption = "",
    tls_ca: TlsCaOption = "",
    tls_cert: TlsCertOption = "",
    tls_key: TlsKeyOption = "",
    insecure: InsecureOption = False,
) -> None:
    """Make an empty directory the first node of a new cluster, with the metadata of a snapshot."""
    from keelfs import node_directory

    advertise = (advertise_client, advertise_admin, advertise_peer)
    made = settings_given(name, listen, admin_at, peer, advertise, certs, (tls_ca, tls_cert, tls_key), insecure)
    size = file.stat().st_size if file.is_file() else 0
    with byte_progress("restoring", size) as advance:
        header = node_directory.restore(file, data, made, lambda count: advance(count, size))
    say(
        f"{data} is node {name}, the first of a new cluster with everything up to index {header.index}; start it with: "
        f"keelfs server --data {data}"
    )
