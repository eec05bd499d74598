"""The trainer learns exactly what a slow obvious twin and rustbpe learn, from exactly the pieces a regex engine cuts."""

import random
import unicodedata
from collections import Counter
from pathlib import Path

import nanobpe
import pytest
import regex
import rustbpe
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from tests.bpe import slow_bpe
from tests.paths import SHARED

PATTERN = nanobpe.GPT4_PATTERN
SCANNED = [PATTERN, nanobpe.CL100K_PATTERN, nanobpe.O200K_PATTERN, nanobpe.GPT2_PATTERN]

# Without the code points that this Python does not know: `regex` may know them already, or not yet.
ANY_CHARACTER = st.characters(exclude_categories=["Cs", "Cn"])
# Few characters that the pattern treats differently, so that every pair of alternatives meets, and words repeat.
TELLING = st.sampled_from(list("aabbsStTlLvVeErR''  \t\n\r12½٣!?_éſ日\u0301\u00a0\u2028\U0001f600"))
TEXT = st.text(TELLING, max_size=60) | st.text(ANY_CHARACTER, max_size=30) | st.text(TELLING | ANY_CHARACTER)
# On what these mean two engines agree for all of Unicode; the last ones match next to nothing, or nothing but the empty.
PATTERNS = st.sampled_from(
    [PATTERN, "", "a", ".", r"(?s:.)", r"(?s:.+)", r"[a-z]+|x*", r"a(?=b)", r"(.)\1", r"\p{L}+(?!\S)", "(?!)"]
)
TEXTS = st.lists(TEXT, max_size=8).filter(any)


def tokenizers_tokens(texts: list[str], most: int) -> list[bytes]:
    """What Hugging Face tokenizers learns, in bytes; it stops by itself where no pair is left."""
    peer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    peer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    peer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=most, initial_alphabet=alphabet, show_progress=False)
    )
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    byte_of = {chr(byte): byte for byte in printed}
    byte_of |= {chr(256 + i): byte for i, byte in enumerate(sorted(set(range(256)) - set(printed)))}
    tokens = sorted(peer.get_vocab().items(), key=lambda entry: entry[1])
    return [bytes(byte_of[character] for character in token) for token, _ in tokens]


def rustbpe_tokens(texts: list[str], most: int) -> list[bytes]:
    peer = rustbpe.Tokenizer()
    peer.train_from_iterator(iter(texts), most, pattern=PATTERN)
    return [bytes(token) for token, _ in sorted(peer.get_mergeable_ranks(), key=lambda entry: entry[1])]


@given(TEXTS)
@settings(max_examples=300, deadline=None)
def test_merges_are_those_of_rustbpe_and_of_the_slow_twin(texts: list[str]) -> None:
    expected = rustbpe_tokens(texts, 256 + 40)
    assert slow_bpe.learn(slow_bpe.count(texts, PATTERN), 256 + 40) == expected
    assert nanobpe.train(texts, vocab_size=len(expected)).tokens == expected
    if len(expected) < 256 + 40:
        with pytest.raises(nanobpe.CorpusTooSmallError, match=f"gives {len(expected)} tokens"):
            nanobpe.train(texts, vocab_size=len(expected) + 1)


def test_merges_are_those_of_rustbpe_on_the_source_of_the_standard_library() -> None:
    texts = [path.read_text(encoding="utf-8") for path in sorted(Path(random.__file__).parent.glob("*.py"))[:60]]
    assert nanobpe.train(texts, vocab_size=3000).tokens == rustbpe_tokens(texts, 3000)


def test_merges_are_those_of_rustbpe_on_real_text() -> None:
    shard = SHARED / "data" / "pretrain" / "shard_00004.parquet"
    if not shard.exists():
        pytest.skip("the shared data is not here")
    import pyarrow.parquet as pq

    texts = pq.ParquetFile(shard).read_row_group(0, columns=["text"])["text"].to_pylist()[:400]
    learnt = nanobpe.train(texts, vocab_size=8192).tokens
    assert learnt == rustbpe_tokens(texts, 8192)
    assert len(set(learnt)) == len(learnt)


