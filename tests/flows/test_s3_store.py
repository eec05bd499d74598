"""S3 keeps what a folder keeps, and survives what a network does: against a real server, through a proxy that fails."""

import hashlib
import http.server
import os
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import pytest

from flows.cache import Cache
from flows.store import S3Store, open_store
from nanochat.artifacts.store import Conflict, Damaged, FileStore
from tests.paths import ROOT
from tests.s3_server import S3Server, free_port, s3_server_fixture, serve  # noqa: F401
from tests.unreliable import between

MIB = 1024 * 1024


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    name = f"test-{uuid.uuid4().hex[:12]}"
    s3_server.create_bucket(name)
    return name


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """An artifact: empty, small, and larger than two parts of a multipart upload."""
    monkeypatch.setattr("flows.store.PART_BYTES", 5 * MIB)  # the least that S3 takes
    made = tmp_path / "made"
    made.mkdir()
    (made / "empty").write_bytes(b"")
    (made / "small.json").write_text("{}", encoding="utf-8")
    (made / "model.safetensors").write_bytes(os.urandom(11 * MIB))
    return {path.name: path for path in made.iterdir()}


@pytest.fixture
def store(bucket: str, files: dict[str, Path], tmp_path: Path) -> S3Store:
    return open_store(f"s3://{bucket}/some/prefix", tmp_path / "cache")


def test_the_same_addresses_digests_and_bytes_as_a_folder(store, files, tmp_path):
    folder = FileStore(tmp_path / "folder")
    records = [each.publish("sft/d4-0a", files, {"numbers": {"loss": 1.5}}) for each in (store, folder)]
    assert records[0] == records[1] == store.record("sft/d4-0a") == folder.record("sft/d4-0a")
    assert store.addresses() == folder.addresses() == ["sft/d4-0a"]
    assert list(store.keys()) == folder.keys()
    assert list(store.keys("sft/d4-0a/s")) == ["sft/d4-0a/small.json"]
    fetched = store.fetch("sft/d4-0a")
    assert {path.name: path.read_bytes() for path in fetched.iterdir()} == {n: p.read_bytes() for n, p in files.items()}


def test_a_bucket_without_prefix_and_a_second_publisher_whose_record_does_not_count(bucket, tmp_path, files):
    store = open_store(f"s3://{bucket}", tmp_path / "cache")
    small = {"small.json": files["small.json"]}
    first = store.publish("tokenizer/v1", small, {"by": "first"})
    assert store.publish("tokenizer/v1", small, {"by": "second"}) == first
    assert store.location("tokenizer/v1") == f"s3://{bucket}/tokenizer/v1"
    store.forget("tokenizer/v1")
    assert store.addresses() == []
    with pytest.raises(KeyError):
        store.fetch("tokenizer/v1")


def test_an_upload_that_dies_leaves_nothing_that_looks_whole(store, files):
    broken = {**files, "gone.bin": files["empty"].with_name("gone.bin")}
    with pytest.raises(FileNotFoundError):
        store.publish("sft/d4-0b", broken, {})
    assert store.record("sft/d4-0b") is None
    assert store.addresses() == []


