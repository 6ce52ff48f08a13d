"""`keelfs mount` and `keelfs umount`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fuseclient.errors import ClientError
from fuseclient.volume_url import VolumeUrl
from keelfs.background import Ready, start_in_background
from keelfs.console import say
from keelfs.exit_codes import ExitCode
from keelfs.logs import configure_logs
from keelfs.mounted import MountRecord, log_path, wait_for_end
from keelfs.quantity import parse_duration, parse_size
from keelfs.settings import settings
from keelfs.target import mount_of

if TYPE_CHECKING:
    from fuseclient.squash import Squash

#: Mount options that `-o` understands besides the kernel's own (ro, rw, noexec, ...), for mount(8) and fstab.
_FSTAB_NOISE = {"defaults", "_netdev", "nofail", "auto", "noauto", "user", "nouser", "users"}


def _cache_dir(text: str) -> Path:
    if text:
        return Path(text)
    return Path("/var/cache/keelfs") if os.geteuid() == 0 else Path.home() / ".cache/keelfs"


def _mount_options(texts: list[str], read_only: bool) -> tuple[str, ...]:
    options = [part for text in texts for part in text.split(",") if part and part not in _FSTAB_NOISE]
    options = [part for part in options if not part.startswith("x-")]
    return (*options, *(("ro",) if read_only and "ro" not in options else ()))


def _squash(who: str, anon_uid: int, anon_gid: int) -> Squash:
    from fuseclient.squash import WHO, Squash

    if who not in WHO:
        raise ClientError(f"--squash {who!r} is none of {', '.join(WHO)}", exit_code=ExitCode.USAGE)
    return Squash(who, anon_uid, anon_gid)


def mount(
    url: Annotated[str, typer.Argument(metavar="URL", help="keel://host[:port]/volume[/subdir]")],
    mountpoint: Annotated[Path, typer.Argument(help="An empty directory.")],
    background: Annotated[bool, typer.Option("-d", "--background", help="Return as soon as the mount answers.")] = False,
    options: Annotated[list[str], typer.Option("-o", help="ro, noexec, suid, dev, noatime, strictatime, nonempty.")] = [],  # noqa: B006
    read_only: Annotated[bool, typer.Option("--read-only", help="The same as -o ro.")] = False,
    cache_dir: Annotated[str, typer.Option(help="Directory for cached blocks.", show_default="/var/cache/keelfs")] = "",
    cache_size: Annotated[str, typer.Option(help="Largest size of the block cache; 0 = none.", show_default="10GiB")] = "",
    buffer_size: Annotated[str, typer.Option(help="Memory for written and read-ahead data.", show_default="300MiB")] = "",
    attr_cache: Annotated[
        str, typer.Option("--attr-cache", "--attr-timeout", help="How long the kernel keeps attributes.", show_default="1s")
    ] = "",
    entry_cache: Annotated[
        str, typer.Option("--entry-cache", "--entry-timeout", help="How long the kernel keeps names.", show_default="1s")
    ] = "",
    dir_cache: Annotated[str, typer.Option(help="How long the kernel keeps listings.", show_default="0s")] = "",
    open_cache: Annotated[str, typer.Option(help="How long an open for reading asks nobody.", show_default="0s")] = "",
    squash: Annotated[str, typer.Option(help="Who is nobody to the volume: none, root or all.", show_default="none")] = "",
    anon_uid: Annotated[int, typer.Option(help="Whom --squash makes of them.", min=0, max=2**32 - 2)] = 65534,
    anon_gid: Annotated[int, typer.Option(help="The group of that user.", min=0, max=2**32 - 2)] = 65534,
    driver: Annotated[str, typer.Option(help="kernel (speaks /dev/fuse itself) or pyfuse3.", show_default="kernel")] = "",
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.", show_default="info")] = "",
    log_format: Annotated[str, typer.Option(help="console or json.", show_default="console")] = "",
    ready_fd: Annotated[int, typer.Option(hidden=True)] = -1,
) -> None:
    """Mount a volume, in the foreground unless -d is given (Ctrl-C or `keelfs umount` ends it)."""
    VolumeUrl.parse(url)
    mountpoint = Path(os.path.abspath(mountpoint))
    if background:
        log = log_path(mountpoint)
        pid = start_in_background(sys.argv[1:], log)
        say(f"{url} is mounted on {mountpoint} (process {pid}, log {log})")
        return
    defaults = settings()
    configure_logs(log_level or defaults.log_level, log_format or defaults.log_format, None)

    from fuseclient.mount import MountConfig, run_mount

    ready = Ready(ready_fd)
    record = MountRecord(mountpoint)
    try:
        config = MountConfig(
            url=VolumeUrl.parse(url),
            mountpoint=mountpoint,
            options=_mount_options(options, read_only),
            cache_dir=_cache_dir(cache_dir or defaults.cache_dir),
            cache_bytes=parse_size(cache_size or defaults.cache_size),
            buffer_bytes=parse_size(buffer_size or defaults.buffer_size),
            attr_ttl_s=parse_duration(attr_cache or defaults.attr_cache),
            entry_ttl_s=parse_duration(entry_cache or defaults.entry_cache),
            dir_cache_s=parse_duration(dir_cache or defaults.dir_cache),
            open_cache_s=parse_duration(open_cache or defaults.open_cache),
            squash=_squash(squash or defaults.squash, anon_uid, anon_gid),
            driver=driver or defaults.driver,
            access=defaults.access(),
        )

        def on_ready() -> None:
            record.write(url)
            ready.tell()

        code = run_mount(config, on_ready)
    except ClientError as error:
        ready.fail(str(error))
        raise
    finally:
        record.remove()
    raise typer.Exit(code)


def umount(
    mountpoint: Annotated[Path, typer.Argument(help="Where it is mounted.")],
    lazy: Annotated[bool, typer.Option("--lazy", help="Detach now, even while it is in use.")] = False,
) -> None:
    """Unmount, and wait until everything that was written is stored."""
    from fuseclient.kernel.mount import unmount

    mountpoint = Path(os.path.abspath(mountpoint))
    found = mount_of(mountpoint)
    if found is None or found.mountpoint != mountpoint:
        raise ClientError(f"{mountpoint} is not a KeelFS mount", exit_code=ExitCode.USAGE)
    record = MountRecord(mountpoint)
    pid = record.pid()
    unmount(mountpoint, lazy=lazy, dead=record.is_abandoned())
    if pid is not None and not lazy:
        wait_for_end(pid, mountpoint)