@given(TEXT, st.sampled_from(SCANNED))
@settings(max_examples=2000, deadline=None)
def test_pieces_are_those_of_a_regex_engine(text: str, pattern: str) -> None:
    assert dict(nanobpe.count([text], threads=1, pattern=pattern).items()) == pieces(pattern, text)


@given(TEXT, st.integers(1, 9))
@settings(deadline=None)
def test_pieces_are_those_of_a_regex_engine_for_any_group_of_digits(text: str, digits: int) -> None:
    pattern = PATTERN.replace("{1,2}", f"{{1,{digits}}}")
    assert dict(nanobpe.count([text], pattern=pattern).items()) == pieces(pattern, text)


@given(TEXTS, PATTERNS)
@settings(max_examples=300, deadline=None)
def test_any_pattern_counts_and_learns_as_the_slow_twin(texts: list[str], pattern: str) -> None:
    counts = nanobpe.count(texts, pattern=pattern)
    slow = slow_bpe.count(texts, pattern)
    assert dict(counts.items()) == slow
    assert counts.total_bytes == sum(len(text.encode()) for text in texts)
    expected = slow_bpe.learn(slow, 256 + 20)
    assert nanobpe.learn(counts, vocab_size=len(expected)).tokens == expected


@given(TEXTS)
@settings(max_examples=100, deadline=None)
def test_merges_in_byte_level_order_are_those_of_tokenizers(texts: list[str]) -> None:
    learnt = nanobpe.train(texts, vocab_size=256, tie_order="byte_level")
    assert learnt.tokens == [bytes([byte]) for byte in range(256)]
    peer = tokenizers_tokens(texts, 256 + 30)
    assert nanobpe.train(texts, vocab_size=len(peer), tie_order="byte_level").tokens[256:] == peer[256:]


@pytest.mark.parametrize("pattern", SCANNED)
def test_every_character_is_classed_as_a_regex_engine_classes_it(pattern: str) -> None:
    known = [c for c in map(chr, range(0x110000)) if unicodedata.category(c) not in ("Cn", "Cs")]
    text = "".join(f"{c}x1{c}" for c in known)
    assert dict(nanobpe.count([text], pattern=pattern).items()) == pieces(pattern, text)


def pieces(pattern: str, text: str) -> Counter[bytes]:
    return Counter(piece.encode() for piece in regex.findall(pattern, text))


def some_texts(seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    letters = "etaoin shrdlu,.\n0123é"
    return ["".join(rng.choices(letters, k=rng.randint(0, 400))) for _ in range(300)]


def test_threads_batches_and_order_change_nothing(tmp_path: Path) -> None:
    texts, files, learnt = some_texts(), set(), set()
    for threads, order in ((1, texts), (2, texts[::-1]), (7, sorted(texts)), (None, texts)):
        counts = nanobpe.count(iter(order), threads=threads)
        counts.save(tmp_path / "counts")
        files.add((tmp_path / "counts").read_bytes())
        learnt.add(tuple(nanobpe.learn(counts, vocab_size=600).tokens))
    assert len(files) == len(learnt) == 1


def test_many_batches_count_as_one() -> None:
    text = "some words, and more\n" * 5000
    one, many = nanobpe.count([text]), nanobpe.count([text] * 400)  # 42 MB: three batches
    assert many.items() == [(word, count * 400) for word, count in one.items()]


def test_counts_of_parts_saved_loaded_and_added_are_the_counts_at_once(tmp_path: Path) -> None:
    texts = [*some_texts(), "a word of more than fifteen bytes: incomprehensibilities " * 3]
    at_once = nanobpe.count(texts)
    parts = []
    for i in range(3):
        nanobpe.count(texts[i::3]).save(tmp_path / f"part{i}")
        parts.append(nanobpe.Counts.load(tmp_path / f"part{i}"))
    whole = parts[0] + parts[1] + parts[2]
    assert whole.items() == at_once.items()
    assert (len(whole), whole.total_bytes, whole.pattern) == (len(at_once), at_once.total_bytes, PATTERN)
    assert sum(len(word) * count for word, count in whole.items()) == whole.total_bytes
    assert nanobpe.learn(whole, vocab_size=400).tokens == nanobpe.train(texts, vocab_size=400).tokens
    assert [path.name for path in tmp_path.glob("*.partial")] == []
