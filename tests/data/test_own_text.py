"""A folder of one's own is a corpus: every document in one part, the same address wherever it lies, damage refused.

The files are real ones; which document is where is compared with all documents of the folder, whatever the number of
shards.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.data import corpus_preflight, own_text
from nanochat.data.corpus_preflight import preflight
from nanochat.data.text_files import DOCUMENT, LONGEST, cut, documents, part_texts
from nanochat.pipeline import Download
from nanochat.workflow.plan import plan
from tests.paths import SHARED


def put(path, content):
    """Writes bytes or text, packed as the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content if isinstance(content, bytes) else content.encode()
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(data, mtime=0))
    elif path.suffix == ".zst":
        with pa.CompressedOutputStream(str(path), "zstd") as file:
            file.write(data)
    else:
        path.write_bytes(data)
    return path


def json_lines(texts, field="text"):
    return "".join(json.dumps({"id": number, field: text}) + "\n" for number, text in enumerate(texts))


def lay(folder):
    """A folder with a file of every kind; the documents that are in it, in order."""
    paragraphs = [f"paragraph {number} " * 30 for number in range(40)]
    put(folder / "a.jsonl", json_lines([f"row {number}" for number in range(230)] + [None, "", " \n"]))
    put(folder / "b" / "c.txt.gz", "\n\n".join(paragraphs))
    put(folder / "b" / "d.MD.zst", "short")
    put(folder / "e.json.zst", json_lines(["zst one", "zst two"]))
    pq.write_table(pa.table({"text": ["parquet one", None, "parquet two"]}), folder / "f.parquet")
    put(folder / ".hidden.txt", "hidden")
    put(folder / ".git" / "x.txt", "hidden")
    put(folder / "g.pdf", "%PDF")
    put(folder / "h.txt", "")
    return folder


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    return lay(tmp_path_factory.mktemp("own") / "my texts")


def parts_of(folder, num_shards):
    files, _ = own_text.listing(folder)
    parts = range(num_shards + 1)
    return [list(part_texts(files, "text", part, num_shards, lambda *_: None)) for part in parts]


def test_every_kind_of_file_is_read_and_the_rest_named(mixed):
    files, ignored = own_text.listing(mixed)
    assert [file.name for file in files] == ["a.jsonl", "b/c.txt.gz", "b/d.MD.zst", "e.json.zst", "f.parquet"]
    assert ignored == "1 .pdf, 1 empty"
    held_out, train = parts_of(mixed, 1)
    assert held_out[:3] == ["row 0", "row 100", "row 200"]
    assert train[-4:] == [None] * 4
    assert {"short", "zst one", "zst two", "parquet one", "parquet two"} <= set(train)


@given(st.integers(1, 12))
@settings(max_examples=12, deadline=None)
def test_every_document_is_in_one_part_whatever_the_number_of_shards(mixed, num_shards):
    files, _ = own_text.listing(mixed)
    every = [text for file in files for text in documents(file, "text")]
    parts = parts_of(mixed, num_shards)
    shared_out = [text for part in parts for text in part]
    assert Counter(shared_out) == Counter(text if text and not text.isspace() else None for text in every)
    assert parts[0]
    assert None not in parts[0]


def test_files_are_shards_where_there_are_enough_of_them(tmp_path):
    for number in range(5):
        put(tmp_path / f"{number}.txt", f"text of {number}")
    assert parts_of(tmp_path, 3)[2:] == [["text of 1", "text of 4"], ["text of 2"]]
    assert parts_of(tmp_path, 3)[:2] == [["text of 0"], ["text of 3"]]


WORDS = st.lists(st.sampled_from(["", " ", "word", "x" * 700, "ü" * 2100]), max_size=30)


@given(WORDS)
def test_prose_is_cut_at_blank_lines_and_nothing_is_lost(lines):
    made = list(cut(iter(lines)))
    assert " ".join(made).split() == " ".join(lines).split()
    assert all(len(text) >= DOCUMENT for text in made) or len(made) <= 1
    assert all(text == text.rstrip() and text.split("\n")[0].strip() for text in made)


