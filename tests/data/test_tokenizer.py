"""Text comes back from its tokens, whichever encoder made them; the saved file is the tokenizer; the stage makes one."""

import base64
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import nanobpe
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import pipeline
from nanochat.artifacts.metrics import Metrics
from nanochat.data.python_bpe import SPLIT_PATTERN, PlainEncoder, _classes, split
from nanochat.data.shards import COUNTS
from nanochat.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from nanochat.stages.tokenizer import run as train_tokenizer
from nanochat.workflow.stage import StageContext

TEXTS = [path.read_text(encoding="utf-8") for path in sorted(Path(json.__file__).parent.rglob("*.py"))]
TEXTS += [
    "Ça va? Über naïve 日本語の文章 日本語, Привет мир! ١٢٣٤ 12345 😀😀 don't WE'LL\r\n\r\n\t\tx  y \u00a0\u2028"
] * 20
TELLING = st.sampled_from(list("aabbsStTlLvVeErR''  \t\n\r12½٣!?_éſ日\u0301\u00a0\u2028\u001c\ufeff\U0001f600"))
TEXT = st.text(TELLING, max_size=60) | st.text(st.characters(), max_size=40) | st.sampled_from(TEXTS)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(tuple(nanobpe.train(TEXTS, vocab_size=1000).tokens))


@pytest.fixture(scope="module")
def plain(tokenizer: Tokenizer) -> PlainEncoder:
    return PlainEncoder(tokenizer.pattern, {token: rank for rank, token in enumerate(tokenizer.tokens)})


@given(text=TEXT)
@settings(max_examples=300, deadline=None)
def test_text_comes_back_and_the_plain_encoder_is_tiktoken(
    tokenizer: Tokenizer, plain: PlainEncoder, text: str
) -> None:
    ids = tokenizer.encode(text)
    assert plain.encode_ordinary(text) == ids
    sound = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert tokenizer.decode(ids) == sound == "".join(split(sound))
    assert tokenizer.token_bytes()[ids].sum() == len(sound.encode())


@pytest.mark.parametrize(("pattern", "stand_ins"), [(r"\p{L}", "asdmtlver"), (r"\p{N}", "0"), (r"\s", " \t\n")])
def test_the_plain_encoder_classes_every_character_as_tiktoken_does(pattern: str, stand_ins: str) -> None:
    characters = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    ranks = {bytes([byte]): byte for byte in range(256)}
    oracle = tiktoken.Encoding("oracle", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    expected = oracle.decode(oracle.encode_ordinary(characters))  # tiktoken drops what the pattern does not match
    stood_for = characters.translate(_classes)
    assert "".join(c for c, kind in zip(characters, stood_for, strict=True) if kind in stand_ins) == expected


def test_long_pieces_are_encoded_as_tiktoken_does(tokenizer: Tokenizer, plain: PlainEncoder) -> None:
    for text in (" " * 20_000, "ab" * 5_000, "e" * 9_999, "=-" * 3_000 + "\n" * 999):
        assert plain.encode_ordinary(text) == tokenizer.encode(text)


def test_a_batch_is_its_texts_one_by_one(tokenizer: Tokenizer, plain: PlainEncoder) -> None:
    one_by_one = [tokenizer.encode(text) for text in TEXTS]
    assert tokenizer.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS, threads=2) == one_by_one
    assert plain.encode_ordinary_batch(TEXTS[-1:], num_threads=2) == one_by_one[-1:]


