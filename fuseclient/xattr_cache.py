"""Which extended attributes are known not to be there.

The kernel asks for `security.capability` before the first write to every file, and `ls -l` for a label of every file. Of an
inode without any the attributes say so (NO_XATTRS); this is for those that have others. The answer is nearly always no, and
it stays so until a notification or a call of ours says that the inode was changed.
"""

from __future__ import annotations

from typing import Final

from fuseclient.recent import Recent

_BITS: Final = {
    b"security.capability": 1,
    b"system.posix_acl_access": 2,
    b"system.posix_acl_default": 4,
    b"security.selinux": 8,
    b"security.ima": 16,
    b"security.evm": 32,
}
_LIMIT: Final = 100_000


class AbsentXattrs:
    def __init__(self, limit: int = _LIMIT) -> None:
        self._absent: Recent[int, int] = Recent(limit)

    def knows(self, ino: int, name: bytes) -> bool:
        bit = _BITS.get(name)
        return bit is not None and bool((self._absent.get(ino) or 0) & bit)

    def note(self, ino: int, name: bytes) -> None:
        """The inode has no such attribute. Names that nobody asks for all the time are not kept."""
        bit = _BITS.get(name)
        if bit is not None:
            self._absent.put(ino, (self._absent.get(ino) or 0) | bit)

    def drop(self, ino: int) -> None:
        self._absent.drop(ino)

    def clear(self) -> None:
        self._absent.clear()
