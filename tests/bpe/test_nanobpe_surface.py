"""What nanobpe promises around its work: results that save and load, progress, Ctrl-C, other threads, typed errors."""

import base64
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import nanobpe
import pytest
import tiktoken
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.paths import ROOT

PATTERN = nanobpe.GPT4_PATTERN
README = ROOT / "bpe" / "README.md"


def test_the_readme_says_what_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = [block.split("```")[0] for block in README.read_text(encoding="utf-8").split("```python")[1:]]
    assert len(blocks) >= 5
    exec("".join(blocks), {})


def test_results_say_what_they_are() -> None:
    counts = nanobpe.count(["ab ab"])
    assert repr(counts) == "<nanobpe.Counts of 2 distinct words in 5 bytes>"
    vocabulary = nanobpe.learn(counts, vocab_size=258)
    assert repr(vocabulary) == "<nanobpe.Vocabulary of 258 tokens>"
    assert (len(vocabulary), vocabulary.pattern, vocabulary.tokens[256:]) == (258, PATTERN, [b"ab", b" ab"])
    for result in (counts, vocabulary):
        with pytest.raises(TypeError, match="pickle"):
            pickle.dumps(result)


def test_a_vocabulary_is_what_it_was_after_saving_and_loading(tmp_path: Path) -> None:
    text = 'low lower lowest "quoted" naïve 日本語\n'
    for pattern in (PATTERN, r'[a-z]+|"\n?'):
        learnt = nanobpe.train([text], vocab_size=270, pattern=pattern)
        learnt.save(tmp_path / "vocabulary.json")
        loaded = nanobpe.Vocabulary.load(tmp_path / "vocabulary.json")
        assert loaded == learnt
        assert (loaded.tokens, loaded.pattern, len(loaded)) == (learnt.tokens, pattern, 270)
        assert loaded != nanobpe.train([text], vocab_size=269, pattern=pattern)
        assert loaded != nanobpe.train([text], vocab_size=270, pattern=pattern + "|x")
        assert loaded != learnt.tokens
    assert [path.name for path in tmp_path.iterdir()] == ["vocabulary.json"]


def test_tiktoken_takes_the_ranks() -> None:
    learnt = nanobpe.train(["low lower lowest naïve"], vocab_size=262)
    encoding = tiktoken.Encoding("x", pat_str=learnt.pattern, mergeable_ranks=learnt.ranks(), special_tokens={})
    tokens = learnt.tokens
    assert learnt.ranks() == {token: number for number, token in enumerate(tokens)}
    assert b"".join(tokens[number] for number in encoding.encode("lowest naïve")) == "lowest naïve".encode()
    assert len(encoding.encode(" lower")) < 6


BYTES = ", ".join(f'"{base64.b64encode(bytes([byte])).decode()}"' for byte in range(256))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "EOF"),
        ("{}", "format"),
        ('{"format": "nanobpe-vocabulary-2", "pattern": "a", "tokens": []}', "format"),
        ('{"format": "nanobpe-vocabulary-1", "pattern": 1, "tokens": []}', "pattern"),
        ('{"format": "nanobpe-vocabulary-1", "pattern": "a", "tokens": 5}', "not a list"),
        ('{"format": "nanobpe-vocabulary-1", "pattern": "a", "tokens": ["*"]}', "base64"),
        ('{"format": "nanobpe-vocabulary-1", "pattern": "a", "tokens": ["YQ=="]}', "token 0 is not made"),
        ('{"format": "nanobpe-vocabulary-1", "pattern": "a", "tokens": ["AA=="]}', "fewer than bytes"),
        (f'{{"format": "nanobpe-vocabulary-1", "pattern": "a", "tokens": [{BYTES}, "YWJj"]}}', "token 256 is not made"),
    ],
)
def test_a_damaged_vocabulary_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "v.json").write_text(content, encoding="utf-8")
    with pytest.raises(nanobpe.VocabularyError, match=message) as caught:
        nanobpe.Vocabulary.load(tmp_path / "v.json")
    assert "v.json" in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"absent\.json"):
        nanobpe.Vocabulary.load(tmp_path / "absent.json")
    with pytest.raises(FileNotFoundError, match="absent"):
        nanobpe.train(["a"], vocab_size=256).save(tmp_path / "absent" / "v.json")


