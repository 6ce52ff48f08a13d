"""What the file system asks of the metadata client, so that it can be tested without a server.

MetaClient (meta_client.py) is the implementation. Requests and responses are protos/meta.proto's messages: the client of a
stream mints `id` and `seq`, the caller fills in the operation and nothing else.

Coherence, as docs/WIRE.md promises it: whatever was read through the live stream is followed by a notification when somebody
else changes it, and `on_reset` is called before the first request of a new stream is answered. So what was learnt stays
true until a notification or a reset says otherwise. The answer to a request may be handled after a notification that came
with or after it; staleness.py is the client's defence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from protos import meta_pb2 as pb

#: `on_reset`: the session is over and the server has let go of everything that it held open.
EXPIRED: Final = "expired"


class MetaApi(Protocol):
    @property
    def root(self) -> int:
        """The inode that the mount shows as its root."""

    #: Called on the event loop for every notification, and never again for one that a reset has overtaken.
    on_notification: Callable[[pb.Notification], None] | None
    #: Called on the event loop when pushes may have been missed; EXPIRED, or any other reason while the session goes on.
    on_reset: Callable[[str], None] | None

    def read(self, request: pb.Request) -> asyncio.Future[pb.Response]:
        """Ask. The future raises FsError."""

    def change(self, request: pb.Request) -> asyncio.Future[pb.Response]:
        """Change something, exactly once. The future raises FsError; done means durable. `request.seq` is set at once."""

    def hold(self, ino: int) -> None:
        """One more reason to keep the inode open at the server. The answer to an Open or a Create counts as one by itself."""

    def release(self, ino: int) -> None:
        """One reason less; with the last one the server is told, some time later."""
