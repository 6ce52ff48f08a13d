"""A naive POSIX tree, written without a look at the core: Python objects, dicts, and one rule after the other.

A file's bytes are a dict from position to (slice, byte of the slice). Failures are errno numbers returned as `No`. Times
are what the caller says now is.
"""

from __future__ import annotations

import errno
import stat
from dataclasses import dataclass, field


class No(Exception):
    """The call fails with this errno."""

    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode[number])
        self.number = number


@dataclass
class User:
    uid: int
    gid: int
    groups: tuple[int, ...] = ()


#: Who may what: "u", "g", "m", "o" as in a mode and the mask, "u1000" and "g1000" by name. Empty: there is no list.
Acl = dict[str, int]


def bits_of(acl: Acl) -> int:
    return acl["u"] << 6 | acl.get("m", acl["g"]) << 3 | acl["o"]


def cut(acl: Acl, perm: int, keep: int) -> Acl:
    """The list with what a mode says: of its own bits, those of `keep` stay where `perm` has them too."""
    group = "m" if "m" in acl else "g"
    said = {"u": perm >> 6 & 7, group: perm >> 3 & 7, "o": perm & 7}
    return {who: said[who] & (mine | ~keep) if who in said else mine for who, mine in acl.items()}


@dataclass(eq=False)
class Node:
    kind: int
    perm: int
    uid: int
    gid: int
    now: int
    ino: int = 0
    names: dict[bytes, Node] = field(default_factory=dict)
    bytes: dict[int, tuple[int, int]] = field(default_factory=dict)
    target: bytes = b""
    size: int = 0
    attributes: dict[bytes, bytes] = field(default_factory=dict)
    acl: Acl = field(default_factory=dict)
    default: Acl = field(default_factory=dict)
    atime: int = 0
    mtime: int = 0
    ctime: int = 0

    def __post_init__(self) -> None:
        self.atime = self.mtime = self.ctime = self.now

    @property
    def is_dir(self) -> bool:
        return self.kind == stat.S_IFDIR

    def may(self, user: User, bits: int) -> bool:
        if user.uid == 0:
            return self.is_dir or not bits & 1 or self.perm & 0o111 != 0
        if user.uid != self.uid and self.acl and self.perm & 0o070:
            return self.listed(user, bits)
        shift = 6 if user.uid == self.uid else 3 if self.gid in (user.gid, *user.groups) else 0
        return (self.perm >> shift) & bits == bits

    def listed(self, user: User, bits: int) -> bool:
        rights = {who: perm & self.acl["m"] for who, perm in self.acl.items() if who not in ("u", "m", "o")}
        mine = [f"g{gid}" for gid in (user.gid, *user.groups)] + ["g"] * (self.gid in (user.gid, *user.groups))
        if f"u{user.uid}" in rights:
            return rights[f"u{user.uid}"] & bits == bits
        if any(who in rights for who in mine):
            return any(rights[who] & bits == bits for who in mine if who in rights)
        return self.acl["o"] & bits == bits


