"""`keelfs cluster init|add|recover`: directories become nodes."""

from __future__ import annotations

from typing import Annotated

import typer

from fuseclient.errors import ClientError
from keelfs.commands.cluster.options import (
    AdminListenOption,
    AdvertiseAdminOption,
    AdvertiseClientOption,
    AdvertisePeerOption,
    CertsOption,
    DataOption,
    InsecureOption,
    ListenOption,
    NameOption,
    PeerOption,
    TlsCaOption,
    TlsCertOption,
    TlsKeyOption,
    asked_as,
    settings_given,
)
from keelfs.console import emit_fields, say
from keelfs.exit_codes import ExitCode
from keelfs.quantity import parse_duration


def init(
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
    """Make a directory the first node of a new cluster. A single node's directory keeps its volumes; stop its server first."""
    from keelfs import node_directory

    advertise = (advertise_client, advertise_admin, advertise_peer)
    made = settings_given(name, listen, admin_at, peer, advertise, certs, (tls_ca, tls_cert, tls_key), insecure)
    node_directory.found(data, made)
    say(f"{data} is node {name}, the first of a new cluster; start it with: keelfs server --data {data}")


def add(
    server: Annotated[str, typer.Argument(metavar="SERVER", help="Any node of the cluster: keel:// URL or host:port.")],
    data: DataOption,
    name: NameOption,
    listen: ListenOption,
    admin_at: AdminListenOption = "",
    peer: PeerOption = "",
    server_admin: Annotated[str, typer.Option(help="SERVER's admin address, when it is not the port after.")] = "",
    advertise_client: AdvertiseClientOption = "",
    advertise_admin: AdvertiseAdminOption = "",
    advertise_peer: AdvertisePeerOption = "",
    certs: CertsOption = "",
    tls_ca: TlsCaOption = "",
    tls_cert: TlsCertOption = "",
    tls_key: TlsKeyOption = "",
    insecure: InsecureOption = False,
    promote: Annotated[
        bool, typer.Option("--promote", help="Wait until the node runs and has caught up, and make it a voter.")
    ] = False,
    timeout: Annotated[str, typer.Option(help="How long --promote waits.")] = "10m",
) -> None:
    """Make an empty directory a new node of a cluster: a learner, which gets the data and has no vote until it is promoted."""
    from keelfs import joining

    timeout_s = parse_duration(timeout)
    advertise = (advertise_client, advertise_admin, advertise_peer)
    made = settings_given(name, listen, admin_at, peer, advertise, certs, (tls_ca, tls_cert, tls_key), insecure)
    with asked_as(made, server, server_admin) as client:
        joining.add(client, data, made)
        say(f"node {name} is a learner of the cluster; start it with: keelfs server --data {data}")
        if promote:
            joining.promote(client, name, timeout_s, say)
            say(f"node {name} is a voter")
        else:
            say(f"when it has caught up, make it a voter with: keelfs cluster promote {name}")


def recover(
    data: DataOption,
    accept: Annotated[
        bool, typer.Option("--yes-i-accept-data-loss", help="Do it; without this, only show what the directory has.")
    ] = False,
) -> None:
    """After the loss of a majority: make one survivor's directory a cluster of its own. Acknowledged changes may be lost."""
    from keelfs import node_directory

    if not accept:
        found = node_directory.survivor_of(data)
        emit_fields(
            (
                ("node", found.name),
                ("cluster", found.identity.cluster_id),
                ("members", ", ".join(f"{m.name}{'' if m.voter else ' (learner)'}" for m in found.membership.members)),
                ("last term", found.last_term),
                ("last index", found.last_index),
                ("state", f"up to {found.state_index}"),
            )
        )
        raise ClientError(
            "nothing was changed. Take the survivor with the highest last term, among those the one with the highest last "
            "index, and give --yes-i-accept-data-loss: what the lost nodes had and this one has not is lost, also if it was "
            "acknowledged. The other old nodes must never run again before their directories are emptied",
            exit_code=ExitCode.USAGE,
        )
    was, now = node_directory.go_alone(data)
    say(
        f"{data} is a cluster of its own now: node {now.name}, cluster {now.identity.cluster_id}, with everything up to index "
        f"{was.last_index} of term {was.last_term}. Start it with: keelfs server --data {data}"
    )
    others = [member.name for member in was.membership.members if member.name != was.name]
    if others:
        say(f"{', '.join(others)}: empty their directories before they are added again with 'keelfs cluster add'")
