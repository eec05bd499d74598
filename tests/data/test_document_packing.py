"""Packing keeps what it says it keeps, and a tokenized shard is the text it was made from.

The oracles are a best-fit packer written as its definition reads, and the tokenizer's own decoding.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat import pipeline
from nanochat.artifacts.metrics import Metrics, read
from nanochat.data.document_packing import best_fit, pieces, stream
from nanochat.data.rows import Rows
from nanochat.data.tokenizer import Tokenizer
from nanochat.stages.tokenize import gather
from nanochat.stages.tokenize import run as tokenize_shard
from nanochat.workflow.stage import StageContext

BOS = 0
LENGTHS = st.lists(st.integers(0, 40), max_size=60)
CAPACITY = st.integers(2, 16)


def numbered(lengths):
    """Documents without two equal tokens, so that a token says where it is from."""
    ends = np.cumsum([0, *lengths])
    return [list(range(a + 1, b + 1)) for a, b in itertools.pairwise(ends)]


def split(documents, capacity):
    return [piece for ids in documents for piece in pieces(ids, BOS, capacity)]


def best_fit_as_defined(documents, capacity, buffer_docs):
    rows, row, waiting, coming = [], [], [], [list(map(int, document)) for document in documents]
    while True:
        while len(waiting) < buffer_docs and coming:
            waiting.append(coming.pop(0))
        room = capacity - len(row)
        fitting = [document for document in waiting if len(document) <= room]
        if room == 1:
            row.append(BOS)
        elif fitting:
            longest = max(fitting, key=len)  # the first of equals
            row += longest
            waiting.remove(longest)
        elif waiting:
            shortest = min(reversed(waiting), key=len)  # the last of equals
            row += shortest[:room]
            waiting.remove(shortest)
        else:
            return rows
        if len(row) == capacity:
            rows.append(row)
            row = []


@given(LENGTHS, CAPACITY, st.integers(1, 10))
def test_best_fit_is_what_it_says(lengths, capacity, buffer_docs):
    documents = split(numbered(lengths), capacity)
    rows = [row.tolist() for row in best_fit(documents, capacity, buffer_docs, BOS)]
    assert rows == best_fit_as_defined(documents, capacity, buffer_docs)


@given(LENGTHS, CAPACITY, st.integers(1, 10))
def test_best_fit_opens_every_row_with_a_document_and_invents_or_repeats_nothing(lengths, capacity, buffer_docs):
    documents = split(numbered(lengths), capacity)
    rows = list(best_fit(documents, capacity, buffer_docs, BOS))
    assert all(len(row) == capacity and row[0] == BOS for row in rows)
    kept = Counter(int(token) for row in rows for token in row if token != BOS)
    assert set(kept.values()) <= {1}
    assert set(kept) <= {token for ids in numbered(lengths) for token in ids}
    openings = {int(piece[1]) for piece in documents}
    for row in rows:  # behind a beginning-of-sequence token stands the opening of a piece, or nothing
        assert all(int(after) in openings or after == BOS for here, after in itertools.pairwise(row) if here == BOS)


@given(LENGTHS, CAPACITY)
def test_pieces_of_a_long_document_are_the_document(lengths, capacity):
    for ids in numbered(lengths):
        found = list(pieces(ids, BOS, capacity))
        assert [token for piece in found for token in piece[1:].tolist()] == ids
        assert all(piece[0] == BOS and 1 < len(piece) <= capacity for piece in found)


@given(LENGTHS, CAPACITY)
def test_stream_loses_nothing_but_the_tail(lengths, capacity):
    documents = [np.array([BOS, *ids], np.uint32) for ids in numbered(lengths)]
    flat = [int(token) for document in documents for token in document]
    rows = [row.tolist() for row in stream(documents, capacity)]
    assert [token for row in rows for token in row] == flat[: len(flat) // capacity * capacity]


def test_documents_longer_than_a_row_do_not_clog_the_buffer():
    documents = split(numbered([1000] * 20), 10)
    rows = np.stack(list(best_fit(documents, 10, 4, BOS)))
    assert np.count_nonzero(rows) >= 0.99 * 20_000


WORDS = ["the", "rows", "are", "full", "naïve", "数据", "of", "tokens", "🙂", "and", "text"]


@pytest.fixture
def bytes_tokenizer(tmp_path):
    """A tokenizer that has learned nothing but two merges."""
    tokens = [bytes([value]) for value in range(256)] + [b"th", b"the"]
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    Tokenizer(tokens=tuple(tokens)).save(folder / "tokenizer.json")
    return folder


def lay_text(folder, texts):
    folder.mkdir()
    pq.write_table(pa.table({"text": texts}), folder / "text.parquet", row_group_size=16)
    return folder


def place_for(tmp_path, tokenizer, text, name):
    out, work = tmp_path / name, tmp_path / f"{name}.work"
    out.mkdir()
    return StageContext(
        {"download": text, "tokenizer": tokenizer}, {}, out, work, Metrics(work / "metrics.jsonl"), part=1
    )


def random_texts(count):
    rng = np.random.default_rng(1)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 60))) for _ in range(count)]


def test_a_streamed_shard_decodes_to_its_text_and_counts_its_bytes(tmp_path, bytes_tokenizer):
    texts, tokenizer = random_texts(50), Tokenizer.from_file(bytes_tokenizer / "tokenizer.json")
    place = place_for(tmp_path, bytes_tokenizer, lay_text(tmp_path / "text", texts), "out")
    numbers = tokenize_shard(pipeline.Tokenize(sequence_len=16, packing="stream"), place)
    ids = np.fromfile(place.out / "rows.bin", "<u2")
    assert {path.name for path in place.out.iterdir()} == {"rows.bin", "stats.json"}
    assert len(ids) == numbers["tokens"] == numbers["rows"] * 17
    expected = [token for text in texts for token in (tokenizer.bos, *tokenizer.encode(text))]  # by tiktoken
    assert ids.tolist() == expected[: len(ids)]
    kept = tokenizer.decode_bytes(ids[ids != tokenizer.bos].tolist())
    whole = "".join(texts).encode()
    assert whole.startswith(kept)
    assert numbers["bytes"] == len(kept)
    assert numbers["documents"] == 50
    assert [row["done"] for row in read(place.metrics.path)][-1] == 50


@pytest.mark.parametrize("packing", ["best_fit", "stream"])
def test_threads_and_attempts_change_nothing_and_every_token_is_accounted_for(tmp_path, bytes_tokenizer, packing):
    texts, tokenizer = random_texts(80), Tokenizer.from_file(bytes_tokenizer / "tokenizer.json")
    text, files = lay_text(tmp_path / "text", texts), []
    for threads in (1, 3):
        place = place_for(tmp_path, bytes_tokenizer, text, f"out{threads}")
        stage = pipeline.Tokenize(sequence_len=32, packing=packing, threads=threads, buffer_docs=7)
        numbers = tokenize_shard(stage, place)
        files.append((place.out / "rows.bin").read_bytes())
    assert files[0] == files[1]
    ids = np.frombuffer(files[0], "<u2")
    kept = np.count_nonzero(ids != tokenizer.bos)
    assert kept + numbers["dropped_tokens"] == sum(len(tokenizer.encode(text)) for text in texts)
    assert numbers["bytes"] == tokenizer.token_bytes()[ids].sum()


def test_gather_writes_what_the_reader_needs(tmp_path, bytes_tokenizer):
    stage, parts = pipeline.Tokenize(sequence_len=16), []
    for number in range(3):
        text = lay_text(tmp_path / f"text{number}", random_texts(20 + number))
        place = place_for(tmp_path, bytes_tokenizer, text, f"part{number}")
        tokenize_shard(stage, place)
        parts.append(place.out)
    whole = tmp_path / "whole"
    whole.mkdir()
    numbers = gather(
        stage, StageContext({"tokenizer": bytes_tokenizer}, {"tokenize": tuple(parts)}, whole, whole, Metrics(None))
    )
    training = StageContext({"tokenize": whole}, {"tokenize": tuple(parts)}, whole, whole, Metrics(None))
    rows = Rows(training["tokenize"], training.parts("tokenize")[1:])
    tokenizer = Tokenizer.from_file(bytes_tokenizer / "tokenizer.json")
    assert numbers["train_rows"] == len(rows) > 0
    assert numbers["validation_rows"] == len(Rows(training["tokenize"], training.parts("tokenize")[:1]))
    assert np.all(rows[:][:, 0] == tokenizer.bos)
    index = json.loads((whole / "index.json").read_text(encoding="utf-8"))
    assert (index["dtype"], index["sequence_len"], index["vocab_size"]) == ("uint16", 16, tokenizer.vocab_size)
    token_bytes = np.load(whole / "token_bytes.npy")
    assert token_bytes.dtype == np.int32
    assert numbers["train_bytes"] == token_bytes[rows[:]].sum()


def test_a_validation_shard_or_all_training_shards_that_fill_no_row_are_refused(tmp_path, bytes_tokenizer):
    stage = pipeline.Tokenize(sequence_len=64)
    place = place_for(tmp_path, bytes_tokenizer, lay_text(tmp_path / "text", ["short"]), "out")
    with pytest.raises(
        ValueError, match=r"sequence_len = 64: the 1 documents of the validation shard do not fill one row"
    ):
        tokenize_shard(stage, dataclasses.replace(place, part=0))
    assert tokenize_shard(stage, place)["rows"] == 0  # another one may
    parts = {"tokenize": (place.out, place.out)}
    with pytest.raises(
        ValueError, match=r"sequence_len = 64: the 1 documents of all training shards do not fill one row"
    ):
        gather(stage, dataclasses.replace(place, part=None, input_parts=parts))


def test_empty_shards_among_others_are_rows_of_none(tmp_path, bytes_tokenizer):
    stage, parts = pipeline.Tokenize(sequence_len=8), []
    for name, texts in (("held", ["a text long enough"]), ("none", []), ("some", ["another text long enough"])):
        place = place_for(tmp_path, bytes_tokenizer, lay_text(tmp_path / f"text-{name}", texts), name)
        tokenize_shard(stage, place)
        parts.append(place.out)
    whole = tmp_path / "whole"
    whole.mkdir()
    gather(stage, dataclasses.replace(place, out=whole, part=None, input_parts={"tokenize": tuple(parts)}))
    rows = Rows(whole, parts[1:])
    assert len(rows) == len(Rows(whole, parts[2:])) > 0
    assert (rows[:] == Rows(whole, parts[2:])[:]).all()
