"""Where access control lists are kept: each value once, under a number, with the count of its users.

A tree that was given one list by `setfacl -R` holds it once, not a million times. An inode's `acl` and `default_acl` are two
uses. A value is found by the digest of its bytes; it goes with its last use, and its number is not given again.

`number_of` only looks, so that an op can decide before it writes; `use` and `disuse` write.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from metaserver.core import acl, codec, keys
from metaserver.core.errors import CorruptState, FsError

if TYPE_CHECKING:
    from metaserver.core.acl import Acl
    from metaserver.core.codec import KeptAcl
    from metaserver.core.model import Inode
    from metaserver.core.txn import ReadTxn, WriteTxn


def kept(txn: ReadTxn, number: int) -> KeptAcl:
    value = txn.get(keys.acl(number))
    if value is None:
        raise CorruptState(f"ACL {number} is missing")
    return codec.decode_acl(value)


def load(txn: ReadTxn, number: int) -> Acl:
    try:
        return acl.decode(kept(txn, number).value)
    except FsError as error:
        raise CorruptState(f"ACL {number}: {error}") from error


def number_of(txn: ReadTxn, value: bytes) -> int:
    """The number under which a value is kept, or, when it is not, would be if it were the next."""
    found = txn.get(keys.acl_number(digest(value)))
    if found is not None:
        return codec.decode_counter(found)
    following = txn.get(keys.NEXT_ACL)
    return keys.FIRST_NUMBER[keys.NEXT_ACL] if following is None else codec.decode_counter(following)


def use(txn: WriteTxn, value: bytes) -> int:
    """One more use of a value; its number."""
    number = number_of(txn, value)
    held = txn.get(keys.acl(number))
    if held is None:
        txn.put(keys.NEXT_ACL, codec.encode_counter(number + 1))
        txn.put(keys.acl_number(digest(value)), codec.encode_counter(number))
        txn.put(keys.acl(number), codec.encode_acl(1, value))
    else:
        before = codec.decode_acl(held)
        if before.value != value:
            raise CorruptState(f"ACL {number} is not the one with its digest")
        txn.put(keys.acl(number), codec.encode_acl(before.uses + 1, value))
    return number


def disuse(txn: WriteTxn, number: int) -> None:
    """One use less; the value goes with the last."""
    uses, value = kept(txn, number)
    if uses > 1:
        txn.put(keys.acl(number), codec.encode_acl(uses - 1, value))
    else:
        txn.delete(keys.acl_number(digest(value)))
        txn.delete(keys.acl(number))


def change_mode(txn: WriteTxn, number: int, mode: int) -> int:
    """What a chmod makes of an inode's access list: the number of the list that the inode has then."""
    after = use(txn, acl.encode(acl.with_mode(load(txn, number), mode)))
    disuse(txn, number)
    return after


def disuse_all(txn: WriteTxn, inode: Inode) -> None:
    """The inode's lists are used no more."""
    for number in (inode.acl, inode.default_acl):
        if number:
            disuse(txn, number)


def digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()
