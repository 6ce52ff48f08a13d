"""`keelfs version`: what is installed."""

from __future__ import annotations

import platform
from typing import Annotated

import typer

from keelfs import __version__
from keelfs.console import emit_fields, emit_json


def version(as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False) -> None:
    """Show the version of KeelFS, of Python and of the kernel."""
    facts = {"keelfs": __version__, "python": platform.python_version(), "kernel": platform.release()}
    if as_json:
        emit_json(facts)
    else:
        emit_fields(facts.items())
