"""Calls to the Admin service of a cluster, for commands: blocking, refusals turned into ClientError.

- Any node's address will do: a node that does not lead names the one that does, and the call goes there. While there is no
  leader (an election takes a second or two) the call is made again, for ELECTION_S.
- A call is made again elsewhere only when it is certain that it was not carried out, or when it changes nothing.
- What a node says about itself (status, members, digest) is asked of the first one that answers, and of no other.
"""

from __future__ import annotations

import errno as _errno
import socket
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import grpc

from fuseclient.errors import ClientError
from fuseclient.tls import Access
from fuseclient.volume_url import parse_address
from keelfs.exit_codes import ExitCode
from keelfs.settings import settings
from protos import admin_pb2, admin_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fuseclient.tls import TlsFiles

ELECTION_S: Final = 5.0
_TIMEOUT_S: Final = 30.0
_LONG_S: Final = 3600.0  # what works through a whole volume, or hands out all of the state
_CONNECT_S: Final = 2.0
_AGAIN_S: Final = 0.2
_HOPS_MAX: Final = 8
_MESSAGE_BYTES_MAX: Final = 64 << 20

#: Reasons of a refusal after which the call has certainly not been carried out, and may be soon.
_NOT_DONE: Final = ("not-leader", "starting")
_EXIT: Final = {
    grpc.StatusCode.NOT_FOUND: ExitCode.NO_VOLUME,
    grpc.StatusCode.UNAVAILABLE: ExitCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: ExitCode.UNAVAILABLE,
    grpc.StatusCode.FAILED_PRECONDITION: ExitCode.FAILURE,
    grpc.StatusCode.PERMISSION_DENIED: ExitCode.DENIED,
    grpc.StatusCode.UNAUTHENTICATED: ExitCode.DENIED,
    grpc.StatusCode.INVALID_ARGUMENT: ExitCode.USAGE,
}


class _NotHere(Exception):
    """The node did not carry it out. `leader`: who would, as far as it knows, "" = nobody now; None: it did not say."""

    def __init__(self, error: ClientError, leader: str | None) -> None:
        super().__init__(str(error))
        self.error = error
        self.leader = leader


