"""A file is fetched whole or not at all, whatever the network does. The server is a real one; nothing leaves the machine."""

from __future__ import annotations

import errno
import hashlib
import http.client
import http.server
import shutil
import socket
import ssl
import subprocess
import threading
import time
import urllib.error

import pytest

from nanochat.data.fetch import LONGEST_WAIT, fetch
from tests.broken_server import BODY, broken_server


@pytest.fixture
def site():
    with broken_server() as site:
        yield site


def get(site, path, attempts=4, timeout=5.0, waits=None):
    sleep = (lambda seconds: None) if waits is None else waits.append
    return fetch(site.url, path, timeout=timeout, attempts=attempts, knob="a.knob", sleep=sleep)


@pytest.mark.parametrize(
    "faults",
    [
        [],
        ["503", "500", "429"],
        ["cut"],
        ["cut", "cut", "cut"],
        ["reset", "cut"],
        ["cut", "416"],
        ["cut", "change"],
        ["cut", "deaf"],
        ["cut", "shifted"],
        ["cut", "swap"],
        ["lengthless"],
    ],
    ids=" ".join,
)
def test_the_file_arrives_whole_whatever_goes_wrong_on_the_way(site, tmp_path, faults):
    site.faults = list(faults)
    sha256 = get(site, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == site.body
    assert sha256 == hashlib.sha256(site.body).hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_has_come_is_not_asked_for_again(site, tmp_path):
    site.faults = ["cut", "cut"]
    get(site, tmp_path / "file")
    assert [request["range"] for request in site.seen] == [None, "bytes=100000-", "bytes=150000-"]
    assert site.seen[1]["if_range"] == '"one"'


def test_a_file_that_changes_under_way_is_fetched_from_the_beginning(site, tmp_path):
    site.faults = ["cut", "change", "cut"]
    get(site, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == bytes(reversed(BODY))


@pytest.mark.parametrize(("etag", "modified"), [("", ""), ('W/"weak"', "Sat, 21 Nov 2026 08:00:00 GMT")])
def test_without_a_strong_validator_nothing_is_joined(site, tmp_path, etag, modified):
    site.etag, site.modified, site.faults = etag, modified, ["cut"]
    get(site, tmp_path / "file")
    assert [request["range"] for request in site.seen] == [None, None]
    assert (tmp_path / "file").read_bytes() == BODY


def test_a_date_alone_lets_a_file_be_continued(site, tmp_path):
    site.etag, site.modified, site.faults = "", "Sat, 21 Nov 2026 08:00:00 GMT", ["cut"]
    get(site, tmp_path / "file")
    assert site.seen[1] == {"range": "bytes=100000-", "if_range": site.modified}


def test_another_process_continues_what_one_has_begun(site, tmp_path):
    site.faults = ["cut", "cut"]
    with pytest.raises(ConnectionError, match=r"gave up after 2 attempts \(a\.knob\): 150000 of 200000 bytes came"):
        get(site, tmp_path / "file", attempts=2)
    assert not (tmp_path / "file").exists()
    get(site, tmp_path / "file", attempts=1)
    assert site.seen[-1]["range"] == "bytes=150000-"
    assert (tmp_path / "file").read_bytes() == BODY


def test_what_was_begun_from_another_address_is_not_continued(site, tmp_path):
    site.faults = ["cut"]
    with pytest.raises(ConnectionError):
        get(site, tmp_path / "file", attempts=1)
    site.url += "?mirror"
    get(site, tmp_path / "file")
    assert site.seen[-1]["range"] is None


def test_a_refusal_fails_at_once_and_names_the_address(site, tmp_path):
    site.faults = ["404"]
    with pytest.raises(ValueError, match=rf"{site.url}: the server refuses: 404"):
        get(site, tmp_path / "file")
    assert len(site.seen) == 1


def test_waits_grow_and_are_spread(site, tmp_path):
    site.faults, waits = ["503"] * 9, []
    with pytest.raises(ConnectionError, match="503"):
        get(site, tmp_path / "file", attempts=9, waits=waits)
    assert len(waits) == 8
    for attempt, wait in enumerate(waits):
        middle = min(2.0**attempt, LONGEST_WAIT)
        assert 0.5 * middle <= wait <= 1.5 * middle


def test_a_connection_that_gives_nothing_is_given_up(site, tmp_path):
    site.faults = ["stall"]
    start = time.monotonic()
    get(site, tmp_path / "file", timeout=0.2)
    assert time.monotonic() - start < 4  # the server would hold it for 5
    assert (tmp_path / "file").read_bytes() == BODY


def test_a_server_that_is_not_there_is_tried_again_and_named(tmp_path):
    with pytest.raises(ConnectionError, match=r"http://127.0.0.1:1/x: gave up after 2 attempts"):
        fetch("http://127.0.0.1:1/x", tmp_path / "file", timeout=1, attempts=2, sleep=lambda seconds: None)


@pytest.mark.parametrize(
    ("cause", "raised", "match"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "file"), OSError, "No space left"),
        (PermissionError(errno.EACCES, "Permission denied", "file"), PermissionError, "denied"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "file"), IsADirectoryError, "directory"),
        (http.client.InvalidURL("URL can't contain control characters"), ValueError, "check the address"),
        (urllib.error.URLError("unknown url type: gopher"), ValueError, "unknown url type"),
        (urllib.error.URLError(OSError("Tunnel connection failed: 407 Proxy Authentication Required")), ValueError,
         "the proxy refuses: .*407.*check https_proxy"),
    ],
)  # fmt: skip
def test_what_the_next_attempt_would_meet_again_fails_at_once(tmp_path, monkeypatch, cause, raised, match):
    tried = []

    def attempt(*args):
        tried.append(args)
        raise cause

    monkeypatch.setattr("nanochat.data.fetch._attempt", attempt)
    with pytest.raises(raised, match=match):
        fetch("http://127.0.0.1:1/x", tmp_path / "file", timeout=1, attempts=5, sleep=pytest.fail)
    assert len(tried) == 1


