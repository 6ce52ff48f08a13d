"""What a command is about: a volume named by URL, or the volume behind a path on a KeelFS mount.

The kernel shows a mount's source in /proc/self/mountinfo; KeelFS mounts with their URL as source, so a path leads to its
volume without any registry.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from fuseclient.errors import ClientError
from fuseclient.volume_url import SCHEME, Address, VolumeUrl, parse_address
from keelfs.exit_codes import ExitCode
from keelfs.settings import settings

FS_TYPE = "fuse.keelfs"
_OCTAL = re.compile(r"\\([0-7]{3})")


def admin_address(server: Address) -> str:
    """Where the Admin service of a server is unless said otherwise: the next port."""
    return str(Address(server.host, server.port + 1))


class Mount(NamedTuple):
    mountpoint: Path
    source: str


def _unescape(text: str) -> str:
    """mountinfo writes blanks and backslashes as octal (proc_pid_mountinfo(5))."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def keelfs_mounts() -> list[Mount]:
    """Every KeelFS mount that this process sees, later ones last."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, source = after.split(" ")[:2]
        if kind == FS_TYPE:
            found.append(Mount(Path(_unescape(before.split(" ")[4])), _unescape(source)))
    return found


def mount_of(path: Path) -> Mount | None:
    """The KeelFS mount that holds `path`, which need not exist itself."""
    absolute = Path(os.path.abspath(path))
    holding = [m for m in keelfs_mounts() if absolute == m.mountpoint or m.mountpoint in absolute.parents]
    return max(holding, key=lambda m: len(m.mountpoint.parts), default=None)


def url_of(source: str) -> VolumeUrl:
    """The URL that a mount's source names."""
    return VolumeUrl.parse(source)


def server_admin_addresses(server: str, override: str) -> tuple[str, ...]:
    """The admin addresses for `server`: a keel:// URL with or without volume, a path on a mount, host:port[,host:port...], or
    '' for the configured server."""
    override = override or settings().admin
    if override:
        return tuple(str(parse_address(part)) for part in override.split(","))
    return tuple(admin_address(address) for address in _server_addresses(server))


def _server_addresses(server: str) -> tuple[Address, ...]:
    if server.startswith(SCHEME):
        return tuple(parse_address(part) for part in server[len(SCHEME) :].partition("/")[0].split(","))
    if "/" in server or os.path.lexists(server):
        mount = mount_of(Path(server))
        if mount is None:
            raise ClientError(f"{server} is not on a KeelFS mount; name a keel:// URL or host:port", exit_code=ExitCode.USAGE)
        return url_of(mount.source).addresses
    return tuple(parse_address(part) for part in (server or settings().listen).split(","))
