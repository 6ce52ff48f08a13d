"""The language of the golden scenarios: one command a line, one line of result.

Paths are absolute; `#7` is inode 7; `x*256` in a name is 256 times x, `\\0` a NUL, and a word of two quotes is empty.
`as 1000:1000,2000` makes what follows enforce permissions for that user; `as root` enforces for root; `as kernel`
enforces nothing (the default).
"""

from __future__ import annotations

import errno
import re
import stat
from typing import TYPE_CHECKING

from core_world import World

from metaserver.core import codec, invariants, keys, reads
from metaserver.core import entry as e
from metaserver.core.entry import ROOT, Cred, Item, Result, SetAttrValid
from metaserver.core.errors import FsError
from tests import acl_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.core.model import Inode

FLAGS = {"": 0, "noreplace": 1, "exchange": 2, "both": 3, "whiteout": 4}
ACLS = {"access": acl_text.ACCESS.encode(), "default": acl_text.DEFAULT.encode()}
XATTR_FLAGS = {"": 0, "create": 1, "replace": 2, "both": 3, "bad": 4}
TYPES = {
    "reg": stat.S_IFREG,
    "fifo": stat.S_IFIFO,
    "sock": stat.S_IFSOCK,
    "chr": stat.S_IFCHR,
    "blk": stat.S_IFBLK,
    "dir": stat.S_IFDIR,
    "lnk": stat.S_IFLNK,
    "none": 0,
}
LETTERS = {value >> 12: name for name, value in TYPES.items()}


def expand(word: str) -> bytes:
    if word == '""':
        return b""
    word = re.sub(r"(.)\*(\d+)", lambda found: found[1] * int(found[2]), word)
    return word.replace("\\0", "\0").encode()


