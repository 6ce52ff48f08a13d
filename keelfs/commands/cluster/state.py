"""`keelfs cluster status|health`: how the nodes are."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from keelfs import cluster_view
from keelfs.admin_client import admin
from keelfs.cluster_view import ClusterView, NodeView, Verdict
from keelfs.commands.cluster.options import AdminOption, JsonOption, ServerArgument
from keelfs.console import emit_fields, emit_json, emit_table, out
from keelfs.target import server_admin_addresses


def look(server: str, admin_at: str) -> ClusterView:
    """What every node of the cluster says, each asked by itself."""
    return cluster_view.look(server_admin_addresses(server, admin_at), lambda at: admin(at, timeout_s=cluster_view.DEADLINE_S))


def describe(view: ClusterView, verdict: Verdict) -> dict[str, Any]:
    """A cluster as JSON (schema in docs/OPERATING.md)."""
    return {
        "cluster_id": view.cluster_id,
        "health": verdict.level.value,
        "leader": view.leader,
        "term": view.term,
        "quorum": view.quorum,
        "may_lose": verdict.may_lose,
        "problems": list(verdict.problems),
        "nodes": [asdict(node) for node in view.nodes],
    }


def status(server: ServerArgument = "", admin_at: AdminOption = "", as_json: JsonOption = False) -> None:
    """Show the nodes of a cluster; every one of them is asked."""
    view = look(server, admin_at)
    verdict = cluster_view.judge(view)
    if as_json:
        emit_json(describe(view, verdict))
        return
    emit_fields(
        (
            ("cluster", view.cluster_id),
            ("leader", view.leader or "none"),
            ("term", view.term),
            ("health", verdict.level.value),
            ("may lose", f"{verdict.may_lose} of {len(view.voters)} voters"),
        )
    )
    emit_table("", ("node", "role", "term", "applied", "lag", "connected", "clients", "note"), map(_row, view.nodes))


def _row(node: NodeView) -> tuple[object, ...]:
    note = "does not answer" if not node.answers else f"read-only: {node.read_only_reason}" if node.read_only else ""
    lag = "" if node.lag is None else node.lag
    return (
        node.name,
        (node.role if node.answers else "?") + ("" if node.voter or node.role == "learner" else " (learner)"),
        node.term if node.answers else "",
        node.index_applied if node.answers else "",
        lag,
        "yes" if node.reachable else "no",
        node.client,
        note,
    )


def health(
    server: ServerArgument = "",
    max_lag: Annotated[int, typer.Option(min=0, help="A voter may be this many entries behind.")] = cluster_view.LAG_MAX,
    admin_at: AdminOption = "",
    as_json: JsonOption = False,
) -> None:
    """Tell by the exit code whether a cluster is well: 0 yes, 3 it works and something is wrong, 11 it takes no writes."""
    view = look(server, admin_at)
    verdict = cluster_view.judge(view, max_lag)
    if as_json:
        facts = describe(view, verdict)
        del facts["nodes"]
        emit_json(facts)
    else:
        out.print(f"{verdict.level.value}: {_summary(view, verdict)}", markup=False)
        for problem in verdict.problems:
            out.print(f"- {problem}", markup=False)
    raise typer.Exit(verdict.level.exit_code)


def _summary(view: ClusterView, verdict: Verdict) -> str:
    count = f"{view.together} of {len(view.voters)} voters work together"
    if not view.leader:
        return f"no leader among {len(view.voters)} voters"
    return f"{view.leader} leads, {count}, {verdict.may_lose} more may fail"