class AdminClient:
    """The Admin service of one cluster. `addresses`: of any of its nodes, in the order in which they are asked."""

    def __init__(
        self,
        addresses: str | Sequence[str],
        timeout_s: float = _TIMEOUT_S,
        *,
        tls: TlsFiles | None = None,
        insecure: bool = False,
    ) -> None:
        """Raises ClientError when the TLS files cannot be used."""
        self.addresses = (addresses,) if isinstance(addresses, str) else tuple(addresses)
        self._timeout_s = timeout_s
        self._access = Access(tls.context() if tls is not None else None, insecure)
        self._credentials = grpc.ssl_channel_credentials(*tls.read()) if tls is not None else None
        self._channels: dict[str, grpc.Channel] = {}
        self._leader = ""

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()

    # volumes

    def create_volume(self, name: str, settings_json: str, *, uid: int, gid: int, mode: int) -> admin_pb2.Volume:
        request = admin_pb2.CreateVolumeRequest(name=name, settings_json=settings_json, uid=uid, gid=gid, mode=mode)
        return self._call("CreateVolume", request)  # type: ignore[no-any-return]

    def volumes(self) -> list[admin_pb2.Volume]:
        return list(self._call("ListVolumes", admin_pb2.ListVolumesRequest(), reads=True).volumes)

    def volume(self, name: str) -> admin_pb2.Volume:
        return self._call("GetVolume", admin_pb2.GetVolumeRequest(name=name), reads=True)  # type: ignore[no-any-return]

    def set_volume(self, name: str, changes_json: str) -> admin_pb2.Volume:
        request = admin_pb2.SetVolumeRequest(name=name, settings_json=changes_json)
        return self._call("SetVolume", request)  # type: ignore[no-any-return]

    def destroy_volume(self, name: str, *, force: bool) -> admin_pb2.DestroyVolumeReply:
        request = admin_pb2.DestroyVolumeRequest(name=name, force=force)
        return self._call("DestroyVolume", request, timeout_s=_LONG_S)  # type: ignore[no-any-return]

    def inode_info(self, volume: str, *, path: bytes = b"", ino: int = 0) -> admin_pb2.InodeInfoReply:
        request = admin_pb2.InodeInfoRequest(volume=volume, path=path, ino=ino)
        return self._call("InodeInfo", request, reads=True)  # type: ignore[no-any-return]

    # one node

    def status(self) -> admin_pb2.StatusReply:
        return self._call_node("Status", admin_pb2.StatusRequest())  # type: ignore[no-any-return]

    def checkpoint(self) -> int:
        """Make the state durable without the log; the index it has reached."""
        return int(self._call_node("Checkpoint", admin_pb2.CheckpointRequest()).index)

    def digest(self, index: int, timeout_s: float) -> admin_pb2.DigestReply:
        """The digest of the state at a marker's index, which the node may still have to reach: it waits for `timeout_s`."""
        request = admin_pb2.DigestRequest(index=index, timeout_ms=int(timeout_s * 1000))
        return self._call_node("Digest", request, timeout_s=timeout_s + self._timeout_s)  # type: ignore[no-any-return]

    def save_snapshot(self) -> Iterator[admin_pb2.SnapshotPiece]:
        """The state, piece by piece."""
        node = self._first_reachable()
        try:
            yield from admin_pb2_grpc.AdminStub(self._channel(node)).SaveSnapshot(
                admin_pb2.SaveSnapshotRequest(), timeout=_LONG_S
            )
        except grpc.RpcError as error:
            raise self._failure(node, error, reads=True).error from error

    # the cluster

    def members(self) -> admin_pb2.MembersReply:
        """As one node sees them."""
        return self._call_node("Members", admin_pb2.MembersRequest())  # type: ignore[no-any-return]

    def add_member(self, name: str, incarnation: str, peer: str, client: str, admin: str) -> admin_pb2.MembersReply:
        request = admin_pb2.AddMemberRequest(name=name, incarnation=incarnation, peer=peer, client=client, admin=admin)
        return self._call("AddMember", request)  # type: ignore[no-any-return]

    def promote_member(self, name: str) -> admin_pb2.MembersReply:
        return self._call("PromoteMember", admin_pb2.MemberRequest(name=name))  # type: ignore[no-any-return]

    def remove_member(self, name: str, *, force: bool = False) -> admin_pb2.MembersReply:
        return self._call("RemoveMember", admin_pb2.MemberRequest(name=name, force=force))  # type: ignore[no-any-return]

    def transfer(self, name: str = "") -> admin_pb2.MembersReply:
        """Hand leadership to `name`, or to the best follower."""
        return self._call("TransferLeadership", admin_pb2.MemberRequest(name=name))  # type: ignore[no-any-return]

    def mark_digest(self) -> int:
        """Log a marker; every node digests its state at the index that is returned."""
        return int(self._call("MarkDigest", admin_pb2.MarkDigestRequest()).index)

    # how calls are made

    def _call(self, method: str, request: Any, timeout_s: float | None = None, *, reads: bool = False) -> Any:
        """At the leader, wherever it is. `reads`: it may be made twice."""
        until_s = time.monotonic() + ELECTION_S
        while True:
            failures = []
            line = [self._leader, *self.addresses] if self._leader else list(self.addresses)
            asked: dict[str, int] = {}
            while line and sum(asked.values()) < len(self.addresses) + _HOPS_MAX:
                node = line.pop(0)
                if asked.get(node, 0) >= 2 or (node in asked and node != self._leader):
                    continue
                asked[node] = asked.get(node, 0) + 1
                try:
                    return self._at(node, method, request, timeout_s, reads=reads)
                except _NotHere as refused:
                    failures.append(refused)
                    self._leader = refused.leader or ""
                    if refused.leader:
                        line.insert(0, refused.leader)
            told = [failure for failure in failures if failure.leader is not None]
            if not told or time.monotonic() > until_s:
                raise (told or failures)[-1].error
            time.sleep(_AGAIN_S)

    def _call_node(self, method: str, request: Any, timeout_s: float | None = None) -> Any:
        """At the first node that answers."""
        failure: _NotHere | None = None
        for node in self.addresses:
            try:
                return self._at(node, method, request, timeout_s, reads=True)
            except _NotHere as refused:
                failure = refused
        assert failure is not None
        raise failure.error

    def _first_reachable(self) -> str:
        failure: _NotHere | None = None
        for node in self.addresses:
            try:
                self._reach(node)
            except _NotHere as refused:
                failure = refused
            else:
                return node
        assert failure is not None
        raise failure.error

    def _at(self, node: str, method: str, request: Any, timeout_s: float | None, *, reads: bool) -> Any:
        """At this node. Raises _NotHere when it was not carried out (or only reads), else ClientError."""
        self._reach(node)
        call: Callable[..., Any] = getattr(admin_pb2_grpc.AdminStub(self._channel(node)), method)
        try:
            return call(request, timeout=timeout_s or self._timeout_s)
        except grpc.RpcError as error:
            failure = self._failure(node, error, reads=reads)
            if failure.leader is not None or (reads and error.code() is grpc.StatusCode.UNAVAILABLE):
                raise failure from error
            raise failure.error from error

    def _reach(self, node: str) -> None:
        """See that something listens there. gRPC would take 20 s to find out that nothing does."""
        if node in self._channels:
            return
        address = parse_address(node)
        if (why := self._access.refusal(address)) is not None:
            raise _NotHere(ClientError(f"{node}: {why}", exit_code=ExitCode.DENIED), None)
        try:
            socket.create_connection((address.host, address.port), _CONNECT_S).close()
        except OSError as error:
            raise _NotHere(self._nobody(node), None) from error

    def _channel(self, node: str) -> grpc.Channel:
        if node not in self._channels:
            options = [("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX), ("grpc.enable_http_proxy", 0)]
            self._channels[node] = (
                grpc.insecure_channel(node, options=options)
                if self._credentials is None
                else grpc.secure_channel(node, self._credentials, options=options)
            )
        return self._channels[node]

    def _nobody(self, node: str) -> ClientError:
        return ClientError(
            f"no server answers on the admin address {node}. Start one with 'keelfs server', "
            "or name the right address with --admin.",
            exit_code=ExitCode.UNAVAILABLE,
        )

    def _failure(self, node: str, error: grpc.RpcError, *, reads: bool) -> _NotHere:
        """What the node's answer, or its absence, means. `leader` is set when asking again makes sense."""
        code, details = error.code(), error.details() or ""
        metadata: Any = error.trailing_metadata() or ()
        trailers = {key: str(value) for key, value in metadata}
        if code is grpc.StatusCode.UNAVAILABLE and "keelfs-reason" not in trailers and "keelfs-leader" not in trailers:
            self._channels.pop(node).close()  # so that the next call looks again whether anybody listens
            return _NotHere(self._unreachable(node, details), None)
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            late = ClientError(f"the server at {node} did not answer in time", exit_code=ExitCode.UNAVAILABLE)
            return _NotHere(late, None)
        number = trailers.get("keelfs-errno", "")
        value = int(number) if number.isdigit() else 0
        name = _errno.errorcode.get(value, "")
        text = (details or code.name).removeprefix(f"{name}: ")
        shown = f"{text} ({name})" if name else text
        told = ClientError(shown, exit_code=_EXIT.get(code, ExitCode.FAILURE), errno=value)
        reason = trailers.get("keelfs-reason", "")
        again = code is grpc.StatusCode.UNAVAILABLE and (reason in _NOT_DONE or (reads and reason == "no-quorum"))
        return _NotHere(told, trailers.get("keelfs-leader", "") if again else None)

    def _unreachable(self, node: str, details: str) -> ClientError:
        """Something listens there, and the call did not come through."""
        if self._credentials is None:
            why = f"what listens on {node} does not answer; it may expect TLS (--tls-ca, --tls-cert, --tls-key)"
            return ClientError(f"{why}, or not be a KeelFS server's admin port", exit_code=ExitCode.UNAVAILABLE)
        if "WRONG_VERSION_NUMBER" in details:
            why = f"{node} does not speak TLS: leave --tls-ca away, or let the server use TLS"
            return ClientError(why, exit_code=ExitCode.UNAVAILABLE)
        if "CERTIFICATE_VERIFY_FAILED" in details:
            return ClientError(f"the certificate of {node} is not one of this cluster (--tls-ca)", exit_code=ExitCode.DENIED)
        if "Hostname Verification" in details:
            why = f"the certificate of {node} was not made for that address (keelfs certs node --help)"
            return ClientError(why, exit_code=ExitCode.DENIED)
        why = f"no TLS connection to {node}: it may not accept this client's certificate (--tls-cert)"
        return ClientError(why, exit_code=ExitCode.DENIED)


@contextmanager
def admin(addresses: str | Sequence[str], timeout_s: float = _TIMEOUT_S) -> Iterator[AdminClient]:
    """An AdminClient with the site's TLS settings, closed afterwards."""
    site = settings()
    client = AdminClient(addresses, timeout_s, tls=site.tls_files(), insecure=site.insecure)
    try:
        yield client
    finally:
        client.close()