def test_exactly_one_of_many_conditional_puts_wins(store):
    def attempt(data: bytes, **condition: object) -> bytes | None:
        try:
            store.put("leases/x.json", data, **condition)
        except Conflict:
            return None
        return data

    names = [str(i).encode() for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        winners = [w for w in pool.map(lambda n: attempt(n, if_absent=True), names) if w is not None]
        data, etag = store.get("leases/x.json")
        assert winners == [data]
        winners = [w for w in pool.map(lambda n: attempt(n + b"!", if_match=etag), names) if w is not None]
    assert winners == [store.get("leases/x.json")[0]]
    store.delete("leases/x.json")
    assert store.get("leases/x.json") is None
    assert attempt(b"late", if_match=etag) is None


def test_altered_truncated_and_missing_objects_are_refused_and_accepted_again_once_repaired(store, files, s3_server):
    record = store.publish("sft/d4-0c", files, {})
    key = "some/prefix/sft/d4-0c/model.safetensors"
    client, good = s3_server.client(), files["model.safetensors"].read_bytes()
    for damage, complaint in ((b"\0" + good[1:], "another sha256"), (good[:-1], "its record says"), (None, "missing")):
        if damage is None:
            client.delete_object(Bucket=store.bucket, Key=key)
        else:
            client.put_object(Bucket=store.bucket, Key=key, Body=damage)
        with pytest.raises(Damaged, match=rf"sft/d4-0c in s3://.*model.safetensors.*{complaint}.*--force sft"):
            store.fetch("sft/d4-0c")
    client.put_object(Bucket=store.bucket, Key=key, Body=good)
    assert (store.fetch("sft/d4-0c") / "model.safetensors").stat().st_size == record["files"]["model.safetensors"][
        "size"
    ]


def test_an_altered_cache_file_is_fetched_again(store, files, tmp_path):
    store.publish("sft/d4-0d", files, {})
    model = store.fetch("sft/d4-0d") / "model.safetensors"
    good = model.read_bytes()
    model.chmod(0o644)
    model.write_bytes(b"\0" + good[1:])
    again = open_store(store.uri, tmp_path / "cache").fetch("sft/d4-0d") / "model.safetensors"  # another process
    assert again.read_bytes() == good
    model.unlink()
    assert (store.fetch("sft/d4-0d") / "model.safetensors").read_bytes() == good


def test_throttling_resets_and_broken_answers_are_tried_again(store, files, s3_server, tmp_path):
    store.publish("sft/d4-0e", files, {})
    store.put("large.json", b"x" * MIB)
    with between(s3_server.endpoint) as proxy:
        through = open_store(store.uri, tmp_path / "other cache", endpoint=proxy.endpoint)
        proxy.fail("503", "reset", "503")
        assert through.put("note", b"1", if_absent=True)
        proxy.fail(100_000, 200_000)
        assert through.get("large.json")[0] == b"x" * MIB
        proxy.fail("reset", 300_000, 4 * MIB, 1000, "503")
        fetched = through.fetch("sft/d4-0e")
        assert (fetched / "model.safetensors").read_bytes() == files["model.safetensors"].read_bytes()
        proxy.fail("reset", "503", "lost")
        assert through.publish("sft/d4-0f", files, {})["files"] == store.record("sft/d4-0e")["files"]


def test_a_conditional_put_whose_answer_was_lost_is_still_ours(store, s3_server, tmp_path):
    with between(s3_server.endpoint) as proxy:
        through = open_store(store.uri, tmp_path / "cache", endpoint=proxy.endpoint)
        proxy.fail("lost")
        etag = through.put("lease", b"mine", if_absent=True)
        assert store.get("lease") == (b"mine", etag)
        proxy.fail("lost")
        assert through.put("lease", b"mine, renewed", if_match=etag) == store.get("lease")[1]
        proxy.fail("503")
        with pytest.raises(Conflict):
            through.put("lease", b"another's", if_absent=True)


def test_what_stays_broken_is_an_os_error_not_boto_s(store, s3_server, tmp_path, monkeypatch):
    monkeypatch.setattr("flows.store.ATTEMPTS", 2)
    store.put("large.json", b"x" * MIB)
    with between(s3_server.endpoint) as proxy:
        through = open_store(store.uri, tmp_path / "cache", endpoint=proxy.endpoint)
        proxy.fail("headless")
        with pytest.raises(OSError, match=r"writing note: the answer broke off"):
            through.put("note", b"1")
        proxy.fail_always(100_000)
        with pytest.raises(OSError, match=r"s3://.*reading large.json"):
            through.get("large.json")
        proxy.fail_always("reset")
        with pytest.raises(OSError, match="deleting"):
            through.delete("large.json")
        with pytest.raises(OSError, match="listing"):
            list(through.keys())
        with pytest.raises(OSError, match="downloading"):
            through.download("large.json", tmp_path / "large.json")
    assert store.get("large.json") is not None


def test_a_server_that_restarts_is_waited_for(tmp_path, monkeypatch):
    port = free_port()
    with serve(tmp_path / "s3", port) as server:
        if server.kind == "moto":
            pytest.skip("moto forgets its buckets when it restarts")
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        server.create_bucket("kept")
        store = open_store("s3://kept/x", tmp_path / "cache")
        store.put("before", b"1")
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(store.put, "during", b"2")
        time.sleep(0.5)
        assert not late.done()
        with serve(tmp_path / "s3", port):
            assert late.result(timeout=60)
            assert store.get("before")[0] == b"1"


def test_a_store_that_cannot_be_written_is_refused_with_its_name_and_the_remedy(
    bucket, s3_server, tmp_path, monkeypatch
):
    def complaint(uri: str, endpoint: str = "") -> str:
        with pytest.raises(ValueError) as refused:
            open_store(uri, tmp_path / "cache", endpoint=endpoint).check_writable()
        assert uri in str(refused.value)
        return str(refused.value)

    open_store(f"s3://{bucket}/x", tmp_path / "cache").check_writable()
    assert "create it" in complaint("s3://no-such-bucket/x")
    assert "127.0.0.1:9/" in complaint(f"s3://{bucket}/x", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    if s3_server.kind != "moto":  # which believes everybody
        assert "secret key is wrong: set AWS_" in complaint(f"s3://{bucket}/x")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "AWS_PROFILE" in complaint(f"s3://{bucket}/x")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert "set AWS_ACCESS_KEY_ID" in complaint(f"s3://{bucket}/x")


class _Careless(http.server.BaseHTTPRequestHandler):
    """An S3 server that takes every PUT, whatever its conditions."""

    protocol_version = "HTTP/1.1"

    def _answer(self, body: bytes = b"") -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("ETag", '"0"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self) -> None:
        self._answer()

    do_DELETE = do_PUT

    def do_GET(self) -> None:
        self._answer(b"<ListBucketResult></ListBucketResult>")

    def log_message(self, *args: object) -> None:
        pass


def test_a_server_without_conditional_writes_is_refused_since_two_runs_would_hold_one_lease(bucket, tmp_path):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Careless) as careless:
        threading.Thread(target=careless.serve_forever, daemon=True).start()
        store = open_store("s3://any/x", tmp_path / "cache", endpoint=f"http://127.0.0.1:{careless.server_port}")
        with pytest.raises(ValueError, match=r"s3://any/x.*ignores If-None-Match"):
            store.check_writable()
        careless.shutdown()


class _OldFashioned(_Careless):
    """Keeps objects and conditions, and refuses what it does not know: checksums that boto3 sends of its own accord."""

    objects: ClassVar[dict[str, bytes]] = {}
    refusal: ClassVar[tuple[int, str]] = (501, "NotImplemented")
    refused: ClassVar[list[str]] = []
    knows_if_match = True

    def do_PUT(self) -> None:
        strange = [name for name in self.headers if "checksum" in name.lower() or name.lower() == "x-amz-trailer"]
        if strange or "aws-chunked" in self.headers.get("Content-Encoding", ""):
            self.refused.append(self.path)
            status, code = self.refusal
            return self._reply(status, f"<Error><Code>{code}</Code><Message>unknown header</Message></Error>".encode())
        data, key = self.rfile.read(int(self.headers["Content-Length"])), self.path
        if self.headers.get("If-None-Match") and key in self.objects:
            return self._reply(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        if self.knows_if_match and self.headers.get("If-Match", self._etag()) != self._etag():
            return self._reply(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        self.objects[key] = data
        return self._reply(200)

    def do_DELETE(self) -> None:
        self.objects.pop(self.path, None)
        self._reply(204)

    def do_GET(self) -> None:
        if "list-type" in self.path:
            return self._reply(200, b"<ListBucketResult></ListBucketResult>")
        key = self.path.split("?")[0]
        if key not in self.objects:
            return self._reply(404, b"<Error><Code>NoSuchKey</Code></Error>")
        return self._reply(200, self.objects[key])

    do_HEAD = do_GET

    def _etag(self) -> str:
        return f'"{hashlib.sha256(self.objects.get(self.path.split("?")[0], b"")).hexdigest()[:32]}"'

    def _reply(self, status: int, body: bytes = b"") -> None:
        if status == 501 or status == 400:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(status)
        self.send_header("ETag", self._etag())
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def test_a_server_that_ignores_the_condition_of_a_renewal_is_refused_too(bucket, tmp_path):
    handler = type("OnlyNew", (_OldFashioned,), {"knows_if_match": False, "objects": {}})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        store = open_store("s3://any/x", tmp_path / "cache", endpoint=f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(ValueError, match=r"s3://any/x.*ignores If-Match"):
            store.check_writable()
        assert handler.objects == {}
        server.shutdown()


@pytest.mark.parametrize("refusal", [(501, "NotImplemented"), (400, "InvalidArgument")])
def test_a_server_that_knows_no_checksums_of_boto3_is_asked_again_without_them(bucket, tmp_path, refusal):
    known = type("Server", (_OldFashioned,), {"objects": {}, "refusal": refusal, "refused": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), known) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        store = open_store("s3://any/x", tmp_path / "cache", endpoint=f"http://127.0.0.1:{server.server_port}")
        store.check_writable()
        assert len(known.refused) == 1, "once, and from then on without"
        (tmp_path / "a").write_bytes(b"weights")
        store.publish("stage/1", {"a": tmp_path / "a"}, {})
        assert (store.fetch("stage/1") / "a").read_bytes() == b"weights"
        with pytest.raises(Conflict):
            store.put("stage/1/record.json", b"", if_absent=True)
        assert len(known.refused) == 1
        server.shutdown()


@pytest.mark.parametrize("uri", ["s3://", "s3:bucket/x", "gs://bucket/x", "file://elsewhere/x", "file:x", ""])
def test_a_uri_that_is_no_store_is_refused(uri, tmp_path):
    with pytest.raises(ValueError, match=r"store = .*s3://BUCKET/PREFIX"):
        open_store(uri, tmp_path)


def test_folders_are_named_by_path_or_file_uri(tmp_path):
    assert open_store(f"file://{tmp_path}/a b", tmp_path).root == tmp_path / "a b"
    assert open_store(str(tmp_path / "a#b"), tmp_path).root == tmp_path / "a#b"
    assert open_store("runs/store", tmp_path).root == Path("runs/store")


def _fill(cache: Cache, address: str, data: bytes) -> Path:
    import hashlib

    entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return cache.artifact(address, {"data.bin": entry}, lambda name, path: path.write_bytes(data) and None)


def test_the_least_recently_used_artifact_is_evicted_and_shared_contents_stay(tmp_path):
    for address, data in (("a/1.0", b"1" * 400), ("b/2.0", b"2" * 400), ("c/3.0", b"2" * 400)):
        cache = Cache(tmp_path, limit=1000)
        _fill(cache, address, data)
        cache.close()
    assert cache.size() == 800  # b and c hold the same content once
    cache = Cache(tmp_path, limit=1000)
    _fill(cache, "a/1.0", b"1" * 400)  # is used again
    _fill(cache, "d/4.0", b"4" * 400)
    assert not (tmp_path / "artifacts/b/2.0").exists()
    assert not (tmp_path / "artifacts/c/3.0").exists()
    assert (tmp_path / "artifacts/a/1.0/data.bin").read_bytes() == b"1" * 400
    assert cache.size() == 800


def test_what_a_living_process_uses_is_never_evicted(tmp_path):
    cache = Cache(tmp_path, limit=0)
    mine = _fill(cache, "a/1", b"1" * 400)
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path; from flows.cache import Cache; from tests.flows.test_s3_store import _fill\n"
        "_fill(Cache(Path(sys.argv[1]), limit=10**6), 'b/2', b'2' * 400); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(ROOT)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8") as other:
        assert other.stdout.readline() == "held\n"
        assert cache.evict() == []
        assert mine.joinpath("data.bin").exists()
        other.kill()
    assert cache.evict() == ["b/2"]
    assert mine.joinpath("data.bin").exists()
    cache.close()
    assert cache.evict() == ["a/1"]
    assert cache.size() == 0
