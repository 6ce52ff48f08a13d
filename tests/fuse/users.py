"""Three people who are not root, and doing something as one of them: a forked process with their ids and groups."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


class User(NamedTuple):
    uid: int
    gid: int
    groups: tuple[int, ...] = ()


ALICE = User(4101, 4201)
BOB = User(4102, 4205, (4202,))
CAROL = User(4103, 4203, (4202, 4204))
USERS = (ALICE, BOB, CAROL)


def as_user(user: User, act: Callable[[], Any]) -> Any:
    """What `act` gives, by way of JSON, or "E..." when it fails."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        _child(user, act, write_end)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the process of uid {user.uid} ended with status {status}"
    return json.loads(answer)


def refusal_to(user: User, act: Callable[[], object]) -> int:
    """The errno that `act` gives this user, 0 if none."""

    def tried() -> None:
        act()

    answer = as_user(user, tried)
    return 0 if answer is None else int(getattr(errno, answer))


def _child(user: User, act: Callable[[], Any], pipe: int) -> None:
    """Never returns: nothing of the test's own may run twice."""
    status = 1
    try:
        os.setgroups(user.groups)
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
        try:
            answer = act()
        except OSError as error:
            answer = errno.errorcode[error.errno or errno.EIO]
        os.write(pipe, json.dumps(answer).encode())
        status = 0
    finally:
        os._exit(status)
