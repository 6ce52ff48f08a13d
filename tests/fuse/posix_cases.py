"""System calls as somebody, in a small tree made for them: what they gave, and what they did to everything in that tree.

`observe` runs any number of cases below one folder. All trees are made first; then the clock is seen to move on; then one
forked child per identity makes that identity's calls; then everything is looked at again. So a thousand cases cost a few
forks and no waiting. The same cases below two folders of two file systems must give equal outcomes.

What a file system may choose is left out: inode numbers, sizes of directories, access times.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import traceback
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from tests.fuse.cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path


class Actor(NamedTuple):
    """Who calls: all ids of the process, real, effective and saved."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()


ROOT = Actor("root", 0, 0)
OWNER = Actor("owner", 3001, 3001)
MEMBER = Actor("member", 3002, 3002, (3001, 3003))
OTHER = Actor("other", 3004, 3004)


class Entry(NamedTuple):
    """One name of a case's tree. `kind` is a letter of find(1)'s -type; `text`: a link's target, a file's contents."""

    path: str
    kind: str = "f"
    mode: int = 0o644
    owner: Actor = OWNER
    group: int = -1  # of the owner
    text: str = "text"


class Case(NamedTuple):
    """Calls by name. Those that change nothing may share a tree; a change has one to itself."""

    name: str
    who: Actor
    tree: tuple[Entry, ...]
    calls: dict[str, Callable[[], object]]


#: A case and the folder that it has.
Job: TypeAlias = "tuple[Path, Case]"
#: How many processes make the trees.
BUILDERS = 6


class Outcome(NamedTuple):
    """The result of each call, or the name of its errno; and per path of the tree what it became."""

    results: dict[str, str]
    effects: tuple[tuple[str, ...], ...]


def _write(path: Path, entry: Entry) -> None:
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, entry.mode)
    os.write(fd, entry.text.encode())
    os.close(fd)


_MAKE: dict[str, Callable[[Path, Entry], object]] = {
    "f": _write,
    "d": lambda path, entry: path.mkdir(),
    "l": lambda path, entry: path.symlink_to(entry.text),
    "p": lambda path, entry: os.mkfifo(path, entry.mode),
    "s": lambda path, entry: os.mknod(path, stat.S_IFSOCK | entry.mode),
}


def _make(folder: Path, case: Case) -> None:
    """As few changes as possible: nearly everything has its owner and mode from the beginning."""
    folder.mkdir(0o777)
    for entry in case.tree:
        os.setegid(entry.owner.gid)
        os.seteuid(entry.owner.uid)
        _MAKE[entry.kind](folder / entry.path, entry)
        os.seteuid(0)
        os.setegid(0)
    for entry in case.tree:
        if entry.group >= 0:
            os.lchown(folder / entry.path, -1, entry.group)
        # A write by who is not root takes setuid and setgid away.
        if (entry.kind == "d" and entry.mode != 0o777) or entry.group >= 0 or entry.mode & 0o6000:
            os.chmod(folder / entry.path, entry.mode)


def _look(path: Path) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None


def _effect(path: str, before: os.stat_result | None, after: os.stat_result | None) -> tuple[str, ...]:
    """What an lstat(2) before and after says, as words."""
    if after is None:
        return (path, "gone" if before is not None else "never was")
    size = "" if stat.S_ISDIR(after.st_mode) else f"size {after.st_size}"
    words = [path, stat.filemode(after.st_mode), f"links {after.st_nlink}", f"of {after.st_uid}:{after.st_gid}", size]
    if before is not None and before.st_ino != after.st_ino:
        words.append("another inode")
    elif before is not None:
        words += [name for name in ("mtime", "ctime") if getattr(before, f"st_{name}_ns") != getattr(after, f"st_{name}_ns")]
    return tuple(words)


def outcome_of(call: Callable[[], object]) -> str:
    try:
        return repr(call())
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def _built(jobs: Sequence[Job]) -> None:
    os.umask(0)
    os.setgroups([])
    for folder, case in jobs:
        _make(folder, case)


