"""What the kernel cannot check for us.

A create that found the file there: the kernel believed that the name was free, so it checked the directory and not the file.
Permission bits are looked at here; of a file that may have an ACL the server is asked, with the caller's groups. And inode
flags, which a FUSE mount's kernel does not know. Everything else is checked by default_permissions.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fuseclient.attr_raw import inode_flags_of
from fuseclient.operations import APPEND_FL, IMMUTABLE_FL
from protos import meta_pb2 as pb

if TYPE_CHECKING:
    from fuseclient.attr import Attr
    from fuseclient.operations import Caller

CAP_LINUX_IMMUTABLE: Final = 9
CAP_SYS_ADMIN: Final = 21
_WANTED = {os.O_RDONLY: 4, os.O_WRONLY: 2, os.O_RDWR: 6}


def _status_of(pid: int, field: str) -> str:
    """A line of /proc/PID/status; empty when the process is gone or in another namespace."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return ""
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return value
    return ""


def groups_of(pid: int) -> frozenset[int]:
    """The supplementary groups of a process, as far as they can be known."""
    return frozenset(int(word) for word in _status_of(pid, "Groups").split() if word.isdigit())


def is_capable(caller: Caller, capability: int) -> bool:
    """Whether the caller is root or has this capability."""
    return caller.uid == 0 or bool(int(_status_of(caller.pid, "CapEff") or "0", 16) >> capability & 1)


def flags_allow(attr: Attr, flags: int) -> bool:
    """Whether the inode's flags let it be opened so: what is immutable for reading, what is append-only for appending."""
    fixed = inode_flags_of(attr)
    if not fixed or flags & (os.O_ACCMODE | os.O_TRUNC) == os.O_RDONLY:
        return True
    if fixed & APPEND_FL and (not flags & os.O_APPEND or flags & os.O_TRUNC):
        return False
    return not fixed & IMMUTABLE_FL


def wanted_by(flags: int) -> int:
    """What access(2) would be asked for: r 4, w 2."""
    return _WANTED.get(flags & os.O_ACCMODE, 6) | (2 if flags & os.O_TRUNC else 0)


def enforced_cred(caller: Caller) -> pb.Cred:
    """The caller with all groups, for the server to check."""
    return pb.Cred(uid=caller.uid, gid=caller.gid, groups=sorted(groups_of(caller.pid)), enforce=True)


def may_open(attr: Attr, flags: int, caller: Caller) -> bool:
    """Whether the caller may open the file with these flags, by its permission bits."""
    if caller.uid == 0:
        return True
    wanted = wanted_by(flags)
    fields = attr.fields
    if caller.uid == fields.uid:
        granted = fields.mode >> 6
    elif caller.gid == fields.gid or fields.gid in groups_of(caller.pid):
        granted = fields.mode >> 3
    else:
        granted = fields.mode
    return granted & wanted == wanted
