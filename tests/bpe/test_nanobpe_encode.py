"""The encoder gives the ids of tiktoken, for vocabularies learnt and made up, for any text, threads and batches."""

import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import nanobpe
import numpy as np
import pyarrow as pa
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.paths import SHARED

SHARD = SHARED / "data" / "pretrain" / "shard_00004.parquet"
SINGLE_BYTES = [bytes([byte]) for byte in range(256)]
# Each of them matches every text whole: what is not matched tiktoken drops and nanobpe keeps.
PATTERNS = [nanobpe.GPT4_PATTERN, nanobpe.GPT2_PATTERN, r"(?s).{1,40}", r"(?s)[a-z]+|[^a-z]+"]

# Without the code points that one of the two regex engines may not know yet.
ANY_CHARACTER = st.characters(exclude_categories=["Cs", "Cn"])
TELLING = st.sampled_from(list("aabbsStTlLvVeErR''  \t\n\r12½٣!?_éſ日\u0301\u00a0\u2028\U0001f600"))
TEXT = (
    st.text(TELLING, max_size=60) | st.text(ANY_CHARACTER, max_size=30) | st.text(st.sampled_from("ab "), max_size=200)
)
LONG_TEXT = st.builds(lambda text, times: text * times, TEXT, st.integers(1, 50))
TOKEN = st.text(st.sampled_from("ab "), min_size=2, max_size=20).map(str.encode) | st.binary(min_size=2, max_size=5)


