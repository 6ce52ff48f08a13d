"""`keelfs cluster ...`: its verbs, one file per group."""

from __future__ import annotations

import typer

from keelfs.commands.cluster import local, members, nodes, snapshot, state, verify
from keelfs.commands.connection import reaching

app = typer.Typer(help="Create, grow, watch and repair a cluster of metadata nodes.", no_args_is_help=True)

app.command("up")(local.up)
app.command("down")(local.down)
app.command("init")(nodes.init)
app.command("add")(nodes.add)
app.command("recover")(nodes.recover)
app.command("status")(reaching(state.status))
app.command("health")(reaching(state.health))
app.command("verify")(reaching(verify.verify))
app.command("promote")(reaching(members.promote))
app.command("remove")(reaching(members.remove))
app.command("transfer")(reaching(members.transfer))
app.add_typer(snapshot.app, name="snapshot")
