"""An object store in an S3 bucket (s3://), through boto3, which nothing else imports.

    s3://bucket/prefix?endpoint=https://host:port&region=eu-west-1&path_style=1

Rules
 - Credentials come from the standard chain (environment, ~/.aws, instance roles), never from the URL.
 - Every failure leaves here as one of object_store.py's errors, classified by the tables below: what the service says is
   missing, denied, full, or worth trying again. botocore's own few quick retries cover hiccups; waiting for a store that is
   away for minutes is the caller's business, who knows its deadline.
 - S3-compatible servers differ: newer checksum headers are sent only where the protocol demands them, multi-object delete
   falls back to single deletes, and ranges are checked by the length of what comes back, whatever the status says.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError, ProfileNotFound

from fuseclient.data.object_store import ObjectDenied, ObjectInfo, ObjectMissing, ObjectStoreError, ObjectStoreFull

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mypy_boto3_s3 import S3Client

_MISSING: Final = frozenset({"NoSuchKey", "404", "NotFound"})
_DENIED: Final = frozenset(
    {
        "AccessDenied",
        "AccountProblem",
        "AllAccessDisabled",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "SignatureDoesNotMatch",
        "Forbidden",
        "401",
        "403",
    }
)
_FULL: Final = frozenset({"QuotaExceeded", "InsufficientStorage", "EntityTooLarge", "XMinioStorageFull", "507"})
_TRANSIENT: Final = frozenset(
    {
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "RequestTimeTooSkewed",
        "ServiceUnavailable",
        "SlowDown",
        "SlowDownRead",
        "SlowDownWrite",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
    }
)
_NO_MULTI_DELETE: Final = frozenset(
    {"NotImplemented", "MethodNotAllowed", "MissingContentMD5", "InvalidRequest", "MalformedXML"}
)
_DELETE_BATCH: Final = 1000
_READ_BOUND: Final = 1 << 30  # no object of ours comes near; a server may send anything
_OPTIONS: Final = frozenset({"endpoint", "region", "path_style"})


class Bucket(NamedTuple):
    """An s3:// URL, taken apart. `prefix` is empty or ends with a slash."""

    bucket: str
    prefix: str
    endpoint: str | None
    region: str | None
    path_style: bool

    @classmethod
    def of(cls, url: str) -> Bucket:
        """Parse; ValueError says what is wrong, without repeating what may be secret."""
        parts = urlsplit(url)
        if "@" in parts.netloc:
            raise ValueError("an s3:// URL holds no credentials: put them in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        if parts.scheme != "s3" or not parts.netloc:
            raise ValueError("an S3 store is s3://BUCKET[/PREFIX][?endpoint=URL&region=NAME&path_style=1]")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if unknown := sorted(options.keys() - _OPTIONS):
            raise ValueError(f"unknown option in the store's URL: {', '.join(unknown)} (known: {', '.join(sorted(_OPTIONS))})")
        endpoint = options.get("endpoint") or None
        if endpoint is not None:
            target = urlsplit(endpoint)
            if target.scheme not in ("http", "https") or not target.netloc or "@" in target.netloc:
                raise ValueError("endpoint is http://HOST[:PORT] or https://HOST[:PORT], without credentials")
        prefix = parts.path.strip("/")
        style = options.get("path_style", "1" if endpoint else "0")
        if style not in ("0", "1"):
            raise ValueError("path_style is 0 or 1")
        return cls(parts.netloc, f"{prefix}/" if prefix else "", endpoint, options.get("region") or None, style == "1")


class S3Store:
    """See the module's text. Safe to use from several threads."""

    def __init__(self, bucket: Bucket, *, pool: int = 32, connect_s: float = 5.0, read_s: float = 30.0) -> None:
        self._bucket = bucket
        self._multi_delete = True
        config = Config(
            region_name=bucket.region or (None if bucket.endpoint is None else "us-east-1"),
            s3={"addressing_style": "path" if bucket.path_style else "auto"},
            max_pool_connections=pool,
            connect_timeout=connect_s,
            read_timeout=read_s,
            retries={"mode": "standard", "total_max_attempts": 2},
            # Many servers refuse, or answer wrongly, the checksums that boto3 adds by default. Our blocks carry their own.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        try:
            self._s3: S3Client = boto3.session.Session().client("s3", endpoint_url=bucket.endpoint, config=config)
        except (BotoCoreError, ValueError) as error:
            raise _translated(error, "set up the S3 client") from error

    @property
    def url(self) -> str:
        where = f"?endpoint={self._bucket.endpoint}" if self._bucket.endpoint else ""
        return f"s3://{self._bucket.bucket}/{self._bucket.prefix}{where}"

    def put(self, key: str, parts: Iterable[bytes | bytearray | memoryview]) -> None:
        body = b"".join(parts)  # botocore reads a body more than once: to sign it, and to send it again
        try:
            self._s3.put_object(Bucket=self._bucket.bucket, Key=self._name(key), Body=body)
        except (BotoCoreError, ClientError) as error:
            raise _translated(error, f"write {key}") from error

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        if offset < 0 or (length is not None and length < 0):
            raise ValueError(f"no such range: {length} bytes at {offset}")
        if length == 0:
            self.size(key)
            return b""
        extra: dict[str, Any] = {}
        if offset or length is not None:
            extra["Range"] = f"bytes={offset}-" + ("" if length is None else str(offset + length - 1))
        try:
            answer = self._s3.get_object(Bucket=self._bucket.bucket, Key=self._name(key), **extra)
            return self._body(answer, key, offset, length, ranged=bool(extra))
        except ClientError as error:
            if _code(error) in ("InvalidRange", "416"):
                return b""  # past the object's end
            raise _translated(error, f"read {key}", key) from error
        except BotoCoreError as error:
            raise _translated(error, f"read {key}", key) from error

    def _body(self, answer: Any, key: str, offset: int, length: int | None, *, ranged: bool) -> bytes:
        """The bytes asked for, bounded; a server that ignores ranges sends all, and we cut."""
        announced = int(answer["ContentLength"])
        if announced > _READ_BOUND:
            raise ObjectStoreError(f"cannot read {key}: the store announces {announced} bytes", transient=False)
        with answer["Body"] as body:
            data: bytes = body.read()
        if len(data) != announced:
            raise ObjectStoreError(f"cannot read {key}: {len(data)} of {announced} bytes came", transient=True)
        if ranged and "ContentRange" not in answer:
            if length is None or len(data) > length:
                return data[offset:] if length is None else data[offset : offset + length]
            if offset:
                return data[offset:]
        return data

    def size(self, key: str) -> int:
        try:
            return int(self._s3.head_object(Bucket=self._bucket.bucket, Key=self._name(key))["ContentLength"])
        except (BotoCoreError, ClientError) as error:
            raise _translated(error, f"look at {key}", key) from error

    def delete(self, keys: Iterable[str]) -> None:
        names = [self._name(key) for key in keys]
        for at in range(0, len(names), _DELETE_BATCH):
            batch: Sequence[str] = names[at : at + _DELETE_BATCH]
            if len(batch) > 1 and self._multi_delete:
                batch = self._delete_together(batch)
            for name in batch:
                self._delete_one(name)

    def _delete_together(self, names: Sequence[str]) -> Sequence[str]:
        """Delete in one request; gives those that are left to be deleted one by one."""
        try:
            answer = self._s3.delete_objects(
                Bucket=self._bucket.bucket, Delete={"Objects": [{"Key": name} for name in names], "Quiet": True}
            )
        except ClientError as error:
            if _code(error) in _NO_MULTI_DELETE:
                self._multi_delete = False  # this server cannot; asking each time would cost a request per batch
                return names
            raise _translated(error, "delete objects") from error
        except BotoCoreError as error:
            raise _translated(error, "delete objects") from error
        return [failed["Key"] for failed in answer.get("Errors", ()) if failed.get("Code") not in _MISSING]

    def _delete_one(self, name: str) -> None:
        try:
            self._s3.delete_object(Bucket=self._bucket.bucket, Key=name)
        except (BotoCoreError, ClientError) as error:
            if isinstance(error, ClientError) and _code(error) in _MISSING:
                return
            raise _translated(error, f"delete {name}") from error

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        token: str | None = None
        while True:
            extra: dict[str, Any] = {} if token is None else {"ContinuationToken": token}
            try:
                page = self._s3.list_objects_v2(Bucket=self._bucket.bucket, Prefix=self._name(prefix), **extra)
            except (BotoCoreError, ClientError) as error:
                raise _translated(error, f"list {prefix or 'the bucket'}") from error
            for item in page.get("Contents", ()):
                yield ObjectInfo(item["Key"][len(self._bucket.prefix) :], item["Size"], item["LastModified"].timestamp())
            if not page.get("IsTruncated"):
                return
            following = page.get("NextContinuationToken")
            if not following or following == token:
                raise ObjectStoreError("the store says that the listing goes on, but not where", transient=False)
            token = following

    def probe(self) -> None:
        key = f"probe-{secrets.token_hex(8)}"
        self.put(key, [b"KeelFS was here"])
        try:
            if self.get(key) != b"KeelFS was here":
                raise ObjectStoreError(f"{self.url} gives back something else than what was written", transient=False)
        finally:
            self.delete([key])

    def close(self) -> None:
        self._s3.close()

    def _name(self, key: str) -> str:
        return self._bucket.prefix + key


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _translated(error: Exception, doing: str, key: str | None = None) -> ObjectStoreError:
    if not isinstance(error, ClientError):
        text = f"cannot {doing}: {error}"
        if isinstance(error, (NoCredentialsError, PartialCredentialsError, ProfileNotFound)):
            return ObjectDenied(f"{text} (set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile)")
        # What botocore itself raises is about connections and time-outs, except for bad parameters, which are our bug.
        return ObjectStoreError(text, transient=isinstance(error, BotoCoreError) and not isinstance(error, ValueError))
    code, status = _code(error), _status(error)
    if code == "NoSuchBucket":
        return ObjectStoreError(f"cannot {doing}: there is no such bucket", transient=False)
    if key is not None and code in _MISSING:
        return ObjectMissing(key)
    text = f"cannot {doing}: {code} {error.response.get('Error', {}).get('Message', '')}".rstrip()
    if code in _FULL or status == 507:
        return ObjectStoreFull(text)
    if code in _DENIED or status in (401, 403):
        return ObjectDenied(text)
    return ObjectStoreError(text, transient=code in _TRANSIENT or status >= 500 or status in (408, 429))
