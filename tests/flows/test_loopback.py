"""Nothing on this machine is reached through a proxy, whatever the environment names; other hosts keep theirs."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
from contextlib import contextmanager

import pytest

from flows import loopback, server, settings
from tests.paths import ROOT

PROXIES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
# A Prefect client, MLflow's and one of S3, all asked for something on loopback, as a run does.
ASK = """
import sys
sys.path.insert(0, sys.argv[1])
from flows import pipeline, settings, store, track
from prefect.client.orchestration import get_client
with get_client(sync_client=True) as client:
    assert client.api_healthcheck() is None
tracker = track.Tracker(sys.argv[2], "proxied")
assert tracker.outbox.put(tracker._answers).result(60) is False  # a server that says no, and is reached
assert store.open_store("s3://bucket/x", settings.read().home / "cache").addresses() == []
"""


@contextmanager
def speaking(answer):
    """A server on loopback that gives the same answer to every request, and counts them."""
    listener, seen = socket.create_server(("127.0.0.1", 0)), []

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                seen.append(connection.recv(65536).split(b"\r\n")[0].decode())
                connection.sendall(b"HTTP/1.1 " + answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", seen
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def test_what_the_user_exempted_stays_exempted_in_both_spellings():
    environment = {"NO_PROXY": "example.org, 10.0.0.0/8", "no_proxy": "[::1],intern"}
    loopback.exempt(environment)
    loopback.exempt(environment)
    assert environment["NO_PROXY"] == environment["no_proxy"] == "::1,intern,example.org,10.0.0.0/8,127.0.0.1,localhost"
    environment = {"no_proxy": "*"}
    loopback.exempt(environment)
    assert environment == {"no_proxy": "*", "NO_PROXY": "*"}
    assert "no_proxy" not in os.environ or os.environ["no_proxy"] != "*"


def test_our_probe_needs_no_exemption_and_another_host_keeps_its_proxy(monkeypatch):
    with speaking(b"200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi") as (proxy, seen):
        for name in PROXIES:
            monkeypatch.setenv(name, proxy)
        with pytest.raises(OSError, match="refused"):
            loopback.open_url("http://127.0.0.1:9/", 5)
        assert seen == []
        loopback.exempt()
        opener = urllib.request.build_opener()
        with opener.open("http://far.example/x", timeout=5) as answer:
            assert answer.read() == b"hi"
        assert seen == ["GET http://far.example/x HTTP/1.1"]


def test_with_a_dead_proxy_the_server_starts_and_prefect_mlflow_and_s3_on_loopback_are_reached(
    tmp_path, monkeypatch, empty_database
):
    (tmp_path / "prefect").mkdir()
    shutil.copy(empty_database, tmp_path / "prefect")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    for name in PROXIES:
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    where = settings.read({}, home=tmp_path)
    empty = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
    listing = b"200 OK\r\nConnection: close\r\nContent-Length: " + str(len(empty)).encode() + b"\r\n\r\n" + empty
    no = b"404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    try:
        url = server.ensure(where)
        with speaking(no) as (mlflow, asked), speaking(listing) as (s3, listed):
            environment = {**os.environ, "PREFECT_API_URL": url, "AWS_ENDPOINT_URL": s3, "AWS_ACCESS_KEY_ID": "k"}
            environment |= {"AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1"}
            environment |= {"NANOCHAT_HOME": str(tmp_path), "HTTP_PROXY": "http://127.0.0.1:9"}
            for name in loopback.NAMES:  # as a worker's process begins
                environment.pop(name, None)
            done = subprocess.run(
                [sys.executable, "-c", ASK, str(ROOT), mlflow], env=environment, capture_output=True, text=True,
                encoding="utf-8", check=False, timeout=120,
            )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert asked
        assert listed
    finally:
        assert server.stop(where)
