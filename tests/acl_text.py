"""Access control lists as people write them, `u::rwx,u:1000:rw-,g::r-x,m::rwx,o::---`, to and from an attribute's bytes.

Written from linux/posix_acl_xattr.h without a look at metaserver/core/acl.py, which it is compared with.
"""

from __future__ import annotations

import struct

ACCESS = "system.posix_acl_access"
DEFAULT = "system.posix_acl_default"
TAGS = {("u", ""): 1, ("u", "n"): 2, ("g", ""): 4, ("g", "n"): 8, ("m", ""): 0x10, ("o", ""): 0x20}
NAMES = {tag: letter for (letter, _), tag in TAGS.items()}
NOBODY = 0xFFFFFFFF


def to_bytes(text: str) -> bytes:
    """The attribute's bytes; nothing for "-"."""
    value = struct.pack("<I", 2)
    for part in text.split(",") if text != "-" else ():
        letter, who, rights = part.split(":")
        perm = sum({"r": 4, "w": 2, "x": 1}.get(right, 0) for right in rights)
        value += struct.pack("<HHI", TAGS[letter, "n" if who else ""], perm, int(who) if who else NOBODY)
    return value


def to_text(value: bytes) -> str:
    assert value[:4] == b"\2\0\0\0"
    parts = []
    for tag, perm, number in struct.iter_unpack("<HHI", value[4:]):
        who = "" if number == NOBODY else str(number)
        rights = "".join(right if perm & bit else "-" for right, bit in (("r", 4), ("w", 2), ("x", 1)))
        parts.append(f"{NAMES[tag]}:{who}:{rights}")
    return ",".join(parts)