def test_prose_without_blank_lines_is_cut_at_the_end_of_a_line():
    made = list(cut(f"line {number}" for number in range(30_000)))
    assert len(made) == 4
    assert max(map(len, made)) < LONGEST + 20
    assert "\n".join(made) == "\n".join(f"line {number}" for number in range(30_000))


def test_line_ends_of_windows_and_a_byte_order_mark_are_no_text(tmp_path):
    put(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert list(documents(own_text.listing(tmp_path)[0][0], "text")) == ["one\ntwo"]


def address(corpus, **knobs):
    (step,) = plan([Download(corpus=str(corpus), **knobs)])
    return step.address, [part.address for part in step.parts]


def test_an_address_says_what_is_in_a_folder_and_not_where_it_is(mixed, tmp_path, monkeypatch):
    whole, parts = address(mixed)
    assert whole.startswith("download/my-texts-")
    there = shutil.copytree(mixed, tmp_path / "elsewhere" / "my texts")
    monkeypatch.chdir(there.parent)
    monkeypatch.setenv("HOME", str(there.parent))
    ways = [there, "./my texts", "~/my texts", "../elsewhere/my texts/"]
    assert {address(way)[0] for way in ways} == {whole}
    resolved = Download(corpus=str(there)).resolved()
    assert resolved.url == f"folder:{there}"
    assert str(tmp_path) not in json.dumps(resolved.values("identity"))
    shutil.rmtree(there / "b")
    assert resolved.resolved() == resolved  # as a worker gets it: nothing is looked at again
    assert address(there)[0] != whole
    assert not set(parts) & set(address(mixed, num_shards=2)[1])  # a shard holds other documents then


@pytest.mark.parametrize("change", ["content", "name", "middle of a large one"])
def test_another_text_is_another_address(tmp_path, monkeypatch, change):
    monkeypatch.setattr(own_text, "HASHED_WHOLE", 4 << 20)
    file = put(tmp_path / "a.txt", b"x" * (5 << 20))
    before = own_text.digest(tmp_path, 1)
    assert own_text.digest(tmp_path, 1) == before != own_text.digest(tmp_path, 2)
    if change == "name":
        file.rename(tmp_path / "b.txt")
    else:
        with file.open("r+b") as opened:
            opened.seek(100 if change == "content" else 5 << 19)
            opened.write(b"y")
    assert own_text.digest(tmp_path, 1) != before
    with pytest.raises(ValueError, match=r"has changed since the run was planned .*start it again"):
        own_text.check_unchanged(tmp_path, 1, before)


@pytest.mark.parametrize(
    ("name", "label"),
    [("a b", "a-b"), ("notes.v1.txt.gz", "notes.v1"), ("_.x", "x"), ("текст", "folder"), ("n" * 200, "n" * 60)],
)
def test_a_label_has_the_letters_that_addresses_take(tmp_path, name, label):
    assert own_text.label(tmp_path / name) == label


def test_a_single_file_is_a_corpus_and_links_are_followed_once(tmp_path):
    file = put(tmp_path / "book.txt", "\n\n".join(["word " * 500] * 5))
    assert address(file)[0].startswith("download/book-")
    assert preflight(Download(corpus=str(file))) > 12_000
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "up").symlink_to(tmp_path)
    (tmp_path / "folder" / "broken.txt").symlink_to(tmp_path / "nowhere.txt")
    found, ignored = own_text.listing(tmp_path)
    assert ([each.name for each in found], ignored) == (["book.txt"], "1 .txt")


def test_preflight_counts_what_it_reads_and_estimates_what_is_large(tmp_path, monkeypatch):
    draw = random.Random(1)
    texts = [" ".join(str(draw.randrange(9999)) for _ in range(10)) for _ in range(20_000)]
    exact = sum(map(len, texts))
    for name in ("a.jsonl", "a.jsonl.gz", "a.json.zst", "a.txt"):
        folder = tmp_path / name.replace(".", "-")
        put(folder / name, "\n\n".join(texts) if name == "a.txt" else json_lines(texts))
        counted = preflight(Download(corpus=str(folder)))
        assert counted == pytest.approx(exact, rel=0.05)
        with monkeypatch.context() as patched:
            patched.setattr(corpus_preflight, "READ_WHOLE", 0)
            patched.setattr(corpus_preflight, "MIB", 100_000)
            assert preflight(Download(corpus=str(folder))) == pytest.approx(exact, rel=0.5)


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-20])


