"""A shard is fetched whole or not at all, whatever the network does, and comes out in one form, whatever its source.

A real HTTP server on the loopback breaks off, stalls, refuses and changes the file under way; parquet files and datasets
are real ones. Nothing here leaves the machine.
"""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import json
import re
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat import fetch as fetching
from nanochat.corpus import PYTHON_DOCS_SHARDS
from nanochat.download import download, gather
from nanochat.fetch import fetch
from nanochat.metrics import Metrics, read
from nanochat.pipeline import Download
from nanochat.stage import Place

BODY = b"".join(number.to_bytes(4, "big") for number in range(50_000))


@dataclasses.dataclass
class Site:
    """One file behind a server, and what goes wrong with the next requests, in order."""

    body: bytes = BODY
    etag: str = '"one"'
    modified: str = ""
    faults: list[str] = dataclasses.field(default_factory=list)
    seen: list[dict] = dataclasses.field(default_factory=list)
    url: str = ""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        site = self.server.site
        site.seen.append({"range": self.headers.get("Range"), "if_range": self.headers.get("If-Range")})
        fault = site.faults.pop(0) if site.faults else ""
        self.close_connection = True
        if fault.isdigit():
            self.send_response(int(fault))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == "reset":
            return
        if fault == "change":
            site.body, site.etag = bytes(reversed(site.body)), '"two"'
        self.answer(site, fault)

    def answer(self, site, fault):
        start, asked = 0, self.headers.get("Range")
        validator = site.etag or site.modified
        if asked and (self.headers.get("If-Range") == validator or fault == "deaf"):
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            self.send_response(206)
            first = start + 1 if fault == "shifted" else start
            self.send_header("Content-Range", f"bytes {first}-{len(site.body) - 1}/{len(site.body)}")
        else:
            self.send_response(200)
        if fault != "lengthless":
            self.send_header("Content-Length", str(len(site.body) - start))
        for name, value in (("ETag", site.etag), ("Last-Modified", site.modified)):
            if value:
                self.send_header(name, value)
        self.end_headers()
        body = site.body[start:]
        if fault in ("cut", "stall"):
            body = body[: len(body) // 2]
        self.wfile.write(body)
        self.wfile.flush()
        if fault == "stall":
            self.server.released.wait(5)


@pytest.fixture
def site():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.released = True, threading.Event()
    server.site = Site(url=f"http://127.0.0.1:{server.server_address[1]}/shard_00000.parquet")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.site
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def get(site, path, attempts=4, timeout=5.0, waits=None):
    sleep = (lambda seconds: None) if waits is None else waits.append
    return fetch(site.url, path, timeout=timeout, attempts=attempts, sleep=sleep)


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
    with pytest.raises(ConnectionError, match="gave up after 2 attempts .*: 150000 of 200000 bytes came"):
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
        middle = min(2.0**attempt, fetching.LONGEST_WAIT)
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


# From here on: shards.


def place_for(tmp_path, part, name="download"):
    out, work = tmp_path / f"{name}{part}", tmp_path / f"{name}{part}.work"
    out.mkdir()
    work.mkdir()
    return Place({}, {}, out, work, Metrics(work / "metrics.jsonl"), part=part)


def parquet(path, texts, column="text", **columns):
    pq.write_table(pa.table({column: texts, **columns}), path, row_group_size=10)
    return path


def texts_of(place):
    table = pq.read_table(place.out / "text.parquet")
    assert table.schema.names == ["text"]
    return table.column("text").to_pylist()


def on_disk(folder, **knobs):
    knobs = {"validation_shard": 7, "num_shards": 2} | knobs
    return Download(corpus="mine", url=f"file://{folder}/shard_{{index:05d}}.parquet", **knobs)


def test_a_local_shard_is_normalised_and_counted(tmp_path):
    texts = [f"document {number} ü" for number in range(2500)]
    parquet(tmp_path / "shard_00001.parquet", [*texts, None, "", " \n"], number=list(range(2503)))
    place = place_for(tmp_path, 2)
    numbers = download(on_disk(tmp_path), place)
    assert texts_of(place) == texts
    file = pq.ParquetFile(place.out / "text.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(3)] == [1024, 1024, 452]
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    file.close()
    characters = sum(map(len, texts))
    assert numbers == {"documents": 2500, "characters": characters, "bytes": characters + 2500, "dropped_documents": 3}
    assert json.loads((place.out / "stats.json").read_text()) == numbers
    assert list(read(place.metrics.path))[-1]["unit"] == "row groups"
    assert {path.name for path in place.out.iterdir()} == {"text.parquet", "stats.json"}


def test_part_zero_is_the_pinned_shard_and_gather_lists_all(tmp_path):
    for index in (0, 1, 7):
        parquet(tmp_path / f"shard_{index:05d}.parquet", [f"text of {index}"] * (index + 1))
    places = [place_for(tmp_path, part) for part in range(3)]
    for place in places:
        download(on_disk(tmp_path), place)
    assert [set(texts_of(place)) for place in places] == [{"text of 7"}, {"text of 0"}, {"text of 1"}]
    whole = tmp_path / "whole"
    whole.mkdir()
    parts = Place({}, {"download": tuple(place.out for place in places)}, whole, whole, Metrics(None))
    numbers = gather(on_disk(tmp_path), parts)
    assert numbers == {"train_documents": 3, "train_bytes": 27, "validation_documents": 8, "validation_bytes": 72}
    index = json.loads((whole / "index.json").read_text())
    assert [part["documents"] for part in index["parts"]] == [8, 1, 2]
    assert "shard_{index:05d}" in index["source"]


def test_a_shard_comes_over_http_with_its_digest(site, tmp_path):
    texts = [f"document {number}" for number in range(30)]
    site.body, site.faults = parquet(tmp_path / "x", texts).read_bytes(), ["cut"]
    place = place_for(tmp_path, 1)
    download(over_http(site), place)
    assert texts_of(place) == texts
    stats = json.loads((place.out / "stats.json").read_text())
    assert (stats["url"], stats["sha256"]) == (site.url, hashlib.sha256(site.body).hexdigest())
    assert {path.name for path in place.work.iterdir()} == {"metrics.jsonl"}
    assert {row["unit"] for row in read(place.metrics.path)} == {"bytes", "row groups"}


def over_http(site):
    return Download(corpus="web", url=site.url.replace("00000", "{index:05d}"), validation_shard=3, retries=2)


def test_a_fetched_file_that_is_no_parquet_is_refused_and_fetched_anew_next_time(site, tmp_path):
    place = place_for(tmp_path, 1)
    with pytest.raises(ValueError, match=rf"{site.url}: not a whole parquet file"):
        download(over_http(site), place)
    assert list(place.out.iterdir()) == []
    site.body = parquet(tmp_path / "x", ["good"]).read_bytes()
    download(over_http(site), place)
    assert texts_of(place) == ["good"]


def test_a_shard_of_s3_is_taken_from_the_work_folder(tmp_path):
    stage, place = (
        Download(corpus="bucket", url="s3://bucket/{index}.parquet", validation_shard=3),
        place_for(tmp_path, 0),
    )
    with pytest.raises(ValueError, match=r"s3://bucket/3.parquet: only the flow fetches from s3://.*nanochat run"):
        download(stage, place)
    parquet(place.work / "source.parquet", ["from the bucket"])
    download(stage, place)
    assert texts_of(place) == ["from the bucket"]


def invalid_utf8(path):
    column = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])
    good = pa.chunked_array([pa.array(["fine"] * 10), column])
    pq.write_table(pa.table({"text": good}), path, row_group_size=10)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: None, "there is no such file"),
        (lambda path: path.write_bytes(b"PAR1 and then nothing"), "not a whole parquet file"),
        (lambda path: parquet(path, ["x"], "body"), r"download.text_column = 'text': .* has body"),
        (lambda path: parquet(path, [1, 2]), r"download.text_column = 'text': in .* it holds int64, not text"),
        (lambda path: parquet(path, ["", None]), r"has no text \(2 empty documents\)"),
        (invalid_utf8, r"shard_00000.parquet, row group 1: the text is not valid UTF-8"),
    ],
    ids=["missing", "damaged", "column", "type", "empty", "utf8"],
)
def test_a_bad_shard_fails_the_stage_and_leaves_no_text(tmp_path, write, said):
    write(tmp_path / "shard_00000.parquet")
    place = place_for(tmp_path, 1)
    with pytest.raises(ValueError, match=said):
        download(on_disk(tmp_path), place)
    assert not (place.out / "text.parquet").exists()
    assert not (place.out / "stats.json").exists()