@pytest.mark.parametrize(
    "cause",
    [
        urllib.error.URLError(socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")),
        urllib.error.URLError(OSError(errno.ENETUNREACH, "Network is unreachable")),
        urllib.error.URLError(ssl.SSLEOFError(8, "EOF occurred in violation of protocol")),
        urllib.error.URLError(OSError("Tunnel connection failed: 503 Service Unavailable")),
        TimeoutError("timed out"),
        http.client.RemoteDisconnected("Remote end closed connection without response"),
    ],
)
def test_what_may_pass_is_tried_again(tmp_path, monkeypatch, cause):
    def attempt(*args):
        raise cause

    monkeypatch.setattr("nanochat.data.fetch._attempt", attempt)
    waits = []
    with pytest.raises(ConnectionError, match="gave up after 3 attempts"):
        fetch("http://127.0.0.1:1/x", tmp_path / "file", timeout=1, attempts=3, sleep=waits.append)
    assert len(waits) == 2


def test_a_certificate_that_nobody_knows_is_refused_at_once_with_the_remedy(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"https://localhost:{server.server_port}/x"
        with pytest.raises(ValueError, match=r"certificate is not trusted: .*; set SSL_CERT_FILE"):
            fetch(url, tmp_path / "file", timeout=5, attempts=5, sleep=pytest.fail)
        server.shutdown()


def test_a_full_disk_is_said_at_once_and_what_came_before_it_stays(site, tmp_path):
    def no_more(done, total):
        if done > 100_000:
            raise OSError(errno.ENOSPC, "No space left on device")

    site.faults = ["cut"]
    with pytest.raises(ConnectionError):
        get(site, tmp_path / "file", attempts=1)
    with pytest.raises(OSError, match="No space left"):
        fetch(site.url, tmp_path / "file", timeout=5, attempts=5, progress=no_more, sleep=pytest.fail)
    get(site, tmp_path / "file")
    assert site.seen[-1]["range"] is not None
