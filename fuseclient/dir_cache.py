"""Every directory that this mount knows something of, within one bound.

A directory's entry costs about 320 bytes; `limit` counts entries, and every directory as `_DIRECTORY_WEIGHT` more. When
there are too many, the directories that were not used since the last time go first. One that holds more than `huge` entries is
not kept by name (Directory.shed); its readers have windows instead: Directory objects of their own that hold a page or two,
registered here so that they learn of changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fuseclient.directory import Directory

if TYPE_CHECKING:
    from fuseclient.operations import DirItem

LIMIT: Final = 200_000
HUGE: Final = 150_000
_DIRECTORY_WEIGHT: Final = 8
_CHECK_EVERY: Final = 8192


class DirCache:
    __slots__ = ("_added", "_dirs", "_limit", "_windows", "get", "huge")

    def __init__(self, limit: int = LIMIT, huge: int = HUGE) -> None:
        self._limit = limit
        self.huge = huge
        self._added = 0
        self._dirs: dict[int, Directory] = {}
        self._windows: dict[int, list[Directory]] = {}
        self.get = self._dirs.get

    def at(self, ino: int) -> Directory:
        """The directory, known or not."""
        found = self._dirs.get(ino)
        if found is None:
            found = self._dirs[ino] = Directory(ino)
            self.grown(found, _DIRECTORY_WEIGHT)
        return found

    def made(self, ino: int) -> None:
        """This mount made the directory: it is known to be empty."""
        self.at(ino).made()

    def drop(self, ino: int) -> None:
        """The directory was removed."""
        found = self._dirs.pop(ino, None)
        if found is not None:
            found.forget()

    def window(self, ino: int, base: int) -> Directory:
        """A listing of its own for one reader, which begins after the cookie `base`."""
        made = Directory(ino, base=base)
        self._windows.setdefault(ino, []).append(made)
        return made

    def close_window(self, window: Directory) -> None:
        rest = [one for one in self._windows.pop(window.ino, []) if one is not window]
        if rest:
            self._windows[window.ino] = rest

    # changes

    def set(self, parent: int, item: DirItem) -> None:
        """This mount made `item`, or moved it here."""
        found = self.at(parent)
        found.changed(item.name)
        found.set(item)
        self.grown(found, 1)
        if self._windows:
            for window in self._windows.get(parent, ()):
                if item.cookie:
                    window.changed(item.name)
                    window.set(item)
                else:
                    window.doubt_name(item.name)

    def remove(self, parent: int, name: bytes) -> DirItem | None:
        """This mount removed the name; what was known of it."""
        if self._windows:
            for window in self._windows.get(parent, ()):
                window.changed(name)
                window.remove(name)
        found = self.at(parent)
        found.changed(name)
        return found.remove(name)

    def doubt(self, parent: int, name: bytes) -> None:
        """Nobody here knows what the name means now."""
        found = self._dirs.get(parent)
        if found is not None:
            found.doubt_name(name)
        for window in self._windows.get(parent, ()):
            window.doubt_name(name)

    def clear(self) -> None:
        for found in self._dirs.values():
            found.forget()
        for windows in self._windows.values():
            for window in windows:
                window.forget()
        self._dirs.clear()

    # room

    def grown(self, directory: Directory, entries: int) -> None:
        """`directory` got about so many entries more. Windows bound themselves."""
        if self._dirs.get(directory.ino) is not directory:
            return
        if len(directory.names) > self.huge:
            directory.shed()
        self._added += entries
        if self._added >= _CHECK_EVERY:
            self._added = 0
            self._make_room()

    def weight(self) -> int:
        return sum(len(one.names) for one in self._dirs.values()) + _DIRECTORY_WEIGHT * len(self._dirs)

    def _make_room(self) -> None:
        weight = self.weight()
        if weight <= self._limit:
            return
        aim = self._limit - self._limit // 4
        for one in list(self._dirs.values()):
            if weight <= aim:
                return
            if one.asking or one.filling:
                continue
            if one.used:
                one.used = False
                self._dirs[one.ino] = self._dirs.pop(one.ino)  # to the end of the line
                continue
            weight -= len(one.names) + _DIRECTORY_WEIGHT
            del self._dirs[one.ino]
