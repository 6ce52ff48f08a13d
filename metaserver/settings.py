"""A volume's settings as an administrator gives them: validated, defaults filled in, in one canonical JSON text.

store            where file data goes: file:///path or s3://bucket[/prefix][?endpoint=...&region=...&...]; no secrets
block_bytes      size of one object, a power of two
inline_bytes     slices up to this size are kept in the metadata
capacity_bytes   limit of the volume, 0 = none
capacity_inodes  the same for inodes
acl              whether POSIX ACLs are in force

The server adds `uuid`, which nobody gives: it tells a volume from another that had the same name, store and slice numbers,
when a cluster is made anew. Who caches a volume's data keeps it under this.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlsplit

from metaserver.core.model import CHUNK_BYTES, INLINE_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

SETTINGS_BYTES_MAX: Final = 64 << 10
STORE_URL_MAX: Final = 4096
VOLUME_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

_SECRET_WORDS: Final = ("secret", "password", "passwd", "token", "access_key", "accesskey", "credential")


class SettingsError(Exception):
    """The settings are not good; the message says which and why."""


def check_volume_name(name: str) -> str:
    """A name is part of every object's key, so it is kept simple."""
    if not VOLUME_NAME.fullmatch(name):
        raise SettingsError(
            f"{name[:80]!r} is not a volume name: 1 to 63 letters, digits, '.', '_' and '-', the first a letter or digit"
        )
    return name


def _store(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise SettingsError("store is missing: file:///path or s3://bucket/prefix")
    if len(value) > STORE_URL_MAX:
        raise SettingsError(f"store is longer than {STORE_URL_MAX} characters")
    try:
        url = urlsplit(value)
        userinfo = url.username is not None or url.password is not None
    except ValueError as error:
        raise SettingsError(f"store is not a URL: {error}") from error
    if userinfo or "@" in url.netloc:
        raise SettingsError("store holds credentials: give them by environment or file, not in the URL")
    for key, _ in parse_qsl(url.query, keep_blank_values=True):
        if any(word in key.lower().replace("-", "_") for word in _SECRET_WORDS):
            raise SettingsError(f"store holds credentials (?{key}=): give them by environment or file, not in the URL")
    if url.scheme == "file":
        if url.netloc or not url.path.startswith("/") or url.path == "/":
            raise SettingsError("a file store needs an absolute path below /: file:///path")
    elif url.scheme == "s3":
        if not url.netloc:
            raise SettingsError("an s3 store needs a bucket: s3://bucket/prefix")
    else:
        raise SettingsError(f"store has the unknown scheme {url.scheme!r}: file:///path or s3://bucket/prefix")
    return value


def _number(name: str, low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise SettingsError(f"{name} must be a number from {low} to {high}, not {value!r}")
        return value

    return check


def _flag(name: str) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        if not isinstance(value, bool):
            raise SettingsError(f"{name} must be true or false, not {value!r}")
        return value

    return check


def _block_bytes(value: Any) -> int:
    size = _number("block_bytes", 64 << 10, CHUNK_BYTES)(value)
    if size & (size - 1):
        raise SettingsError(f"block_bytes must be a power of two, not {size}")
    return size


_FIELDS: Final[dict[str, tuple[Any, Callable[[Any], Any]]]] = {
    "store": (None, _store),
    "block_bytes": (4 << 20, _block_bytes),
    "inline_bytes": (4096, _number("inline_bytes", 0, INLINE_MAX)),
    "capacity_bytes": (0, _number("capacity_bytes", 0, 1 << 62)),
    "capacity_inodes": (0, _number("capacity_inodes", 0, 1 << 62)),
    "acl": (True, _flag("acl")),
}


def fill(settings_json: str, uuid: str) -> str:
    """The complete settings of a new volume. Raises SettingsError."""
    if len(settings_json) > SETTINGS_BYTES_MAX:
        raise SettingsError(f"settings of {len(settings_json)} characters; the limit is {SETTINGS_BYTES_MAX}")
    try:
        given = json.loads(settings_json or "{}")
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"settings are not JSON: {error}") from error
    if not isinstance(given, dict):
        raise SettingsError("settings must be a JSON object")
    unknown = sorted(set(given) - set(_FIELDS))
    if unknown:
        raise SettingsError(f"unknown settings: {', '.join(unknown)[:200]}; known are {', '.join(_FIELDS)}")
    filled = {name: check(given.get(name, default)) for name, (default, check) in _FIELDS.items()}
    return json.dumps(filled | {"uuid": uuid}, sort_keys=True, separators=(",", ":"))


def block_bytes(settings_json: str) -> int:
    """The size of a block of a stored volume."""
    return int(json.loads(settings_json).get("block_bytes", _FIELDS["block_bytes"][0]))
