"""How commands speak: data on stdout, words on stderr, tables and progress only for people.

`--json` writes one JSON document to stdout and nothing else. Colour and progress appear on a terminal only (NO_COLOR is obeyed
by rich).
"""

from __future__ import annotations

import contextlib
import datetime
import json
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def fail(message: str) -> None:
    """Say what went wrong."""
    err.print(f"keelfs: {message}", style="red", markup=False)


def say(message: str) -> None:
    """Tell a person how it goes."""
    err.print(message, markup=False)


def emit_json(document: Any) -> None:
    """The command's answer, for programs. Bytes become text with escapes that os.fsencode undoes."""
    json.dump(document, sys.stdout, indent=2, sort_keys=False, default=_plain)
    sys.stdout.write("\n")


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    raise TypeError(f"cannot write {type(value).__name__} as JSON")


def emit_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """The command's answer, for people."""
    table = Table(title=title or None, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    out.print(table)


def emit_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Names and values, one a line."""
    pairs = list(fields)
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        out.print(f"{name:<{width}}  {value}", markup=False)


def size_text(size: int) -> str:
    """Bytes as people read them: 4096 -> '4 KiB'."""
    value = float(size)
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            return f"{value:.0f} {unit}" if value == int(value) or unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError


def time_text(ns: int) -> str:
    """Nanoseconds since the epoch as people read them, in UTC."""
    seconds, rest = divmod(ns, 10**9)
    try:
        moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return f"{ns} ns"
    return f"{moment:%Y-%m-%d %H:%M:%S}.{rest:09d} UTC"


def progress(description: str) -> Progress:
    """A bar on stderr, invisible unless that is a terminal. `description` names the first task to add."""
    return Progress(
        TextColumn(description),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )


@contextlib.contextmanager
def byte_progress(description: str, total: int = 0) -> Iterator[Callable[[int, int], None]]:
    """The same for bytes. Gives a function that is called with how many more there are, and how many there will be in all."""
    with Progress(
        TextColumn(description),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    ) as bar:
        task = bar.add_task(description, total=total)
        yield lambda count, size: bar.update(task, advance=count, total=size)
