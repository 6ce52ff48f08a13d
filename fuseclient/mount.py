"""A mount: the one file of the client that knows every concrete class, puts them together and takes them apart.

    kernel -> driver -> FileSystem -> MetaClient -> server
                             |
                             +-> DataPath -> ObjectStore

Taking apart goes in that order too: the kernel lets go, the file system stores what is dirty, the session is ended. A mount
is ready when the server answered, the store answered and the kernel took the mount.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog
import uvloop

from fuseclient.access_times import NOATIME, RELATIME, STRICTATIME
from fuseclient.data.block_cache import BlockCache
from fuseclient.data.data_path import StoreDataPath
from fuseclient.data.object_store import ObjectStoreError
from fuseclient.data.settings import DataSettings
from fuseclient.data.stores import is_local, open_store
from fuseclient.delete_worker import DeleteWorker
from fuseclient.errors import ClientError
from fuseclient.filesystem import FileSystem, Options
from fuseclient.kernel import mount as kernel_mount
from fuseclient.kernel.loop import KernelDriver
from fuseclient.kernel.negotiation import WANTED, DriverOptions
from fuseclient.kernel.protocol import InitFlag
from fuseclient.meta_client import MetaClient
from fuseclient.slice_service import MetaSliceService
from fuseclient.squash import Squash, SquashedFileSystem
from fuseclient.tls import Access

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from fuseclient.data.object_store import ObjectStore
    from fuseclient.volume_settings import VolumeSettings
    from fuseclient.volume_url import VolumeUrl

#: Options of mount(8) and what they set in kernel_mount.MountOptions.
_OPTIONS: Final = {
    "ro": ("read_only", True),
    "rw": ("read_only", False),
    "nosuid": ("nosuid", True),
    "suid": ("nosuid", False),
    "nodev": ("nodev", True),
    "dev": ("nodev", False),
    "noexec": ("noexec", True),
    "exec": ("noexec", False),
    "noatime": ("atime", NOATIME),
    "relatime": ("atime", RELATIME),
    "strictatime": ("atime", STRICTATIME),
    "allow_other": ("allow_other", True),
    "nonempty": ("nonempty", True),
}

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class MountConfig:
    """What `keelfs mount` was told, checked for shape only."""

    url: VolumeUrl
    mountpoint: Path
    cache_dir: Path
    options: tuple[str, ...] = ()
    cache_bytes: int = 10 << 30  # 0 = no cache on disk
    buffer_bytes: int = 300 << 20
    attr_ttl_s: float = 1.0
    entry_ttl_s: float = 1.0
    dir_cache_s: float = 0.0
    open_cache_s: float = 0.0
    squash: Squash = Squash()  # noqa: RUF009  # a tuple: immutable
    driver: str = "kernel"
    access: Access = field(default_factory=Access)

    def mount_options(self) -> kernel_mount.MountOptions:
        """The kernel's view of `options`. Raises ClientError."""
        unknown = [option for option in self.options if option not in _OPTIONS]
        if unknown:
            known = ", ".join(sorted(_OPTIONS))
            raise ClientError(f"there is no mount option {', '.join(unknown)}; known are {known}", exit_code=2)
        # Another user's programs may look in only where root, or /etc/fuse.conf, allows it.
        chosen: dict[str, Any] = {"allow_other": os.geteuid() == 0}
        chosen.update(_OPTIONS[option] for option in self.options)
        # Where everybody is mapped, who calls says nothing about who may: the kernel is not to check.
        checks = self.squash.who != "all"
        return kernel_mount.MountOptions(fsname=str(self.url), default_permissions=checks, **chosen)


def run_mount(config: MountConfig, ready: Callable[[], None]) -> int:
    """Mount and serve until it is unmounted; the exit code. `ready` is called when it answers. Raises ClientError."""
    if config.driver not in _DRIVERS:
        raise ClientError(f"there is no driver {config.driver!r}; use {' or '.join(_DRIVERS)}", exit_code=2)
    options = config.mount_options()
    kernel_mount.check_mountpoint(config.mountpoint, options)  # before anything is started
    gc.set_threshold(50_000, 20, 50)
    return uvloop.run(_serve(config, options, ready))


async def _serve(config: MountConfig, options: kernel_mount.MountOptions, ready: Callable[[], None]) -> int:
    async with contextlib.AsyncExitStack() as stack:
        client = f"{socket.gethostname()}:{config.mountpoint} (process {os.getpid()})"
        meta = await MetaClient.connect(config.url, client, access=config.access)
        stack.push_async_callback(meta.close)
        store = await asyncio.to_thread(_open_store, meta.settings.store_url)
        stack.callback(store.close)
        data = _data_path(config, meta, store, stack)
        files = _file_system(config, options, meta, data)
        stack.push_async_callback(files.close)
        deletes = DeleteWorker(meta, store, config.url.volume, meta.settings.block_bytes)
        meta.on_deletes_waiting = deletes.wake
        deletes.start()
        stack.push_async_callback(deletes.close)

        def announce() -> None:
            log.info("mounted", url=str(config.url), mountpoint=str(config.mountpoint), driver=config.driver)
            ready()

        if meta.settings.acl and config.driver != "kernel":
            log.warning("this driver has no ACLs: they are neither shown nor enforced on this mount", driver=config.driver)
        async with _DRIVERS[config.driver](config, options, files) as driver:
            await _serve_driver(driver, announce)
            log.info("unmounted", mountpoint=str(config.mountpoint))
    return 0