def counts_file(words: list[tuple[bytes, int]], pattern: bytes = b"x") -> bytes:
    """The counts of a text that drops nothing, as `save` writes them."""
    total_bytes = sum(len(word) * count for word, count in words)
    numbers = (min(total_bytes, 2**63 - 1), 0, 0, len(words))

    def string(value: bytes) -> bytes:
        return len(value).to_bytes(8, "little") + value

    body = b"".join(string(word) + count.to_bytes(8, "little") for word, count in words)
    return b"nanobpe-counts-2\n" + string(pattern) + b"".join(n.to_bytes(8, "little") for n in numbers) + body


def load(folder: Path, content: bytes) -> nanobpe.Counts:
    (folder / "counts").write_bytes(content)
    return nanobpe.Counts.load(folder / "counts")


def test_a_damaged_file_of_counts_is_refused(tmp_path: Path) -> None:
    good = counts_file([(b"ab", 1), (b"b", 2)])
    assert load(tmp_path, good).items() == [(b"ab", 1), (b"b", 2)]
    for length in range(len(good)):
        with pytest.raises(nanobpe.CountsError, match=r"not a file of word counts: .*counts"):
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


@given(st.data())
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_mutation_of_a_file_of_counts_is_refused_or_is_what_it_says(tmp_path: Path, data: st.DataObject) -> None:
    """A file has no checksum of its own; so what loads must save to the very bytes that were read."""
    nanobpe.count(["some words, some longer than fifteen bytes: incomprehensibilities"]).save(tmp_path / "good")
    content = bytearray((tmp_path / "good").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    try:
        loaded = load(tmp_path, bytes(content))
    except (nanobpe.CountsError, nanobpe.PatternError):
        return
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == bytes(content)


def test_counts_that_cannot_be_added_are_refused(tmp_path: Path) -> None:
    with pytest.raises(nanobpe.CountsError, match="different patterns"):
        nanobpe.count(["a"]) + nanobpe.count(["a"], pattern="a")
    half = load(tmp_path, counts_file([(b"a", 2**62)]))
    with pytest.raises(nanobpe.CountsError, match="stand for more than"):
        half + half
    with pytest.raises(FileNotFoundError, match="absent"):
        nanobpe.Counts.load(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="absent"):
        nanobpe.count(["a"]).save(tmp_path / "absent" / "counts")


def test_many_files_of_counts_add_up_and_a_bad_one_is_named(tmp_path: Path) -> None:
    texts = ["some words", "more words", "naïve"]
    paths = [tmp_path / str(number) for number in range(3)]
    for text, path in zip(texts, paths, strict=True):
        nanobpe.count([text]).save(path)
    assert nanobpe.Counts.load(*paths).items() == nanobpe.count(texts).items()
    with pytest.raises(FileNotFoundError, match="absent"):
        nanobpe.Counts.load(*paths, tmp_path / "absent")
    (tmp_path / "bad").write_bytes(b"")
    with pytest.raises(nanobpe.CountsError, match=r"bad: .* start"):
        nanobpe.Counts.load(*paths, tmp_path / "bad")
    nanobpe.count(["a"], pattern="a").save(tmp_path / "other")
    with pytest.raises(nanobpe.CountsError, match=r"other: .*different patterns"):
        nanobpe.Counts.load(*paths, tmp_path / "other")


def test_counts_beyond_32_bits_still_learn(tmp_path: Path) -> None:
    counts = load(tmp_path, counts_file([(b"ab", 2**33), (b"ac", 2**33 + 1), (b"d", 1)]))
    assert nanobpe.learn(counts, vocab_size=258).tokens[256:] == [b"ac", b"ab"]


def test_what_a_bound_on_words_dropped_is_said() -> None:
    text = " ".join(str(number) for number in range(1000)) + " often often often"
    counts = nanobpe.count([text], max_words=10, threads=1)
    kept = sum(len(word) * count for word, count in counts.items())
    assert len(counts) <= 10
    assert (counts.dropped_words > 0, counts.dropped_occurrences >= counts.dropped_words) == (True, True)
    assert counts.total_bytes == len(text) > kept
    whole = nanobpe.count([text])
    assert (whole.dropped_words, whole.dropped_occurrences) == (0, 0)


BYTES = [bytes([byte]) for byte in range(256)]
ENCODER = nanobpe.Encoder(BYTES)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (nanobpe.VocabularySizeError, "vocab_size=255: .* at least 256", lambda: nanobpe.train(["a"], vocab_size=255)),
        (nanobpe.VocabularySizeError, "-1", lambda: nanobpe.learn(nanobpe.count(["a"]), vocab_size=-1)),
        (nanobpe.VocabularySizeError, f"vocab_size={2**70}", lambda: nanobpe.train(["a"], vocab_size=2**70)),
        (nanobpe.VocabularySizeError, "at most 2147483647", lambda: nanobpe.train(["a"], vocab_size=2**31)),
        (nanobpe.PatternError, r"pattern=\"\(a\" cannot split", lambda: nanobpe.count(["a"], pattern="(a")),
        (nanobpe.PatternError, "cannot split", lambda: nanobpe.count(["a" * 9999], pattern=r"(?=(a|aa)+$)\1b")),
        (nanobpe.PatternError, "surrogates", lambda: nanobpe.count(["a"], pattern="\ud800")),
        (nanobpe.NanobpeError, "threads=0: give 1 to 1024", lambda: nanobpe.count(["a"], threads=0)),
        (nanobpe.NanobpeError, "threads=1025: give 1 to 1024", lambda: nanobpe.count(["a"], threads=1025)),
        (nanobpe.NanobpeError, f"threads={2**70}: out of range", lambda: nanobpe.count(["a"], threads=2**70)),
        (nanobpe.NanobpeError, "max_words=0: give at least 1", lambda: nanobpe.count(["a"], max_words=0)),
        (nanobpe.NanobpeError, "tie_order=.*byte_level", lambda: nanobpe.train(["a"], vocab_size=256, tie_order="x")),
        (nanobpe.NanobpeError, f"threads={2**70}", lambda: ENCODER.encode_batch(["a"], 2**70)),
        (nanobpe.PatternError, "surrogates", lambda: nanobpe.Encoder(BYTES, "\ud800")),
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


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("vocab_size", 300.0),
        ("vocab_size", "300"),
        ("threads", 1.5),
        ("max_words", "1"),
        ("progress", 5),
        ("pattern", b"a"),
    ],
)
def test_knobs_of_a_wrong_type_are_refused_before_any_text_is_read(knob: str, value: object) -> None:
    texts = iter(["a"])
    with pytest.raises(TypeError):
        nanobpe.train(texts, **{"vocab_size": 256, knob: value})  # type: ignore[arg-type]
    assert next(texts) == "a"


