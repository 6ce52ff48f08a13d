"""Object stores for the tests: a folder, moto's server, a radosgw; and what a test does to them behind KeelFS's back.

The servers are processes of their own, so that they share no interpreter with anybody.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

import boto3
from botocore.config import Config

from tests.fuse.cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from mypy_boto3_s3 import S3Client

KEY, SECRET = "keelfs-test", "keelfs-test-secret"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_EC2_METADATA_DISABLED": "true"}


class Store(Protocol):
    """A store as a test sees it: keys are as in docs/OBJECTS.md."""

    url: str
    env: Mapping[str, str]

    def keys(self) -> dict[str, int]:
        """Every object of the volume 'test' and its size."""

    def get(self, key: str) -> bytes: ...

    def put(self, key: str, data: bytes) -> None: ...

    def delete(self, key: str) -> None: ...


class Folder:
    """file://"""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.url = f"file://{root}"
        self.env: Mapping[str, str] = {}

    def keys(self) -> dict[str, int]:
        found = (path for path in (self._root / "test").rglob("*") if path.is_file())
        return {path.relative_to(self._root).as_posix(): path.stat().st_size for path in found}

    def get(self, key: str) -> bytes:
        return (self._root / key).read_bytes()

    def put(self, key: str, data: bytes) -> None:
        # A file of its own, so that nobody reads it half written.
        (self._root / "put").write_bytes(data)
        os.rename(self._root / "put", self._root / key)

    def delete(self, key: str) -> None:
        (self._root / key).unlink()


class Bucket:
    """s3://, a fresh bucket. `through`: the port that KeelFS is told, the server's own when 0."""

    def __init__(self, port: int, through: int = 0) -> None:
        self._name = f"keelfs-{uuid.uuid4().hex[:12]}"
        self._s3: S3Client = boto3.session.Session().client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name="us-east-1",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
        )
        self._s3.create_bucket(Bucket=self._name)
        self.url = f"s3://{self._name}/some/prefix?endpoint=http://127.0.0.1:{through or port}"
        self.env: Mapping[str, str] = CREDENTIALS

    def keys(self) -> dict[str, int]:
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._name, Prefix="some/prefix/test/")
        return {item["Key"].removeprefix("some/prefix/"): item["Size"] for page in pages for item in page.get("Contents", ())}

    def get(self, key: str) -> bytes:
        with contextlib.closing(self._s3.get_object(Bucket=self._name, Key=f"some/prefix/{key}")["Body"]) as body:
            return body.read()

    def put(self, key: str, data: bytes) -> None:
        self._s3.put_object(Bucket=self._name, Key=f"some/prefix/{key}", Body=data)

    def delete(self, key: str) -> None:
        self._s3.delete_object(Bucket=self._name, Key=f"some/prefix/{key}")

    def close(self) -> None:
        self._s3.close()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            return True
    except OSError:
        return False


class Processes:
    """Servers that belong together, ended in the reverse order of their start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: list[subprocess.Popen[bytes]] = []

    def spawn(self, *command: str) -> None:
        with open(self.folder / f"{Path(command[0]).name}.out", "ab") as log:
            self._running.append(
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
            )

    def call(self, *command: str) -> str:
        """Run to the end; what it printed."""
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
        return done.stdout

    def wait_for_port(self, port: int) -> None:
        """Until the last one answers."""
        wait_for(lambda: answers(port) or self._running[-1].poll() is not None, f"{self._running[-1].args!r} to answer")
        assert self._running[-1].poll() is None, f"{self._running[-1].args!r} ended; its output is in {self.folder}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for process in reversed(self._running):
            process.kill()
            process.wait()


def start_moto(servers: Processes) -> int:
    """moto's S3 server; its port."""
    port = free_port()
    servers.spawn(sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port))
    servers.wait_for_port(port)
    return port


RADOS_PROGRAMS = ("radosgw", "radosgw-admin", "ceph-mon", "ceph-osd", "ceph", "ceph-authtool", "monmaptool")


def radosgw_missing() -> str:
    """Why there is no radosgw, empty when there is."""
    missing = [program for program in RADOS_PROGRAMS if shutil.which(program) is None]
    if not missing:
        return ""
    packages = "radosgw ceph-mon ceph-osd ceph-common"
    return f"{', '.join(missing)} not installed: apt-get install --no-install-recommends {packages}"


_CEPH_CONF = """[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]
public network = 127.0.0.0/8
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
keyring = {folder}/keyring
mon data = {folder}/mon
osd data = {folder}/osd
rgw data = {folder}/rgw
osd objectstore = memstore
memstore device bytes = 2147483648
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd crush chooseleaf type = 0
osd class load list = *
osd class default list = *
mon allow pool size one = true
mon max pg per osd = 2000
"""


def start_radosgw(servers: Processes) -> int:
    """One monitor, one OSD in memory, one gateway, which checks signatures; the gateway's port."""
    folder, fsid, v1, v2, port = servers.folder, str(uuid.uuid4()), free_port(), free_port(), free_port()
    for name in ("mon", "osd", "rgw"):
        (folder / name).mkdir()
    conf, keyring = f"{folder}/ceph.conf", f"{folder}/keyring"
    Path(conf).write_text(_CEPH_CONF.format(fsid=fsid, v1=v1, v2=v2, folder=folder))
    call, spawn = servers.call, servers.spawn
    call("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
    everything = ("--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *")
    call("ceph-authtool", keyring, "--gen-key", "-n", "client.admin", *everything)
    monitor = f"[v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]"
    call("monmaptool", "--create", "--addv", "a", monitor, "--fsid", fsid, f"{folder}/monmap")
    call("ceph-mon", "-c", conf, "-i", "a", "--mkfs", "--monmap", f"{folder}/monmap", "--keyring", keyring)
    spawn("ceph-mon", "-c", conf, "-i", "a", "-f")
    servers.wait_for_port(v2)
    osd = str(uuid.uuid4())
    call("ceph", "-c", conf, "osd", "new", osd)
    key = call("ceph", "-c", conf, "auth", "get-or-create", "osd.0", "mon", "allow profile osd", "osd", "allow *")
    with open(keyring, "a") as file:
        file.write(key)
    call("ceph-osd", "-c", conf, "-i", "0", "--mkfs", "--osd-uuid", osd, "--keyring", keyring)
    spawn("ceph-osd", "-c", conf, "-i", "0", "-f")
    user = ("--uid", "keelfs", "--display-name", "KeelFS", "--access-key", KEY, "--secret", SECRET)
    call("radosgw-admin", "-c", conf, "user", "create", *user)
    spawn("radosgw", "-c", conf, "-n", "client.admin", f"--rgw-frontends=beast endpoint=127.0.0.1:{port}", "-f")
    servers.wait_for_port(port)
    return port