class Tree:
    def __init__(self, perm: int, ino: int, now: int) -> None:
        self.root = Node(stat.S_IFDIR, perm, 0, 0, now, ino, size=4096)
        self.nodes = [self.root]

    # --- counting by looking everywhere -------------------------------------------------------------------------------

    def places(self, node: Node) -> list[tuple[Node, bytes]]:
        return [(one, name) for one in self.nodes for name, child in one.names.items() if child is node]

    def alive(self, directory: Node) -> bool:
        return directory is self.root or bool(self.places(directory))

    def nlink(self, node: Node) -> int:
        if not node.is_dir:
            return len(self.places(node))
        return 2 + sum(child.is_dir for child in node.names.values()) if self.alive(node) else 0

    def inside(self, node: Node, maybe_above: Node) -> bool:
        one: Node | None = node
        while one is not None:
            if one is maybe_above:
                return True
            one = next((parent for parent, _ in self.places(one)), None) if one.is_dir else None
        return False

    # --- finding ------------------------------------------------------------------------------------------------------

    def enter(self, directory: Node, user: User) -> None:
        if not directory.is_dir:
            raise No(errno.ENOTDIR)
        if not directory.may(user, 1):
            raise No(errno.EACCES)

    def check_name(self, name: bytes, dot: int, dotdot: int) -> None:
        if name == b".":
            raise No(dot)
        if name == b"..":
            raise No(dotdot)
        if len(name) > 255:
            raise No(errno.ENAMETOOLONG)

    def check_add(self, directory: Node, user: User) -> None:
        if not self.alive(directory):
            raise No(errno.ENOENT)
        if not directory.may(user, 3):
            raise No(errno.EACCES)

    def check_take(self, directory: Node, victim: Node, user: User) -> None:
        if not directory.may(user, 3):
            raise No(errno.EACCES)
        if directory.perm & stat.S_ISVTX and user.uid and user.uid not in (victim.uid, directory.uid):
            raise No(errno.EPERM)

    # --- calls --------------------------------------------------------------------------------------------------------

    def make(self, where: Node, name: bytes, kind: int, perm: int, user: User, now: int, target: bytes = b"") -> Node:
        """mkdir, mknod, symlink, and create with O_EXCL."""
        self.enter(where, user)
        self.check_name(name, errno.EEXIST, errno.EEXIST)
        if name in where.names:
            raise No(errno.EEXIST)
        self.check_add(where, user)
        return self.born(where, name, kind, perm, user, now, target)

    def create(self, where: Node, name: bytes, perm: int, user: User, now: int) -> tuple[Node, bool]:
        self.enter(where, user)
        self.check_name(name, errno.EISDIR, errno.EISDIR)
        there = where.names.get(name)
        if there is not None:
            if there.is_dir:
                raise No(errno.EISDIR)
            if there.kind == stat.S_IFLNK:
                raise No(errno.ELOOP)
            return there, True
        self.check_add(where, user)
        return self.born(where, name, stat.S_IFREG, perm, user, now), False

    def born(self, where: Node, name: bytes, kind: int, perm: int, user: User, now: int, target: bytes = b"") -> Node:
        node = Node(kind, perm, user.uid, user.gid, now, target=target, size=len(target))
        if kind == stat.S_IFDIR:
            node.size = 4096
        if where.perm & stat.S_ISGID:
            node.gid = where.gid
            if node.is_dir:
                node.perm |= stat.S_ISGID
            elif perm & 0o2010 == 0o2010 and user.uid and where.gid not in (user.gid, *user.groups):
                node.perm &= ~stat.S_ISGID
        if where.default and kind != stat.S_IFLNK:
            mine = cut(where.default, node.perm, 7)
            node.perm = node.perm & ~0o777 | bits_of(mine)
            node.acl = mine if "m" in mine else {}
            node.default = where.default if node.is_dir else {}
        self.nodes.append(node)
        where.names[name] = node
        where.mtime = where.ctime = now
        return node

    def link(self, node: Node, where: Node, name: bytes, user: User, now: int) -> None:
        self.enter(where, user)
        self.check_name(name, errno.EEXIST, errno.EEXIST)
        if name in where.names:
            raise No(errno.EEXIST)
        self.check_add(where, user)
        if node.is_dir:
            raise No(errno.EPERM)
        if not self.nlink(node):
            raise No(errno.ENOENT)
        where.names[name] = node
        node.ctime = where.mtime = where.ctime = now

    def unlink(self, where: Node, name: bytes, user: User, now: int) -> Node:
        self.enter(where, user)
        self.check_name(name, errno.EISDIR, errno.EISDIR)
        node = where.names.get(name)
        if node is None:
            raise No(errno.ENOENT)
        self.check_take(where, node, user)
        if node.is_dir:
            raise No(errno.EISDIR)
        del where.names[name]
        node.ctime = where.mtime = where.ctime = now
        return node

    def rmdir(self, where: Node, name: bytes, user: User, now: int) -> Node:
        self.enter(where, user)
        self.check_name(name, errno.EINVAL, errno.ENOTEMPTY)
        node = where.names.get(name)
        if node is None:
            raise No(errno.ENOENT)
        self.check_take(where, node, user)
        if not node.is_dir:
            raise No(errno.ENOTDIR)
        if node.names:
            raise No(errno.ENOTEMPTY)
        del where.names[name]
        node.ctime = where.mtime = where.ctime = now
        return node

    def rename(self, old: Node, name: bytes, new: Node, name2: bytes, flags: int, user: User, now: int) -> None:
        if flags > 2:
            raise No(errno.EINVAL)
        self.enter(old, user)
        self.enter(new, user)
        if name in (b".", b".."):
            raise No(errno.EBUSY)
        if name2 in (b".", b".."):
            raise No(errno.EEXIST if flags == 1 else errno.EBUSY)
        self.check_name(name, 0, 0)
        node = old.names.get(name)
        if node is None:
            raise No(errno.ENOENT)
        self.check_name(name2, 0, 0)
        there = new.names.get(name2)
        if flags == 1 and there is not None:
            raise No(errno.EEXIST)
        if flags == 2 and there is None:
            raise No(errno.ENOENT)
        if old is not new and node.is_dir and self.inside(new, node):
            raise No(errno.EINVAL)
        if old is not new and there is not None and there.is_dir and self.inside(old, there):
            raise No(errno.EINVAL if flags == 2 else errno.ENOTEMPTY)
        if node is there:
            return
        self.check_take(old, node, user)
        if there is None:
            self.check_add(new, user)
        else:
            self.check_take(new, there, user)
            if flags != 2 and node.is_dir != there.is_dir:
                raise No(errno.ENOTDIR if node.is_dir else errno.EISDIR)
        for one in (node, there if flags == 2 else None):
            if old is not new and one is not None and one.is_dir and not one.may(user, 2):
                raise No(errno.EACCES)
        if flags != 2 and there is not None and there.names:
            raise No(errno.ENOTEMPTY)
        for one in (old, new):
            one.mtime = one.ctime = now
        for moved in (node, there):
            if moved is not None:
                moved.ctime = now
        new.names[name2] = node
        if flags == 2 and there is not None:
            old.names[name] = there
        else:
            del old.names[name]

    def chmod(self, node: Node, perm: int, user: User, now: int) -> None:
        if user.uid not in (0, node.uid):
            raise No(errno.EPERM)
        if node.kind == stat.S_IFLNK:
            raise No(errno.EOPNOTSUPP)
        if user.uid and node.gid not in (user.gid, *user.groups):
            perm &= ~stat.S_ISGID
        node.perm = perm
        node.acl = cut(node.acl, perm, 0)
        node.ctime = now

    def chown(self, node: Node, uid: int, gid: int, user: User, now: int) -> None:
        if user.uid:
            if uid != node.uid or user.uid != node.uid:
                raise No(errno.EPERM)
            if gid != node.gid and gid not in (user.gid, *user.groups):
                raise No(errno.EPERM)
        if not node.is_dir:
            outsider = user.uid and node.gid not in (user.gid, *user.groups)
            if node.perm & 0o010 or outsider:
                node.perm &= ~stat.S_ISGID
            node.perm &= ~stat.S_ISUID
        node.uid, node.gid, node.ctime = uid, gid, now

    def truncate(self, node: Node, size: int, user: User, now: int) -> None:
        if node.is_dir:
            raise No(errno.EISDIR)
        if node.kind != stat.S_IFREG:
            raise No(errno.EINVAL)
        if not node.may(user, 2):
            raise No(errno.EACCES)
        if user.uid:
            node.perm &= ~stat.S_ISUID
            if node.perm & 0o010:
                node.perm &= ~stat.S_ISGID
        node.bytes = {at: what for at, what in node.bytes.items() if at < size}
        node.size = size
        node.mtime = node.ctime = now

    def write(self, node: Node, at: int, length: int, slice_id: int, now: int) -> None:
        if node.is_dir:
            raise No(errno.EISDIR)
        if node.kind != stat.S_IFREG:
            raise No(errno.EINVAL)
        for offset in range(length):
            if slice_id:
                node.bytes[at + offset] = (slice_id, offset)
            else:
                node.bytes.pop(at + offset, None)
        node.size = max(node.size, at + length)
        node.mtime = node.ctime = now

    def set_attribute(self, node: Node, name: bytes, value: bytes, user: User, now: int) -> None:
        self.check_attribute(node, user)
        node.attributes[name] = value
        node.ctime = now

    def remove_attribute(self, node: Node, name: bytes, user: User, now: int) -> None:
        self.check_attribute(node, user)
        if name not in node.attributes:
            raise No(errno.ENODATA)
        del node.attributes[name]
        node.ctime = now

    def check_attribute(self, node: Node, user: User) -> None:
        if node.kind not in (stat.S_IFREG, stat.S_IFDIR):
            raise No(errno.EPERM)
        if node.is_dir and node.perm & stat.S_ISVTX and user.uid not in (0, node.uid):
            raise No(errno.EPERM)
        if not node.may(user, 2):
            raise No(errno.EACCES)

    def set_acl(self, node: Node, acl: Acl, default: bool, user: User, now: int) -> None:
        if node.kind == stat.S_IFLNK:
            raise No(errno.EOPNOTSUPP)
        if default and acl and not node.is_dir:
            raise No(errno.EACCES)
        if user.uid not in (0, node.uid):
            raise No(errno.EPERM)
        if not acl and not (node.default if default else node.acl):
            return
        node.ctime = now
        if default:
            node.default = acl
            return
        node.acl = acl if "m" in acl else {}
        if acl:
            node.perm = node.perm & ~0o777 | bits_of(acl)
            if user.uid and node.gid not in (user.gid, *user.groups):
                node.perm &= ~stat.S_ISGID

    def slices(self) -> set[int]:
        return {slice_id for node in self.nodes for slice_id, _ in node.bytes.values()}
