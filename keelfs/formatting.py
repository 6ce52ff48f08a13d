"""Creating a volume: the store is seen to work, and to hold nothing of that name, before the metadata service is told.

Objects are named by the volume and by numbers that begin anew with every cluster. A new volume on an old one's objects would
meet names that are taken, by data that passes every check and is not its own.
"""

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


def check_store(store: str, name: str) -> bool:
    """Write, read and remove a probe object, so that a mistake shows now and not at the first write. Whether there are no
    objects of a volume of that name yet. Raises ClientError."""
    try:
        opened = open_store(store)
        try:
            opened.probe()
            return next(iter(opened.list(f"{name}/")), None) is None
        finally:
            opened.close()
    except ValueError as error:
        raise ClientError(f"--store is wrong: {error}", exit_code=ExitCode.USAGE) from error
    except ObjectStoreError as error:
        code = ExitCode.DENIED if isinstance(error, ObjectDenied) else ExitCode.FAILURE
        raise ClientError(f"the object store does not work: {error}", exit_code=code) from error


def create_volume(client: AdminClient, name: str, settings: dict[str, Any]) -> admin_pb2.Volume:
    """The new volume; its root directory belongs to the caller."""
    existing = {volume.name for volume in client.volumes()}  # first: without a server nothing is made in the store either
    is_new = check_store(settings["store"], name)
    if not is_new and name not in existing:
        raise ClientError(
            f"{settings['store']} holds objects below {name}/ already: of a volume {name!r} of another cluster, or of one that "
            "is gone. If nobody needs it, 'keelfs volume destroy' at its own cluster removes them, or, where that is no more, "
            f"the store's own tools. Otherwise give the new volume another name, or another directory or prefix in --store."
        )
    return client.create_volume(name, json.dumps(settings), uid=os.getuid(), gid=os.getgid(), mode=0o755)
