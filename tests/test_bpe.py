"""The trainer learns exactly what a slow obvious twin and rustbpe learn, from exactly the pieces a regex engine cuts."""

import itertools
import random
import signal
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import nanobpe
import pytest
import regex
import rustbpe
from hypothesis import given, settings
from hypothesis import strategies as st

SHARED = Path(__file__).parents[2] / "shared"
PATTERN = nanobpe.GPT4_PATTERN

# Without the code points that this Python does not know: `regex` may know them already, or not yet.
ANY_CHARACTER = st.characters(exclude_categories=["Cs", "Cn"])
# Few characters that the pattern treats differently, so that every pair of alternatives meets, and words repeat.
TELLING = st.sampled_from(list("aabbsStTlLvVeErR''  \t\n\r12½٣!?_éſ日\u0301\u00a0\u2028\U0001f600"))
TEXT = st.text(TELLING, max_size=60) | st.text(ANY_CHARACTER, max_size=30) | st.text(TELLING | ANY_CHARACTER)
TEXTS = st.lists(TEXT, max_size=8).filter(any)


def slow_tokens(texts: list[str], most: int) -> list[bytes]:
    """BPE as one would explain it: count all pairs, join the best everywhere, start again."""
    words = Counter(tuple(piece.encode()) for text in texts for piece in regex.findall(PATTERN, text))
    tokens = [bytes([byte]) for byte in range(256)]
    while len(tokens) < most:
        pairs = Counter[tuple[int, int]]()
        for word, count in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        joined = Counter[tuple[int, ...]]()
        for word, count in words.items():
            joined[join(word, best, len(tokens))] += count
        words = joined
        tokens.append(tokens[best[0]] + tokens[best[1]])
    return tokens


def join(word: tuple[int, ...], pair: tuple[int, int], token: int) -> tuple[int, ...]:
    out: list[int] = []
    at = 0
    while at < len(word):
        found = word[at : at + 2] == pair
        out.append(token if found else word[at])
        at += 2 if found else 1
    return tuple(out)


def rustbpe_tokens(texts: list[str], most: int) -> list[bytes]:
    peer = rustbpe.Tokenizer()
    peer.train_from_iterator(iter(texts), most, pattern=PATTERN)
    return [bytes(token) for token, _ in sorted(peer.get_mergeable_ranks(), key=lambda entry: entry[1])]


@given(TEXTS)
@settings(max_examples=300, deadline=None)
def test_merges_are_those_of_rustbpe_and_of_the_slow_twin(texts: list[str]) -> None:
    expected = rustbpe_tokens(texts, 256 + 40)
    assert slow_tokens(texts, 256 + 40) == expected
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


@given(TEXT)
@settings(max_examples=1000, deadline=None)
def test_pieces_are_those_of_a_regex_engine(text: str) -> None:
    assert dict(nanobpe.count([text], threads=1).items()) == pieces(PATTERN, text)


@given(TEXT, st.integers(1, 9))
@settings(deadline=None)
def test_pieces_are_those_of_a_regex_engine_for_any_group_of_digits(text: str, digits: int) -> None:
    pattern = PATTERN.replace("{1,2}", f"{{1,{digits}}}")
    assert dict(nanobpe.count([text], pattern=pattern).items()) == pieces(pattern, text)


@given(TEXT)
@settings(deadline=None)
def test_other_patterns_cut_as_regex_does_and_lose_nothing(text: str) -> None:
    pattern = r"\w+(?= )|[a-z]+|\d"
    expected = Counter(piece for piece in regex.split(f"({pattern})", text) if piece)
    counts = nanobpe.count([text], pattern=pattern)
    found = {word.decode(): count for word, count in counts.items()}
    # Outside ASCII the two engines do not agree on what \w is; nothing may be lost all the same.
    assert found == expected or not text.isascii()
    assert counts.total_bytes == sum(len(word.encode()) * count for word, count in found.items()) == len(text.encode())


def test_every_character_is_classed_as_a_regex_engine_classes_it() -> None:
    known = [c for c in map(chr, range(0x110000)) if unicodedata.category(c) not in ("Cn", "Cs")]
    text = "".join(f"{c}x1{c}" for c in known)
    assert dict(nanobpe.count([text]).items()) == pieces(PATTERN, text)


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


def test_results_say_what_they_are() -> None:
    counts = nanobpe.count(["ab ab"])
    assert repr(counts) == "<nanobpe.Counts of 2 distinct words in 5 bytes>"
    vocabulary = nanobpe.learn(counts, vocab_size=258)
    assert repr(vocabulary) == "<nanobpe.Vocabulary of 258 tokens>"
    assert (len(vocabulary), vocabulary.pattern, vocabulary.tokens[256:]) == (258, PATTERN, [b"ab", b" ab"])


def test_the_readme_says_what_happens() -> None:
    readme = (Path(__file__).parents[1] / "bpe" / "README.md").read_text()
    exec("".join(readme.split("```python")[i].split("```")[0] for i in (1, 2)), {})


