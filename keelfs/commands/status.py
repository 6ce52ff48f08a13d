"""`keelfs status`: how a server and its sessions are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from keelfs.admin_client import admin
from keelfs.console import emit_fields, emit_json, emit_table, size_text
from keelfs.target import server_admin_addresses

if TYPE_CHECKING:
    from protos import admin_pb2


SINGLE = "single"  # the role of a node that is no cluster's


def describe(reply: admin_pb2.StatusReply) -> dict[str, Any]:
    """A server as JSON (schema in docs/OPERATING.md): the reply's own fields, numbers as numbers."""
    facts = {field.name: getattr(reply, field.name) for field in reply.DESCRIPTOR.fields if field.name != "sessions"}
    facts["sessions"] = [{f.name: getattr(session, f.name) for f in session.DESCRIPTOR.fields} for session in reply.sessions]
    return facts


def status(
    server: Annotated[
        str, typer.Argument(help="keel:// URL, host:port, or a path on a mount; default: the configured server.")
    ] = "",
    admin_at: Annotated[str, typer.Option("--admin", help="Admin address, when it is not the port after the server's.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Show a server's role, log, store and sessions."""
    with admin(server_admin_addresses(server, admin_at)) as client:
        reply = client.status()
        members = client.members().members if reply.role != SINGLE and not as_json else ()
    if as_json:
        emit_json(describe(reply))
        return
    emit_fields(
        (
            ("version", reply.version),
            ("cluster", reply.cluster_id),
            ("node", reply.node_id),
            *((("name", reply.name),) if members else ()),
            ("role", f"{reply.role} (term {reply.term})"),
            *((("leader", reply.leader or "none"),) if members else ()),
            ("state", f"read-only: {reply.read_only_reason}" if reply.read_only else "writable"),
            ("up", f"{reply.uptime_ms / 1000:.0f} s"),
            ("log index", f"{reply.index_applied} applied, {reply.index_checkpointed} checkpointed"),
            ("log", size_text(reply.wal_bytes)),
            ("store", size_text(reply.store_bytes)),
            ("memory", size_text(reply.rss_bytes)),
            ("inodes", reply.inodes),
            ("orphans", reply.orphans),
            ("slices to delete", reply.slices_doomed),
        )
    )
    if members:
        emit_table(
            "",
            ("member", "vote", "connected", "clients", "admin"),
            ((m.name, "voter" if m.voter else "learner", "yes" if m.reachable else "no", m.client, m.admin) for m in members),
        )
    if reply.sessions:
        emit_table(
            "",
            ("session", "volume", "client", "connected", "silent", "open files"),
            (
                (s.session, s.volume, s.client, "yes" if s.connected else "no", f"{s.silent_ms} ms", s.open_files)
                for s in reply.sessions
            ),
        )
