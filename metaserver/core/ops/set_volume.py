"""set_volume: some settings of a volume get other values. Result: inode (the root, as it was).

`settings_json` holds the settings that change, which are those of CHANGEABLE and no others: data is laid out by the rest. With
`acl` false, ACLs that there are stay and are not in force; switched on again they count as before.
"""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING, Final

from metaserver.core import codec, keys, usage
from metaserver.core.context import load_known
from metaserver.core.entry import Result
from metaserver.core.errors import FsError
from metaserver.core.ops.create_volume import parse_object, parse_settings

if TYPE_CHECKING:
    from metaserver.core.context import Context
    from metaserver.core.entry import SetVolume
    from metaserver.core.txn import WriteTxn

CHANGEABLE: Final = frozenset({"acl"})


def apply(txn: WriteTxn, ctx: Context, op: SetVolume) -> Result:
    value = txn.get(keys.volume(op.volume)) if op.volume < 1 << 32 else None
    volume = None if value is None else codec.decode_volume(op.volume, value)
    if volume is None or volume.destroyed:
        raise FsError(errno.ENOENT, f"volume {op.volume} does not exist")
    changes = parse_object(op.settings_json)
    fixed = sorted(changes.keys() - CHANGEABLE)
    if fixed:
        raise FsError(errno.EINVAL, f"{fixed[0][:40]} cannot be changed; what can is {', '.join(sorted(CHANGEABLE))}")
    text = json.dumps(parse_object(volume.settings_json) | changes, sort_keys=True, separators=(",", ":"))
    settings = parse_settings(text)
    txn.put(keys.volume(volume.id), codec.encode_volume(volume._replace(settings_json=text)))
    held = usage.ledger(txn, volume.id)
    txn.put(keys.ledger(volume.id), codec.encode_ledger(held._replace(settings=settings)))
    return Result(inode=load_known(txn, volume.root))