def _called(jobs: Sequence[Job]) -> list[dict[str, str]]:
    """The results of calls that one identity makes, one after another."""
    who = jobs[0][1].who
    os.umask(0o022)
    os.setgroups(who.groups)
    os.setresgid(who.gid, who.gid, who.gid)
    os.setresuid(who.uid, who.uid, who.uid)
    results = []
    for folder, case in jobs:
        found = {}
        for name, call in case.calls.items():
            os.chdir(folder)
            found[name] = outcome_of(call)
        results.append(found)
    return results


class _Child:
    """A forked process that does one thing; its id, and where it tells what it found."""

    def __init__(self, work: Callable[[Sequence[Job]], Any], jobs: Sequence[Job]) -> None:
        self.read_end, write_end = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads: the child runs nothing of theirs
            self.pid = os.fork()
        if not self.pid:
            status = 1
            try:
                found = work(jobs)
                with os.fdopen(write_end, "w") as pipe:
                    json.dump(found, pipe)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(write_end)

    def result(self) -> Any:
        with os.fdopen(self.read_end) as pipe:
            said = pipe.read()
        assert os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]) == 0, "a child that makes or calls broke; it said why"
        return json.loads(said)


def _in_children(work: Callable[[Sequence[Job]], Any], parts: Sequence[Sequence[Job]]) -> list[Any]:
    """Side by side, since a change that is waited for leaves the machine free."""
    children = [_Child(work, jobs) for jobs in parts]
    return [child.result() for child in children]


def _watched(case: Case, extra: Iterable[str]) -> list[str]:
    return [".", *dict.fromkeys([entry.path for entry in case.tree]), *extra]


def observe(root: Path, cases: Sequence[Case], *, through: Path | None = None, new: Sequence[str] = ("new",)) -> list[Outcome]:
    """Every case's outcome. `through`: the way on which the calls find `root` (another mount of it). `new`: names that a call
    may make."""
    root.mkdir(exist_ok=True)
    root.chmod(0o755)
    folders = [root / str(number) for number in range(len(cases))]
    jobs = list(zip(folders, cases, strict=True))
    _in_children(_built, [jobs[start::BUILDERS] for start in range(BUILDERS)])
    _await_another_time(root)
    watched = [_watched(case, new) for case in cases]
    before = [[_look(folder / path) for path in paths] for folder, paths in zip(folders, watched, strict=True)]
    parts = [
        [number for number, case in enumerate(cases) if case.who == who][start::2]
        for who in dict.fromkeys(case.who for case in cases)
        for start in range(2)
    ]
    parts = [part for part in parts if part]
    found = _in_children(_called, [[((through or root) / str(number), cases[number]) for number in part] for part in parts])
    results = {n: result for part, said in zip(parts, found, strict=True) for n, result in zip(part, said, strict=True)}
    return [
        Outcome(
            results[number],
            tuple(_effect(path, was, _look(folders[number] / path)) for path, was in zip(paths, before[number], strict=True)),
        )
        for number, paths in enumerate(watched)
    ]


def _await_another_time(root: Path) -> None:
    """A local file system's clock ticks every few milliseconds: a change from here on has another time than any before."""
    probe = root / "probe"
    probe.touch()
    first = probe.stat().st_ctime_ns

    def moved() -> bool:
        probe.chmod(0o600)
        return probe.stat().st_ctime_ns - first > 1_000_000

    wait_for(moved, "the clock of the file system")
    probe.unlink()


def differences(cases: Sequence[Case], ours: Sequence[Outcome], local: Sequence[Outcome]) -> list[str]:
    """One line for everything in which the two file systems do not agree."""
    found = []
    for case, one, other in zip(cases, ours, local, strict=True):
        who = f"{case.name} as {case.who.name}"
        for call, result in one.results.items():
            if result != other.results[call]:
                found.append(f"{call}: {who}: KeelFS gives {result}, the local file system {other.results[call]}")
        for mine, theirs in zip(one.effects, other.effects, strict=True):
            if mine != theirs:
                calls = "/".join(case.calls) if len(case.calls) < 4 else f"{len(case.calls)} calls"
                found.append(f"{calls}: {who}: {' '.join(mine)} | the local file system: {' '.join(theirs)}")
    return found
