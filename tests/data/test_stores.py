"""Store URLs, and what the two kinds of store do each in its own way."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

from fuseclient.data.local_dir import LocalDir
from fuseclient.data.object_store import ObjectDenied, ObjectMissing, ObjectStoreError, ObjectStoreFull
from fuseclient.data.s3 import Bucket, S3Store
from fuseclient.data.stores import is_local, open_store

if TYPE_CHECKING:
    from pathlib import Path


def test_bucket_of_url() -> None:
    assert Bucket.of("s3://b/a/c?endpoint=http://h:1&region=x&path_style=0") == Bucket("b", "a/c/", "http://h:1", "x", False)
    assert Bucket.of("s3://b") == Bucket("b", "", None, None, False)
    assert Bucket.of("s3://b/?endpoint=https://h").path_style


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3:///x",
        "s3://key:secret@b/x",
        "s3://b/x?endpoint=h:1",
        "s3://b/x?endpoint=http://k:s@h",
        "s3://b/x?path_style=yes",
        "s3://b/x?secret_key=hunter2",
        "ftp://x/y",
        "relative/path",
        "file://host/path",
        "file:relative",
    ],
)
def test_bad_urls(url: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        open_store(url)
    assert "hunter2" not in str(caught.value)
    assert "secret@" not in str(caught.value)


def test_open_file_store(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/with%20space")
    store.put("v/x", [b"x"])
    assert (tmp_path / "with space" / "v" / "x").read_bytes() == b"x"
    assert is_local(store.url)
    assert not is_local("s3://b")


# a directory


@pytest.mark.parametrize("key", ["", "/abs", "../up", "a/../b", "a/./b", "a//b", "a/", "..", "a\0b", "a/..", "ä"])
def test_keys_that_could_leave(tmp_path: Path, key: str) -> None:
    store = LocalDir(tmp_path / "objects")
    for call in (lambda: store.put(key, [b"x"]), lambda: store.get(key), lambda: store.delete([key])):
        with pytest.raises(ValueError, match="not an object key"):
            call()


def test_links_are_refused(tmp_path: Path) -> None:
    store = LocalDir(tmp_path / "objects")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (tmp_path / "objects" / "v").symlink_to(outside)
    (tmp_path / "objects" / "f").symlink_to(outside / "secret")
    for call in (lambda: store.get("v/secret"), lambda: store.put("v/x", [b""]), lambda: store.delete(["v/secret"])):
        with pytest.raises(ObjectDenied):
            call()
    with pytest.raises(ObjectDenied):
        store.get("f")
    assert store.read_nowait("v/secret", 0, memoryview(bytearray(3))) == -1
    assert store.read_nowait("f", 0, memoryview(bytearray(3))) == -1
    assert list(store.list("")) == []
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]


def test_a_vanished_root_is_no_missing_object(tmp_path: Path) -> None:
    """An unmounted disk must not look like deleted data, and nothing may be written below its mount point."""
    root = tmp_path / "objects"
    store = LocalDir(root)
    store.put("v/x", [b"x"])
    root.rename(tmp_path / "away")
    for again in (False, True):
        for call in (lambda: store.get("v/x"), lambda: store.put("v/y", [b""]), lambda: list(store.list(""))):
            with pytest.raises(ObjectStoreError) as caught:
                call()
            assert caught.value.transient
            assert not isinstance(caught.value, ObjectMissing)
        if not again:
            root.mkdir()
    assert list(root.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "kind", "transient"),
    [
        (errno.ENOSPC, ObjectStoreFull, False),
        (errno.EDQUOT, ObjectStoreFull, False),
        (errno.EACCES, ObjectDenied, False),
        (errno.EROFS, ObjectDenied, False),
        (errno.EIO, ObjectStoreError, False),
        (errno.ESTALE, ObjectStoreError, True),
    ],
)
def test_system_errors_are_translated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[ObjectStoreError], transient: bool
) -> None:
    store = LocalDir(tmp_path / "objects")

    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "writev", fail)
    with pytest.raises(ObjectStoreError) as caught:
        store.put("v/x", [b"x"])
    assert type(caught.value) is kind
    assert caught.value.transient is transient
    assert [path for path in (tmp_path / "objects").rglob("*") if path.is_file()] == []  # nothing is left behind


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalDir(tmp_path / "objects")
    monkeypatch.setattr(os, "writev", lambda fd, parts: os.write(fd, bytes(parts[0])[:3]))
    store.put("v/x", [b"hello", b"", bytearray(b" world")])
    assert store.get("v/x") == b"hello world"


def test_the_object_is_synced_after_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalDir(tmp_path / "objects")
    done: list[str] = []
    for name in ("rename", "fsync"):
        inner = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, inner=inner, name=name: (done.append(name), inner(*args))[1])
    store.put("v/x", [b"x"])
    assert done == ["rename", "fsync", "fsync"]  # the file, and the root for the new directory
    done.clear()
    store.put("v/y", [b"x"])
    assert done == ["rename", "fsync"]


def test_put_makes_its_directory_again(tmp_path: Path) -> None:
    store, other = LocalDir(tmp_path / "objects"), LocalDir(tmp_path / "objects")
    store.put("v/a/x", [b"x"])
    other.delete(["v/a/x"])
    store.put("v/a/y", [b"y"])
    assert other.get("v/a/y") == b"y"


def test_objects_are_private(tmp_path: Path) -> None:
    store = LocalDir(tmp_path / "objects")
    store.put("v/x", [b"x"])
    assert (tmp_path / "objects" / "v" / "x").stat().st_mode & 0o077 == 0
    assert (tmp_path / "objects" / "v").stat().st_mode & 0o077 == 0


# a bucket


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> S3Store:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret")
    return S3Store(Bucket.of("s3://b/p?endpoint=http://127.0.0.1:9&region=us-east-1"))


def _answer(code: str, status: int) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": {"HTTPStatusCode": status}}, "op")  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("error", "kind", "transient"),
    [
        (_answer("NoSuchKey", 404), ObjectMissing, False),
        (_answer("NoSuchBucket", 404), ObjectStoreError, False),
        (_answer("AccessDenied", 403), ObjectDenied, False),
        (_answer("SomethingNew", 403), ObjectDenied, False),
        (_answer("SlowDown", 503), ObjectStoreError, True),
        (_answer("SomethingNew", 500), ObjectStoreError, True),
        (_answer("SomethingNew", 400), ObjectStoreError, False),
        (_answer("QuotaExceeded", 403), ObjectStoreFull, False),
        (EndpointConnectionError(endpoint_url="http://x"), ObjectStoreError, True),
        (NoCredentialsError(), ObjectDenied, False),
    ],
)
def test_answers_are_translated(
    s3: S3Store, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[ObjectStoreError], transient: bool
) -> None:
    def fail(**_: object) -> Any:
        raise error

    monkeypatch.setattr(s3._s3, "get_object", fail)
    with pytest.raises(ObjectStoreError) as caught:
        s3.get("v/x")
    assert type(caught.value) is kind
    assert caught.value.transient is transient
    assert "a secret" not in str(caught.value)


def test_a_store_that_is_not_there_is_transient(s3: S3Store) -> None:
    with pytest.raises(ObjectStoreError) as caught:
        s3.get("v/x")
    assert caught.value.transient


def test_delete_falls_back_to_single_deletes(s3: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    deleted: list[str] = []

    def refuse(**_: object) -> Any:
        raise _answer("NotImplemented", 501)

    monkeypatch.setattr(s3._s3, "delete_objects", refuse)
    monkeypatch.setattr(s3._s3, "delete_object", lambda **asked: deleted.append(asked["Key"]))
    s3.delete(["v/a", "v/b"])
    assert deleted == ["p/v/a", "p/v/b"]


def test_deletes_that_failed_are_tried_one_by_one(s3: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3._s3, "delete_objects", lambda **_: {"Errors": [{"Key": "p/v/b", "Code": "InternalError"}]})

    def fail(**_: object) -> Any:
        raise _answer("AccessDenied", 403)

    monkeypatch.setattr(s3._s3, "delete_object", fail)
    with pytest.raises(ObjectDenied):
        s3.delete(["v/a", "v/b"])


def test_a_server_that_ignores_ranges(s3: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    class Body:
        def __enter__(self) -> Body:
            return self

        def __exit__(self, *_: object) -> None: ...

        def read(self) -> bytes:
            return b"0123456789"

    monkeypatch.setattr(s3._s3, "get_object", lambda **_: {"ContentLength": 10, "Body": Body()})
    assert s3.get("v/x", 2, 3) == b"234"
    assert s3.get("v/x", 8) == b"89"
    assert s3.get("v/x", 8, 10) == b"89"
    assert s3.get("v/x", 0, 10) == b"0123456789"
