"""The examples of README.md and docs/ work: each block that begins with ```sh run is executed as it stands, in a directory of
its own.

A line `# -> PATTERN` is what the output must contain next, `*` for anything within a line. The port 7420 is replaced by a
free one; `sh run s3` gets a bucket on a local S3 server in place of https://s3.example.org.
"""

from __future__ import annotations

import fnmatch
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from keelfs.embedded import free_port_pair

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
_BLOCK = re.compile(r"^```sh run( s3)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_EXPECTED = "# -> "
_TIMEOUT_S = 120


class Example(NamedTuple):
    name: str
    script: str
    wants_s3: bool


def examples() -> list[Example]:
    found = []
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        text = document.read_text()
        for match in _BLOCK.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Example(f"{document.name}:{line}", match[2], bool(match[1])))
    return found


def expected(script: str) -> list[str]:
    return [line.removeprefix(_EXPECTED).strip() for line in script.splitlines() if line.startswith(_EXPECTED)]


def unmatched(patterns: list[str], output: str) -> str | None:
    """The first pattern that does not follow in the output."""
    lines = iter(output.splitlines())
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(line, f"*{pattern}*") for line in lines):
            return pattern
    return None


def test_a_missing_line_is_noticed() -> None:
    assert unmatched(["a *c", "d"], "x a b c\nd") is None
    assert unmatched(["d", "a"], "a\nd") == "a"
    assert len(examples()) >= 5
    assert all(expected(example.script) for example in examples())


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    """A directory whose mounts are gone and whose processes are dead afterwards, whatever happened."""
    yield tmp_path
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        mountpoint = line.split(" ")[4]
        if mountpoint.startswith(f"{tmp_path}/"):
            subprocess.run(["umount", "-l", mountpoint], check=False, capture_output=True)
    for pid in children_in(tmp_path):
        os.kill(pid, signal.SIGKILL)


def children_in(directory: Path) -> list[int]:
    """The keelfs processes that this directory's examples started and left."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.readlink(entry / "cwd") == str(directory):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.fixture
def endpoint(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A local S3 server that holds the bucket of the examples; started for those that want it."""
    if not request.node.callspec.params["example"].wants_s3:
        yield ""
        return
    server = subprocess.Popen([sys.executable, "-c", _MOTO], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    assert server.stdout is not None
    try:
        yield server.stdout.readline().strip()
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


#: Its own process: moto patches what it touches.
_MOTO = """
import boto3, threading
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
url = "http://%s:%d" % server.get_host_and_port()
boto3.client("s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="key",
             aws_secret_access_key="secret").create_bucket(Bucket="bucket")
print(url, flush=True)
threading.Event().wait()
"""


@pytest.mark.fuse
@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_the_example_at(example: Example, work: Path, endpoint: str) -> None:
    address = f"127.0.0.1:{free_port_pair()}"
    script = example.script.replace("127.0.0.1:7420", address).replace("https://s3.example.org", endpoint)
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(work),
        "KEELFS_LISTEN": address,
        "KEELFS_CACHE_DIR": str(work / "cache"),
    }
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=work,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    missing = unmatched(expected(example.script), done.stdout)
    assert missing is None, f"the output has no (further) line with {missing!r}:\n{done.stdout}"
