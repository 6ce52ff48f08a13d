"""Bad input at the command line: each gets one clear message and its documented exit code, nothing crashes, nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Protocol

import pytest

from keelfs.embedded import free_port_pair
from tests.fuse.cluster import Cluster, Process, keelfs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tests.keelfs.command_zygote import Zygote


@pytest.fixture(scope="module", autouse=True)
def _precious(cluster: Cluster) -> Iterator[None]:
    """Nothing is lost by anything that is refused in this module."""
    (cluster.mountpoint / "precious").write_bytes(b"still here" * 100)
    yield
    assert (cluster.mountpoint / "precious").read_bytes() == b"still here" * 100
    assert [mount["connected"] for mount in cluster.status()["sessions"]] == [True]


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The message of a command that was refused: one, and for people."""
    text = done.stderr
    assert done.returncode != 0, f"it was not refused: {done.stdout}{text}"
    assert "Traceback" not in text
    assert "this is a bug" not in text
    assert done.stdout == ""
    assert len([line for line in text.splitlines() if line.startswith("keelfs: ") or "Error" in line]) == 1, text
    return " ".join(text.replace("│", " ").split())


class Refused(Protocol):
    """The command is refused with this exit code, and says this."""

    def __call__(self, code: int, says: str, *arguments: object, env: Mapping[str, str] | None = None) -> None: ...


@pytest.fixture
def refused(zygote: Zygote) -> Refused:
    def check(code: int, says: str, *arguments: object, env: Mapping[str, str] | None = None) -> None:
        done = zygote.run(*arguments, env=env)
        message = refusal(done)
        assert done.returncode == code, message
        assert says in message

    return check


@pytest.fixture
def server_refused(refused: Refused) -> Callable[..., None]:
    """The same for a server on this data directory."""

    def check(code: int, says: str, data: Path, *options: object) -> None:
        listen = () if "--listen" in options else ("--listen", f"127.0.0.1:{free_port_pair()}")
        refused(code, says, "server", "--data", data, *listen, *options)

    return check


# --- addresses and URLs

URLS = {
    "http://127.0.0.1:7420/v": "does not begin with keel://",
    "keel:///v": "names no server",
    "keel://127.0.0.1:7420": "names no volume",
    "keel://127.0.0.1:7420/": "names no volume",
    "keel://127.0.0.1:99999/v": "port must be a number from 1 to 65535",
    "keel://127.0.0.1:x/v": "port must be a number",
    "keel://a b/v": "not an address",
    "keel://user:geheim@127.0.0.1/v": "secrets do not belong in a URL",
    "keel://127.0.0.1/-v": "cannot be a volume's name",
    "keel://127.0.0.1/" + "v" * 64: "cannot be a volume's name",
    "keel://127.0.0.1/v/%zz": "two hexadecimal digits",
    "keel://127.0.0.1/v/../w": "cannot be the name of a directory",
}


@pytest.mark.parametrize("url", URLS)
def test_a_url_that_is_none(zygote: Zygote, url: str, home: Path) -> None:
    done = zygote.run("mount", url, home)
    message = refusal(done)
    assert done.returncode == 2
    assert URLS[url] in message
    assert "geheim" not in message


def test_no_server(refused: Refused, home: Path) -> None:
    url = f"keel://127.0.0.1:{free_port_pair()}/v"
    refused(11, "Is the server running", "mount", url, home)
    refused(11, "Is the server running", "mount", "-d", url, home)
    for command in (
        ("format", url, "--store", f"file://{home}/o"),
        ("status", url),
        ("volume", "list", url),
        ("volume", "show", url),
        ("volume", "set", url, "--no-acl"),
        ("volume", "destroy", url, "--yes"),
        ("info", "1", "--url", url),
    ):
        refused(11, "no server answers", *command)
    assert not (home / "o").exists()


def test_the_admin_port_is_not_for_mounts(refused: Refused, cluster: Cluster, home: Path) -> None:
    host, _, port = cluster.address.rpartition(":")
    refused(1, "client port", "mount", f"keel://{host}:{int(port) + 1}/test", home)


