"""Artifacts in S3 (any endpoint), behind the library's small `Store`; the only file that knows boto3.

Promises: the same addresses and digests as the local folder; time-outs and bounded retries with backoff everywhere;
large files go and come in parallel parts, each tried again by itself; what is read was verified by digest (cache.py);
exactly one conditional put wins. All failures are the `Store`'s own (`Conflict`, `Damaged`, `OSError` with the remedy),
never botocore's. Endpoint and credentials are found as boto3 finds them. It deletes nothing but what it is told to.
"""

from __future__ import annotations

import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from flows.cache import Cache
from nanochat.artifacts.store import Conflict, Damaged, FileStore, Store
from nanochat.data.web import is_loopback
from nanochat.locations import bucket_of, folder_of, is_bucket

MIB = 1024 * 1024
CACHE_BYTES = 100 * 1024 * MIB
PART_BYTES = 16 * MIB
T = TypeVar("T")
ATTEMPTS = 10  # of one request; botocore waits up to 1, 2, 4, 8, 16 and then 20 s: a minute, for a server that restarts
CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
REMEDIES = {
    "NoSuchBucket": "the bucket does not exist: create it",
    "AccessDenied": "access is denied: allow these credentials to get, put, delete and list there",
    "403": "access is denied: allow these credentials to get, put, delete and list there",
    "InvalidAccessKeyId": f"the access key is not known there: {CREDENTIALS}",
    "SignatureDoesNotMatch": f"the secret key is wrong: {CREDENTIALS}",
    "ExpiredToken": f"the credentials have expired: {CREDENTIALS}",
}


def open_store(uri: str, cache: Path, endpoint: str = "", cache_bytes: int = CACHE_BYTES) -> Store:
    """The store of a URI: a folder (plain path or file://) or s3://BUCKET/PREFIX.

    `cache` is where files of a remote store lie locally, `endpoint` an S3 server other than AWS's (the environment's
    AWS_ENDPOINT_URL does as well). ValueError for any other URI.
    """
    if is_bucket(uri):
        return S3Store(*bucket_of(uri), Cache(cache, cache_bytes), endpoint)
    return FileStore(folder_of(uri))


def download_object(bucket: str, key: str, path: Path) -> None:
    """Fetches any object of S3 (a shard of a corpus) to a file, which is there only when it is whole.

    ValueError: the bucket or the object does not exist. OSError: it cannot be reached.
    """
    source = S3Store(bucket, "", Cache(path.parent / "cache", CACHE_BYTES))
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with source._told(f"reading {key}"):
        try:
            source._ask(lambda client: client.download_file(bucket, key, str(fresh), Config=source._transfer))
        except ClientError as error:
            if _code(error) in ("NoSuchKey", "NoSuchBucket", "404"):
                raise ValueError(f"download.url: s3://{bucket}/{key} does not exist: correct the url") from error
            raise
    fresh.replace(path)


