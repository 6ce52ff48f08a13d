"""Removing every object of a destroyed volume. The metadata must be gone already: nothing here asks whether one is needed."""

from __future__ import annotations

from itertools import islice
from typing import Final

from fuseclient.data.object_store import ObjectStoreError
from fuseclient.data.stores import open_store
from fuseclient.errors import ClientError

_BATCH: Final = 1000


def purge_volume(store_url: str, volume: str) -> int:
    """Delete all objects of `volume` in the store; how many. Raises ClientError; running it again goes on."""
    store = open_store(store_url)
    removed = 0
    try:
        # Listed to the end first: deleting while a store lists may make it skip.
        keys = iter([info.key for info in store.list(f"{volume}/")])
        while batch := list(islice(keys, _BATCH)):
            store.delete(batch)
            removed += len(batch)
    except ObjectStoreError as error:
        raise ClientError(
            f"volume {volume} is destroyed, but {removed} of its objects only were removed from {store.url}: {error}. "
            f"Remove the rest below {volume}/ with the store's own tools."
        ) from error
    finally:
        store.close()
    return removed