def test_a_volume_that_does_not_exist(refused: Refused, cluster: Cluster, home: Path) -> None:
    url = f"keel://{cluster.address}/typo"
    refused(10, "no volume", "mount", url, home)
    refused(10, "no volume", "mount", "-d", url, home)
    refused(10, "no volume", "volume", "show", url)
    refused(10, "no volume", "volume", "set", url, "--acl")
    refused(2, "say what to change", "volume", "set", url)
    refused(10, "no volume", "volume", "destroy", url, "--yes")
    refused(10, "no volume", "info", "1", "--url", url)
    refused(10, "no-subdir", "mount", f"{cluster.url}/no/such/directory", home)
    refused(10, "not-a-directory", "mount", f"{cluster.url}/precious", home)


# --- mountpoints


def test_a_mountpoint_where_one_cannot_mount(refused: Refused, cluster: Cluster, home: Path) -> None:
    (home / "file").touch()
    (home / "full").mkdir()
    (home / "full/something").touch()
    cases = {
        home / "missing": "does not exist",
        home / "file": "not a directory",
        home / "file/below": "not a directory",
        home / "full": "is not empty (it holds 'something'",
        cluster.mountpoint: "already a mount",
    }
    for mountpoint, says in cases.items():
        refused(1, says, "mount", cluster.url, mountpoint)
    refused(1, "not empty", "mount", "-d", cluster.url, home / "full")
    assert os.listdir(home / "full") == ["something"]


def test_nonempty_says_that_it_is_meant(cluster: Cluster, home: Path) -> None:
    (home / "full").mkdir()
    (home / "full/something").touch()
    keelfs("mount", "-d", cluster.url, home / "full", "-o", "nonempty")
    assert "precious" in os.listdir(home / "full")
    keelfs("umount", home / "full")
    assert os.listdir(home / "full") == ["something"]


def test_a_mountpoint_whose_process_has_died(refused: Refused, cluster: Cluster) -> None:
    path = cluster.mount("dead")
    child = cluster.mounts.pop("dead").child
    assert child is not None
    child.kill()
    child.wait()
    with pytest.raises(OSError, match="not connected"):
        os.listdir(path)
    refused(1, "whose process has died", "mount", cluster.url, path)
    keelfs("umount", path)
    cluster.mount("dead")
    assert "precious" in os.listdir(path)
    cluster.unmount("dead")


def test_unmounting_what_is_no_mount_or_in_use(refused: Refused, cluster: Cluster, home: Path) -> None:
    refused(2, "is not a KeelFS mount", "umount", home)
    refused(2, "is not a KeelFS mount", "umount", home / "missing")
    refused(2, "is not a KeelFS mount", "umount", "/proc")
    with open(cluster.mountpoint / "precious", "rb"):
        refused(1, "in use", "umount", cluster.mountpoint)
        assert os.path.ismount(cluster.mountpoint)


# --- options and settings


def test_option_values_that_make_no_sense(refused: Refused, cluster: Cluster, home: Path) -> None:
    mount = ("mount", cluster.url, home)
    refused(2, "'much' is not a size", *mount, "--cache-size", "much")
    refused(2, "'-1MiB' is not a size", *mount, "--buffer-size=-1MiB")
    refused(2, "buffer_bytes", *mount, "--buffer-size", "1MiB")
    refused(2, "'soon' is not a duration", *mount, "--attr-cache", "soon")
    refused(2, "--squash 'some' is none of none, root, all", *mount, "--squash", "some")
    refused(2, "no mount option bind", *mount, "-o", "ro,bind")
    refused(2, "no driver 'nfs'", *mount, "--driver", "nfs")
    refused(2, "log level 'loud'", *mount, "--log-level", "loud")
    refused(2, "No such option", *mount, "--fast")
    refused(2, "Missing argument", "mount", cluster.url)
    refused(2, "No such command", "mont")


