"""A server as a process: what it says when it cannot start, and what is left after kill -9."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
from stream_peer import Harness, ino_of

from protos import meta_pb2


class Process:
    """`python -m metaserver.server` on a data directory."""

    def __init__(self, data, *extra):
        read_fd, write_fd = os.pipe()
        command = [sys.executable, "-m", "metaserver.server", "--data", str(data), "--ready-fd", str(write_fd)]
        addresses = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        self.process = subprocess.Popen([*command, *addresses, *extra], pass_fds=(write_fd,), stderr=subprocess.PIPE, text=True)
        os.close(write_fd)
        with open(read_fd, encoding="ascii") as ready:
            self.ready = ready.readline().split()
        self.said = ""
        self._drain = threading.Thread(target=self._read)
        self._drain.start()

    def _read(self):
        self.said = self.process.stderr.read()
        self.process.stderr.close()

    def end(self, number=signal.SIGTERM):
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        code = self.process.wait(30)
        self._drain.join(30)
        return code

    def harness(self):
        return Harness(None, self.ready[1], self.ready[2])


def refusal(process):
    """Exit code and the one line for people of a server that did not start."""
    code = process.process.wait(30)
    process._drain.join(30)
    assert not process.ready
    assert "Traceback" not in process.said
    (line,) = [line for line in process.said.splitlines() if line.startswith("metaserver: ")]
    return code, line


def test_a_port_that_is_taken(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, line = refusal(Process(tmp_path, "--listen", address))
    assert code == 3
    assert f"cannot listen on {address}" in line


def test_a_data_directory_that_is_in_use(tmp_path):
    first = Process(tmp_path)
    assert first.ready
    code, line = refusal(Process(tmp_path))
    assert code == 4
    assert "in use" in line
    assert first.end() == 0


def test_a_data_directory_that_is_a_file(tmp_path):
    (tmp_path / "f").write_bytes(b"")
    code, line = refusal(Process(tmp_path / "f"))
    assert code == 4
    assert str(tmp_path / "f") in line


def test_a_damaged_store(tmp_path):
    first = Process(tmp_path)
    assert first.end() == 0
    store = tmp_path / "state" / "data.mdb"
    store.write_bytes(b"garbage" * 10000)
    code, line = refusal(Process(tmp_path))
    assert code == 5
    assert "data.mdb" in line


def test_listening_beyond_loopback_needs_leave(tmp_path):
    code, line = refusal(Process(tmp_path, "--listen", "0.0.0.0:0"))
    assert code == 2
    assert "--insecure" in line


@pytest.mark.asyncio(loop_scope="session")
async def test_what_was_acknowledged_survives_kill_9(tmp_path):
    first = await asyncio.to_thread(Process, tmp_path)
    harness = first.harness()
    await harness.make_volume()
    peer = await harness.peer()
    made = {}
    creates = {}
    for n in range(1, 301):
        creates[n] = meta_pb2.Create(parent=peer.root, name=b"f%d" % n, mode=0o644, exclusive=True)
    for start in range(1, 301, 60):
        answers = await peer.ask([meta_pb2.Request(seq=n, create=creates[n]) for n in range(start, start + 60)])
        made |= {n: ino_of(answer) for n, answer in enumerate(answers, start)}
    assert await asyncio.to_thread(first.end, signal.SIGKILL) == -signal.SIGKILL
    await harness.close_peers()

    second = await asyncio.to_thread(Process, tmp_path)
    harness = second.harness()
    again = await harness.peer(session=peer.attached.session, secret=peer.attached.secret)
    assert again.attached.resumed
    page = await again.read(readdir=meta_pb2.ReadDir(ino=again.root, limit=4096))
    assert {entry.name: entry.ino for entry in page.entries} == {b"f%d" % n: ino for n, ino in made.items()}
    resent = await again.ask([meta_pb2.Request(seq=n, create=creates[n]) for n in (1, 150, 300)])
    assert [ino_of(answer) for answer in resent] == [made[n] for n in (1, 150, 300)]
    await harness.close_peers()
    assert await asyncio.to_thread(second.end) == 0
