"""docs/ARCHITECTURE.md stays true: every function that a document names exists, and one create() really goes that way."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fuseclient.data.data_path import StoreDataPath
from fuseclient.data.settings import DataSettings
from fuseclient.data.stores import open_store
from fuseclient.filesystem import FileSystem
from fuseclient.kernel import protocol as p
from fuseclient.kernel.loop import KernelDriver
from fuseclient.meta_client import MetaClient
from fuseclient.slice_service import MetaSliceService
from fuseclient.volume_url import VolumeUrl
from metaserver.config import ServerConfig
from metaserver.server import Server
from protos import admin_pb2, admin_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURE = ROOT / "docs" / "ARCHITECTURE.md"
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
_REFERENCE = re.compile(r"`((?:[\w.-]+/)*[\w-]+\.py):([A-Za-z_][\w.]*)`")
_FILE = re.compile(r"`((?:\.?[\w.-]+/)+[\w.-]+\.(?:py|proto|c|md|txt))`")
_STEP = re.compile(r"^(\d+)\. `([\w/]+\.py):([\w.]+)`", re.MULTILINE)
_HEADING = "## One create(), through the code"


def names_in(path: Path) -> set[str]:
    """Every class and function of a file, by its dotted name."""
    found: set[str] = set()

    def walk(body: ast.AST, prefix: str) -> None:
        for node in ast.iter_child_nodes(body):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(prefix + node.name)
                walk(node, f"{prefix}{node.name}.")
            else:
                walk(node, prefix)

    walk(ast.parse(path.read_text()), "")
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_names_is_there(document: Path) -> None:
    text = document.read_text()
    missing = [f"{file}:{name}" for file, name in _REFERENCE.findall(text) if not exists(file, name)]
    missing += [file for file in _FILE.findall(text) if not (ROOT / file).exists()]
    assert not missing


def exists(file: str, name: str) -> bool:
    path = ROOT / file
    return path.is_file() and name in names_in(path)


def test_the_journey_has_no_gap() -> None:
    assert [number for number, _, _ in steps()] == list(range(1, len(steps()) + 1))
    assert len(steps()) > 30


def steps() -> list[tuple[int, str, str]]:
    section = ARCHITECTURE.read_text().split(_HEADING)[1].split("\n## ")[0]
    return [(int(number), file, name) for number, file, name in _STEP.findall(section)]


class Recorder:
    """Which functions of ours are entered, in order, in all threads, while `on` is set."""

    def __init__(self) -> None:
        self.on = False
        self.calls: list[tuple[str, str]] = []

    def __call__(self, frame: FrameType, event: str, _arg: Any) -> None:
        if self.on and event == "call" and frame.f_code.co_filename.startswith(f"{ROOT}{os.sep}"):
            file = os.path.relpath(frame.f_code.co_filename, ROOT)
            self.calls.append((file, frame.f_code.co_qualname.replace(".<locals>", "")))


class Kernel:
    """The kernel's end of /dev/fuse: a socket that keeps messages apart."""

    def __init__(self) -> None:
        self.theirs, self.ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.setblocking(False)
        self._unique = 0

    async def ask(self, opcode: p.Opcode, body: bytes) -> tuple[int, bytes]:
        """Errno and body of the reply."""
        self._unique += 1
        length = p.IN_HEADER_BYTES + len(body)
        header = p.IN_HEADER.pack(length, opcode, self._unique, p.ROOT_ID, 0, 0, os.getpid(), 0)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self.ours, header + body)
        reply = await asyncio.wait_for(loop.sock_recv(self.ours, 1 << 16), 20)
        length, error, unique = p.OUT_HEADER.unpack_from(reply)
        assert (length, unique) == (len(reply), self._unique)
        return -error, reply[p.OUT_HEADER_BYTES :]


@pytest.fixture
def recorder() -> Any:
    found = Recorder()
    threading.setprofile(found)
    yield found
    threading.setprofile(None)


async def traced_create(home: Path, recorder: Recorder) -> tuple[int, bytes]:
    """One create on a server, a log, a client and a driver in this process; only its own calls are recorded."""
    server = Server(ServerConfig(home / "meta", "127.0.0.1:0", "127.0.0.1:0"))
    try:
        ready = await server.start()
        await make_volume(ready.admin, home / "objects")
        meta = await MetaClient.connect(VolumeUrl.parse(f"keel://{ready.listen}/data"), "test")
        store = open_store(f"file://{home / 'objects'}")
        files = FileSystem(meta, StoreDataPath(store, MetaSliceService(meta), DataSettings("data")))
        kernel = Kernel()
        driver = KernelDriver(kernel.theirs.fileno(), files)
        serving = asyncio.create_task(driver.serve())
        flags = int(p.InitFlag.DONT_MASK | p.InitFlag.BIG_WRITES)
        await kernel.ask(p.Opcode.INIT, p.INIT_IN.pack(7, 40, 0, flags) + bytes(48))
        body = p.CREATE_IN.pack(os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o100644, 0o022, 0) + b"f\0"
        recorder.on = True
        sys.setprofile(recorder)
        answer = await kernel.ask(p.Opcode.CREATE, body)
        sys.setprofile(None)
        recorder.on = False
        kernel.ours.close()
        await serving
        kernel.theirs.close()
        await files.close()
        await meta.close()
        store.close()
    finally:
        await server.stop()
    return answer


async def make_volume(admin: str, objects: Path) -> None:
    import grpc

    async with grpc.aio.insecure_channel(admin) as channel:
        settings = json.dumps({"store": f"file://{objects}"})
        request = admin_pb2.CreateVolumeRequest(name="data", settings_json=settings, mode=0o755)
        await admin_pb2_grpc.AdminStub(channel).CreateVolume(request)


async def test_one_create_goes_the_way_that_is_written(tmp_path: Path, recorder: Recorder) -> None:
    code, body = await traced_create(tmp_path, recorder)
    assert code == 0
    (ino,) = struct.unpack_from("<Q", body)
    assert ino > 1
    position = 0
    for number, file, name in steps():
        try:
            position = recorder.calls.index((file, name), position) + 1
        except ValueError:
            pytest.fail(explain(number, file, name, recorder.calls[:position], recorder.calls))


def explain(number: int, file: str, name: str, before: list[tuple[str, str]], calls: list[tuple[str, str]]) -> str:
    how: Callable[[tuple[str, str]], str] = ":".join
    where = "it was called before the last step" if (file, name) in before else "it was not called at all"
    return f"step {number}, {file}:{name}: {where}. All calls in order:\n" + "\n".join(map(how, calls))


_LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(#[^)\s]*)?\)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target, anchor in _LINK.findall(document.read_text()):
        path = (document.parent / target).resolve() if target else document
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert anchor[1:] in {anchor_of(heading) for heading in headings}, f"{target}{anchor}"


def anchor_of(heading: str) -> str:
    """As GitHub and most others make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_index_of_decisions_is_complete() -> None:
    folder = ROOT / "docs" / "decisions"
    written = re.findall(r"^\| \[(\d{4})\]\(([^)]+)\) \| (.*) \|$", (folder / "README.md").read_text(), re.MULTILINE)
    there = []
    for path in sorted(folder.glob("0*.md")):
        number, title = path.read_text().splitlines()[0].removeprefix("# ").split(": ", 1)
        there.append((number, path.name, title))
        assert path.name.startswith(f"{number}-")
    assert written == there