class Script:
    def __init__(self, settings_json: str = "{}") -> None:
        self.world = World(settings_json)
        self.cred = ROOT
        self.umask = 0o022
        self.item: tuple[int, int] | None = None

    def run(self, line: str) -> str:
        verb, *words = line.split()
        method: Callable[..., str] = getattr(self, "do_" + verb.replace("-", "_"))
        try:
            answer = method(*words)
        except FsError as refusal:
            answer = errno.errorcode[refusal.errno]
        broken = invariants.check(self.world.txn)
        return answer + "".join(f" !! {one}" for one in broken)

    # --- finding ------------------------------------------------------------------------------------------------------

    def ino(self, path: str) -> int:
        if path.startswith("#"):
            return int(path[1:])
        return reads.resolve(self.world.txn, self.world.root, expand(path)).ino

    def place(self, path: str) -> tuple[int, bytes]:
        """Directory and name; the directory may be `#7`, and what is behind its last slash is the name."""
        parent, _, name = path.rpartition("/")
        return self.ino(parent or "/"), expand(name or '""')

    def apply(self, op: e.Op) -> Result:
        if self.item is None:
            return self.world.do(op)
        seq, acked = self.item
        return self.world.apply(Item(self.world.session, seq, acked, op))[0]

    def answer(self, op: e.Op, show: Callable[[Result], str] | None = None) -> str:
        result = self.apply(op)
        if result.errno:
            return errno.errorcode[result.errno]
        return show(result) if show else "ok " + self.show(result)

    def show(self, result: Result) -> str:
        parts = []
        if result.inode is not None:
            parts.append(self.describe(result.inode))
        if result.parent is not None:
            parts.append(f"parent={result.parent.ino}:{result.parent.nlink}")
        if result.parent2 is not None:
            parts.append(f"parent2={result.parent2.ino}:{result.parent2.nlink}")
        if result.other is not None:
            parts.append(f"other={result.other.ino}:{result.other.nlink}")
        if result.existed:
            parts.append("existed")
        if result.first or result.count:
            parts.append(f"first={result.first} count={result.count}")
        return " ".join(parts)

    @staticmethod
    def describe(inode: Inode) -> str:
        kind = LETTERS[inode.mode >> 12]
        return f"#{inode.ino} {kind} {inode.mode & 0o7777:04o} {inode.uid}:{inode.gid} nlink={inode.nlink} size={inode.size}"

    # --- who and when -------------------------------------------------------------------------------------------------

    def do_as(self, who: str) -> str:
        if who == "kernel":
            self.cred = ROOT
        elif who == "root":
            self.cred = Cred(0, 0, (), True)
        else:
            uid, gid, *groups = (int(number) for number in re.split("[:,]", who))
            self.cred = Cred(uid, gid, tuple(groups), True)
        return "ok"

    def do_umask(self, mask: str) -> str:
        self.umask = int(mask, 8)
        return "ok"

    def do_send(self, seq: str, acked: str, *words: str) -> str:
        """A command with a seq: `send 3 acked=1 mkdir /a 0755`."""
        self.item = (int(seq), int(acked.removeprefix("acked=")))
        try:
            return getattr(self, "do_" + words[0])(*words[1:])
        finally:
            self.item = None

    def do_results(self) -> str:
        return str(reads.results_kept(self.world.txn, self.world.session))

    def do_close_session(self) -> str:
        return "ok " + self.show(self.world.serve(e.CloseSession(self.world.session, True)))

    def do_open_session(self) -> str:
        self.world.session = self.world.open_session()
        return f"ok {self.world.session}"

    # --- names --------------------------------------------------------------------------------------------------------

    def do_create(self, path: str, mode: str, how: str = "", ino: str = "0") -> str:
        parent, name = self.place(path)
        return self.answer(e.Create(parent, name, int(mode, 8), self.umask, how == "excl", self.cred, int(ino)))

    def do_mkdir(self, path: str, mode: str) -> str:
        parent, name = self.place(path)
        return self.answer(e.MkDir(parent, name, int(mode, 8), self.umask, self.cred))

    def do_mknod(self, path: str, kind: str, mode: str, rdev: str = "0") -> str:
        parent, name = self.place(path)
        return self.answer(e.MkNod(parent, name, TYPES[kind] | int(mode, 8), self.umask, int(rdev), self.cred))

    def do_symlink(self, target: str, path: str) -> str:
        parent, name = self.place(path)
        return self.answer(e.SymLink(parent, name, expand(target), self.cred))

    def do_readlink(self, path: str) -> str:
        return reads.readlink(self.world.txn, self.ino(path)).decode()

    def do_link(self, old: str, new: str) -> str:
        ino = self.ino(old)
        parent, name = self.place(new)
        return self.answer(e.Link(ino, parent, name, self.cred))

    def do_unlink(self, path: str) -> str:
        return self.answer(e.Unlink(*self.place(path), self.cred))

    def do_rmdir(self, path: str) -> str:
        return self.answer(e.RmDir(*self.place(path), self.cred))

    def do_rename(self, old: str, new: str, flags: str = "") -> str:
        return self.answer(e.Rename(*self.place(old), *self.place(new), FLAGS[flags], self.cred))

    # --- attributes ---------------------------------------------------------------------------------------------------

    def setattr(
        self, path: str, valid: int, mode: int = 0, uid: int = 0, gid: int = 0, size: int = 0, at: int = 0, mt: int = 0
    ) -> str:
        return self.answer(e.SetAttr(self.ino(path), valid, mode, uid, gid, size, at, mt, 0, self.cred))

    def do_chmod(self, path: str, mode: str) -> str:
        return self.setattr(path, SetAttrValid.MODE, mode=int(mode, 8))

    def do_chown(self, path: str, uid: str, gid: str) -> str:
        valid = (SetAttrValid.UID if uid != "-" else 0) | (SetAttrValid.GID if gid != "-" else 0)
        return self.setattr(path, valid, uid=int(uid.replace("-", "0")), gid=int(gid.replace("-", "0")))

    def do_truncate(self, path: str, size: str, kill: str = "") -> str:
        return self.setattr(path, SetAttrValid.SIZE | (SetAttrValid.KILL_SUIDGID if kill else 0), size=int(size))

    def do_utimens(self, path: str, atime: str, mtime: str) -> str:
        valid = 0
        for word, given, now in (
            (atime, SetAttrValid.ATIME, SetAttrValid.ATIME_NOW),
            (mtime, SetAttrValid.MTIME, SetAttrValid.MTIME_NOW),
        ):
            valid |= {"omit": 0, "now": now}.get(word, given)
        numbers = [int(word) if word not in ("now", "omit") else 0 for word in (atime, mtime)]
        return self.setattr(path, valid, at=numbers[0], mt=numbers[1])

    def do_note_reads(self, ago: str, *paths: str) -> str:
        """Reads so many seconds before the entry's time; negative: a reader's clock that is ahead."""
        inodes = tuple(self.ino(path) for path in paths)
        return self.answer(e.NoteReads(inodes, self.world.now_ns + (1 - int(ago)) * 1_000_000_000))

    def do_touch(self, path: str) -> str:
        """utimensat(2) without times, as the kernel sends it: four bits."""
        both = SetAttrValid.ATIME | SetAttrValid.MTIME
        return self.setattr(path, both | SetAttrValid.ATIME_NOW | SetAttrValid.MTIME_NOW)

    def do_flags(self, path: str, letters: str) -> str:
        """`i` immutable, `a` append-only, `d` nodump as lsattr(1) has them, `-` none, `x` one that is not known."""
        numbers = {"i": 0x10, "a": 0x20, "d": 0x40, "x": 0x80, "-": 0}
        return self.answer(e.SetFlags(self.ino(path), sum(numbers[one] for one in letters), self.cred), self.letters)

    def do_lsattr(self, path: str) -> str:
        return self.letters(Result(inode=reads.getattr(self.world.txn, self.ino(path))))

    @staticmethod
    def letters(result: Result) -> str:
        assert result.inode is not None
        return "".join(letter for letter, bit in (("i", 0x10), ("a", 0x20), ("d", 0x40)) if result.inode.flags & bit) or "-"

    def do_stat(self, path: str) -> str:
        inode = reads.getattr(self.world.txn, self.ino(path))
        return f"{self.describe(inode)} allocated={inode.allocated} parent={inode.parent}"

    def do_times(self, path: str) -> str:
        """In the seconds of the scripted clock, one a command; `d` is the data version."""
        inode = reads.getattr(self.world.txn, self.ino(path))
        since = [str((ns - self.world.now_ns) // 1_000_000_000) for ns in (inode.atime_ns, inode.mtime_ns, inode.ctime_ns)]
        return f"atime={since[0]} mtime={since[1]} ctime={since[2]} d={inode.data_version - self.world.index}"

    def do_access(self, path: str, mask: str) -> str:
        reads.access(self.world.txn, self.ino(path), int(mask), self.cred)
        return "ok"

    def do_open(self, path: str, flags: str) -> str:
        reads.open_check(self.world.txn, self.ino(path), int(flags), self.cred)
        return "ok"

    def do_lookup(self, path: str) -> str:
        parent, name = self.place(path)
        return self.describe(reads.lookup(self.world.txn, parent, name, self.cred))

    def do_ls(self, path: str, after: str = "0", limit: str = "100") -> str:
        page = reads.readdir(self.world.txn, self.ino(path), int(after), int(limit), cred=self.cred)
        names = [f"{one.name.decode()}@{one.cookie}" for one in page.entries]
        return " ".join([*names, "eof" if page.eof else "more"])

    def do_paths(self, path: str) -> str:
        return " ".join(one.decode() for one in reads.paths(self.world.txn, self.ino(path))) or "none"

    # --- attributes by name -------------------------------------------------------------------------------------------

    def do_setxattr(self, path: str, name: str, value: str, flags: str = "") -> str:
        op = e.SetXattr(self.ino(path), expand(name), expand(value), XATTR_FLAGS[flags], self.cred)
        return self.answer(op, lambda _: "ok")

    def do_removexattr(self, path: str, name: str) -> str:
        return self.answer(e.RemoveXattr(self.ino(path), expand(name), self.cred), lambda _: "ok")

    def do_getxattr(self, path: str, name: str) -> str:
        return reads.getxattr(self.world.txn, self.ino(path), expand(name), self.cred).decode() or '""'

    def do_listxattr(self, path: str) -> str:
        return " ".join(one.decode() for one in reads.listxattr(self.world.txn, self.ino(path))) or "none"

    # --- access control lists -----------------------------------------------------------------------------------------

    def do_setfacl(self, path: str, text: str, which: str = "access", how: str = "") -> str:
        """`setfacl /f u::rw-,u:1000:r--,g::r--,m::r--,o::---`; `-` is an empty list, `0x...` is its bytes."""
        value = bytes.fromhex(text[2:]) if text.startswith("0x") else acl_text.to_bytes(text)
        return self.answer(e.SetXattr(self.ino(path), ACLS[which], value, 0, self.cred, how == "kill"))

    def do_rmfacl(self, path: str, which: str = "access") -> str:
        return self.answer(e.RemoveXattr(self.ino(path), ACLS[which], self.cred))

    def do_getfacl(self, path: str, which: str = "access") -> str:
        return acl_text.to_text(reads.getxattr(self.world.txn, self.ino(path), ACLS[which], self.cred))

    def do_acls(self) -> str:
        """Every list that is kept, with its uses."""
        found = [codec.decode_acl(value) for _, value in self.world.txn.scan(keys.ACL)]
        return " ".join(f"{one.uses}*{acl_text.to_text(one.value)}" for one in found) or "none"

    # --- data ---------------------------------------------------------------------------------------------------------

    def do_lease(self, kind: str, count: str) -> str:
        return self.answer(e.LeaseIds({"inodes": 1, "slices": 2}.get(kind, 3), int(count)))

    def do_write(self, path: str, where: str, slice_id: str, of: str = "", how: str = "") -> str:
        """`write /f 0:100+50 7 60@10 kill`: chunk 0, 50 bytes at 100, from byte 10 of slice 7, which has 60 bytes."""
        chunk, pos, length = (int(number) for number in re.split("[:+]", where))
        size, off = (int(number) for number in (of or f"{length}@0").split("@"))
        data = b"i" * size if how == "inline" else b""
        new = e.NewSlice(chunk, pos, int(slice_id), size, off, length, data)
        return self.answer(e.CommitSlices(self.ino(path), (new,), 0, how == "kill"))

    def do_extents(self, path: str, first: str = "0", chunks: str = "4") -> str:
        found = reads.read_slices(self.world.txn, self.ino(path), int(first), int(chunks))
        parts = [
            f"{index}:{one.pos}+{one.length}={one.slice}@{one.off}{'i' if one.inline else ''}"
            for index, chunk in sorted(found.chunks.items())
            for one in chunk
        ]
        return " ".join(parts) or "none"

    def do_orphans(self) -> str:
        return " ".join(str(ino) for ino in reads.orphans(self.world.txn)) or "none"

    def do_doomed(self) -> str:
        return " ".join(f"{one.slice}:{one.size}" for one in reads.doomed(self.world.txn)) or "none"

    def do_finish(self, *slices: str) -> str:
        return self.answer(e.FinishDeletes(tuple(int(one) for one in slices)))

    def do_reap(self, inodes: str, chunk_limit: str = "100") -> str:
        return "ok " + self.show(self.world.serve(e.Reap(tuple(int(one) for one in inodes.split(",")), int(chunk_limit))))

    def do_statfs(self) -> str:
        usage, settings = reads.statfs(self.world.txn, self.world.volume)
        return f"bytes={usage.bytes}/{settings.capacity_bytes} inodes={usage.inodes}/{settings.capacity_inodes}"

    # --- volumes ------------------------------------------------------------------------------------------------------

    def do_create_volume(self, name: str, settings: str = "{}") -> str:
        result = self.world.serve(e.CreateVolume(expand(name).decode(), settings, 0, 0, 0o755))
        return errno.errorcode[result.errno] if result.errno else "ok " + self.show(result)

    def do_destroy_volume(self, number: str, limit: str) -> str:
        result = self.world.serve(e.DestroyVolume(int(number), int(limit)))
        return errno.errorcode[result.errno] if result.errno else f"ok count={result.count} slices={result.first}"

    def do_set_volume(self, number: str, settings: str) -> str:
        result = self.world.serve(e.SetVolume(int(number), settings))
        return errno.errorcode[result.errno] if result.errno else "ok"

    def do_volumes(self) -> str:
        found = reads.volumes(self.world.txn)
        return " ".join(f"{one.id}:{one.name}{'!' if one.destroyed else ''}" for one in found) or "none"
