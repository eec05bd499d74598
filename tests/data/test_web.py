"""Addresses are sent as they must be, credentials go where they belong and nowhere else, and no secret is written down.

The servers are real ones on loopback; what is waited for is taken down instead of waited for.
"""

import base64
import contextlib
import email.utils
import http.server
import os
import subprocess
import sys
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.artifacts.metrics import Metrics
from nanochat.data import web
from nanochat.data.corpus_preflight import preflight
from nanochat.data.fetch import fetch
from nanochat.pipeline import Download
from nanochat.redaction import redacted
from nanochat.stages.download import run as download
from nanochat.workflow.plan import plan
from nanochat.workflow.stage import StageContext
from tests import toy_corpus
from tests.paths import ROOT

SECRET = "s3cr3t-w0rd"


@contextlib.contextmanager
def serving(answers):
    """A server whose `answers(path, headers)` gives status, headers and body; yields its address and what was asked."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, dict(self.headers)))
            status, headers, body = answers(self.path, self.headers)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def got(url, path, **options):
    waits = []
    fetch(url, path, timeout=5, sleep=waits.append, **{"attempts": 3, **options})
    return waits


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/a b.parquet", "/a%20b.parquet"),
        ("/ü/x.parquet", "/%C3%BC/x.parquet"),
        ("/a%20b.parquet?x=1%2F2&y=ü z", "/a%20b.parquet?x=1%2F2&y=%C3%BC%20z"),
        ("/a+b(c)[d].parquet", "/a+b(c)%5Bd%5D.parquet"),
        ("/a#fragment", "/a"),
        ("/100%/50%4x?q=5%", "/100%25/50%254x?q=5%25"),
    ],
)
def test_an_address_is_sent_quoted(tmp_path, path, sent):
    with serving(lambda path, headers: (200, {}, b"body")) as (url, asked):
        assert got(url + path, tmp_path / "file") == []
    assert [path for path, _ in asked] == [sent]


def test_a_host_beyond_ascii_is_asked_for_by_its_idna_name():
    assert web.quoted("https://bücher.example/a") == "https://xn--bcher-kva.example/a"
    assert web.quoted("http://[::1]:80/a b") == "http://[::1]:80/a%20b"


@pytest.mark.parametrize("url", ["https:///x", "http://host:port/x", "http://a b/x", "https://[::1/x", "http://h/a\nb", f"http://{'a' * 80}.example/"])  # fmt: skip
def test_what_is_no_address_is_refused_before_any_work(url, tmp_path):
    with pytest.raises(ValueError, match=r"names no host|is no address|control character"):
        got(url, tmp_path / "file")
    with pytest.raises(ValueError, match=r"download\.url"):
        preflight(Download(corpus="mine", url=url + "{index}", validation_shard=9))


@given(st.text(max_size=30))
def test_quoting_twice_is_quoting_once(path):
    try:
        once = web.quoted(f"http://host/{path}")
    except ValueError:
        return
    assert web.quoted(once) == once
    assert once.isascii()


@pytest.mark.parametrize("form", ["number", "date"])
@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_asks_to_wait_is_left_alone_so_long(tmp_path, form, status):
    wait = "40" if form == "number" else email.utils.formatdate(time.time() + 45, usegmt=True)
    answers = iter([(status, {"Retry-After": wait}, b""), (200, {}, b"body")])
    with serving(lambda path, headers: next(answers)) as (url, _):
        (waited,) = got(url, tmp_path / "file")
    assert 35 < waited <= 45


def test_a_wait_that_nobody_sits_through_is_said(tmp_path):
    with serving(lambda path, headers: (429, {"Retry-After": "86400"}, b"")) as (url, asked):
        with pytest.raises(ConnectionError, match="asks to be left alone for 86,400 s"):
            got(url, tmp_path / "file")
    assert len(asked) == 1


def test_a_date_without_a_zone_is_of_greenwich(monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        at = time.strftime("%a, %d %b %Y %H:%M:%S", time.gmtime(time.time() + 45))
        assert 40 < web.retry_after(at) <= 45
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(("value", "seconds"), [("", 0), ("soon", 0), ("-5", 0), ("1e9", 0), ("7", 7), ("Wed, 21 Oct 2015 07:28:00 GMT", 0)])  # fmt: skip
def test_what_is_no_wait_is_none(value, seconds):
    assert web.retry_after(value) == web.retry_after(f" {value} ") == seconds


def test_a_password_in_the_address_goes_to_its_host_and_not_along_to_another(tmp_path):
    with serving(lambda path, headers: (200, {}, b"body")) as (other, asked_other):

        def answers(path, headers):
            to = {"/start": "/same", "/same": f"{other}/far"}[path]
            return 302, {"Location": to}, b""

        with serving(answers) as (url, asked):
            place = url.replace("//", f"//me:{SECRET}%21@")
            got(f"{place}/start", tmp_path / "file")
    basic = "Basic " + base64.b64encode(f"me:{SECRET}!".encode()).decode()
    assert [headers.get("Authorization") for _, headers in asked] == [basic, basic]
    assert [headers.get("Authorization") for _, headers in asked_other] == [None]


def test_the_hub_s_token_is_shown_to_the_hub_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    for url, shown in (
        ("https://huggingface.co/datasets/a/b/resolve/main/x", True), ("https://cdn-lfs.huggingface.co/x", True),
        ("http://huggingface.co/x", False), ("https://huggingface.co.example/x", False),
        ("https://nothuggingface.co/x", False), ("https://example/huggingface.co", False),
    ):  # fmt: skip
        assert (web.request(url).get_header("Authorization") == f"Bearer {SECRET}") == shown, url
    monkeypatch.setattr(web, "is_hub", lambda url: "/hub" in url)
    with serving(lambda path, headers: (401, {}, b"")) as (url, asked):
        with pytest.raises(ValueError, match=r"401 .*set HF_TOKEN"):
            got(f"{url}/hub", tmp_path / "file")
        with pytest.raises(ValueError, match="check the address"):
            got(f"{url}/other", tmp_path / "file")
    assert [headers.get("Authorization") for _, headers in asked] == [f"Bearer {SECRET}", None]


def test_loopback_is_asked_without_the_proxy_and_others_through_it(monkeypatch, tmp_path):
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with serving(lambda path, headers: (200, {}, b"body")) as (url, _):
        got(url, tmp_path / "file")
        got(url.replace("127.0.0.1", "localhost"), tmp_path / "again")
    with pytest.raises(ConnectionError, match="refused"):
        got("http://203.0.113.1/x", tmp_path / "file", attempts=1)


def test_who_is_sent_on_is_asked_through_the_proxy_or_not_by_its_own_place(monkeypatch, tmp_path):
    def answers(path, headers):
        if path.startswith("http://far.example/"):  # as a proxy is asked
            return 200, {}, b"from afar"
        return 302, {"Location": "http://far.example/there"}, b""

    with serving(answers) as (url, asked):
        monkeypatch.setenv("http_proxy", url)
        monkeypatch.delenv("no_proxy", raising=False)
        got(f"{url}/start", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"from afar"
    assert [path for path, _ in asked] == ["/start", "http://far.example/there"]


TEXTS = ["one", None, "zwei ü", "", "three"] * 7
KINDS = {
    "string": pa.array(TEXTS), "large_string": pa.array(TEXTS, pa.large_string()),
    "string_view": pa.array(TEXTS, pa.string_view()), "dictionary": pa.array(TEXTS).dictionary_encode(),
    "binary": pa.array([text and text.encode() for text in TEXTS], pa.binary()),
    "large_binary": pa.array([text and text.encode() for text in TEXTS], pa.large_binary()),
}  # fmt: skip


def source_of(folder, table, column):
    for index in range(2):
        pq.write_table(table, folder / f"s{index}.parquet", row_group_size=10)
    return Download(corpus="mine", url=f"file://{folder}/s{{index}}.parquet", validation_shard=1, text_column=column)


def read_of(stage, folder):
    (folder / "out").mkdir()
    (folder / "work").mkdir()
    download(stage, StageContext({}, {}, folder / "out", folder / "work", Metrics(None), part=1))
    return pq.read_table(folder / "out" / "text.parquet").column("text").to_pylist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("column", ["text", "meta.text", "a.b", "meta.a.b"])
def test_what_preflight_accepts_the_reader_reads(tmp_path, kind, column):
    values = KINDS[kind]
    if column.startswith("meta.") and kind == "string_view":
        pytest.skip("pyarrow cannot write such a struct")
    if column.startswith("meta."):
        names = [column.removeprefix("meta."), "n"]
        table = pa.table({"meta": pa.StructArray.from_arrays([values, pa.array(range(35))], names=names)})
    else:
        table = pa.table({"n": range(35), column: values})
    stage = source_of(tmp_path, table, column)
    assert preflight(stage) > 0
    assert read_of(stage, tmp_path) == [text for text in TEXTS if text]


@pytest.mark.parametrize("column", ["n", "list", "meta", "meta.n", "meta.nothing", "nothing"])
def test_what_holds_no_text_is_refused_alike_by_both_with_what_would_do(tmp_path, column):
    meta = pa.StructArray.from_arrays([pa.array(TEXTS), pa.array(range(35))], names=["text", "n"])
    table = pa.table({"n": range(35), "body": TEXTS, "list": [["x"]] * 35, "meta": meta})
    stage = source_of(tmp_path, table, column)
    for check in (lambda: preflight(stage), lambda: read_of(stage, tmp_path)):
        with pytest.raises(ValueError, match=rf"text_column = '{column}'.*: take body, meta\.text$"):
            check()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://h/a?X-Amz-Signature=abc&x=1", "https://h/a?X-Amz-Signature=***&x=***"),
        ("https://me:pw@h/a", "https://***@h/a"),
        ("https://me:a@b@h/a", "https://***@h/a"),
        *((f"postgresql://me:p{odd}w@h/db", "postgresql://***@h/db") for odd in "/?#'\" "),
        ("https://h/a?SECRET", "https://h/a?***"),
        ("https://h/a?sig=a'b&x=1", "https://h/a?sig=***&x=***"),
        ("https://h/a#access_token=abc", "https://h/a#access_token=***"),
        ("https://h/a?n={index:05d}&sig=abc", "https://h/a?n={index:05d}&sig=***"),
        ("see https://h:80/a, b@c", "see https://h:80/a, b@c"),
        ("http://[::1]:9/x@y", "http://[::1]:9/x@y"),
        ('{"u":"http://h","m":"a@b"}', '{"u":"http://h","m":"a@b"}'),
        ("s3://b/run?1 and s3://b/run#1", "s3://b/run?1 and s3://b/run#1"),
        ("see 'https://h/a?sig=abc': refused", "see 'https://h/a?sig=***': refused"),
        ("a plain text?x=1 at a@b", "a plain text?x=1 at a@b"),
        ("https://h/shard_{index:05d}.parquet", "https://h/shard_{index:05d}.parquet"),
    ],
)
def test_secrets_of_addresses_are_blotted_out(text, shown):
    assert redacted(text) == redacted(redacted(text)) == shown


def test_a_password_is_sent_whole_and_never_told():
    assert base64.b64decode(web.request("https://u:a:b@h/").get_header("Authorization")[6:]) == b"u:a:b"
    with pytest.raises(ValueError, match="no address") as refused:
        web.request("https://u:SECRET/x@h/")
    assert "SECRET" not in str(refused.value)


def test_a_pattern_of_shards_with_a_fragment_is_refused_since_every_shard_would_be_one_file():
    with pytest.raises(ValueError, match="write %23"):
        preflight(Download(corpus="mine", url="https://h/run#1/s_{index}.parquet", validation_shard=9))


def test_no_address_has_a_url_in_it():
    """So that a signature that is new every day makes nothing again."""
    urls = ("https://h/{index:05d}.parquet", f"https://h/{{index:05d}}.parquet?X-Amz-Signature={SECRET}")
    one, other = (plan([Download(corpus="mine", url=url, validation_shard=9)])[0].address for url in urls)
    assert one == other


def test_no_secret_of_a_source_is_written_down(tmp_path):
    """The whole chain, with a signed address and a password in it, and a shard that is refused."""
    toy_corpus.make(tmp_path / "corpus")
    files = {f"/{path.name}": path.read_bytes() for path in (tmp_path / "corpus").iterdir()}

    def answers(path, headers):
        name, _, query = path.partition("?")
        allowed = SECRET in query and SECRET in base64.b64decode(headers.get("Authorization", "Basic ")[6:]).decode()
        return (200, {}, files[name]) if allowed and name in files else (403, {}, b"")

    with serving(answers) as (url, _):
        signed = (
            f"{url.replace('//', f'//me:{SECRET}@')}/shard_{{index:05d}}.parquet?X-Amz-Signature={SECRET}&v={SECRET}"
        )
        said = []
        for shards, code in ((1, 0), (3, 1)):
            knobs = ["download.corpus=toy", f"download.url={signed}", f"download.num_shards={shards}"]
            knobs += [f"download.validation_shard={1 if shards == 1 else 3}"]
            command = [sys.executable, "-m", "nanochat", "run", "micro", *knobs, "--only", "tokenizer"]
            around = {**os.environ, "PYTHONPATH": str(ROOT)}
            done = subprocess.run([*command, "--home", str(tmp_path / "home")], env=around, capture_output=True, text=True, encoding="utf-8", check=False)  # fmt: skip
            assert done.returncode == code, done.stderr
            said.append(done.stdout + done.stderr)
    assert "403" in said[1]
    assert SECRET not in "".join(said)
    written = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert len(written) > 10
    assert [path for path in written if SECRET.encode() in path.read_bytes()] == []