def test_a_damaged_page_is_found_by_reading_every_row(tmp_path):
    path = parquet(tmp_path / "shard_00000.parquet", [f"document {number}" * 20 for number in range(200)])
    data = bytearray(path.read_bytes())
    data[200:400] = bytes(200)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="shard_00000.parquet"):
        download(on_disk(tmp_path), place_for(tmp_path, 1))
    assert path.exists()  # it is the user's own


def json_lines(folder, counts):
    folder.mkdir()
    for file, count in enumerate(counts):
        rows = (json.dumps({"body": f"{file}:{number}", "score": number}) for number in range(count))
        (folder / f"train-{file:05d}.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def from_datasets(folder, **knobs):
    return Download(corpus="lines", url=f"datasets:{folder}/default/train", **{"text_column": "body"} | knobs)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def made(tmp_path, stage, parts):
    places = [place_for(tmp_path, part) for part in range(parts)]
    for place in places:
        download(stage, place)
    return [texts_of(place) for place in places]


def test_the_files_of_a_dataset_are_its_shards(offline, tmp_path):
    folder = json_lines(tmp_path / "lines", [3, 2, 4])
    held_out, *shards = made(tmp_path, from_datasets(folder, validation_shard=2, num_shards=2), 3)
    assert held_out == ["2:0", "2:1", "2:2", "2:3"]
    assert shards == [["0:0", "0:1", "0:2"], ["1:0", "1:1"]]


def test_a_dataset_of_one_file_holds_out_every_hundredth_document(offline, tmp_path):
    folder = json_lines(tmp_path / "lines", [250])
    held_out, shard = made(tmp_path, from_datasets(folder), 2)
    assert held_out == ["0:0", "0:100", "0:200"]
    assert sorted(shard + held_out) == sorted(f"0:{number}" for number in range(250))


@pytest.mark.parametrize(
    ("knobs", "part", "said"),
    [
        ({"num_shards": 3}, 3, r"has 2 files, there is no number 2"),
        ({"validation_shard": 5}, 0, r"has 2 files, there is no number 5"),
        ({"text_column": "text"}, 1, r"download.text_column = 'text': .* has body, score"),
        ({"text_column": "score"}, 1, r"document 0 is not text"),
    ],
)
def test_what_a_dataset_does_not_have_is_refused(offline, tmp_path, knobs, part, said):
    folder = json_lines(tmp_path / "lines", [3, 2])
    with pytest.raises(ValueError, match=said):
        download(from_datasets(folder, **knobs), place_for(tmp_path, part))


def test_the_embedded_corpus_comes_in_the_same_form(tmp_path, monkeypatch):
    from nanochat import python_docs

    documents = {number.to_bytes(16, "big"): f"document {number}" for number in range(300)}
    monkeypatch.setattr(python_docs, "documents", lambda: documents)
    everything = made(tmp_path, Download(num_shards=4).resolved(), 1 + PYTHON_DOCS_SHARDS)
    assert sorted(sum(everything, [])) == sorted(documents.values())
    assert len(everything[0]) == 3
