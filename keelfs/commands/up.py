"""`keelfs up`: a file system of one's own in one command: server, volume, file:// store and mount below one directory."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from keelfs.background import Ready, start_in_background
from keelfs.console import say
from keelfs.embedded import Embedded


def up(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Holds metadata, objects and logs; made when missing.")],
    mountpoint: Annotated[Path, typer.Argument(help="An empty directory; made when missing.")],
    background: Annotated[bool, typer.Option("-d", "--background", help="Return as soon as it is mounted.")] = False,
    ready_fd: Annotated[int, typer.Option(hidden=True)] = -1,
) -> None:
    """Start a server in DIR, make its volume when there is none, and mount it. Ctrl-C or `keelfs umount` ends both."""
    directory, mountpoint = Path(os.path.abspath(directory)), Path(os.path.abspath(mountpoint))
    if background:
        start_in_background(sys.argv[1:], directory / "up.log")
        say(f"mounted on {mountpoint}; end it with: keelfs umount {mountpoint}")
        return
    ready = Ready(ready_fd)
    with Embedded(directory, mountpoint) as running:
        try:
            running.start()
        except Exception as error:
            ready.fail(str(error))
            raise
        ready.tell()
        say(f"mounted on {mountpoint} ({running.url}); data in {directory}; Ctrl-C ends it")
        code = running.wait()
    raise typer.Exit(code)
