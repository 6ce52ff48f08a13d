"""Sizes and durations as people write them: `4MiB`, `300M`, `1.5TiB`, `30s`, `5m`."""

from __future__ import annotations

import re
from typing import Final

import typer

_SIZE: Final = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?b?)\s*$", re.IGNORECASE)
_POWER: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_DURATION: Final = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*$", re.IGNORECASE)
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_size(text: str) -> int:
    """Bytes. Units are powers of 1024 whether written K, KB or KiB. Raises a usage error."""
    match = _SIZE.match(text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a size; write for example 4MiB, 300M or 0")
    return int(float(match[1]) * 1024 ** _POWER[match[2].lower()])


def parse_duration(text: str) -> float:
    """Seconds; a bare number is seconds. Raises a usage error."""
    match = _DURATION.match(text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a duration; write for example 500ms, 30s or 5m")
    return float(match[1]) * _SECONDS[(match[2] or "s").lower()]
