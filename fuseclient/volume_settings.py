"""A volume's settings as the server hands them out on attach: JSON, checked and bounded before anything relies on it.

Unknown keys are kept in `other`, so that an older client can mount a volume that a newer command has formatted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from fuseclient.errors import ClientError

if TYPE_CHECKING:
    from collections.abc import Mapping

SETTINGS_BYTES_MAX: Final = 64 << 10
BLOCK_BYTES_MIN: Final = 64 << 10
BLOCK_BYTES_MAX: Final = 64 << 20
INLINE_BYTES_MAX: Final = 64 << 10
UUID_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class VolumeSettings:
    store_url: str
    block_bytes: int = 4 << 20
    inline_bytes: int = 4096
    acl: bool = True  # POSIX ACLs are in force
    uuid: str = ""  # of this volume and no other, even of the same name on the same store; empty for volumes made without one
    other: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> VolumeSettings:
        """The settings in `text`. Raises ClientError when they cannot be relied on."""
        if len(text) > SETTINGS_BYTES_MAX:
            raise _wrong(f"they are {len(text)} characters long")
        try:
            found = json.loads(text or "{}")
        except ValueError as error:
            raise _wrong(f"they are not JSON ({error})") from None
        if not isinstance(found, dict):
            raise _wrong("they are not a JSON object")
        store = found.pop("store", "")
        if not isinstance(store, str):
            raise _wrong("'store' is not a text")
        block = _size(found, "block_bytes", 4 << 20, BLOCK_BYTES_MIN, BLOCK_BYTES_MAX)
        if block & (block - 1):
            raise _wrong(f"'block_bytes' is {block}, not a power of two")
        uuid = found.pop("uuid", "")
        if not isinstance(uuid, str) or len(uuid) > UUID_MAX:
            raise _wrong(f"'uuid' is not a text of at most {UUID_MAX} characters")
        acl = found.pop("acl", True)
        if not isinstance(acl, bool):
            raise _wrong(f"'acl' is {acl!r}, not true or false")
        return cls(store, block, _size(found, "inline_bytes", 4096, 0, INLINE_BYTES_MAX), acl, uuid, found)


def _size(found: dict[str, object], key: str, default: int, low: int, high: int) -> int:
    value = found.pop(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise _wrong(f"{key!r} is {value!r}, not a number from {low} to {high}")
    return value


def _wrong(why: str) -> ClientError:
    return ClientError(
        f"The volume's settings cannot be used: {why}. Look at them with `keelfs volume show`; a newer keelfs may be needed."
    )
