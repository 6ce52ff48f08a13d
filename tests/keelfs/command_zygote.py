"""Runs `keelfs` commands in processes of their own without loading the program anew each time.

A helper process imports everything once and forks for each command, whose child then does what `keelfs ...` does: the same
main(), its own environment, standard streams and exit status. Starting Python and importing takes half a second, a fork some
milliseconds; the tests run hundreds of commands. One thread only may use a Zygote.

    python -m tests.keelfs.command_zygote       the helper: a JSON line in for each command, a JSON line out
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import traceback
from typing import TYPE_CHECKING, Any, NoReturn, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType


class Zygote:
    """The test's end."""

    def __init__(self) -> None:
        self._helper = subprocess.Popen(
            [sys.executable, "-m", "tests.keelfs.command_zygote"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, *arguments: object, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """`keelfs ARGUMENTS`, with empty standard input."""
        words = [str(argument) for argument in arguments]
        assert self._helper.stdin is not None
        assert self._helper.stdout is not None
        self._helper.stdin.write(json.dumps({"arguments": words, "env": dict(os.environ if env is None else env)}) + "\n")
        self._helper.stdin.flush()
        answer = json.loads(self._helper.stdout.readline())
        return subprocess.CompletedProcess(["keelfs", *words], answer["code"], answer["out"], answer["err"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        with self._helper as helper:
            assert helper.stdin is not None
            helper.stdin.close()


def serve() -> None:
    """The helper."""
    import fuseclient.data.s3
    import fuseclient.mount
    import keelfs.main
    import metaserver.server

    assert all((fuseclient.data.s3, fuseclient.mount, metaserver.server))
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            pid = os.fork()
            if pid == 0:
                become(request, out.fileno(), err.fileno())
                end(keelfs.main.main)
            _, status = os.waitpid(pid, 0)
            answer: dict[str, Any] = {"code": os.waitstatus_to_exitcode(status)}
            for name, file in (("out", out), ("err", err)):
                file.seek(0)
                answer[name] = file.read().decode("utf-8", "replace")
        print(json.dumps(answer), flush=True)


def become(request: dict[str, Any], out: int, err: int) -> None:
    """Make this process look like one that was started with the request."""
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = ["keelfs", *request["arguments"]]
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)


def end(main: Callable[[], None]) -> NoReturn:
    """Run it, and exit as Python would, but without taking the whole program apart, which takes longer than most commands."""
    code: object = 1
    try:
        main()
    except SystemExit as done:
        code = done.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    serve()