def test_without_tiktoken_the_tokens_are_the_same(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    bare = Tokenizer(tokenizer.tokens)
    assert isinstance(bare._encoder, PlainEncoder)
    assert bare.encode(TEXTS[-1]) == tokenizer.encode(TEXTS[-1])
    with pytest.raises(ValueError, match="install tiktoken"):
        Tokenizer(tokenizer.tokens, pattern=r"\w+").encode("text")


def test_text_never_makes_a_special_token(tokenizer: Tokenizer, plain: PlainEncoder) -> None:
    for name in SPECIAL_TOKENS:
        ids = tokenizer.encode(f"a{name}b")
        assert max(ids) < tokenizer.special(SPECIAL_TOKENS[0])
        assert ids == plain.encode_ordinary(f"a{name}b")
        assert tokenizer.decode(ids) == f"a{name}b"


def test_special_tokens_follow_the_learnt_ones(tokenizer: Tokenizer) -> None:
    ids = [tokenizer.special(name) for name in SPECIAL_TOKENS]
    assert ids == list(range(1000, tokenizer.vocab_size))
    assert tokenizer.bos == ids[0]
    assert pipeline.Tokenizer.knobs()["vocab_size"].at_least == 256 + len(SPECIAL_TOKENS) == 265
    lengths = tokenizer.token_bytes()
    assert (lengths.dtype, lengths.shape) == (np.int32, (tokenizer.vocab_size,))
    assert not lengths[ids].any()
    assert lengths[:1000].all()
    assert tokenizer.decode([*ids[:2], 104, 105]) == "<|bos|><|user_start|>hi"
    with pytest.raises(ValueError, match=r"<\|pad\|>"):
        tokenizer.special("<|pad|>")


def test_bytes_that_are_no_text_keep_their_length(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode_bytes([0xE6, 0x97]) == b"\xe6\x97"
    assert tokenizer.decode([0xE6, 0x97]) == "\ufffd"
    assert tokenizer.token_bytes()[[0xE6, 0x97]].tolist() == [1, 1]


@pytest.mark.parametrize("token", [-1, 1009, 10**9])
def test_a_token_that_does_not_exist_is_refused(tokenizer: Tokenizer, token: int) -> None:
    with pytest.raises(ValueError, match=f"token {token} does not exist: ids go from 0 to 1008"):
        tokenizer.decode([5, token])


def test_the_patterns_of_trainer_and_encoder_are_one() -> None:
    assert nanobpe.GPT4_PATTERN == SPLIT_PATTERN


def test_a_saved_tokenizer_loads_as_itself(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "a.json")
    loaded = Tokenizer.from_file(tmp_path / "a.json")
    loaded.save(tmp_path / "b.json")
    assert loaded == tokenizer
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": "nanochat-tokenizer-0"}, '"format" is not'),
        ({"special_tokens": list(SPECIAL_TOKENS[:-1])}, '"special_tokens" are not'),
        ({"pattern": None}, '"pattern" must be a string'),
        ({"tokens": {}}, "a list of base64 strings"),
        ({"tokens": [1, 2]}, "a list of base64 strings"),
        ({"tokens": ["?"]}, "base64"),
        ({"tokens": []}, "the first 256 tokens"),
        ({"tokens": [""]}, "the first 256 tokens"),
    ],
)
def test_a_malformed_file_is_refused_with_its_name(
    tokenizer: Tokenizer, tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(ValueError, match=f"tokenizer.json is not a tokenizer of nanochat: .*{reason}"):
        Tokenizer.from_file(path)


@pytest.mark.parametrize("content", ["", "[]", '{"format":', "\x00"])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"t\.json is not a tokenizer"):
        Tokenizer.from_file(tmp_path / "t.json")
    with pytest.raises(FileNotFoundError):
        Tokenizer.from_file(tmp_path / "absent.json")


@pytest.mark.parametrize("extra", [b"", b"a", b"ab"])
def test_tokens_that_are_empty_or_twice_are_refused(tokenizer: Tokenizer, extra: bytes) -> None:
    with pytest.raises(ValueError, match="distinct and not empty"):
        Tokenizer((*tokenizer.tokens[:256], b"ab", extra))


def counted(directory: Path, shards: list[list[str]]) -> StageContext:
    """The artifacts of a download and of its word counts: part 0 is the validation shard."""
    parts: dict[str, list[Path]] = {"download": [], "word_counts": []}
    for i, texts in enumerate(shards):
        for stage, made in parts.items():
            made.append(directory / stage / str(i))
            made[-1].mkdir(parents=True)
        pq.write_table(pa.table({"text": texts}), parts["download"][-1] / "text.parquet")
        if i:
            nanobpe.count(texts).save(parts["word_counts"][-1] / COUNTS)
    (directory / "out").mkdir()
    return StageContext(
        {}, {name: tuple(made) for name, made in parts.items()}, directory / "out", directory, Metrics(None)
    )


def test_the_stage_learns_from_the_words_of_all_training_shards(tmp_path: Path) -> None:
    place = counted(tmp_path, [["held out: zqzqzqzq"] * 9, TEXTS[:3], TEXTS[3:]])
    numbers = train_tokenizer(SimpleNamespace(vocab_size=400), place)
    made = Tokenizer.from_file(place.out / "tokenizer.json")
    assert made.tokens == tuple(nanobpe.train(TEXTS, vocab_size=391).tokens)
    held_out = len(made.encode("held out: zqzqzqzq"))
    assert numbers == {
        "vocab_size": made.vocab_size,
        "distinct_words": len(nanobpe.count(TEXTS)),
        "bytes_counted": sum(len(text.encode()) for text in TEXTS),
        "bytes_per_token": pytest.approx(18 / held_out),
    }
    assert made.vocab_size == 400


@pytest.mark.parametrize(
    ("texts", "reason"), [(["ab"], "the corpus is too small, it gives 257 tokens"), ([""], "no text"), ([], "no text")]
)
def test_too_little_text_is_refused_and_leaves_nothing(tmp_path: Path, texts: list[str], reason: str) -> None:
    place = counted(tmp_path, [["x"], texts])
    with pytest.raises(ValueError, match=f"tokenizer.vocab_size = 400 .*word_counts.max_chars.*{reason}"):
        train_tokenizer(SimpleNamespace(vocab_size=400), place)
    assert list(place.out.iterdir()) == []


def test_the_file_is_the_format_that_is_documented(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    fields = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    assert set(fields) == {"format", "pattern", "tokens", "special_tokens"}
    assert [base64.b64decode(token) for token in fields["tokens"]] == list(tokenizer.tokens)
    assert tuple(fields["special_tokens"]) == SPECIAL_TOKENS