def _file_system(config: MountConfig, options: kernel_mount.MountOptions, meta: MetaClient, data: StoreDataPath) -> FileSystem:
    # The kernel lets root through to what it knows; so that every lookup is asked, it knows no names.
    squashed = config.squash.who != "none"
    entry_ttl_s = 0.0 if squashed else config.entry_ttl_s
    chosen = Options(
        entry_ttl_s=entry_ttl_s,
        attr_ttl_s=config.attr_ttl_s,
        negative_ttl_s=entry_ttl_s,
        dir_cache_s=config.dir_cache_s,
        open_cache_s=config.open_cache_s,
        atime=NOATIME if options.read_only else options.atime,
        # A kernel that enforces ACLs checks every caller as the one that it knows.
        acl=meta.settings.acl and config.driver == "kernel" and config.squash.who != "all",
    )
    return SquashedFileSystem(meta, data, config.squash, chosen) if squashed else FileSystem(meta, data, chosen)


def _open_store(url: str) -> ObjectStore:
    try:
        store = open_store(url)
        store.probe()
    except ValueError as error:
        raise ClientError(f"the volume's store cannot be used: {error}") from error
    except ObjectStoreError as error:
        raise ClientError(f"the volume's object store does not work: {error}") from error
    return store


def _data_path(config: MountConfig, meta: MetaClient, store: ObjectStore, stack: contextlib.AsyncExitStack) -> StoreDataPath:
    try:
        settings = DataSettings(
            volume=config.url.volume,
            block_bytes=meta.settings.block_bytes,
            inline_bytes=meta.settings.inline_bytes,
            buffer_bytes=config.buffer_bytes,
        )
    except ValueError as error:
        raise ClientError(f"the volume cannot be mounted with these settings: {error}", exit_code=2) from error
    cache = None
    if config.cache_bytes and not is_local(meta.settings.store_url):
        try:
            cache = BlockCache(config.cache_dir, cache_identity(meta.settings, meta.volume_id), config.cache_bytes)
        except OSError as error:
            raise ClientError(f"cannot use the cache directory {config.cache_dir}: {error.strerror}") from error
        stack.callback(cache.close)
    return StoreDataPath(store, MetaSliceService(meta), settings, cache=cache)


def cache_identity(settings: VolumeSettings, volume_id: int) -> str:
    """What no other volume's blocks are cached under. Numbers begin anew with a new cluster, on the same store perhaps."""
    return f"{settings.store_url}#{settings.uuid or volume_id}"


class Driver(Protocol):
    """What the two drivers have in common."""

    ready: asyncio.Event

    async def serve(self) -> None: ...
    async def stop(self) -> None: ...


@contextlib.asynccontextmanager
async def _kernel_driver(config: MountConfig, options: kernel_mount.MountOptions, files: FileSystem) -> AsyncIterator[Driver]:
    mounted = await asyncio.to_thread(kernel_mount.mount, config.mountpoint, options)
    try:
        wanted = WANTED | InitFlag.POSIX_ACL if files.acl else WANTED
        driver = KernelDriver(mounted.fd, files, DriverOptions(wanted=int(wanted)), unmount=mounted.unmount)
        reading_ahead = asyncio.create_task(_read_ahead(driver, mounted))
        yield driver
        reading_ahead.cancel()
    finally:
        with contextlib.suppress(ClientError):
            await asyncio.to_thread(mounted.unmount)
        mounted.close()


async def _read_ahead(driver: KernelDriver, mounted: kernel_mount.Mount) -> None:
    await driver.ready.wait()
    mounted.set_read_ahead()


@contextlib.asynccontextmanager
async def _pyfuse3_driver(config: MountConfig, options: kernel_mount.MountOptions, files: FileSystem) -> AsyncIterator[Driver]:
    from fuseclient.pyfuse3_driver import Pyfuse3Driver

    yield Pyfuse3Driver(config.mountpoint, files, options)


_DRIVERS: Final = {"kernel": _kernel_driver, "pyfuse3": _pyfuse3_driver}


async def _serve_driver(driver: Driver, ready: Callable[[], None]) -> None:
    """Until the mount is gone, or a signal ends it."""
    serving = asyncio.create_task(driver.serve(), name="fuse driver")
    stopping: list[asyncio.Task[None]] = []
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: stopping.append(loop.create_task(driver.stop())))
    waiting = asyncio.create_task(driver.ready.wait())
    await asyncio.wait({waiting, serving}, return_when=asyncio.FIRST_COMPLETED)
    if waiting.done():
        ready()
        gc.collect()
        gc.freeze()  # what a start builds stays
    else:
        waiting.cancel()
    await serving
    for task in stopping:
        await task
