"""The caches by themselves: what they keep, in which order, and how much of it."""

from __future__ import annotations

import stat

from hypothesis import given
from hypothesis import strategies as st

from fuseclient.attr import Attr, AttrFields
from fuseclient.attr_cache import AttrCache
from fuseclient.attr_raw import version_of, with_local_writes
from fuseclient.dir_cache import DirCache
from fuseclient.directory import END, Directory
from fuseclient.name_filter import NameFilter
from fuseclient.operations import DirItem
from fuseclient.recent import Recent
from fuseclient.staleness import MARKS_MAX, Overtakes


def item(name: bytes, cookie: int, ino: int = 0) -> DirItem:
    return DirItem(name, ino or cookie, 8, cookie, None)


def attr(ino: int, version: int = 1, size: int = 0, mode: int = stat.S_IFREG | 0o644) -> Attr:
    return Attr.of(AttrFields(ino, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0, 0, 0, version, version, 0, 0))


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 200)), max_size=400), st.integers(1, 300), st.integers(1, 50))
def test_a_listing_is_its_entries_in_cookie_order(steps: list[tuple[bool, int]], start: int, limit: int) -> None:
    """Entries are added and removed in any order of cookies; holes are closed now and then."""
    directory = Directory(1)
    directory.made()
    truth: dict[int, bytes] = {}
    for add, cookie in steps:
        name = b"%d" % cookie
        if add:
            directory.set(item(name, cookie))
            truth[cookie] = name
        else:
            removed = directory.remove(name)
            assert (removed is not None) == (truth.pop(cookie, None) is not None)
    expected = [truth[cookie] for cookie in sorted(truth) if cookie > start]
    assert [one.name for one in directory.after(start, limit)] == expected[:limit]
    assert directory.exact
    assert directory.covers(start)


def test_what_is_beyond_the_cursor_is_not_listed() -> None:
    directory = Directory(1)
    for cookie in (3, 4, 9):
        directory.set(item(b"%d" % cookie, cookie))
    directory.page_done(4, eof=False)
    assert [one.cookie for one in directory.after(0, 10)] == [3, 4]
    assert directory.covers(3)
    assert not directory.covers(4)
    directory.page_done(9, eof=True)
    assert directory.cursor == END
    assert directory.complete
    assert directory.is_absent(b"other")


def test_removing_many_costs_little_room() -> None:
    directory = Directory(1)
    directory.made()
    for cookie in range(3, 10_003):
        directory.set(item(b"%d" % cookie, cookie))
    for cookie in range(3, 9_903):
        directory.remove(b"%d" % cookie)
    assert len(directory.after(0, 10_000)) == 100
    assert len(directory._items) <= 201


def test_doubts_that_a_listing_settles_and_those_it_does_not() -> None:
    directory = Directory(1)
    directory.made()
    directory.doubt_name(b"before")
    assert not directory.exact
    directory.relist()
    directory.doubt_name(b"during")
    directory.page_done(0, eof=True)
    assert directory.is_absent(b"before")
    assert not directory.is_absent(b"during")
    assert not directory.exact


def test_the_least_used_directories_go_first() -> None:
    cache = DirCache(limit=10_000, huge=10**6)
    for ino in range(1, 40):
        directory = cache.at(ino)
        for cookie in range(3, 1003):
            directory.set(item(b"%d" % cookie, cookie))
        cache.grown(directory, 1000)
        directory.used = ino == 39
        cache.at(1).used = True
    assert cache.weight() <= 10_000 + 8192
    assert cache.get(1) is not None
    assert len(cache.at(1).names) == 1000
    assert cache.get(2) is None


def test_a_directory_that_is_asked_about_stays() -> None:
    cache = DirCache(limit=100, huge=10**6)
    asked = cache.at(1)
    asked.used = False
    asked.ask()
    cache.grown(asked, 10_000)
    for ino in range(2, 5000):
        cache.at(ino).used = False
    assert cache.get(1) is asked


@given(st.sets(st.binary(min_size=1, max_size=20), max_size=300), st.sets(st.binary(min_size=1, max_size=20), max_size=300))
def test_a_filter_never_denies_a_name(names: set[bytes], later: set[bytes]) -> None:
    made = NameFilter(names)
    for name in later:
        made.add(name)
    assert all(name in made for name in names | later)


def test_a_filter_that_grows_is_still_good() -> None:
    made = NameFilter()
    for n in range(300_000):
        made.add(b"name%d" % n)
    assert sum(b"other%d" % n in made for n in range(10_000)) < 100


def test_recent_keeps_what_is_used() -> None:
    recent: Recent[int, str] = Recent(100)
    for n in range(10_000):
        recent.put(n, "x")
        assert recent.get(0) or n == 0 or recent.get(0) is not None
    assert recent.get(0) == "x"
    assert recent.get(5) is None
    assert 50 <= len(recent) <= 100
    recent.drop(0)
    assert recent.get(0) is None


def test_attributes_never_grow_older() -> None:
    cache = AttrCache()
    cache.put(7, attr(7, 5), cache.tick)
    assert version_of(cache.put(7, attr(7, 4), cache.tick)) == 5
    tick = cache.tick
    cache.drop(7)
    assert version_of(cache.put(7, attr(7, 6), tick)) == 6
    assert cache.get(7) is None
    cache.put(7, attr(7, 7), cache.tick)
    assert cache.get(7) == attr(7, 7)


def test_too_many_marks_overtake_everything() -> None:
    marks: Overtakes[int] = Overtakes()
    before = marks.tick
    marks.mark(1)
    assert marks.hit(1, before)
    assert not marks.hit(2, before)
    for n in range(10, 10 + MARKS_MAX):
        marks.mark(n)
    assert marks.hit(2, before)
    assert not marks.hit(2, marks.tick)


def test_local_writes_show() -> None:
    file = attr(7, size=10, mode=stat.S_IFREG | 0o6755)
    seen = with_local_writes(file, 5000, 1_000_000_007, kill_priv=True, written=4990).fields
    assert (seen.size, seen.mtime_s, seen.mtime_nsec, seen.ctime_s, seen.mode & 0o7777) == (5000, 1, 7, 1, 0o755)
    assert seen.blocks * 512 >= 4990
    assert with_local_writes(attr(7, size=10), 10, -1, kill_priv=False, written=0).fields.mtime_nsec == 999_999_999


def test_a_hole_that_was_not_stored_yet_takes_no_blocks() -> None:
    seen = with_local_writes(attr(7, size=0), 1 << 40, 1, kill_priv=False, written=4096).fields
    assert (seen.size, seen.blocks) == (1 << 40, 8)
