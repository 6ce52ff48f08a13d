"""Access control lists as values: bytes, validity, modes, inheritance and access, beside second formulations of each rule."""

from __future__ import annotations

import contextlib
import errno
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.core import acl
from metaserver.core.acl import GROUP, GROUP_OBJ, MASK, OTHER, USER, USER_OBJ, Acl, Entry
from metaserver.core.errors import FsError
from tests import acl_text

PERM = st.integers(0, 7)
IDS = st.integers(1, 4)
MODES = st.integers(0, 0o7777)
#: The tags in any order, as letters, to say with a regular expression what a good list is.
LETTERS = {USER_OBJ: "U", USER: "u", GROUP_OBJ: "G", GROUP: "g", MASK: "M", OTHER: "O"}


@st.composite
def lists(draw: st.DrawFn) -> Acl:
    """Good lists, named entries and masks or not."""
    users = [Entry(USER, draw(PERM), one) for one in draw(st.lists(IDS, max_size=2))]
    groups = [Entry(GROUP, draw(PERM), one) for one in draw(st.lists(IDS, max_size=2))]
    mask = [Entry(MASK, draw(PERM))] if users or groups or draw(st.booleans()) else []
    return (Entry(USER_OBJ, draw(PERM)), *users, Entry(GROUP_OBJ, draw(PERM)), *groups, *mask, Entry(OTHER, draw(PERM)))


ANY = st.lists(st.builds(Entry, st.sampled_from(list(LETTERS)), PERM, IDS), max_size=7).map(tuple)


def is_valid(entries: Acl) -> bool:
    try:
        acl.require_valid(entries)
    except FsError:
        return False
    return True


@given(lists())
def test_bytes_are_those_that_the_kernel_knows(entries: Acl) -> None:
    value = acl.encode(entries)
    assert acl.decode(value) == entries
    assert acl_text.to_bytes(acl_text.to_text(value)) == value


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda tail: b"\2\0\0\0" + tail))
def test_any_bytes_are_a_list_or_a_refusal(value: bytes) -> None:
    with contextlib.suppress(FsError):
        acl.require_valid(acl.decode(value))


@given(lists() | ANY)
def test_a_list_is_good_when_its_tags_are_in_order(entries: Acl) -> None:
    letters = "".join(LETTERS[one.tag] for one in entries)
    assert is_valid(entries) == bool(re.fullmatch("UGM?O|Uu*Gg*MO", letters))


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (b"", errno.EINVAL),
        (b"\2\0\0", errno.EINVAL),
        (b"\1\0\0\0", errno.EOPNOTSUPP),
        (b"\2\0\0\0" + bytes(7), errno.EINVAL),
        (b"\2\0\0\0" + bytes(8 * 512), errno.E2BIG),
    ],
)
def test_what_is_no_list(value: bytes, number: int) -> None:
    with pytest.raises(FsError) as refusal:
        acl.decode(value)
    assert refusal.value.errno == number


def test_the_longest_list_is_a_page() -> None:
    entries = acl.decode(b"\2\0\0\0" + bytes(8 * acl.ENTRIES_MAX))
    assert 4088 < len(acl.encode(entries)) <= 4096


@given(lists(), MODES)
def test_a_chmod_leaves_a_list_that_has_the_mode(entries: Acl, mode: int) -> None:
    after = acl.with_mode(entries, mode)
    assert acl.mode_bits(after) == mode & 0o777
    assert is_valid(after)
    named = [one for one in entries if one.tag in (USER, GROUP)]
    assert [one for one in after if one.tag in (USER, GROUP)] == named
    if acl.says_more(entries):  # then the group's own entry keeps what it has
        assert [one for one in after if one.tag == GROUP_OBJ] == [one for one in entries if one.tag == GROUP_OBJ]


@given(lists(), MODES)
def test_what_is_inherited_is_no_more_than_both(entries: Acl, mode: int) -> None:
    got = acl.inherit(entries, 0o100000 | mode)
    assert got.mode == 0o100000 | mode & ~0o777 | (acl.mode_bits(entries) & mode & 0o777)
    assert (got.access is not None) == acl.says_more(entries)
    if got.access is not None:
        assert acl.mode_bits(got.access) == got.mode & 0o777
        assert [(one.tag, one.id) for one in got.access] == [(one.tag, one.id) for one in entries]
        assert all(mine.perm & ~given.perm == 0 for mine, given in zip(got.access, entries, strict=True))


@given(lists(), PERM, st.integers(1, 5), st.sets(st.integers(1, 5)))
def test_access_is_as_acl_5_has_it(entries: Acl, want: int, uid: int, groups: set[int]) -> None:
    """acl(5), said once more with sets of rights: that of the first user of that name, else a group's that has all."""
    owner = 5
    rights = {letter: [one for one in entries if LETTERS[one.tag] == letter] for letter in "UuGgMO"}
    mask = rights["M"][0].perm if rights["M"] else 7
    users = [one.perm & mask for one in rights["u"] if one.id == uid]
    of_groups = [one.perm & mask for one in rights["g"] if one.id in groups]
    of_groups += [one.perm & mask for one in rights["G"] if owner in groups]
    if users:
        granted = [users[0]]
    elif of_groups:
        granted = of_groups
    else:
        granted = [rights["O"][0].perm]
    assert acl.permits(entries, want, uid, owner, groups.__contains__) == any(want & ~perm == 0 for perm in granted)


def test_an_entry_without_an_id_is_nobodys_group() -> None:
    """A group of number 2^32-1 is not that of every entry."""
    entries = acl.decode(acl_text.to_bytes("u::rwx,u:1:rwx,g::---,m::rwx,o::---"))
    assert not acl.permits(entries, 4, 9, 5, {0xFFFFFFFF}.__contains__)
