"""What every object store does alike: the suite that each implementation passes."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING

import pytest
from memory_store import MemoryStore

from fuseclient.data.local_dir import LocalDir
from fuseclient.data.object_store import ObjectMissing, ObjectStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_buckets = itertools.count()

# moto and what it is made of, not our code.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:moto.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:werkzeug.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore.*"),
]


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["memory", "local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    made: ObjectStore
    if request.param == "memory":
        made = MemoryStore()
    elif request.param == "local":
        made = LocalDir(tmp_path / "objects")
    else:
        made = _s3_store(request.getfixturevalue("s3_endpoint"), monkeypatch)
    yield made
    made.close()


def _s3_store(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    import boto3

    from fuseclient.data.stores import open_store

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    bucket = f"bucket-{next(_buckets)}"
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket=bucket)
    return open_store(f"s3://{bucket}/some/prefix?endpoint={endpoint}&region=us-east-1&path_style=1")


def test_what_was_put_is_there(store: ObjectStore) -> None:
    store.put("v/chunks/0/1/1_0_11", [b"hello", bytearray(b" "), memoryview(b"world")])
    assert store.get("v/chunks/0/1/1_0_11") == b"hello world"
    assert store.size("v/chunks/0/1/1_0_11") == 11


def test_ranges(store: ObjectStore) -> None:
    store.put("v/x", [bytes(range(100))])
    assert store.get("v/x", 10, 5) == bytes(range(10, 15))
    assert store.get("v/x", 90) == bytes(range(90, 100))
    assert store.get("v/x", 95, 50) == bytes(range(95, 100))
    assert store.get("v/x", 100, 5) == b""
    assert store.get("v/x", 10, 0) == b""
    with pytest.raises(ValueError, match="range"):
        store.get("v/x", -1, 5)


def test_a_missing_object_is_named(store: ObjectStore) -> None:
    for ask in (store.get, store.size, lambda key: store.get(key, 3, 4)):
        with pytest.raises(ObjectMissing) as caught:
            ask("v/chunks/0/0/no_such")
        assert caught.value.key == "v/chunks/0/0/no_such"
        assert not caught.value.transient


def test_putting_again_is_harmless(store: ObjectStore) -> None:
    for _ in range(2):
        store.put("v/x", [b"same"])
    assert store.get("v/x") == b"same"


def test_large_object(store: ObjectStore) -> None:
    data = bytes(range(256)) * (1 << 14)
    store.put("v/large", [memoryview(data), b"end"])
    assert store.get("v/large") == data + b"end"


def test_delete(store: ObjectStore) -> None:
    keys = [f"v/chunks/0/0/{n}_0_1" for n in range(5)]
    for key in keys:
        store.put(key, [b"x"])
    store.delete([*keys[:3], "v/chunks/9/9/never_was"])
    store.delete([])
    assert [info.key for info in store.list("v/")] == keys[3:]
    store.delete(keys[:1])  # gone already
    store.delete(keys[3:])
    assert list(store.list("")) == []
    store.put(keys[0], [b"back"])  # also where a directory was removed
    assert store.get(keys[0]) == b"back"


def test_list_in_key_order(store: ObjectStore) -> None:
    keys = ["a/b", "a/b-c", "a/b/c", "a/b0", "a.b/c", "ab", "b/a/z", "b/a1"]
    for key in [key for key in keys if key != "a/b"]:
        store.put(key, [key.encode()])
    present = sorted(key for key in keys if key != "a/b")
    assert [info.key for info in store.list("")] == present
    assert [info.key for info in store.list("a/")] == [key for key in present if key.startswith("a/")]
    assert [info.key for info in store.list("a/b")] == [key for key in present if key.startswith("a/b")]
    assert [info.size for info in store.list("b/a/")] == [5]
    assert list(store.list("zzz")) == []


def test_probe_leaves_nothing(store: ObjectStore) -> None:
    store.probe()
    assert list(store.list("")) == []


def test_many_threads(store: ObjectStore) -> None:
    def work(number: int) -> None:
        key = f"v/chunks/0/{number % 3}/{number}"
        store.put(key, [str(number).encode() * 1000])
        results[number] = store.get(key)

    results: dict[int, bytes] = {}
    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: str(number).encode() * 1000 for number in range(12)}


def test_listing_goes_over_pages(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(7):
        store.put(f"p/{number}", [b"x"])
    inner = getattr(store, "_s3", None)
    if inner is not None:
        whole = inner.list_objects_v2
        monkeypatch.setattr(inner, "list_objects_v2", lambda **asked: whole(MaxKeys=2, **asked))
    assert [info.key for info in store.list("p/")] == [f"p/{number}" for number in range(7)]
