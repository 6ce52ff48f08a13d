"""Three processes on one file of one place, acting out the cases of lock_cases.py. A place is a directory, a mount or two."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.fuse.cluster import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

ACTOR = Path(__file__).with_name("lock_actor.py")
SIZE = 100
MODES = {"r": os.O_RDONLY, "w": os.O_WRONLY, "rw": os.O_RDWR, "a": os.O_RDWR | os.O_APPEND}
#: System calls in which a lock is waited for: fcntl, flock; x86-64 and arm64.
LOCK_CALLS = {"72", "73", "25", "32"}
LOOKS = 12  # in a row that find the process there, and no answer: then it waits
LOOK_S = 0.015
ANSWER_S = 10


class Actor:
    """One lock_actor.py."""

    def __init__(self) -> None:
        command = [sys.executable, "-E", str(ACTOR)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.current = "f"
        self.waiting = False

    @property
    def pid(self) -> int:
        return self.process.pid

    def tell(self, *command: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def answered(self, timeout_s: float = 0) -> bool:
        return bool(select.select([self.process.stdout], [], [], timeout_s)[0])

    def answer(self, timeout_s: float = ANSWER_S) -> Any:
        assert self.process.stdout is not None
        assert self.answered(timeout_s), "no answer"
        return json.loads(self.process.stdout.readline())

    def do(self, *command: object) -> Any:
        self.tell(*command)
        return self.answer()

    def start_waiting(self, *command: object) -> Any:
        """Begin something that may wait; its answer, or "waits"."""
        self.tell(*command)
        looks = 0
        while looks < LOOKS:
            if self.answered(LOOK_S):
                return self.answer()
            looks = looks + 1 if Path(f"/proc/{self.pid}/syscall").read_text().split()[0] in LOCK_CALLS else 0
        self.waiting = True
        return "waits"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE_S)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    @property
    def dead(self) -> bool:
        return self.process.poll() is not None


class Stage:
    """`roots`: where A, B and C work: the same directory, by as many ways."""

    def __init__(self, roots: Sequence[Path], *, remote: bool) -> None:
        self.roots = dict(zip("ABC", roots, strict=True))
        self.remote = remote
        self.actors = {name: Actor() for name in "ABC"}
        self.path = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self.actors.values():
            actor.kill()

    def play(self, case: str, expected: Sequence[object] = ()) -> list[object]:
        """What each step gave. `expected`: an answer that should change since something was closed is waited for, because a
        close gives up flocks and locks of open file descriptions shortly after it has returned."""
        self._set()
        given: list[object] = []
        closed = False
        for number, step in enumerate(case.split(";")):
            outcome = self._step(step.split())
            closed = closed or any(word in step for word in ("close", "kill", "child"))
            if closed and self.remote and number < len(expected) and outcome != expected[number]:
                outcome = self._insist(step.split(), outcome, expected[number])
            given.append(outcome)
        return given

    def _insist(self, words: list[str], outcome: object, expected: object) -> object:
        if words[1] not in ("set", "get", "flock"):
            return outcome
        until = time.monotonic() + 5
        while outcome != expected and time.monotonic() < until:
            time.sleep(0.01)
            outcome = self._step(words)
        return outcome

    def _set(self) -> None:
        for name, actor in list(self.actors.items()):
            if actor.waiting and not actor.dead:
                actor.kill()
            if actor.dead:
                self.actors[name] = Actor()
            else:
                actor.do("close_all")
                actor.current = "f"
        self.path = f"case-{time.monotonic_ns()}"
        root = self.roots["A"]
        (root / self.path).write_bytes(bytes(SIZE))
        (root / f"{self.path}.other").write_bytes(b"")
        for name, actor in self.actors.items():
            assert actor.do("open", "f", str(self.roots[name] / self.path), os.O_RDWR) == "ok"

    def _step(self, words: list[str]) -> object:
        path = self.roots["A"] / self.path
        match words:
            case ["remove"]:
                path.unlink()
            case ["link"]:
                path.with_suffix(".link").hardlink_to(path)
            case ["move"]:
                path.rename(path.with_suffix(".moved"))
            case [name, *rest]:
                return self._act(name, self.actors[name], rest)
        return "ok"

    def _act(self, name: str, actor: Actor, words: list[str]) -> object:
        match words:
            case ["use", file]:
                actor.current = file
            case ["signal"]:
                os.kill(actor.pid, signal.SIGUSR1)
            case ["kill"]:
                actor.kill()
            case ["done"]:
                answer = self._named(actor.answer())
                actor.waiting = False
                return answer
            case ["wait", type_, start, length, *how]:
                return actor.start_waiting(*self._lock(actor, "set", type_, start, length, "ow" if how else "w"))
            case ["fwait", operation]:
                return actor.start_waiting("flock", actor.current, operation, True)
            case ["child", *rest]:
                steps = " ".join(rest).split(" / ")
                return self._named(actor.do("child", *[self._command(name, actor, step.split()) for step in steps]))
            case _:
                return self._named(actor.do(*self._command(name, actor, words)))
        return "ok"

    def _command(self, name: str, actor: Actor, words: list[str]) -> list[object]:
        match words:
            case ["set" | "get" as verb, type_, start, length, *how]:
                return self._lock(actor, verb, type_, start, length, *how)
            case ["open", file, mode, *suffix]:
                path = ".".join([self.path, *suffix])
                return ["open", file, str(self.roots[name] / path), MODES[mode]]
            case ["flock", operation]:
                return ["flock", actor.current, operation]
            case ["seek" | "cut" as verb, number]:
                return [verb, actor.current, int(number)]
            case _:
                return list(words)

    def _lock(self, actor: Actor, verb: str, type_: str, start: str, length: str, how: str = "") -> list[object]:
        whence = {"c": os.SEEK_CUR, "e": os.SEEK_END}.get(start[0], os.SEEK_SET)
        return [verb, actor.current, type_, int(start.lstrip("ce")), int(length), how, whence]

    def _named(self, answer: Any) -> object:
        """Process numbers by name: they differ from place to place."""
        names = {actor.pid: name for name, actor in self.actors.items()}
        if isinstance(answer, list) and len(answer) == 4 and answer[0] in ("r", "w"):
            return [*answer[:3], names.get(answer[3], answer[3])]
        if isinstance(answer, list):
            return [self._named(one) for one in answer]
        return answer
