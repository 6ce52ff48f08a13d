"""`keelfs info`: an inode's attributes, and where its bytes are: chunks, slices, objects."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fuseclient.attr import Attr
from fuseclient.errors import ClientError
from fuseclient.volume_url import VolumeUrl
from keelfs.admin_client import admin
from keelfs.console import emit_fields, emit_json, emit_table, size_text, time_text
from keelfs.exit_codes import ExitCode
from keelfs.target import mount_of, server_admin_addresses, url_of

if TYPE_CHECKING:
    from protos import admin_pb2


def _text(raw: bytes) -> str:
    return os.fsdecode(raw)


def describe(reply: admin_pb2.InodeInfoReply) -> dict[str, Any]:
    """An inode as JSON (schema in docs/OPERATING.md)."""
    f = Attr(reply.attr).fields
    return {
        "ino": f.ino,
        "paths": [_text(path) for path in reply.paths],
        "mode": stat.filemode(f.mode),
        "nlink": f.nlink,
        "uid": f.uid,
        "gid": f.gid,
        "size": f.size,
        "allocated": f.blocks * 512,
        "atime_ns": f.atime_s * 10**9 + f.atime_nsec,
        "mtime_ns": f.mtime_s * 10**9 + f.mtime_nsec,
        "ctime_ns": f.ctime_s * 10**9 + f.ctime_nsec,
        "btime_ns": f.btime_ns,
        "version": f.version,
        "data_version": f.data_version,
        "open_by": reply.open_by,
        "symlink": _text(reply.symlink) or None,
        "xattrs": [_text(name) for name in reply.xattr_names],
        "truncated": reply.truncated,
        "chunks": [
            {
                "index": chunk.index,
                "extents": [
                    {
                        "pos": e.pos,
                        "len": e.len,
                        "slice": e.slice,
                        "off": e.off,
                        "size": e.size,
                        "inline": e.inline,
                        "objects": list(e.objects),
                    }
                    for e in chunk.extents
                ],
            }
            for chunk in reply.chunks
        ],
    }


def _show(facts: dict[str, Any]) -> None:
    hidden = {"chunks", "paths", "truncated"}
    fields = [("path", path) for path in facts["paths"]]
    for name, value in facts.items():
        if name in hidden or value in (None, []):
            continue
        if name.endswith("_ns"):
            fields.append((name.removesuffix("_ns"), time_text(value)))
        else:
            fields.append((name, ", ".join(value) if isinstance(value, list) else value))
    emit_fields(fields)
    rows = [
        (
            chunk["index"],
            e["pos"],
            size_text(e["len"]),
            e["slice"],
            "inline" if e["inline"] else "\n".join(e["objects"]),
        )
        for chunk in facts["chunks"]
        for e in chunk["extents"]
    ]
    if rows:
        emit_table("", ("chunk", "pos", "length", "slice", "objects"), rows)
    if facts["truncated"]:
        emit_fields([("", "... the file has more chunks than are shown")])


def info(
    what: Annotated[str, typer.Argument(metavar="PATH|INODE", help="A path on a mount, or an inode number with --url.")],
    url: Annotated[str, typer.Option(help="The volume, when WHAT is an inode number or a path below the volume's root.")] = "",
    admin_at: Annotated[str, typer.Option("--admin", help="Admin address, when it is not the port after the server's.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Show an inode: attributes, paths, and which objects hold its bytes."""
    path, ino = b"", 0
    if url:
        target = VolumeUrl.parse(url)
        if what.isdigit():
            ino = int(what)
        else:
            path = os.fsencode(what.strip("/"))
    else:
        mount = mount_of(Path(what))
        if mount is None:
            raise ClientError(f"{what} is not on a KeelFS mount; name the volume with --url", exit_code=ExitCode.USAGE)
        target = url_of(mount.source)
        url = mount.source
        try:
            ino = os.lstat(what).st_ino
        except OSError as error:
            raise ClientError(f"{what}: {error.strerror}") from error
    with admin(server_admin_addresses(url, admin_at)) as client:
        facts = describe(client.inode_info(target.volume, path=path, ino=ino))
    if as_json:
        emit_json(facts)
    else:
        _show(facts)
