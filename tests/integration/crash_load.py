"""The load of the crash tests: threads that work on a mount and write down every call before and after (crash_model.py).

    python -m tests.integration.crash_load FOLDER JOURNALS SEED THREADS

Each thread works in a folder of its own, so that its journal alone says what must be there. It ends at the first call that
fails, or that shows other bytes than it wrote; the process ends on SIGTERM, with 0 if nothing failed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import stat
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.integration.crash_model import Node, Tree, content

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SIZES = (0, 1, 100, 1000, 4000, 4096, 4097, 20_000, 65_536, 70_001, 300_000, 1_200_000)
_SIZE_WEIGHTS = (2, 4, 8, 8, 6, 4, 4, 6, 3, 3, 2, 1)


class WrongBytes(Exception):
    """A read gave something else than what was written."""


class Worker:
    """One thread. `stop` is looked at between calls."""

    def __init__(self, folder: Path, journal: Path, seed: str, stop: threading.Event) -> None:
        self._folder = folder
        self._journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._seed = seed
        self._rng = random.Random(seed)
        self._stop = stop
        self._tree = Tree()
        self._numbers = 0
        self.failed = False

    def run(self) -> None:
        """Work until told to stop, or until something fails."""
        try:
            while not self._stop.is_set():
                self._rng.choices(_SCENARIOS, _WEIGHTS)[0](self)
        except OSError as error:
            self._note({"errno": error.errno})
            self.failed = True
        except WrongBytes as error:
            self._note({"wrong": str(error)})
            self.failed = True
        finally:
            os.close(self._journal)

    # calls

    def _note(self, record: dict[str, Any]) -> None:
        os.write(self._journal, json.dumps(record).encode() + b"\n")

    @contextmanager
    def _call(self, op: str, **arguments: Any) -> Iterator[None]:
        call = {"op": op, **arguments}
        self._note(call)
        yield
        self._note({"ok": 1})
        self._tree.apply(call)

    def _at(self, path: str) -> str:
        return f"{self._folder}/{path}"

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _create(self, path: str, mode: int = 0o644) -> int:
        with self._call("create", path=path, mode=mode, fd=(number := self._number())):
            fd = os.open(self._at(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        self._fds = {number: fd}
        return number

    def _open(self, path: str, flags: int = os.O_RDWR) -> int:
        with self._call("open", path=path, fd=(number := self._number())):
            fd = os.open(self._at(path), flags)
        self._fds = {number: fd}
        return number

    def _write(self, number: int, at: int | None = None, *, append: bool = False) -> None:
        """One write of a random size: at an offset, or at the end."""
        size = self._rng.choices(_SIZES, _SIZE_WEIGHTS)[0]
        if at is None:
            at = len(self._tree.open_files[number].now())
        tag = f"{self._seed}:{self._number()}"
        data, fd = content(tag, size), self._fds[number]
        with self._call("write", fd=number, at=at, size=size, tag=tag):
            wrote = os.write(fd, data) if append else os.pwrite(fd, data, at)
        if wrote != size:
            raise WrongBytes(f"a write of {size} bytes took {wrote}")

    def _sync(self, number: int) -> None:
        with self._call("sync", fd=number):
            os.fsync(self._fds[number])

    def _close(self, number: int) -> None:
        with self._call("close", fd=number):
            os.close(self._fds.pop(number))

    # choices

    def _some(self, kind: int) -> str | None:
        found = [path for path, node in self._tree.walk() if node.kind == kind]
        return self._rng.choice(found) if found else None

    def _fresh(self) -> str:
        folders = ["", *(path for path, node in self._tree.walk() if node.kind == stat.S_IFDIR and path.count("/") < 3)]
        folder = self._rng.choice(folders)
        name = f"n{self._number()}"
        return f"{folder}/{name}" if folder else name

    # scenarios

    def create_and_close(self) -> None:
        number = self._create(self._fresh(), self._rng.choice((0o644, 0o600, 0o751)))
        if self._rng.random() < 0.7:
            self._write(number)
        self._close(number)

    def create_and_sync(self) -> None:
        number = self._create(self._fresh())
        for _ in range(self._rng.randint(1, 4)):
            self._write(number)
            if self._rng.random() < 0.5:
                self._sync(number)
        self._close(number)

    def append(self) -> None:
        if (path := self._some(stat.S_IFREG)) is not None:
            number = self._open(path, os.O_WRONLY | os.O_APPEND)
            self._write(number, append=True)
            self._sync(number)
            self._close(number)

    def overwrite(self) -> None:
        if (path := self._some(stat.S_IFREG)) is not None:
            number = self._open(path)
            size = len(self._tree.open_files[number].now())
            self._write(number, self._rng.randint(0, size + 5000))
            if self._rng.random() < 0.5:
                self._sync(number)
            self._close(number)

    def unlink_open(self) -> None:
        """A file without a name stays readable and writable, whatever happens to the server meanwhile."""
        number = self._create(path := self._fresh())
        self._write(number)
        if self._rng.random() < 0.5:
            self._sync(number)
        with self._call("unlink", path=path):
            os.unlink(self._at(path))
        self._write(number)
        self._sync(number)
        wanted = self._tree.open_files[number].now()
        if os.pread(self._fds[number], len(wanted) + 1, 0) != wanted:
            raise WrongBytes(f"{path}, which has lost its name")
        self._close(number)

    def mkdir(self) -> None:
        with self._call("mkdir", path=(path := self._fresh()), mode=0o755):
            os.mkdir(self._at(path), 0o755)

    def rmdir(self) -> None:
        empty = [path for path, node in self._tree.walk() if node.kind == stat.S_IFDIR and not node.children]
        if empty:
            with self._call("rmdir", path=(path := self._rng.choice(empty))):
                os.rmdir(self._at(path))

    def unlink(self) -> None:
        if (path := self._some(stat.S_IFREG)) is not None:
            with self._call("unlink", path=path):
                os.unlink(self._at(path))

    def rename(self) -> None:
        if (path := self._some(stat.S_IFREG)) is not None:
            target = self._some(stat.S_IFREG) if self._rng.random() < 0.3 else self._fresh()
            if target is not None and self._tree.find(path) is not self._existing(target):
                with self._call("rename", path=path, to=target):
                    os.rename(self._at(path), self._at(target))

    def rename_directory(self) -> None:
        if (path := self._some(stat.S_IFDIR)) is not None:
            target = self._fresh()
            if not target.startswith(f"{path}/"):
                with self._call("rename", path=path, to=target):
                    os.rename(self._at(path), self._at(target))

    def _existing(self, path: str) -> Node | None:
        folder, name = self._tree.parent(path)
        return folder.children.get(name)

    def link(self) -> None:
        if (path := self._some(stat.S_IFREG)) is not None:
            with self._call("link", path=path, to=(target := self._fresh())):
                os.link(self._at(path), self._at(target))

    def symlink(self) -> None:
        with self._call("symlink", path=(path := self._fresh()), to=(target := f"to/{self._number()}")):
            os.symlink(target, self._at(path))

    def chmod(self) -> None:
        if (path := self._some(self._rng.choice((stat.S_IFREG, stat.S_IFDIR)))) is not None:
            mode = self._rng.choice((0o644, 0o700, 0o755, 0o711))
            with self._call("chmod", path=path, mode=mode):
                os.chmod(self._at(path), mode)

    def utime(self) -> None:
        if (path := self._some(stat.S_IFREG)) is not None:
            when_ns = self._rng.randrange(10**18)
            with self._call("utime", path=path, mtime_ns=when_ns):
                os.utime(self._at(path), ns=(when_ns, when_ns))

    def truncate(self) -> None:
        if (path := self._some(stat.S_IFREG)) is not None:
            size = self._rng.choice((0, 10, 4096, 5000, 100_000))
            with self._call("truncate", path=path, size=size):
                os.truncate(self._at(path), size)

    def read(self) -> None:
        if (path := self._some(stat.S_IFREG)) is not None:
            wanted = self._tree.find(path).now()
            with open(self._at(path), "rb", buffering=0) as file:
                if file.read(len(wanted) + 1) != wanted:
                    raise WrongBytes(f"{path} is not what was written")

    def list(self) -> None:
        path = self._some(stat.S_IFDIR) or ""
        if sorted(os.listdir(self._at(path))) != sorted(self._tree.find(path).children):
            raise WrongBytes(f"the listing of {path!r}")


_MIX: tuple[tuple[Callable[[Worker], None], int], ...] = (
    (Worker.create_and_close, 12),
    (Worker.create_and_sync, 10),
    (Worker.append, 6),
    (Worker.overwrite, 5),
    (Worker.unlink_open, 3),
    (Worker.mkdir, 5),
    (Worker.rmdir, 2),
    (Worker.unlink, 7),
    (Worker.rename, 6),
    (Worker.rename_directory, 2),
    (Worker.link, 3),
    (Worker.symlink, 3),
    (Worker.chmod, 3),
    (Worker.utime, 3),
    (Worker.truncate, 3),
    (Worker.read, 5),
    (Worker.list, 3),
)
_SCENARIOS = [scenario for scenario, _ in _MIX]
_WEIGHTS = [weight for _, weight in _MIX]


def main(folder: Path, journals: Path, seed: str, threads: int) -> int:
    """Run the threads; see the module's text."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    workers = []
    for number in range(threads):
        own = folder / f"t{number}"
        own.mkdir()
        workers.append(Worker(own, journals / f"t{number}", f"{seed}/{number}", stop))
    running = [threading.Thread(target=worker.run) for worker in workers]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return 1 if any(worker.failed for worker in workers) else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
