"""Calls to a server's Admin service, for commands: blocking, one channel, refusals turned into ClientError."""

from __future__ import annotations

import errno as _errno
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import grpc

from fuseclient.errors import ClientError
from fuseclient.volume_url import Address
from keelfs.exit_codes import ExitCode
from protos import admin_pb2, admin_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_TIMEOUT_S: Final = 30.0
_MESSAGE_BYTES_MAX: Final = 64 << 20

_EXIT: Final = {
    grpc.StatusCode.NOT_FOUND: ExitCode.NO_VOLUME,
    grpc.StatusCode.UNAVAILABLE: ExitCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: ExitCode.UNAVAILABLE,
    grpc.StatusCode.FAILED_PRECONDITION: ExitCode.FAILURE,
    grpc.StatusCode.PERMISSION_DENIED: ExitCode.DENIED,
    grpc.StatusCode.UNAUTHENTICATED: ExitCode.DENIED,
    grpc.StatusCode.INVALID_ARGUMENT: ExitCode.USAGE,
}


def admin_address(server: Address) -> str:
    """Where the Admin service of a server is unless said otherwise: the next port."""
    return str(Address(server.host, server.port + 1))


class AdminClient:
    """One server's Admin service."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = grpc.insecure_channel(
            address,
            options=[("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX), ("grpc.enable_http_proxy", 0)],
        )
        self._stub = admin_pb2_grpc.AdminStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def create_volume(self, name: str, settings_json: str, *, uid: int, gid: int, mode: int) -> admin_pb2.Volume:
        request = admin_pb2.CreateVolumeRequest(name=name, settings_json=settings_json, uid=uid, gid=gid, mode=mode)
        return self._call(self._stub.CreateVolume, request)  # type: ignore[no-any-return]

    def volumes(self) -> list[admin_pb2.Volume]:
        return list(self._call(self._stub.ListVolumes, admin_pb2.ListVolumesRequest()).volumes)

    def volume(self, name: str) -> admin_pb2.Volume:
        return self._call(self._stub.GetVolume, admin_pb2.GetVolumeRequest(name=name))  # type: ignore[no-any-return]

    def destroy_volume(self, name: str, *, force: bool) -> admin_pb2.DestroyVolumeReply:
        request = admin_pb2.DestroyVolumeRequest(name=name, force=force)
        return self._call(self._stub.DestroyVolume, request, timeout_s=3600)  # type: ignore[no-any-return]

    def status(self) -> admin_pb2.StatusReply:
        return self._call(self._stub.Status, admin_pb2.StatusRequest())  # type: ignore[no-any-return]

    def checkpoint(self) -> int:
        """Make the state durable without the log; the index it has reached."""
        return int(self._call(self._stub.Checkpoint, admin_pb2.CheckpointRequest()).index)

    def inode_info(self, volume: str, *, path: bytes = b"", ino: int = 0) -> admin_pb2.InodeInfoReply:
        request = admin_pb2.InodeInfoRequest(volume=volume, path=path, ino=ino)
        return self._call(self._stub.InodeInfo, request)  # type: ignore[no-any-return]

    def _call(self, method: Callable[..., Any], request: Any, timeout_s: float = _TIMEOUT_S) -> Any:
        try:
            return method(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise self._translate(error) from error

    def _translate(self, error: grpc.RpcError) -> ClientError:
        code = error.code()
        if code is grpc.StatusCode.UNAVAILABLE:
            return ClientError(
                f"no server answers on the admin address {self.address}. Start one with 'keelfs server', "
                "or name the right address with --admin.",
                exit_code=ExitCode.UNAVAILABLE,
            )
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return ClientError(f"the server at {self.address} did not answer in time", exit_code=ExitCode.UNAVAILABLE)
        trailers: Any = error.trailing_metadata() or ()
        number = next((str(value) for key, value in trailers if key == "keelfs-errno"), "")
        name = _errno.errorcode.get(int(number), "") if number.isdigit() else ""
        text = (error.details() or code.name).removeprefix(f"{name}: ")
        return ClientError(f"{text} ({name})" if name else text, exit_code=_EXIT.get(code, ExitCode.FAILURE))


@contextmanager
def admin(address: str) -> Iterator[AdminClient]:
    """An AdminClient, closed afterwards."""
    client = AdminClient(address)
    try:
        yield client
    finally:
        client.close()