class S3Store(Store):
    """A prefix of a bucket."""

    def __init__(self, bucket: str, prefix: str, cache: Cache, endpoint: str = "") -> None:
        self.bucket, self.prefix, self.cache, self.endpoint = bucket, prefix, cache, endpoint
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        self._checksums = "when_supported"  # boto3's own, which not every server knows; ours are in the records
        self._clients: dict[tuple[bool, str], Any] = {}
        self._transfer = TransferConfig(
            multipart_threshold=PART_BYTES,
            multipart_chunksize=PART_BYTES,
            max_concurrency=8,
            num_download_attempts=ATTEMPTS,
        )

    @property
    def _client(self) -> Any:
        return self._connected(self._checksums)

    def _connected(self, checksums: str, *, briefly: bool = False) -> Any:
        """A client, made once. A brief one renews leases: must give up before others may take the holder for dead."""
        if (briefly, checksums) not in self._clients:
            patience = (3, 8, 3) if briefly else (5, 30, ATTEMPTS)
            self._clients[briefly, checksums] = self._connect(checksums, *patience)
        return self._clients[briefly, checksums]

    def _connect(self, checksums: str, connect_timeout: float, read_timeout: float, attempts: int) -> Any:
        config = Config(
            retries={"mode": "standard", "total_max_attempts": attempts},
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            max_pool_connections=64,
            request_checksum_calculation=checksums,
            response_checksum_validation=checksums,
        )
        with self._told("connecting"):
            session, where = boto3.session.Session(), self.endpoint or None
            client = session.client("s3", endpoint_url=where, config=config)
            if is_loopback(urllib.parse.urlsplit(client.meta.endpoint_url).hostname or ""):  # boto3 knows where it is
                client = session.client("s3", endpoint_url=where, config=config.merge(Config(proxies={})))
            return client

    def _ask(self, call: Callable[[Any], T], *, briefly: bool = False) -> T:
        """Makes a request; once more, and from then on, without boto3's checksums where the server refuses them."""
        checksums = self._checksums  # another thread may find out meanwhile
        try:
            return call(self._connected(checksums, briefly=briefly))
        except (ClientError, Boto3Error) as refused:
            if checksums == "when_required" or not _may_be_of_checksums(refused):
                raise
            try:
                answer = call(self._connected("when_required", briefly=briefly))
            except (ClientError, Boto3Error) as again:
                if not _is_conflict(again):
                    raise refused from None
                self._checksums = "when_required"  # it is taken without them
                raise
            self._checksums = "when_required"
            return answer

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Turns the failures of boto3 into OSError, with what to do about it."""
        try:
            yield
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise PermissionError(f"{self.uri}: {error}: {CREDENTIALS}") from error
        except (BotoCoreError, ClientError, Boto3Error) as error:
            code = _code(error)
            kind = PermissionError if code in REMEDIES and code != "NoSuchBucket" else OSError
            raise kind(f"{self.uri}: {what}: {REMEDIES.get(code, error)}") from error
        except KeyError as error:  # botocore takes headers that break off for a short answer
            raise OSError(f"{self.uri}: {what}: the answer broke off before its {error}") from error

    def get(self, key: str) -> tuple[bytes, str] | None:
        with self._told(f"reading {key}"):
            try:
                return self._read(self._key(key))
            except ClientError as error:
                if _code(error) in ("NoSuchKey", "404"):
                    return None
                raise

    def _read(self, key: str) -> tuple[bytes, str]:
        """Botocore repeats requests, but leaves a connection that breaks within an answer to its caller."""
        attempt = 0
        while True:
            attempt += 1
            answer = self._ask(lambda client: client.get_object(Bucket=self.bucket, Key=key))
            try:
                with closing(answer["Body"]) as body:
                    return body.read(), answer["ETag"]
            except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError):
                if attempt >= ATTEMPTS:
                    raise
                time.sleep(min(0.1 * 2**attempt, 10))

    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        condition = {}
        if if_absent:
            condition = {"IfNoneMatch": "*"}
        elif if_match is not None:
            condition = {"IfMatch": if_match}
        request = {"Bucket": self.bucket, "Key": self._key(key), "Body": data, **condition}
        with self._told(f"writing {key}"):
            try:
                return self._ask(lambda client: client.put_object(**request), briefly=if_match is not None)["ETag"]
            except ClientError as error:
                if not condition or not _is_conflict(error):
                    raise
                conflict = error
        # The first try may have won although its answer was lost: then what lies there is ours.
        if (
            conflict.response["ResponseMetadata"].get("RetryAttempts", 0)
            and (found := self.get(key))
            and found[0] == data
        ):
            return found[1]
        raise Conflict(f"{self.uri}/{key}") from conflict

    def delete(self, key: str) -> None:
        with self._told(f"deleting {key}"):
            self._client.delete_object(Bucket=self.bucket, Key=self._key(key))

    def upload(self, key: str, path: Path, sha256: str) -> None:
        options = {"ExtraArgs": {"Metadata": {"sha256": sha256}}, "Config": self._transfer}
        with self._told(f"uploading {key}"):
            self._ask(lambda client: client.upload_file(str(path), self.bucket, self._key(key), **options))

    def download(self, key: str, path: Path) -> None:
        """Copies an object into a file, unverified. Damaged: there is none."""
        with self._told(f"downloading {key}"):
            try:
                options = {"Config": self._transfer}
                self._ask(lambda client: client.download_file(self.bucket, self._key(key), str(path), **options))
            except ClientError as error:
                if _code(error) in ("NoSuchKey", "404"):
                    raise Damaged(f"{key} is missing") from None
                raise

    def keys(self, prefix: str = "") -> Iterator[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self._key(prefix))
        skip = len(self._key(""))
        with self._told("listing"):
            for page in pages:
                yield from (entry["Key"][skip:] for entry in page.get("Contents", ()))

    def fetch(self, address: str) -> Path:
        record = self.record(address)
        if record is None:
            raise KeyError(address)
        try:
            return self.cache.artifact(
                address, record["files"], lambda name, path: self.download(f"{address}/{name}", path)
            )
        except Damaged as error:
            remedy = f"make it again with --force {address.split('/')[0]}"
            raise Damaged(f"{address} in {self.uri}: {error}; {remedy}") from None

    def check_writable(self) -> None:
        """As of any store; and the server must keep conditions, or two runs would hold one lease."""
        try:
            with self._told("listing"):
                self._connected(self._checksums, briefly=True).list_objects_v2(
                    Bucket=self.bucket, Prefix=self._key(""), MaxKeys=1
                )
        except OSError as error:
            raise ValueError(f"store = {error}") from error
        super().check_writable()
        key = f"probe-{uuid.uuid4().hex}"
        first = self.put(key, b"first")
        try:
            self._refuses("If-None-Match", key, if_absent=True)
            try:
                self.put(key, b"second", if_match=first)
            except (Conflict, OSError) as error:
                raise OSError(f"the server refuses If-Match ({error})") from error
            self._refuses("If-Match", key, if_match=first)
        except OSError as error:
            raise ValueError(f"store = {self.uri!r}: {error}: name one that has conditional writes") from error
        finally:
            self.delete(key)

    def _refuses(self, header: str, key: str, **condition: Any) -> None:
        """OSError, where a put is taken whose condition does not hold."""
        try:
            self.put(key, b"other", **condition)
        except Conflict:
            return
        raise OSError(f"the server ignores {header}")


def _code(error: Exception) -> str:
    """S3's own word for what went wrong; boto3 wraps some of its errors once more."""
    cause = error if isinstance(error, ClientError) else error.__context__
    return cause.response.get("Error", {}).get("Code", "") if isinstance(cause, ClientError) else ""


def _status(error: Exception) -> int:
    cause = error if isinstance(error, ClientError) else error.__context__
    return cause.response["ResponseMetadata"]["HTTPStatusCode"] if isinstance(cause, ClientError) else 0


def _is_conflict(error: Exception) -> bool:
    return _status(error) in (409, 412) or (_status(error) == 404 and _code(error) == "NoSuchKey")


def _may_be_of_checksums(error: Exception) -> bool:
    """Whether a server says something of the kind that those say which do not know boto3's checksums: not implemented,
    an unsupported header, a length that is missing, a signature or digest that does not match.
    """
    known = {"NoSuchBucket", "AccessDenied", "InvalidAccessKeyId", "ExpiredToken"}
    return _status(error) in (400, 403, 411, 501) and _code(error) not in known
