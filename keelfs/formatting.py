"""Creating a volume: the store is seen to work before the metadata service is told."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from fuseclient.data.object_store import ObjectDenied, ObjectStoreError
from fuseclient.data.stores import open_store
from fuseclient.errors import ClientError
from keelfs.exit_codes import ExitCode

if TYPE_CHECKING:
    from keelfs.admin_client import AdminClient
    from protos import admin_pb2


def check_store(store: str) -> None:
    """Write, read and remove a probe object, so that a mistake shows now and not at the first write. Raises ClientError."""
    try:
        opened = open_store(store)
        try:
            opened.probe()
        finally:
            opened.close()
    except ValueError as error:
        raise ClientError(f"--store is wrong: {error}", exit_code=ExitCode.USAGE) from error
    except ObjectStoreError as error:
        code = ExitCode.DENIED if isinstance(error, ObjectDenied) else ExitCode.FAILURE
        raise ClientError(f"the object store does not work: {error}", exit_code=code) from error


def create_volume(client: AdminClient, name: str, settings: dict[str, Any]) -> admin_pb2.Volume:
    """The new volume; its root directory belongs to the caller."""
    check_store(settings["store"])
    return client.create_volume(name, json.dumps(settings), uid=os.getuid(), gid=os.getgid(), mode=0o755)
