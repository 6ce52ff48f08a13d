"""`keelfs format` and `keelfs volume list|show|set|destroy`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fuseclient.errors import ClientError
from fuseclient.volume_url import VolumeUrl
from keelfs.admin_client import admin
from keelfs.commands.connection import reaching
from keelfs.console import emit_fields, emit_json, emit_table, say, size_text, time_text
from keelfs.exit_codes import ExitCode
from keelfs.quantity import parse_size
from keelfs.target import server_admin_addresses

if TYPE_CHECKING:
    from protos import admin_pb2

app = typer.Typer(help="List, show, change and destroy volumes.", no_args_is_help=True)

AdminOption = Annotated[str, typer.Option("--admin", help="Admin address, when it is not the port after the server's.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON.")]
ServerArgument = Annotated[str, typer.Argument(help="keel://host:port or host:port; default: the configured server.")]
AclOption = Annotated[bool, typer.Option(help="POSIX ACLs: kept, shown and enforced.")]
UrlArgument = Annotated[str, typer.Argument(metavar="URL", help="keel://host[:port]/volume")]


def describe(volume: admin_pb2.Volume) -> dict[str, Any]:
    """A volume as JSON (schema in docs/OPERATING.md)."""
    return {
        "name": volume.name,
        "id": volume.id,
        "root": volume.root,
        "created_ns": volume.created_ns,
        "bytes_used": volume.bytes_used,
        "inodes_used": volume.inodes_used,
        "slices_doomed": volume.slices_doomed,
        "settings": json.loads(volume.settings_json),
    }


def _show(volume: admin_pb2.Volume, as_json: bool) -> None:
    facts = describe(volume)
    if as_json:
        emit_json(facts)
        return
    sizes = {"bytes_used", "capacity_bytes", "block_bytes", "inline_bytes"}
    flat = {**{k: v for k, v in facts.items() if k != "settings"}, **facts["settings"]}
    flat = {"created" if k == "created_ns" else k: time_text(v) if k == "created_ns" else v for k, v in flat.items()}
    for limit in ("capacity_bytes", "capacity_inodes"):
        flat[limit] = flat.get(limit) or "no limit"
    emit_fields((name, size_text(value) if name in sizes and isinstance(value, int) else value) for name, value in flat.items())


def format_volume(
    url: UrlArgument,
    store: Annotated[str, typer.Option(help="Where the data goes: file:///path or s3://bucket/prefix?endpoint=...&region=...")],
    block_size: Annotated[str, typer.Option(help="Bytes per object, a power of two from 64KiB to 64MiB.")] = "4MiB",
    inline: Annotated[str, typer.Option(help="Writes up to this size are kept in the metadata; 0 to 64KiB.")] = "4KiB",
    capacity: Annotated[str, typer.Option(help="Largest total size; 0 = no limit.")] = "0",
    inodes: Annotated[int, typer.Option(min=0, help="Largest number of files; 0 = no limit.")] = 0,
    acl: AclOption = True,
    admin_at: AdminOption = "",
    as_json: JsonOption = False,
) -> None:
    """Create a volume. Its data will be kept in STORE, whose credentials come from the environment."""
    from keelfs.formatting import create_volume

    target = VolumeUrl.parse(url)
    wanted = {
        "store": store,
        "block_bytes": parse_size(block_size),
        "inline_bytes": parse_size(inline),
        "capacity_bytes": parse_size(capacity),
        "capacity_inodes": inodes,
        "acl": acl,
    }
    with admin(server_admin_addresses(url, admin_at)) as client:
        made = create_volume(client, target.volume, wanted)
    if not as_json:
        say(f"volume {made.name} is ready; mount it with: keelfs mount {url} MOUNTPOINT")
    _show(made, as_json)


@app.command("list")
@reaching
def list_volumes(server: ServerArgument = "", admin_at: AdminOption = "", as_json: JsonOption = False) -> None:
    """List the volumes of a cluster."""
    with admin(server_admin_addresses(server, admin_at)) as client:
        volumes = client.volumes()
    if as_json:
        emit_json([describe(volume) for volume in volumes])
        return
    emit_table(
        "",
        ("name", "id", "used", "inodes", "store"),
        ((v.name, v.id, size_text(v.bytes_used), v.inodes_used, json.loads(v.settings_json).get("store", "")) for v in volumes),
    )


@app.command("show")
@reaching
def show_volume(url: UrlArgument, admin_at: AdminOption = "", as_json: JsonOption = False) -> None:
    """Show one volume's settings and usage."""
    with admin(server_admin_addresses(url, admin_at)) as client:
        _show(client.volume(VolumeUrl.parse(url).volume), as_json)


@app.command("set")
@reaching
def set_volume(
    url: UrlArgument,
    acl: Annotated[bool | None, typer.Option(help="POSIX ACLs: kept, shown and enforced.")] = None,
    admin_at: AdminOption = "",
    as_json: JsonOption = False,
) -> None:
    """Change a volume's settings. Mounts follow when they are mounted the next time."""
    changes = {name: value for name, value in (("acl", acl),) if value is not None}
    if not changes:
        raise ClientError("say what to change: --acl or --no-acl", exit_code=ExitCode.USAGE)
    with admin(server_admin_addresses(url, admin_at)) as client:
        changed = client.set_volume(VolumeUrl.parse(url).volume, json.dumps(changes))
    if not as_json:
        say(f"volume {changed.name} is changed; mounts that are there now follow when they are mounted again")
    _show(changed, as_json)


@app.command("destroy")
@reaching
def destroy_volume(
    url: UrlArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    force: Annotated[bool, typer.Option(help="Also when it holds files or is mounted.")] = False,
    admin_at: AdminOption = "",
    as_json: JsonOption = False,
) -> None:
    """Destroy a volume and delete its objects. This cannot be undone."""
    name = VolumeUrl.parse(url).volume
    with admin(server_admin_addresses(url, admin_at)) as client:
        volume = client.volume(name)
        if not yes:
            typer.confirm(
                f"Destroy volume {name} with {volume.inodes_used} inodes and {size_text(volume.bytes_used)}?",
                abort=True,
                err=True,
            )
        reply = client.destroy_volume(name, force=force)
        store = json.loads(volume.settings_json)["store"]
    from fuseclient.data.purge import purge_volume

    removed = purge_volume(store, name)
    if as_json:
        emit_json({"name": name, "inodes": reply.inodes, "slices": reply.slices, "objects": removed})
    else:
        say(f"volume {name} is gone: {reply.inodes} inodes, {removed} objects")
