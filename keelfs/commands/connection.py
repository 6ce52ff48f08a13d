"""How a command reaches a cluster: the options `--tls-ca`, `--tls-cert`, `--tls-key` and `--insecure`, which every command that
asks a server has, and which count more than the site's settings of the same names.

They are put where the settings look first, in the environment, before the settings are read; a child inherits them so. They
name files, and hold no secrets.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from typing import Annotated, Any, Final

import typer

from keelfs.settings import settings

_OPTIONS: Final = {
    "tls_ca": Annotated[str, typer.Option("--tls-ca", help="The cluster's CA, a file.")],
    "tls_cert": Annotated[str, typer.Option("--tls-cert", help="This client's certificate, a file.")],
    "tls_key": Annotated[str, typer.Option("--tls-key", help="Its key, a file.")],
    "insecure": Annotated[
        bool, typer.Option("--insecure", help="Talk to other machines without TLS: anybody on the way can change everything.")
    ],
}


def reaching(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options."""

    @functools.wraps(command)
    def run(**given: Any) -> None:
        for name in _OPTIONS:
            value = given.pop(name)
            if value:
                os.environ[f"KEELFS_{name.upper()}"] = "true" if value is True else os.path.abspath(value)
                settings.cache_clear()
        command(**given)

    own = inspect.signature(command, eval_str=True).parameters.values()
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default="" if name != "insecure" else False, annotation=option)
        for name, option in _OPTIONS.items()
    ]
    del run.__wrapped__  # typer would look there, and at names that only the command's module knows
    run.__annotations__ = {}
    run.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
    return run
