"""Telling systemd that a long-running command is ready (sd_notify(3)), for units of Type=notify.

One datagram on the socket that $NOTIFY_SOCKET names; without the variable nothing happens. Children do not inherit the variable
from then on: they are not the service.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Final

VARIABLE: Final = "NOTIFY_SOCKET"


def tell_ready() -> None:
    """This process serves now. Raises nothing: who started it finds out by its own timeout."""
    path = os.environ.pop(VARIABLE, "")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
        notify.sendto(b"READY=1", address)