LONG = json_lines([f"row {number}" for number in range(50)])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.doc", "x", r"no readable file: found 1 \.doc; it takes \.parquet, \.jsonl"),
        (".a.txt", "x", r"no readable file: found nothing"),
        ("a.parquet.gz", "x", r"no readable file: found 1 \.gz"),
        ("a.txt", b"fine\n\nnot \xff fine", r"a\.txt, line 3: is not UTF-8 .* at byte 4\): save it as UTF-8"),
        ("a.jsonl", '{"text": "x"}\n{"text": ', r"a\.jsonl, line 2: not JSON"),
        ("a.json", '["x", "y"]', r"a\.json, line 1: needs an object, found list: write one object a line"),
        ("a.jsonl", '{"body": "x"}', r"download.text_column = 'text': .*a\.jsonl, line 1 has no such field: take body"),
        ("a.jsonl", '{"n": 1}', r"none of its fields is text"),
        ("a.jsonl", '{"text": 1}', r"a\.jsonl, line 1: it is of type int, not text"),
        ("a.parquet", "PAR1 not really", r"a\.parquet: not a readable parquet file"),
        ("a.txt.gz", b"x" * 100, "whole"),
        ("a.jsonl.gz", LONG, r"a\.jsonl\.gz: is damaged or cut off"),
        ("a.txt.zst", LONG, r"a\.txt\.zst: is damaged or cut off"),
        ("a.txt", "one document", r"has 1 documents: one is held out"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_before_work_with_the_file(tmp_path, name, content, said):
    path = put(tmp_path / name, content)
    if "cut off" in said:
        cut_off(path)
    if said == "whole":
        path.write_bytes(content)
        said = r"a\.txt\.gz: is damaged or cut off: Not a gzipped file"
    with pytest.raises(ValueError, match=said):
        preflight(Download(corpus=str(tmp_path)))


def test_a_folder_that_is_not_there_or_closed_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"nowhere: there is no such folder or file"):
        Download(corpus=str(tmp_path / "nowhere")).resolved()
    put(tmp_path / "a.txt", "x")
    if os.geteuid() == 0:
        monkeypatch.setattr(own_text, "_content", closed)
    else:
        (tmp_path / "a.txt").chmod(0)
    with pytest.raises(ValueError, match=r"cannot be read: .*Permission denied"):
        own_text.digest(tmp_path, 1)


def closed(file):
    raise PermissionError(13, "Permission denied", file.name)


@pytest.mark.skipif(not (SHARED / "data" / "extra").is_dir(), reason="the shared data is not there")
def test_real_text_keeps_its_words():
    files, _ = own_text.listing(SHARED / "data" / "extra")
    for file in files:
        made = list(documents(file, "text"))
        assert len(made) > 300
        assert " ".join(made).split() == file.path.read_text(encoding="utf-8").split()


@pytest.mark.skipif(not (SHARED / "data" / "pretrain").is_dir(), reason="the shared data is not there")
def test_real_shards_are_a_folder(tmp_path):
    files, ignored = own_text.listing(SHARED / "data" / "pretrain")
    assert len(files) == 5
    assert ignored == "1 .json"
    shards = [file for file in files if file.format == ".parquet"]
    held_out = list(part_texts(shards[:1], "text", 0, 1, lambda *_: None))
    assert len(held_out) == -(-pq.read_metadata(shards[0].path).num_rows // 100)


def test_json_over_many_lines_is_about_the_text_that_it_lies_beside(tmp_path):
    (tmp_path / "a.txt").write_text("Some text.", encoding="utf-8")
    (tmp_path / "index.json").write_text('{\n "rows": 3\n}', encoding="utf-8")
    files, ignored = own_text.listing(tmp_path)
    assert ([file.name for file in files], ignored) == (["a.txt"], "1 .json")
    (tmp_path / "a.txt").unlink()
    assert [file.name for file in own_text.listing(tmp_path)[0]] == ["index.json"]
