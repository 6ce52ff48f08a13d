"""The URL of a volume: keel://host:port[,host:port...]/volume[/subdir].

Rules
 - Every address names a metadata node of one cluster; the port may be left out (7420). IPv6 addresses stand in brackets.
 - The subdirectory is bytes below the volume's root; in the URL, what is not plain is %-escaped as in any URL.
 - Credentials never stand in a URL, because URLs end up in process lists and logs.
 - `str()` gives the canonical form, and parsing that gives an equal value.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from fuseclient.errors import ClientError

SCHEME: Final = "keel://"
DEFAULT_PORT: Final = 7420
NAME_MAX: Final = 255
SUBDIR_MAX: Final = 4095
_EXAMPLE: Final = "keel://127.0.0.1:7420/data"
_PLAIN_PATH: Final = "/!$&'()*+,;=:@-._~"

_HOST = re.compile(r"\[(?P<v6>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9])?)")
_VOLUME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class Address:
    """One metadata node. `host` is a name or an address, IPv6 without brackets."""

    host: str
    port: int = DEFAULT_PORT

    @property
    def is_loopback(self) -> bool:
        """Whether it is on this machine for certain. A name other than localhost is not looked up: it may change."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class VolumeUrl:
    addresses: tuple[Address, ...]
    volume: str
    subdir: bytes = b""  # without '/' at either end

    @classmethod
    def parse(cls, text: str) -> VolumeUrl:
        """The URL in `text`. Raises ClientError, whose text is for the person who typed it."""
        if not text.startswith(SCHEME):
            raise _wrong(text, f"it does not begin with {SCHEME}")
        authority, _, path = text[len(SCHEME) :].partition("/")
        if "@" in authority:
            raise _wrong(_redacted(text), "user names and secrets do not belong in a URL; they are read from the environment")
        volume, _, subdir = path.partition("/")
        if not volume:
            raise _wrong(text, "it names no volume")
        if not _VOLUME.fullmatch(volume):
            raise _wrong(text, f"{volume!r} cannot be a volume's name (1 to 63 letters, digits, '.', '_' and '-')")
        return cls(_addresses(text, authority), volume, _subdir(text, subdir))

    def __str__(self) -> str:
        tail = "/" + quote_from_bytes(self.subdir, safe=_PLAIN_PATH) if self.subdir else ""
        return f"{SCHEME}{','.join(map(str, self.addresses))}/{self.volume}{tail}"


def parse_address(text: str) -> Address:
    """`host`, `host:port`, `[v6]` or `[v6]:port`. Raises ClientError."""
    found = _HOST.match(text)
    if found is None:
        raise ClientError(f"{text!r} is not an address. Write host:port, for example 127.0.0.1:{DEFAULT_PORT}.", exit_code=2)
    host, rest = found["v6"] or found["name"], text[found.end() :]
    if not rest:
        return Address(host)
    digits = rest[1:]
    if rest[0] != ":" or not digits.isascii() or not digits.isdigit() or len(digits) > 5 or not 0 < int(digits) < 65536:
        raise ClientError(f"{text!r} is not an address: the port must be a number from 1 to 65535.", exit_code=2)
    return Address(host, int(digits))


def _addresses(url: str, authority: str) -> tuple[Address, ...]:
    if not authority:
        raise _wrong(url, "it names no server")
    try:
        found = tuple(parse_address(part) for part in authority.split(","))
    except ClientError as error:
        raise _wrong(url, str(error)) from None
    return tuple(dict.fromkeys(found))


def _subdir(url: str, text: str) -> bytes:
    if _BAD_ESCAPE.search(text):
        raise _wrong(url, "a '%' in it is not followed by two hexadecimal digits (a plain '%' is written %25)")
    parts = [unquote_to_bytes(part) for part in text.split("/") if part]
    for part in parts:
        if part in {b".", b".."} or b"/" in part or b"\0" in part or len(part) > NAME_MAX:
            raise _wrong(url, f"{part[:NAME_MAX]!r} cannot be the name of a directory")
    subdir = b"/".join(parts)
    if len(subdir) > SUBDIR_MAX:
        raise _wrong(url, f"its subdirectory is longer than {SUBDIR_MAX} bytes")
    return subdir


def _redacted(url: str) -> str:
    authority, slash, path = url[len(SCHEME) :].partition("/")
    return f"{SCHEME}***@{authority.rpartition('@')[2]}{slash}{path}"


def _wrong(url: str, why: str) -> ClientError:
    return ClientError(f"{url!r} is not the URL of a volume: {why}. Write it like {_EXAMPLE}.", exit_code=2)
