"""What a metadata server is told at its start: one frozen value, validated before anything is opened."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

    from raft.tls import TlsFiles

EXIT_FAILURE: Final = 1
EXIT_CONFIG: Final = 2
EXIT_ADDRESS: Final = 3  # an address cannot be listened on
EXIT_DATA: Final = 4  # the data directory cannot be used: locked, denied, full
EXIT_CORRUPT: Final = 5  # the log or the store is damaged


LOG_SEGMENT_MIN: Final = 64 << 10


class ServerError(Exception):
    """The server cannot start or go on. The message is complete and for people: one line, what, why and what next."""

    def __init__(self, message: str, exit_code: int = EXIT_FAILURE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """`listen` serves clients, `admin` the administration, `peer_listen` the other nodes of a cluster (None: a single node);
    all are host:port, port 0 picks a free one. The `advertise_*` addresses are what others are told instead, where they differ.
    """

    data_dir: Path
    listen: str = "127.0.0.1:7420"
    admin: str = "127.0.0.1:7421"
    insecure: bool = False  # allow plaintext beyond this machine
    name: str = ""  # this node's in its cluster; "" = the one that the data directory knows
    peer_listen: str | None = None
    advertise_client: str = ""
    advertise_admin: str = ""
    advertise_peer: str = ""
    tls: TlsFiles | None = None  # who is trusted, this node's certificate, its key; None: plaintext
    session_ttl_s: float = 60.0
    sessions_max: int = 1024
    in_flight_max: int = 8192  # changes of one session without result
    watches_per_stream: int = 100_000
    delete_delay_s: float = 30.0
    reserve_bytes: int = 64 << 20  # free space of the data directory below which only deletes are accepted
    map_bytes: int = 1 << 40
    entry_items: int = 1024
    entry_bytes: int = 4 << 20
    queue_items: int = 16384
    stop_grace_s: float = 5.0
    transfer_s: float = 2.0  # how long a leader that stops tries to hand over
    wait_max_s: float = 10.0  # how long a request waits for a majority
    verify_interval_s: float = 6 * 3600.0  # between comparisons of all nodes' states, which the leader begins; 0 = none
    log_segment_bytes: int = 64 << 20
    log_retain_bytes: int = 128 << 20  # of entries that the state holds and a node that was away may lack

    def validate(self) -> None:
        """Refuse what cannot work or is not safe. Raises ServerError."""
        listening = {"listen": self.listen, "admin": self.admin}
        if self.peer_listen is not None:
            listening["peer"] = self.peer_listen
        for name, address in listening.items():
            host, _ = split_address(name, address)
            if not self.insecure and self.tls is None and not is_loopback(host):
                raise ServerError(
                    f"--{name} {address} is reachable from other machines, and traffic is not encrypted: give the node "
                    "certificates (--tls-ca, --tls-cert, --tls-key), listen on 127.0.0.1, or pass --insecure if the network is "
                    "yours alone",
                    EXIT_CONFIG,
                )
        advertised = {"client": self.advertise_client, "admin": self.advertise_admin, "peer": self.advertise_peer}
        for name, address in advertised.items():
            if address and split_address(f"advertise-{name}", address)[1] == 0:
                raise ServerError(f"--advertise-{name} {address}: others need a port that is not 0", EXIT_CONFIG)
        positive = {
            "session_ttl_s": self.session_ttl_s,
            "sessions_max": self.sessions_max,
            "in_flight_max": self.in_flight_max,
            "wait_max_s": self.wait_max_s,
        }
        for name, value in positive.items():
            if value <= 0:
                raise ServerError(f"{name} must be greater than 0, not {value}", EXIT_CONFIG)
        if min(self.delete_delay_s, self.reserve_bytes, self.verify_interval_s, self.log_retain_bytes) < 0:
            wrong = "delete_delay_s, reserve_bytes, verify_interval_s and log_retain_bytes must not be negative"
            raise ServerError(wrong, EXIT_CONFIG)
        if self.log_segment_bytes < LOG_SEGMENT_MIN:
            raise ServerError(f"log_segment_bytes must be {LOG_SEGMENT_MIN} at least", EXIT_CONFIG)


def split_address(name: str, address: str) -> tuple[str, int]:
    """host:port or [v6]:port into its parts."""
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ServerError(f"--{name} {address}: not an address; write host:port, as in 127.0.0.1:7420", EXIT_CONFIG)
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it. A name other than localhost is not looked up: it may change."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
