"""`keelfs cluster verify`: do all nodes hold the same?"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from keelfs.admin_client import admin
from keelfs.commands.cluster.options import AdminOption, JsonOption, ServerArgument, asked
from keelfs.console import emit_json, emit_table, out
from keelfs.exit_codes import ExitCode
from keelfs.quantity import parse_duration
from keelfs.state_comparison import Comparison, compare

_GRACE_S = 5.0  # the node's own deadline is to end first, with a better message


def describe(found: Comparison) -> dict[str, Any]:
    """A comparison as JSON (schema in docs/OPERATING.md)."""
    return {
        "index": found.index,
        "equal": found.equal,
        "complete": found.complete,
        "nodes": [asdict(node) for node in found.nodes],
    }


def verify(
    server: ServerArgument = "",
    timeout: Annotated[str, typer.Option(help="How long each node may take; it reads its whole state.")] = "10m",
    admin_at: AdminOption = "",
    as_json: JsonOption = False,
) -> None:
    """Compare the states of all nodes at one index. Exit code 1: they differ; 3: not every node answered."""
    timeout_s = parse_duration(timeout)
    with asked(server, admin_at) as client:
        index = client.mark_digest()
        members = client.members().members
    found = compare(members, index, timeout_s, lambda at: admin(at, timeout_s=timeout_s + _GRACE_S))
    if as_json:
        emit_json(describe(found))
    else:
        _show(found)
    raise typer.Exit(ExitCode.FAILURE if not found.equal else ExitCode.OK if found.complete else ExitCode.PARTIAL)


def _show(found: Comparison) -> None:
    rows = [
        (node.name, node.state[:16] or "?", node.keys if node.state else "", "DIFFERS" if node.differs else node.why)
        for node in found.nodes
    ]
    emit_table(f"at index {found.index}", ("node", "digest", "keys", ""), rows)
    silent = [node.name for node in found.nodes if not node.state]
    if not found.equal:
        wrong = ", ".join(node.name for node in found.nodes if node.differs)
        out.print(f"the states differ: {wrong}. Remove such a node and add it anew with an empty directory", markup=False)
    elif silent:
        out.print(f"the same at every node that answered; {', '.join(silent)} did not", markup=False)
    else:
        out.print("the same at every node", markup=False)
