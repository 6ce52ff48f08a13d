"""`keelfs cluster promote|remove|transfer`: changes of a running cluster."""

from __future__ import annotations

import time
from typing import Annotated, Final

import typer

from fuseclient.errors import ClientError
from keelfs.commands.cluster.options import AdminOption, ServerArgument, asked
from keelfs.console import say
from keelfs.exit_codes import ExitCode
from keelfs.quantity import parse_duration

_TOLD_S: Final = 5.0
_POLL_S: Final = 0.05

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A node's name.")]


def promote(
    name: NameArgument,
    server: ServerArgument = "",
    timeout: Annotated[str, typer.Option(help="How long to wait until it has caught up.")] = "1m",
    admin_at: AdminOption = "",
) -> None:
    """Make a learner a voter, as soon as it has caught up."""
    from keelfs import joining

    with asked(server, admin_at) as client:
        joining.promote(client, name, parse_duration(timeout), say)
    say(f"node {name} is a voter")


def remove(
    name: NameArgument,
    server: ServerArgument = "",
    force: Annotated[bool, typer.Option("--force", help="Also when too few of the others are reachable.")] = False,
    admin_at: AdminOption = "",
) -> None:
    """Take a node out of the cluster. Refused when the rest would have no majority."""
    with asked(server, admin_at) as client:
        before = client.members()
        if name not in {member.name for member in before.members}:
            raise ClientError(
                f"there is no node {name!r} in the cluster; its nodes are {', '.join(m.name for m in before.members)}",
                exit_code=ExitCode.USAGE,
            )
        client.remove_member(name, force=force)
    say(f"node {name} is no member any more: stop its server, and empty its directory before it is added again")


def transfer(
    server: ServerArgument = "",
    to: Annotated[str, typer.Option(help="The node that is to lead; default: the one that has the most.")] = "",
    admin_at: AdminOption = "",
) -> None:
    """Hand leadership to another node; writes wait for a moment."""
    with asked(server, admin_at) as client:
        reply = client.transfer(to)
        until = time.monotonic() + _TOLD_S
        while not reply.leader and time.monotonic() < until:  # whoever led does not know yet who leads now
            time.sleep(_POLL_S)
            reply = client.members()
    say(f"node {reply.leader} leads" if reply.leader else "leadership was handed over")