def tiktoken_of(tokens: list[bytes], pattern: str = nanobpe.GPT4_PATTERN) -> tiktoken.Encoding:
    ranks = {token: rank for rank, token in enumerate(tokens)}
    return tiktoken.Encoding("peer", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


def joined(lists: list[list[int]]) -> tuple[list[int], list[int]]:
    """Ids end to end and their offsets."""
    return [token for ids in lists for token in ids], np.cumsum([0, *map(len, lists)]).tolist()


def batch(encoder: nanobpe.Encoder, texts: list[str], threads: int | None = None) -> tuple[list[int], list[int]]:
    ids, offsets = encoder.encode_batch(texts, threads)
    assert (ids.dtype, offsets.dtype) == (np.uint32, np.int64)
    return ids.tolist(), offsets.tolist()


LEARNT = st.tuples(st.lists(TEXT, min_size=1, max_size=5).filter(any), st.integers(256, 316))
MADE_UP = st.lists(TOKEN, unique=True, max_size=40).flatmap(lambda tokens: st.permutations([*SINGLE_BYTES, *tokens]))


def vocabulary(drawn: Any) -> list[bytes]:
    """Learnt from text, or made up in any order, where merges need not reach every token."""
    if isinstance(drawn, list):
        return drawn
    try:
        return nanobpe.train(drawn[0], vocab_size=drawn[1]).tokens
    except nanobpe.CorpusTooSmallError:
        return SINGLE_BYTES


@given(LEARNT | MADE_UP, st.sampled_from(PATTERNS), st.lists(LONG_TEXT, max_size=6))
@settings(max_examples=400, deadline=None)
def test_ids_are_those_of_tiktoken(drawn: Any, pattern: str, texts: list[str]) -> None:
    tokens = vocabulary(drawn)
    peer, encoder = tiktoken_of(tokens, pattern), nanobpe.Encoder(tokens, pattern)
    expected = [peer.encode_ordinary(text) for text in texts]
    assert [encoder.encode(text).tolist() for text in texts] == expected
    assert batch(encoder, texts, threads=1) == joined(expected)
    assert batch(encoder, texts[::-1], threads=3) == joined(expected[::-1])


@given(st.lists(st.sampled_from("ab\ud800\udbff\udc00\udfff\U0001f600"), max_size=12).map("".join))
def test_surrogates_without_their_pair_are_what_they_are_to_tiktoken(text: str) -> None:
    expected = tiktoken_of(SINGLE_BYTES).encode_ordinary(text)
    encoder = nanobpe.Encoder(SINGLE_BYTES)
    assert encoder.encode(text).tolist() == expected
    assert batch(encoder, ["", text]) == joined([[], expected])


@given(st.lists(st.none() | TEXT, max_size=12), st.integers(0, 12), st.integers(0, 12))
@settings(deadline=None)
def test_an_arrow_array_is_its_texts(texts: list[str | None], start: int, length: int) -> None:
    encoder = nanobpe.Encoder([*SINGLE_BYTES, b"ab", b"  "])
    array = pa.array(texts, pa.large_string()).slice(start, length)
    expected = batch(encoder, [text for text in texts[start:][:length] if text is not None])
    for block in (array, array.cast(pa.string()), pa.chunked_array([array[:2], array[2:]])):
        assert batch(encoder, block) == expected


def test_what_read_yields_is_encoded(tmp_path: Path) -> None:
    (tmp_path / "some.jsonl").write_text('{"text": "ab"}\n{"text": "c"}\n', encoding="utf-8")
    (block,) = nanobpe.read(tmp_path / "some.jsonl")
    assert batch(nanobpe.Encoder(SINGLE_BYTES), block) == ([97, 98, 99], [0, 2, 3])


def documents() -> Iterator[str]:
    if not SHARD.exists():
        pytest.skip("the shared data is not here")
    import pyarrow.parquet as pq

    for group in pq.ParquetFile(SHARD).iter_batches(batch_size=1024, columns=["text"]):
        yield from group.column(0).to_pylist()


@cache
def learnt() -> list[bytes]:
    sources = [path.read_text(encoding="utf-8") for path in sorted(Path(random.__file__).parent.glob("*.py"))]
    return nanobpe.train(sources, vocab_size=8192).tokens


def standard_library() -> Iterator[str]:
    for path in sorted(Path(random.__file__).parent.glob("[a-l]*/**/*.py")):
        yield path.read_text(encoding="utf-8", errors="replace")


@pytest.mark.parametrize("texts", [documents, standard_library])
def test_ids_are_those_of_tiktoken_on_a_whole_corpus(texts) -> None:
    all_texts = list(texts())
    peer, encoder = tiktoken_of(learnt()), nanobpe.Encoder(learnt())
    ids, offsets = encoder.encode_batch(all_texts, 2)
    again, same_offsets = encoder.encode_batch(all_texts, 1)  # from a cache that is warm
    assert np.array_equal(ids, again)
    assert np.array_equal(offsets, same_offsets)
    for text, start, end in zip(all_texts, offsets[:-1], offsets[1:], strict=True):
        assert np.array_equal(ids[start:end], peer.encode_ordinary(text)), text[:80]


RANDOM_LETTERS = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz", k=1_000_000))
LONG_RUNS = ["a" * 1_000_000, " " * 1_000_000, "\n" * 1_000_000, "=-" * 500_000, RANDOM_LETTERS]


@pytest.mark.parametrize("run", LONG_RUNS, ids=["one letter", "spaces", "line ends", "symbols", "random letters"])
def test_a_megabyte_in_one_piece_is_no_trouble(run: str) -> None:
    peer = tiktoken_of(learnt(), "(?s).+")  # one piece as well: the true pattern makes tiktoken give up on the spaces
    assert nanobpe.Encoder(learnt()).encode(run).tolist() == peer.encode_ordinary(run)


def test_text_that_the_pattern_does_not_match_is_encoded_too() -> None:
    encoder = nanobpe.Encoder([*SINGLE_BYTES, b"12"], "[a-z]+")
    assert encoder.encode("ab12c").tolist() == [97, 98, 256, 99]


def test_nothing_in_nothing_out() -> None:
    encoder = nanobpe.Encoder(SINGLE_BYTES)
    assert batch(encoder, []) == ([], [0])
    assert batch(encoder, ["", ""]) == ([], [0, 0, 0])
    assert encoder.encode("").tolist() == []
    assert encoder.encode("").dtype == np.uint32


def test_arrays_can_be_written_to() -> None:
    ids, offsets = nanobpe.Encoder(SINGLE_BYTES).encode_batch(iter(["ab", "c"]))
    ids += 1
    offsets[0] = 1
    assert (ids.tolist(), offsets.tolist()) == ([98, 99, 100], [1, 2, 3])


def test_an_encoder_says_what_it_is() -> None:
    encoder = nanobpe.Encoder(SINGLE_BYTES, "[a-z]+")
    assert (len(encoder), encoder.pattern, repr(encoder)) == (256, "[a-z]+", "<nanobpe.Encoder of 256 tokens>")


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], "single byte 0x00"),
        (SINGLE_BYTES[:-1], "single byte 0xff"),
        ([*SINGLE_BYTES, b""], "token 256 is empty"),
        ([*SINGLE_BYTES, b"ab", b"ab"], "token 257 has the bytes of token 256"),
        ([*SINGLE_BYTES, b"a"], "token 256 has the bytes of token 97"),
    ],
)
def test_a_vocabulary_that_cannot_encode_is_refused(tokens: list[bytes], message: str) -> None:
    with pytest.raises(nanobpe.TokensError, match=message):
        nanobpe.Encoder(tokens)


def test_what_is_wrong_is_said_by_type() -> None:
    encoder = nanobpe.Encoder(SINGLE_BYTES)
    with pytest.raises(nanobpe.PatternError):
        nanobpe.Encoder(SINGLE_BYTES, "(a")
    with pytest.raises(nanobpe.PatternError):
        nanobpe.Encoder(SINGLE_BYTES, r"(?=(a|aa)+$)\1b").encode("a" * 10_000 + "c")
    for threads in (0, -1):
        with pytest.raises(nanobpe.NanobpeError, match="threads="):
            encoder.encode_batch(["a"], threads)
    with pytest.raises(TypeError):
        nanobpe.Encoder(["a"])
    with pytest.raises(TypeError):
        nanobpe.Encoder(5)
    for wrong in (b"a", 5, None):
        with pytest.raises(TypeError):
            encoder.encode(wrong)
        with pytest.raises(TypeError):
            encoder.encode_batch([wrong])
    with pytest.raises(TypeError, match="not one str"):
        encoder.encode_batch("a text")
    assert encoder.encode("a").tolist() == [97]
