"""`keelfs demo`: the whole of KeelFS on this machine in a minute."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keelfs.demonstration import run


def demo(
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Work here and keep it; default: a temporary directory.")
    ] = None,
) -> None:
    """Start a server, mount a volume, unpack and build a source tree on it, restart everything, and compare checksums."""
    run(directory)
