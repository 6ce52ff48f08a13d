"""`keelfs cluster up|down`: a cluster on this machine, in one command."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fuseclient.errors import ClientError
from keelfs.background import Ready, start_in_background
from keelfs.console import out, say
from keelfs.exit_codes import ExitCode

if TYPE_CHECKING:
    from keelfs.local_plan import LocalPlan

DirectoryArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Holds everything; made when missing.")]


def up(
    count: Annotated[int, typer.Argument(metavar="N", help="How many nodes: 1, 3 or 5.")],
    directory: DirectoryArgument,
    mountpoint: Annotated[Path | None, typer.Option("--mount", metavar="MOUNTPOINT", help="Mount the volume there.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Start a node again that has ended.")] = False,
    background: Annotated[bool, typer.Option("-d", "--background", help="Return as soon as it runs.")] = False,
    ready_fd: Annotated[int, typer.Option(hidden=True)] = -1,
) -> None:
    """Run a cluster of N nodes on this machine, with certificates and a volume. Ctrl-C or `keelfs cluster down` ends it."""
    from keelfs import local_plan
    from keelfs.cluster_up import LocalCluster

    directory = Path(os.path.abspath(directory))
    mountpoint = Path(os.path.abspath(mountpoint)) if mountpoint is not None else None
    if background:
        start_in_background(sys.argv[1:], directory / "up.log")
        _announce(local_plan.plan(directory, count), mountpoint)
        return
    ready = Ready(ready_fd)
    try:
        with local_plan.locked(directory):
            plan = local_plan.plan(directory, count)
            with LocalCluster(plan, mountpoint, say, restart=restart) as running:
                running.start()
                ready.tell()
                _announce(plan, mountpoint)
                code = running.run()
    except (ClientError, OSError) as error:
        ready.fail(str(error))
        raise
    raise typer.Exit(code)


def _announce(plan: LocalPlan, mountpoint: Path | None) -> None:
    names = ", ".join(node.name for node in plan.nodes)
    say(f"the cluster runs: {names}; data, logs and certificates are in {plan.directory}")
    say(f"to use it from other commands: export KEELFS_CONFIG={plan.config}")
    if mountpoint is not None:
        say(f"mounted on {mountpoint}")
    say(f"it ends with: keelfs cluster down {plan.directory}")
    out.print(plan.url, markup=False)


def down(directory: DirectoryArgument) -> None:
    """End the cluster that `keelfs cluster up` runs in DIR; its data stays."""
    from keelfs.cluster_up import down as end_cluster

    ended = end_cluster(Path(os.path.abspath(directory)))
    if not ended:
        raise ClientError(f"no cluster runs in {directory}", exit_code=ExitCode.FAILURE)
    say(f"ended: {', '.join(ended)}")
