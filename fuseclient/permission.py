"""The one permission check that the kernel cannot make for us: a create that found the file there.

The kernel believed that the name was free, so it checked the directory and not the file. Everything else is checked by
default_permissions.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fuseclient.attr import Attr
    from fuseclient.operations import Caller

_WANTED = {os.O_RDONLY: 4, os.O_WRONLY: 2, os.O_RDWR: 6}


def groups_of(pid: int) -> frozenset[int]:
    """The supplementary groups of a process; none when it is gone or in another namespace."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return frozenset()
    for line in status.splitlines():
        if line.startswith("Groups:"):
            return frozenset(int(word) for word in line.split()[1:] if word.isdigit())
    return frozenset()


def may_open(attr: Attr, flags: int, caller: Caller) -> bool:
    """Whether the caller may open the file with these flags, by its permission bits."""
    if caller.uid == 0:
        return True
    wanted = _WANTED.get(flags & os.O_ACCMODE, 6) | (2 if flags & os.O_TRUNC else 0)
    fields = attr.fields
    if caller.uid == fields.uid:
        granted = fields.mode >> 6
    elif caller.gid == fields.gid or fields.gid in groups_of(caller.pid):
        granted = fields.mode >> 3
    else:
        granted = fields.mode
    return granted & wanted == wanted
