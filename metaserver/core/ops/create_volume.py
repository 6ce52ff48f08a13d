"""create_volume: a name, a root directory, settings, an empty ledger. Result: first (its number), inode (the root).

`settings_json` is kept as it came; the state machine obeys four of its fields (model.Settings): capacity_bytes and
capacity_inodes (0 or absent = no limit; the root counts as one inode), inline_bytes (absent = 4096) and acl (absent = true).
"""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING, Final

from metaserver.core import birth, codec, directory, keys
from metaserver.core.codec import Ledger
from metaserver.core.entry import Result
from metaserver.core.errors import FsError
from metaserver.core.model import DIRECTORY_SIZE, FIRST_COOKIE, INLINE_MAX, Ino, Inode, Settings, Usage, Volume
from metaserver.core.naming import require_volume_name

if TYPE_CHECKING:
    from metaserver.core.context import Context
    from metaserver.core.entry import CreateVolume
    from metaserver.core.txn import WriteTxn

SETTINGS_MAX: Final = 64 << 10
_BRACKETS_MAX: Final = 256
_VOLUMES_MAX: Final = 2**32 - 1

#: Field of settings_json -> (default, greatest value).
_FIELDS: Final = {
    "capacity_bytes": (0, 2**63 - 1),
    "capacity_inodes": (0, 2**63 - 1),
    "inline_bytes": (4096, INLINE_MAX),
}


def apply(txn: WriteTxn, ctx: Context, op: CreateVolume) -> Result:
    require_volume_name(op.name)
    settings = parse_settings(op.settings_json)
    if txn.get(keys.volume_name(op.name)) is not None:
        raise FsError(errno.EEXIST, f"volume {op.name} exists")
    number = birth.counter(txn, keys.NEXT_VOLUME)
    if number > _VOLUMES_MAX:
        raise FsError(errno.ENOSPC, "no volume numbers are left")
    ino = Ino(birth.counter(txn, keys.NEXT_INO))
    root = _root(ctx, op, ino, number)
    if txn.get(keys.FORMAT) is None:
        txn.put(keys.FORMAT, codec.encode_counter(codec.FORMAT_VERSION))
    txn.put(keys.NEXT_VOLUME, codec.encode_counter(number + 1))
    txn.put(keys.NEXT_INO, codec.encode_counter(ino + 1))
    volume = Volume(number, op.name, ino, op.settings_json, ctx.now_ns, False)
    txn.put(keys.volume(number), codec.encode_volume(volume))
    txn.put(keys.volume_name(op.name), codec.encode_count(number))
    txn.put(keys.ledger(number), codec.encode_ledger(Ledger(Usage(0, 1), settings)))
    directory.store(txn, root)
    return Result(inode=root, first=number)


def _root(ctx: Context, op: CreateVolume, ino: Ino, volume: int) -> Inode:
    now, version = ctx.now_ns, ctx.version
    return Inode(
        ino=ino,
        mode=0o040000 | (op.mode & 0o7777 or 0o755),
        uid=op.uid,
        gid=op.gid,
        nlink=2,
        size=DIRECTORY_SIZE,
        volume=volume,
        parent=0,
        rdev=0,
        allocated=0,
        next_cookie=FIRST_COOKIE,
        atime_ns=now,
        mtime_ns=now,
        ctime_ns=now,
        btime_ns=now,
        version=version,
        data_version=version,
    )


def parse_settings(text: str) -> Settings:
    """What the state machine obeys of a volume's settings; EINVAL for what is not settings."""
    fields = parse_object(text)
    has_acl = fields.get("acl", True)
    if type(has_acl) is not bool:
        raise FsError(errno.EINVAL, "settings_json: acl is true or false")
    return Settings._make([*(_field(fields, name, *bounds) for name, bounds in _FIELDS.items()), has_acl])


def parse_object(text: str) -> dict[str, object]:
    """The fields of settings; EINVAL for what is no JSON object."""
    # Deep nesting ends in a RecursionError whose depth depends on the caller's stack: refused before it is parsed.
    if len(text) > SETTINGS_MAX or text.count("[") + text.count("{") > _BRACKETS_MAX:
        raise FsError(errno.EINVAL, "settings_json is too long or too deep")
    try:
        text.encode()
        fields = json.loads(text or "{}")
    except ValueError as error:
        raise FsError(errno.EINVAL, "settings_json is not JSON") from error
    if not isinstance(fields, dict):
        raise FsError(errno.EINVAL, "settings_json is not a JSON object")
    return fields


def _field(fields: dict[str, object], name: str, default: int, greatest: int) -> int:
    value = fields.get(name, default)
    if type(value) is not int or not 0 <= value <= greatest:
        raise FsError(errno.EINVAL, f"settings_json: {name} is a whole number from 0 to {greatest}")
    return value
