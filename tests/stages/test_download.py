"""A shard comes out in one form, whatever its source, and a bad one fails the stage with its place in the message.

Parquet files, datasets and the HTTP server are real ones; nothing here leaves the machine. How a file survives a bad
network is tested in test_fetch.py.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat.artifacts.metrics import Metrics, read
from nanochat.data.shards import write_texts
from nanochat.data.sources import PYTHON_DOCS_SHARDS
from nanochat.pipeline import Download
from nanochat.stages.download import gather
from nanochat.stages.download import run as download
from nanochat.workflow.stage import StageContext
from tests.broken_server import broken_server


@pytest.fixture
def site():
    with broken_server() as site:
        yield site


def place_for(tmp_path, part, name="download"):
    out, work = tmp_path / f"{name}{part}", tmp_path / f"{name}{part}.work"
    out.mkdir()
    work.mkdir()
    return StageContext({}, {}, out, work, Metrics(work / "metrics.jsonl"), part=part)


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
    assert json.loads((place.out / "stats.json").read_text(encoding="utf-8")) == numbers
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
    parts = StageContext({}, {"download": tuple(place.out for place in places)}, whole, whole, Metrics(None))
    numbers = gather(on_disk(tmp_path), parts)
    assert numbers == {"train_documents": 3, "train_bytes": 27, "validation_documents": 8, "validation_bytes": 72}
    index = json.loads((whole / "index.json").read_text(encoding="utf-8"))
    assert [part["documents"] for part in index["parts"]] == [8, 1, 2]
    assert "shard_{index:05d}" in index["source"]


def test_a_shard_comes_over_http_with_its_digest(site, tmp_path):
    texts = [f"document {number}" for number in range(30)]
    site.body, site.faults = parquet(tmp_path / "x", texts).read_bytes(), ["cut"]
    place = place_for(tmp_path, 1)
    download(over_http(site), place)
    assert texts_of(place) == texts
    stats = json.loads((place.out / "stats.json").read_text(encoding="utf-8"))
    assert (stats["url"], stats["sha256"]) == (site.url, hashlib.sha256(site.body).hexdigest())
    assert {path.name for path in place.work.iterdir()} == {"metrics.jsonl"}
    assert {row["unit"] for row in read(place.metrics.path)} == {"bytes", "row groups"}


def over_http(site):
    return Download(corpus="web", url=site.url.replace("00000", "{index:05d}"), validation_shard=3, retries=2)


def test_a_fetched_file_that_is_no_parquet_is_refused_and_fetched_anew_next_time(site, tmp_path):
    place = place_for(tmp_path, 1)
    with pytest.raises(ValueError, match=rf"{site.url}: not a whole parquet file"):
        download(over_http(site), place)
    assert not (place.out / "text.parquet").exists()
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
        (lambda path: parquet(path, ["x"], "body"), r"download.text_column = 'text': .* has no such column: take body"),
        (lambda path: parquet(path, [1, 2]), r"download.text_column = 'text': in .* it holds int64, not text"),
        (invalid_utf8, r"shard_00000.parquet, row group 1: the text is not valid UTF-8"),
    ],
    ids=["missing", "damaged", "column", "type", "utf8"],
)
def test_a_bad_shard_fails_the_stage_and_leaves_no_text(tmp_path, write, said):
    write(tmp_path / "shard_00000.parquet")
    place = place_for(tmp_path, 1)
    with pytest.raises(ValueError, match=said):
        download(on_disk(tmp_path), place)
    assert not (place.out / "text.parquet").exists()
    assert not (place.out / "stats.json").exists()


def test_an_empty_training_shard_adds_nothing_and_all_of_them_are_an_error(tmp_path, capsys):
    for index, texts in enumerate((["", None], ["some text"])):
        parquet(tmp_path / f"shard_{index:05d}.parquet", texts)
    empty, some = place_for(tmp_path, 1), place_for(tmp_path, 2)
    stage = on_disk(tmp_path)
    parquet(tmp_path / "shard_00007.parquet", [None, " "])
    assert download(stage, empty)["documents"] == 0
    assert "has no text (2 empty documents): it adds nothing" in capsys.readouterr().err
    assert pq.read_table(empty.out / "text.parquet").num_rows == 0
    assert download(stage, some)["documents"] == 1
    with pytest.raises(ValueError, match=r"has no text \(2 empty documents\)"):
        download(stage, place_for(tmp_path, 0))
    parts = {"download": (some.out, empty.out)}  # the validation shard first
    with pytest.raises(ValueError, match=r"none of the 1 training shards of .* has any text"):
        gather(stage, dataclasses.replace(empty, input_parts=parts, part=None))


def test_a_damaged_page_is_found_by_reading_every_row(tmp_path):
    path = parquet(tmp_path / "shard_00000.parquet", [f"document {number}" * 20 for number in range(200)])
    data = bytearray(path.read_bytes())
    data[200:400] = bytes(200)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"shard_00000\.parquet"):
        download(on_disk(tmp_path), place_for(tmp_path, 1))
    assert path.exists()  # it is the user's own


def test_fewer_rows_than_the_footer_promises_are_found(tmp_path):
    path = parquet(tmp_path / "shard_00000.parquet", [f"document {number}" for number in range(30)])
    data = path.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    at = data.index(b"\x16\x3c", footer)  # num_rows: an i64 of 30 in Thrift's compact protocol
    path.write_bytes(data[:at] + b"\x16\x3e" + data[at + 2 :])
    with pytest.raises(ValueError, match="its footer promises 31 rows, 30 were read"):
        download(on_disk(tmp_path), place_for(tmp_path, 1))


def test_half_a_surrogate_pair_is_refused_with_its_place(tmp_path):
    with pytest.raises(ValueError, match="it, document 1 cannot be written as UTF-8"):
        write_texts(iter(["fine", "torn \ud800"]), tmp_path / "text.parquet", "it")


def json_lines(folder, counts):
    folder.mkdir()
    for file, count in enumerate(counts):
        rows = (json.dumps({"body": f"{file}:{number}", "score": number}) for number in range(count))
        (folder / f"train-{file:05d}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
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
        ({"text_column": "score"}, 1, r"document 0 is no text but of type int"),
    ],
)
def test_what_a_dataset_does_not_have_is_refused(offline, tmp_path, knobs, part, said):
    folder = json_lines(tmp_path / "lines", [3, 2])
    with pytest.raises(ValueError, match=said):
        download(from_datasets(folder, **knobs), place_for(tmp_path, part))


def test_the_parts_of_a_folder_of_ones_own_hold_all_of_it_once(tmp_path, capsys):
    folder = tmp_path / "mine"
    json_lines(folder, [150, 30])
    (folder / "more.pdf").write_bytes(b"%PDF")
    stage = Download(corpus=str(folder), text_column="body", num_shards=2).resolved()
    held_out, *shards = made(tmp_path, stage, 3)
    assert held_out == ["0:0", "0:100"]
    assert shards[1] == [f"1:{number}" for number in range(30)]
    assert sorted(held_out + shards[0]) == sorted(f"0:{number}" for number in range(150))
    assert "1 .pdf ignored" in capsys.readouterr().err
    (folder / "train-00001.jsonl").write_text("changed", encoding="utf-8")
    with pytest.raises(ValueError, match="has changed since the run was planned"):
        download(stage, place_for(tmp_path, 2, "again"))


def test_the_embedded_corpus_comes_in_the_same_form(tmp_path, monkeypatch):
    from nanochat.data import python_docs

    documents = {number.to_bytes(16, "big"): f"document {number}" for number in range(300)}
    monkeypatch.setattr(python_docs, "documents", lambda: documents)
    everything = made(tmp_path, Download(num_shards=4).resolved(), 1 + PYTHON_DOCS_SHARDS)
    assert sorted(itertools.chain(*everything)) == sorted(documents.values())
    assert len(everything[0]) == 3
