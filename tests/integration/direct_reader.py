"""A client that talks to one node alone and never to another: it looks for what a SteadyWriter was told is done.

Every answer must show everything that was acknowledged before the question was asked; a node that cannot know must not answer.
"""

from __future__ import annotations

import errno
import queue
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import grpc

from protos import meta_pb2
from tests.fuse.cluster import DEADLINE_S, wait_for

if TYPE_CHECKING:
    from types import TracebackType

    from fuseclient.tls import TlsFiles
    from tests.integration.steady_writer import SteadyWriter

_STREAM_S = 120.0


class DirectReader:
    """`answers`: how many there were; `stale`: files that were acknowledged and not shown; `refusals`: the reasons of the node,
    with the time."""

    def __init__(self, address: str, tls: TlsFiles, volume: str, writer: SteadyWriter) -> None:
        self.answers = 0
        self.stale: list[int] = []
        self.refusals: list[tuple[float, str]] = []
        self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(*tls.read()))
        self._volume = volume
        self._writer = writer
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def _work(self) -> None:
        while not self._stop.is_set():
            questions: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
            call: Any = self._channel.stream_stream("/keelfs.meta.v1.Meta/Session")(
                iter(questions.get, None), timeout=_STREAM_S, wait_for_ready=True
            )
            try:
                self._session(call, questions)
            except grpc.RpcError as error:
                answer: Any = error
                trailers = dict(answer.trailing_metadata() or ())
                self.refusals.append((time.monotonic(), str(trailers.get("keelfs-reason", answer.code().name))))
            except StopIteration:
                self.refusals.append((time.monotonic(), "ended"))
            finally:
                questions.put(None)
                call.cancel()
            self._stop.wait(0.05)

    def _session(self, call: Any, questions: queue.SimpleQueue[bytes | None]) -> None:
        attach = meta_pb2.Attach(volume=self._volume, protocol=1, client="direct")
        questions.put(meta_pb2.ClientFrame(attach=attach).SerializeToString())
        attached = meta_pb2.ServerFrame.FromString(next(call)).attached
        number = 0

        def lookup(parent: int, name: str) -> meta_pb2.Response:
            nonlocal number
            number += 1
            request = meta_pb2.Request(id=number, lookup=meta_pb2.Lookup(parent=parent, name=name.encode()))
            questions.put(meta_pb2.ClientFrame(requests=[request]).SerializeToString())
            while True:
                for response in meta_pb2.ServerFrame.FromString(next(call)).responses:
                    if response.id == number:
                        return response

        folder = lookup(attached.root, self._writer.folder.name)
        assert not folder.errno, folder
        ino = int.from_bytes(folder.attr[:8], "little")
        while not self._stop.is_set():
            done = len(self._writer.done)
            if done == 0:
                self._stop.wait(0.01)
                continue
            answer = lookup(ino, f"f{done - 1}")
            self.answers += 1
            if answer.errno:
                assert answer.errno == errno.ENOENT, answer
                self.stale.append(done - 1)

    def more(self, count: int) -> None:
        """Wait for so many more answers."""
        wanted = self.answers + count
        wait_for(lambda: self.answers >= wanted, f"{count} more answers")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._channel.close()
        self._thread.join(DEADLINE_S)
        if kind is None:
            assert not self._thread.is_alive(), "the reader hangs"
            assert not self.stale, f"acknowledged, and not shown by a node that answered: {self.stale[:10]}"