def counts_file(words: list[tuple[bytes, int]], pattern: bytes = b"x") -> bytes:
    def number(n: int) -> bytes:
        return n.to_bytes(8, "little")

    body = b"".join(number(len(word)) + word + number(count) for word, count in words)
    return b"nanobpe-counts-1\n" + number(len(pattern)) + pattern + number(len(words)) + body


def load(tmp_path: Path, content: bytes) -> nanobpe.Counts:
    path = tmp_path / "counts"
    path.write_bytes(content)
    return nanobpe.Counts.load(path)


def test_a_damaged_file_of_counts_is_refused(tmp_path: Path) -> None:
    good = counts_file([(b"ab", 1), (b"b", 2)])
    assert load(tmp_path, good).items() == [(b"ab", 1), (b"b", 2)]
    for length in range(len(good)):
        with pytest.raises(nanobpe.CountsError, match="not a file of word counts"):
            load(tmp_path, good[:length])
    for bad, reason in (
        (good + b"x", "1 bytes follow"),
        (b"x" + good, "does not start as one"),
        (counts_file([(b"b", 1), (b"a", 1)]), "after the word"),
        (counts_file([(b"a", 0)]), "after the word"),
        (counts_file([], pattern=b"\xff"), "not UTF-8"),
        (counts_file([(b"a", 2**63)]), "stand for more than"),
        (counts_file([(b"ab", 2**63)]), "stand for more than"),
    ):
        with pytest.raises(nanobpe.CountsError, match=reason):
            load(tmp_path, bad)


def test_counts_that_cannot_be_added_are_refused(tmp_path: Path) -> None:
    with pytest.raises(nanobpe.CountsError, match="different patterns"):
        nanobpe.count(["a"]) + nanobpe.count(["a"], pattern="a")
    half = load(tmp_path, counts_file([(b"a", 2**62)]))
    with pytest.raises(nanobpe.CountsError, match="stand for more than"):
        half + half


def test_counts_beyond_32_bits_still_learn(tmp_path: Path) -> None:
    counts = load(tmp_path, counts_file([(b"ab", 2**33), (b"ac", 2**33 + 1), (b"d", 1)]))
    assert nanobpe.learn(counts, vocab_size=258).tokens[256:] == [b"ac", b"ab"]


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (nanobpe.VocabularySizeError, "vocab_size=255: .* at least 256", lambda: nanobpe.train(["a"], vocab_size=255)),
        (nanobpe.VocabularySizeError, "-1", lambda: nanobpe.learn(nanobpe.count(["a"]), vocab_size=-1)),
        (nanobpe.PatternError, r"pattern=\"\(a\" cannot split", lambda: nanobpe.count(["a"], pattern="(a")),
        (nanobpe.PatternError, "cannot split", lambda: nanobpe.count(["a" * 9999], pattern=r"(?=(a|aa)+$)\1b")),
        (nanobpe.NanobpeError, "threads=0: give 1 to 1024", lambda: nanobpe.count(["a"], threads=0)),
        (nanobpe.NanobpeError, "threads=1025: give 1 to 1024", lambda: nanobpe.count(["a"], threads=1025)),
        (nanobpe.EmptyCorpusError, "no text", lambda: nanobpe.train([], vocab_size=300)),
        (nanobpe.EmptyCorpusError, "no text", lambda: nanobpe.train(["", ""], vocab_size=256)),
        (nanobpe.CorpusTooSmallError, "gives 257 tokens", lambda: nanobpe.train(["ab"], vocab_size=258)),
    ],
)
def test_what_a_user_gets_wrong_has_its_exception(
    error: type[nanobpe.NanobpeError], message: str, call: Callable[[], object]
) -> None:
    assert issubclass(error, nanobpe.NanobpeError)
    assert issubclass(error, ValueError)
    with pytest.raises(error, match=message):
        call()


def test_texts_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="put it in a list"):
        nanobpe.count("one text")
    with pytest.raises(TypeError):
        nanobpe.count([b"bytes"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="surrogates not allowed"):
        nanobpe.count(["\ud800"])
    with pytest.raises(FileNotFoundError):
        nanobpe.Counts.load(tmp_path / "absent")
    with pytest.raises(FileNotFoundError):
        nanobpe.count(["a"]).save(tmp_path / "absent" / "counts")


def test_an_error_of_the_texts_themselves_comes_through() -> None:
    def texts() -> Iterator[str]:
        yield "a"
        raise LookupError("shard lost")

    with pytest.raises(LookupError, match="shard lost"):
        nanobpe.train(texts(), vocab_size=256)


class Stop(Exception):
    pass


def stop(*_: object) -> None:
    raise Stop


LONG_TEXT = " ".join("".join(random.Random(seed).choices("abcdefgh", k=8)) for seed in range(50_000))


@pytest.mark.parametrize(
    "work",
    [
        lambda counts: nanobpe.count([LONG_TEXT] * 200, threads=1),
        lambda counts: nanobpe.learn(counts, vocab_size=50_000),
    ],
    ids=["count", "learn"],
)
def test_a_signal_ends_the_work(work: Callable[[nanobpe.Counts], object]) -> None:
    counts = nanobpe.count([LONG_TEXT])
    previous = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.005)
        with pytest.raises(Stop):
            work(counts)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