def fresh(home: Path) -> Path:
    made = home / "mnt"
    made.mkdir()
    return made


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cache_sise = '1GiB'", "cache_sise"),
        ("cache_size = [", "not valid TOML"),
        ("cache_size = 'lots'", "'lots' is not a size"),
        ("attr_cache = 'x'", "'x' is not a duration"),
        ("driver = 3", "driver"),
        (None, "does not exist"),
    ],
)
def test_a_configuration_file_that_is_wrong(
    refused: Refused, cluster: Cluster, home: Path, text: str | None, says: str
) -> None:
    path = home / "keelfs.toml"
    if text is not None:
        path.write_text(text)
    refused(2, says, "mount", cluster.url, fresh(home), env={**os.environ, "KEELFS_CONFIG": str(path)})


def test_a_flag_wins_over_the_environment_and_that_over_the_file(refused: Refused, cluster: Cluster, home: Path) -> None:
    (home / "keelfs.toml").write_text("listen = '127.0.0.1:1'")
    file = {**os.environ, "KEELFS_CONFIG": str(home / "keelfs.toml")}
    refused(11, "127.0.0.1:2", "status", env=file)
    refused(11, "127.0.0.1:4", "status", env={**file, "KEELFS_LISTEN": "127.0.0.1:3"})
    assert keelfs("status", cluster.address, env={**file, "KEELFS_LISTEN": "127.0.0.1:3"}).returncode == 0


def test_format_refuses_what_no_volume_can_be(refused: Refused, cluster: Cluster, home: Path) -> None:
    new, store = f"keel://{cluster.address}/new", ("--store", f"file://{home}/objects")
    refused(1, "exists", "format", cluster.url, *store)
    refused(2, "starts with one of file://, s3://", "format", new, "--store", f"ftp://{home}")
    refused(2, "file:///ABSOLUTE/PATH", "format", new, "--store", "file://relative/path")
    refused(2, "credentials", "format", new, "--store", "s3://key:geheim@bucket")
    refused(2, "power of two", "format", new, *store, "--block-size", "3MiB")
    refused(2, "block_bytes must be", "format", new, *store, "--block-size", "1GiB")
    refused(2, "inline", "format", new, *store, "--inline", "1MiB")
    refused(2, "not a size", "format", new, *store, "--capacity", "lots")
    refused(2, "inodes", "format", new, *store, "--inodes", "-5")
    refused(2, "Missing option", "format", new)
    names = [volume["name"] for volume in volumes(cluster)]
    assert names == ["test"]


def volumes(cluster: Cluster) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(keelfs("volume", "list", cluster.address, "--json").stdout)
    return found


