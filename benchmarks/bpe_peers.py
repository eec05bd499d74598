"""The trainers that `benchmarks.bpe` compares, each behind the same three steps: get ready, train, show the tokens.

Getting ready (imports, options) and showing the tokens are outside the clock, `train` is what it measures. All get the
same texts; gigatoken alone reads them from a file, inside its clock, and knows no other pattern than GPT-2's, so ours
takes part with that pattern too. Nothing here measures or prints.
"""

import logging
import os
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import nanobpe

SEPARATOR = b"<|endoftext|>"
GPT2_PATTERN = getattr(
    nanobpe, "GPT2_PATTERN", r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Task:
    """What to train on: the texts in memory, the same texts in a file (with SEPARATOR between them), and how."""

    texts: list[str]
    file: Path
    vocab_size: int
    threads: int


class Trainer:
    """One contender; `counting_s` is the part of `train` that cut and counted words, where it can be told."""

    module: ClassVar[str]
    reference: ClassVar[str | None]  # the contender that must learn the same merges; None: no other orders ties like it
    ours: ClassVar[str] = "nanobpe"  # the contender that ratios are taken against: ours, doing the same work
    slow: ClassVar[bool] = False  # runs at most --slow-repeats times
    reads_file: ClassVar[bool] = False  # holds no texts before the clock starts

    def __init__(self, task: Task) -> None:
        self.task = task
        self.counting_s: float | None = None

    def train(self) -> None:
        raise NotImplementedError

    def tokens(self) -> list[bytes] | None:
        """Tokens by id; None where `reference` is None."""
        raise NotImplementedError


class Nanobpe(Trainer):
    """This repository's, in the two steps of which `nanobpe.train` is made."""

    module = "nanobpe"
    reference = "rustbpe"
    pattern: ClassVar[str] = nanobpe.GPT4_PATTERN

    def train(self) -> None:
        start = time.perf_counter()
        counts = nanobpe.count(self.task.texts, pattern=self.pattern, threads=self.task.threads)
        self.counting_s = time.perf_counter() - start
        self.vocabulary = nanobpe.learn(counts, vocab_size=self.task.vocab_size)

    def tokens(self) -> list[bytes]:
        return self.vocabulary.tokens


class NanobpeGpt2(Nanobpe):
    """Ours at gigatoken's work: GPT-2's pattern."""

    reference = "gigatoken"
    ours = "nanobpe-gpt2"
    pattern = GPT2_PATTERN


class Rustbpe(Trainer):
    """Tells through Python's logging when it has counted; threads come from RAYON_NUM_THREADS, as for all below."""

    module = "rustbpe"
    reference = "rustbpe"

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        import rustbpe

        self.tokenizer = rustbpe.Tokenizer()
        self.counted_at: float | None = None
        logger = logging.getLogger("rustbpe")
        logger.setLevel(logging.INFO)
        logger.addFilter(self.watch)

    def watch(self, record: logging.LogRecord) -> bool:
        if record.getMessage().startswith("Processed "):
            self.counted_at = time.perf_counter()
        return False

    def train(self) -> None:
        start = time.perf_counter()
        self.tokenizer.train_from_iterator(iter(self.task.texts), self.task.vocab_size, pattern=nanobpe.GPT4_PATTERN)
        self.counting_s = self.counted_at and self.counted_at - start

    def tokens(self) -> list[bytes]:
        ranks = sorted(self.tokenizer.get_mergeable_ranks(), key=lambda entry: entry[1])
        return [bytes(token) for token, _ in ranks]


class HuggingFace(Trainer):
    """Orders equal pairs by its own alphabet, so that its merges differ in ties and are not compared."""

    module = "tokenizers"
    reference = None
    slow = True

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

        self.tokenizer: Any = Tokenizer(models.BPE())
        split = pre_tokenizers.Split(Regex(nanobpe.GPT4_PATTERN), behavior="isolated")
        bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self.tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_only])
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        self.trainer = trainers.BpeTrainer(vocab_size=task.vocab_size, initial_alphabet=alphabet, show_progress=False)

    def train(self) -> None:
        self.tokenizer.train_from_iterator(self.task.texts, self.trainer)

    def tokens(self) -> None:
        return None


class Gigatoken(Trainer):
    """Its `raw_token_ids` breaks ties as nanobpe does; how long it counted is its own word, said on stderr."""

    module = "gigatoken"
    reference = "gigatoken"
    ours = "nanobpe-gpt2"
    reads_file = True

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        import gigatoken

        self.train_bpe = gigatoken.train_bpe

    def train(self) -> None:
        with tempfile.TemporaryFile() as said:
            stderr = os.dup(2)
            os.dup2(said.fileno(), 2)
            try:
                self.vocabulary, _ = self.train_bpe(
                    str(self.task.file), self.task.vocab_size, [], tie_breaking="raw_token_ids", separator=SEPARATOR
                )
            finally:
                os.dup2(stderr, 2)
                os.close(stderr)
            said.seek(0)
            found = re.search(r"Pretokenization took ([\d.]+)(s|ms|\u00b5s)", said.read().decode(errors="replace"))
        if found:
            self.counting_s = float(found[1]) * {"s": 1, "ms": 1e-3, "\u00b5s": 1e-6}[found[2]]

    def tokens(self) -> list[bytes]:
        return [self.vocabulary[token_id] for token_id in range(len(self.vocabulary))]


CONTENDERS: dict[str, type[Trainer]] = {
    "nanobpe": Nanobpe,
    "rustbpe": Rustbpe,
    "tokenizers": HuggingFace,
    "nanobpe-gpt2": NanobpeGpt2,
    "gigatoken": Gigatoken,
}
