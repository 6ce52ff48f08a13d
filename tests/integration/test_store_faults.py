"""An object store that is away, full, damaged or not ours: writers wait, and what is read is right or an error."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.fuse.cluster import Cluster, keelfs, wait_for
from tests.integration.object_servers import CREDENTIALS, Bucket, Folder
from tests.integration.tcp_proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.integration.object_servers import Store

BLOCK = 1 << 20


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


@contextmanager
def volume_on(store: Store, home: Path, *mount_options: str) -> Iterator[Cluster]:
    """A volume of 1 MiB blocks on the store, mounted as 'mnt'."""
    with Cluster(home, store.url, dict(store.env)) as cluster:
        cluster.start_unmounted("--block-size", "1MiB")
        cluster.mount("mnt", *mount_options)
        yield cluster


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, home: Path) -> Iterator[Store]:
    if request.param == "file":
        yield Folder(home / "objects")
        return
    with closing(Bucket(request.getfixturevalue("moto"))) as bucket:
        yield bucket


def read_errno(path: Path, expected: bytes, at: int) -> int:
    """0 when all of `expected` is there; what comes before an error must be right as well."""
    fd = os.open(path, os.O_RDONLY)
    done = 0
    try:
        while done < len(expected):
            piece = os.pread(fd, len(expected) - done, at + done)
            assert piece, "the end of the file"
            assert piece == expected[done : done + len(piece)], "wrong bytes"
            done += len(piece)
    except OSError as error:
        return error.errno or -1
    finally:
        os.close(fd)
    return 0


# --- damage


def flip(data: bytes) -> bytes:
    return data[:300_000] + bytes([data[300_000] ^ 1]) + data[300_001:]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "one bit": flip,
    "cut short": lambda data: data[:-1000],
    "cut to nothing": lambda data: b"",
    "other bytes": lambda data: noise(len(data), 99),
    "zeros": lambda data: bytes(len(data)),
}


def test_damaged_objects_are_errors_and_never_wrong_bytes(store: Store, home: Path) -> None:
    data = noise(3 * BLOCK)
    with volume_on(store, home) as cluster:
        hurt: dict[str, Path] = {}
        for what, damage in DAMAGE.items():
            before = store.keys().keys()
            path = hurt[what] = cluster.mountpoint / what
            path.write_bytes(data)
            middle = next(key for key in store.keys().keys() - before if f"_1_{BLOCK}" in key)
            store.put(middle, damage(store.get(middle)))
        before = store.keys().keys()
        hurt["gone"] = cluster.mountpoint / "gone"
        hurt["gone"].write_bytes(data)
        store.delete(next(key for key in store.keys().keys() - before if f"_1_{BLOCK}" in key))
        cluster.unmount("mnt")

        # A fresh cache directory: what the writer had cached was right, and would be believed.
        cluster.mount("mnt", "--cache-dir", str(home / "fresh"))
        for what, path in hurt.items():
            # The whole block, small reads at both ends and where the flipped bit is, and over the edge of a good block.
            for size, at in ((BLOCK, BLOCK), (100, BLOCK + 300_000), (BLOCK, BLOCK // 2 + 17)):
                assert read_errno(path, data[at : at + size], at) == errno.EIO, (what, size, at)
            assert read_errno(path, data[:BLOCK], 0) == read_errno(path, data[2 * BLOCK :], 2 * BLOCK) == 0, what
            # Writing over all of the bad block makes the file whole again.
            with open(path, "r+b") as file:
                file.seek(BLOCK)
                file.write(data[BLOCK : 2 * BLOCK])
            assert path.read_bytes() == data, what


def test_a_damaged_block_in_the_disk_cache_is_healed_from_the_store(moto: int, home: Path) -> None:
    data = noise(3 * BLOCK + 500_000)
    with closing(Bucket(moto)) as store, volume_on(store, home) as cluster:
        (cluster.mountpoint / "f").write_bytes(data)
        cluster.unmount("mnt")
        cached = sorted(path for path in (home / "mnt.cache").rglob("*_*") if path.is_file())
        assert len(cached) == 4
        good = {path: path.read_bytes() for path in cached}
        for path, damage in zip(
            cached, (flip, DAMAGE["cut short"], DAMAGE["other bytes"], DAMAGE["cut to nothing"]), strict=True
        ):
            path.write_bytes(damage(good[path]))
        cluster.mount("mnt")
        assert (cluster.mountpoint / "f").read_bytes() == data
        cluster.unmount("mnt")
        assert {path: path.read_bytes() for path in cached} == good


def test_a_cache_of_another_volume_is_not_believed(moto: int, home: Path) -> None:
    """The volume is destroyed and made anew on the same store: the keys come again, the bytes do not."""
    with closing(Bucket(moto)) as store, volume_on(store, home) as cluster:
        env = {**os.environ, **CREDENTIALS}
        (cluster.mountpoint / "f").write_bytes(noise(2 * BLOCK, 1))
        cluster.unmount("mnt")
        keelfs("volume", "destroy", cluster.url, "--yes", "--force", env=env)
        assert not store.keys()
        keelfs("format", cluster.url, "--store", store.url, "--block-size", "1MiB", env=env)
        cluster.mount("mnt")
        (cluster.mountpoint / "f").write_bytes(noise(2 * BLOCK, 2))
        assert (cluster.mountpoint / "f").read_bytes() == noise(2 * BLOCK, 2)


# --- a store that is away


def absent(home: Path, moto: int, seconds: float) -> None:
    """The store goes away under writers and readers, and comes back."""
    with Proxy(moto) as proxy, closing(Bucket(moto, proxy.port)) as store, volume_on(store, home) as cluster:
        top = cluster.mountpoint
        (top / "old").write_bytes(old := noise(3 * BLOCK, 1))
        (top / "cold").write_bytes(cold := noise(2 * BLOCK, 2))
        cluster.unmount("mnt")
        cluster.mount("mnt", "--cache-dir", str(home / "fresh"))
        assert (top / "old").read_bytes() == old
        proxy.off()
        results: dict[str, object] = {}

        def write(name: str, size: int) -> None:
            started = time.monotonic()
            with open(top / name, "wb") as file:
                file.write(noise(size, 3))
                file.flush()
                os.fsync(file.fileno())
            results[name] = time.monotonic() - started

        def read() -> None:
            started = time.monotonic()
            results["same"] = (top / "cold").read_bytes() == cold
            results["cold"] = time.monotonic() - started

        threads = [threading.Thread(target=write, args=(f"new{size}", size)) for size in (100_000, 5 * BLOCK + 1)]
        threads.append(threading.Thread(target=read))
        for thread in threads:
            thread.start()
        # What needs no store goes on: metadata, small files, what is in memory.
        (top / "small").write_bytes(b"inline")
        os.rename(top / "small", top / "renamed")
        assert (top / "old").read_bytes() == old
        assert sorted(set(os.listdir(top)) & {"renamed", "old", "small"}) == ["old", "renamed"]
        threads[0].join(seconds)
        assert not results, "somebody did not wait for the store"
        proxy.on()
        for thread in threads:
            thread.join(120)
        assert results.pop("same") is True
        assert sorted(results) == ["cold", "new100000", f"new{5 * BLOCK + 1}"]
        assert all(isinstance(took, float) and took >= seconds for took in results.values()), results
        cluster.unmount("mnt")
        cluster.mount("mnt", "--cache-dir", str(home / "fresher"))
        for size in (100_000, 5 * BLOCK + 1):
            assert (top / f"new{size}").read_bytes() == noise(size, 3)


def test_writers_and_readers_wait_for_a_store_that_is_away(home: Path, moto: int) -> None:
    absent(home, moto, 4.0)


@pytest.mark.soak
def test_writers_and_readers_wait_for_a_store_that_is_away_for_long(home: Path, moto: int) -> None:
    absent(home, moto, 27.0)  # below a reader's deadline


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_after_the_deadline_reading_is_an_error_and_writing_still_waits(home: Path, moto: int) -> None:
    with Proxy(moto) as proxy, closing(Bucket(moto, proxy.port)) as store, volume_on(store, home) as cluster:
        path, data = cluster.mountpoint / "f", noise(2 * BLOCK)
        path.write_bytes(data)
        cluster.unmount("mnt")
        cluster.mount("mnt", "--cache-dir", str(home / "fresh"))
        proxy.off()
        done: list[bytes] = []

        def write() -> None:
            (cluster.mountpoint / "new").write_bytes(data)
            done.append(data)

        writer = threading.Thread(target=write)
        writer.start()
        started = time.monotonic()
        assert read_errno(path, data[5000:6000], 5000) == errno.EIO
        assert 25 < time.monotonic() - started < 60
        assert not done
        proxy.on()
        writer.join(120)
        assert done
        assert path.read_bytes() == data
        assert (cluster.mountpoint / "new").read_bytes() == data


def test_unmounting_waits_until_a_store_that_was_away_has_everything(home: Path, moto: int) -> None:
    """Data that nobody has fsynced either: the process that wrote it is gone, the file was never closed in order."""
    with Proxy(moto) as proxy, closing(Bucket(moto, proxy.port)) as store, volume_on(store, home) as cluster:
        proxy.off()
        pid = os.fork()
        if pid == 0:
            fd = os.open(cluster.mountpoint / "f", os.O_CREAT | os.O_WRONLY)
            os.write(fd, noise(BLOCK + 5))
            os.kill(os.getpid(), 9)
        os.waitpid(pid, 0)
        finished: list[int] = []
        umount = threading.Thread(target=lambda: finished.append(keelfs("umount", cluster.mountpoint).returncode))
        umount.start()
        wait_for(lambda: not os.path.ismount(cluster.mountpoint), "the mountpoint to be free")
        umount.join(2)
        assert not finished, "umount returned before the data was stored"
        proxy.on()
        umount.join(60)
        assert finished == [0]
        process = cluster.mounts.pop("mnt")
        assert process.child is not None
        assert process.child.wait(60) == 0
        cluster.mount("mnt", "--cache-dir", str(home / "fresh"))
        assert (cluster.mountpoint / "f").read_bytes() == noise(BLOCK + 5)


# --- a store that refuses


def test_a_store_that_cannot_be_written_refuses_the_mount(home: Path, moto: int) -> None:
    with closing(Bucket(moto)) as store, volume_on(store, home):
        pass
    (home / "a file").write_bytes(b"")
    (home / "f").mkdir()
    cases = {
        f"s3://no-such-bucket-here?endpoint=http://127.0.0.1:{moto}": (1, "there is no such bucket"),
        f"file://{home}/a%20file": (12, "not a directory"),
        f"file://{home}/a%20file/below": (12, "not a directory"),
    }
    with Cluster(home / "f", env=dict(CREDENTIALS)) as cluster:
        cluster.server.start()
        for number, (url, (code, why)) in enumerate(cases.items()):
            (home / "mnt").mkdir(exist_ok=True)
            env = {**os.environ, **CREDENTIALS}
            done = keelfs("format", f"keel://{cluster.address}/v{number}", "--store", url, env=env, check=False)
            if done.returncode == 0:
                cache = ("--cache-dir", home / "cache")
                done = keelfs("mount", f"keel://{cluster.address}/v{number}", home / "mnt", *cache, env=env, check=False)
            assert done.returncode == code, url
            assert why in done.stderr.lower(), url
            assert "Traceback" not in done.stderr
            assert not os.path.ismount(home / "mnt")


def test_a_cache_directory_that_is_none_refuses_the_mount(home: Path, moto: int) -> None:
    with closing(Bucket(moto)) as store, volume_on(store, home) as cluster:
        (home / "file").touch()
        (home / "second").mkdir()
        env = {**os.environ, **CREDENTIALS}
        done = keelfs("mount", cluster.url, home / "second", "--cache-dir", home / "file/below", env=env, check=False)
        assert done.returncode == 1
        assert "cannot use the cache directory" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_store_that_is_not_there_refuses_the_mount_in_bounded_time(home: Path) -> None:
    with Cluster(home, "s3://bucket?endpoint=http://127.0.0.1:9", dict(CREDENTIALS)) as cluster:
        cluster.server.start()
        env = {**os.environ, **CREDENTIALS}
        started = time.monotonic()
        done = keelfs("format", cluster.url, "--store", cluster.store, env=env, check=False)
        if done.returncode == 0:
            (home / "mnt").mkdir()
            done = keelfs("mount", cluster.url, home / "mnt", "--cache-dir", home / "cache", env=env, check=False)
        assert done.returncode == 1
        assert "127.0.0.1:9" in done.stderr
        assert "Traceback" not in done.stderr
        assert time.monotonic() - started < 60