def test_destroying_what_is_in_use(refused: Refused, cluster: Cluster) -> None:
    refused(1, "in use by ", "volume", "destroy", cluster.url, "--yes")
    done = keelfs("volume", "destroy", cluster.url, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    done = keelfs("volume", "destroy", cluster.url, check=False, input="n\n")
    assert done.returncode == 1
    assert (cluster.mountpoint / "precious").exists()


def test_info_of_what_is_not_there(refused: Refused, cluster: Cluster, home: Path) -> None:
    refused(2, "not on a KeelFS mount", "info", home)
    refused(1, "No such file", "info", cluster.mountpoint / "missing")
    refused(10, "", "info", "987654321", "--url", cluster.url)
    refused(10, "", "info", "no/such/path", "--url", cluster.url)
    refused(2, "not on a KeelFS mount", "status", "/proc/self")


# --- the server


def test_addresses_on_which_no_server_can_listen(
    refused: Refused, server_refused: Callable[..., None], cluster: Cluster, home: Path
) -> None:
    taken = cluster.address
    free = f"127.0.0.1:{free_port_pair()}"
    server_refused(3, "the port is taken", home / "a", "--listen", taken)
    server_refused(3, "the port is taken", home / "b", "--listen", free, "--admin", taken)
    server_refused(3, "cannot listen on", home / "c", "--listen", "[2001:db8::1]:7420", "--insecure")
    server_refused(2, "not encrypted", home / "d", "--listen", "0.0.0.0:7420")
    server_refused(2, "not an address", home / "e", "--listen", "127.0.0.1:port")
    server_refused(2, "not a duration", home / "f", "--session-ttl", "never")
    server_refused(2, "session_ttl_s must be greater than 0", home / "g", "--session-ttl", "0s")
    refused(3, "the port is taken", "server", "-d", "--data", home / "h", "--listen", taken)


def test_data_directories_that_cannot_be_used(server_refused: Callable[..., None], cluster: Cluster, home: Path) -> None:
    (home / "file").touch()
    server_refused(4, "in use", cluster.home / "meta")
    server_refused(4, "file", home / "file")
    server_refused(4, "Not a directory", home / "file/below")
    assert (cluster.mountpoint / "precious").exists()


def test_a_user_without_permission(cluster: Cluster, home: Path) -> None:
    """Not root: neither its data directory nor its store nor its mountpoint is writable."""
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv")

    def as_nobody(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-m", "keelfs"]
        env = {**os.environ, "HOME": "/nonexistent", "PYTHONPATH": os.getcwd(), "XDG_RUNTIME_DIR": ""}
        return subprocess.run(
            [*command, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False, env=env, cwd="/"
        )

    if as_nobody("version").returncode:
        pytest.skip("another user cannot run this Python")
    home.chmod(0o700)
    done = as_nobody("server", "--data", home / "data", "--listen", f"127.0.0.1:{free_port_pair()}")
    assert done.returncode == 4
    assert "Permission denied" in refusal(done)
    done = as_nobody("format", f"keel://{cluster.address}/new", "--store", f"file://{home}/objects")
    assert done.returncode == 12
    assert "Permission denied" in refusal(done)
    done = as_nobody("mount", cluster.url, home / "mnt", "--cache-dir", "/tmp")
    assert done.returncode == 1
    assert "no permission" in refusal(done)
    assert os.listdir(home) == []


@pytest.fixture
def stopped(home: Path) -> Path:
    """The data directory of a server that was killed, with entries that only the log has."""
    with Cluster(home) as running:
        running.start()
        for number in range(300):
            (running.mountpoint / f"needle-{number:03}").touch()
        running.server.kill()
        running.kill_mount("mnt")
    return home / "meta"


def logs(data: Path) -> list[Path]:
    return sorted((data / "wal").glob("*.wal"))


def test_a_log_that_is_damaged_in_its_middle_is_refused_and_left_alone(
    server_refused: Callable[..., None], stopped: Path
) -> None:
    (path,) = [path for path in logs(stopped) if b"needle-150" in path.read_bytes()]
    whole = path.read_bytes()
    at = whole.index(b"needle-150")
    damaged = whole[:at] + b"NEEDLE" + whole[at + 6 :]
    path.write_bytes(damaged)
    server_refused(5, "cannot be used", stopped)
    assert path.read_bytes() == damaged
    # With the right bytes back, all of it is there.
    path.write_bytes(whole)
    home = stopped.parent
    with Cluster(home) as again:
        again.server.start()
        (home / "mnt").mkdir(exist_ok=True)
        again.mount("mnt")
        assert len(os.listdir(again.mountpoint)) == 300


def test_a_state_that_is_none_is_refused(server_refused: Callable[..., None], stopped: Path) -> None:
    for victim, content in (("state/data.mdb", b"no database" * 1000), ("state/data.mdb", b""), ("identity.json", b"{")):
        path = stopped / victim
        whole = path.read_bytes()
        path.write_bytes(content)
        server_refused(5, "cannot be used", stopped)
        path.write_bytes(whole)
    address = f"127.0.0.1:{free_port_pair()}"
    process = Process(stopped.parent / "again.log", "server", "--data", stopped, "--listen", address)
    process.start()
    assert process.stop() == 0