def words(number: int) -> str:
    return " ".join("".join(random.Random(seed).choices("abcdefgh", k=8)) for seed in range(number))


def test_progress_says_how_far_each_phase_is() -> None:
    text, seen = words(20_000), []
    nanobpe.train([text] * 30, vocab_size=2000, progress=lambda phase, done: seen.append((phase, done)))
    counted = [done for phase, done in seen if phase == "count"]
    learnt = [done for phase, done in seen if phase == "learn"]
    assert seen == [("count", done) for done in counted] + [("learn", done) for done in learnt]
    assert (counted, learnt) == (sorted(set(counted)), sorted(learnt))
    assert (counted[-1], learnt[-1]) == (len(text) * 30, 2000)
    assert (len(counted) > 3, len(learnt) >= 2) == (True, True)


@pytest.mark.parametrize("phase", ["count", "learn"])
def test_what_progress_raises_ends_the_work_and_comes_through(phase: str) -> None:
    error = LookupError("enough")

    def progress(now: str, done: int) -> None:
        if now == phase:
            raise error

    with pytest.raises(LookupError) as caught:
        nanobpe.train([words(2000)], vocab_size=2000, progress=progress)
    assert caught.value is error


WORK = {
    "count": "nanobpe.count(itertools.repeat(text), threads=1)",
    "count one text": "nanobpe.count([text * 3000], threads=1)",
    "count by a regex": r"nanobpe.count(itertools.repeat(text), threads=1, pattern=r'\w+|\s+')",
    "count one text by a regex": r"nanobpe.count([text * 500], threads=1, pattern=r'\w+|\s+')",
    "wait for a thread": r"nanobpe.count([text * 500, text * 500, ''], threads=3, pattern=r'\w+|\s+')",
    "count nothing": "nanobpe.count(itertools.repeat(''), threads=1)",
    "encode nothing": "nanobpe.Encoder(map(bytes, zip(range(256)))).encode_batch(itertools.repeat(''))",
    "encode one text": "nanobpe.Encoder(map(bytes, zip(range(256)))).encode(text * 1000)",
    "encode one piece": "nanobpe.Encoder([*map(bytes, zip(range(256))), b'aa']).encode('a' * 50_000_000)",
    "encode": r"nanobpe.Encoder(map(bytes, zip(range(256)))).encode_batch([text] * 5000, 2)",
    "encode one text by a regex": r"nanobpe.Encoder(map(bytes, zip(range(256))), r'\w+|\s+').encode(text * 500)",
    "read": "nanobpe.count(nanobpe.read(itertools.repeat(path, 3000)), threads=1)",
    "learn": "nanobpe.learn(counts, vocab_size=2**20)",
}
SCRIPT = """
import itertools, nanobpe, random, sys
rng = random.Random(0)
text = " ".join(rng.randbytes(6).hex() for _ in range(30_000))
path = sys.argv[1]
open(path, "w").write(text)
counts = nanobpe.count([" ".join(rng.randbytes(9).hex() for _ in range(300_000))], pattern=r"\\S+")
print("ready", flush=True)
try:
    {work}
    print("finished")
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("work", WORK)
def test_ctrl_c_ends_every_phase(work: str, tmp_path: Path) -> None:
    script = textwrap.dedent(SCRIPT).format(work=WORK[work])
    command = [sys.executable, "-c", script, str(tmp_path / "text.txt")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}, encoding="utf-8"
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.15)
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "interrupted\n"
        assert process.wait() == 0


STARVED = """
import nanobpe, resource
texts = ["some words"] * 5000
room = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + 2**28
resource.setrlimit(resource.RLIMIT_AS, (room, room))
try:
    nanobpe.count(texts, threads=1000)
except nanobpe.NanobpeError as error:
    print(error)
print(nanobpe.count(texts, threads=2).total_bytes)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's way to say how much memory is mapped")
def test_more_threads_than_the_system_starts_are_an_error_that_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STARVED], capture_output=True, text=True, check=False, encoding="utf-8"
    )
    assert re.fullmatch(r"threads=1000: the operating system does not start so many .*\n50000\n", done.stdout), done


@pytest.mark.parametrize("phase", ["count", "learn"])
def test_other_threads_run_while_rust_works(phase: str) -> None:
    text = words(100_000)
    counts = nanobpe.count([text])
    steps, stop = 0, threading.Event()

    def step() -> None:
        nonlocal steps
        while not stop.wait(0.0005):
            steps += 1

    other = threading.Thread(target=step)
    other.start()
    while steps == 0:
        pass
    before = steps
    if phase == "count":
        nanobpe.count([text], threads=1, pattern=r"\w+|\s+")  # one batch
    else:
        nanobpe.learn(counts, vocab_size=20_000)
    made = steps - before
    stop.set()
    other.join()
    assert made > 2
