"""How fast conversations become packed rows: the stage `midtrain_data` beside one conversation at a time.

    python -m benchmarks.chat_rows [--conversations FILE.jsonl] [--repeats 3]

Both make the same rows (asserted) of the same conversations with one tokenizer of 8,192 tokens, learned from them. The
slow way is what midtraining did in the GPU stage until 2026-11: render (tiktoken), pack. Rounds alternate; medians.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from nanochat.artifacts.metrics import Metrics
from nanochat.data import own_conversations
from nanochat.data.chat_template import Rendered, render
from nanochat.data.conversation_packing import PackedRows, pack
from nanochat.data.special_tokens import SPECIAL_TOKENS
from nanochat.data.tokenizer import Tokenizer
from nanochat.pipeline import MidtrainData
from nanochat.stages import chat_data
from nanochat.tasks.mixture import Mixture, parse_mixture
from nanochat.workflow.stage import StageContext


def main() -> None:
    """Prints seconds of both ways and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--conversations", default="../shared/data/conversations/mix_train.jsonl")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(arguments.conversations), arguments.repeats, Path(folder))


def measure(file: Path, repeats: int, folder: Path) -> None:
    """Alternates the two ways and checks that the rows are equal; reading the file is no part of it."""
    tokenizer, stage = learned(file), MidtrainData(mixture=f"jsonl:{file}").resolved()
    own = {name: chat_data.OwnConversations("train", file, name) for name in parse_mixture(stage.mixture)}
    mixture = Mixture(parse_mixture(stage.mixture), "train", None, stage.seed, own)
    ctx = StageContext({}, {}, folder, folder, Metrics(None))

    def rows(rendered: Iterable[Rendered]) -> PackedRows:
        return pack(rendered, stage.sequence_len, tokenizer.vocab_size, tokenizer.bos)

    seconds: dict[str, list[float]] = {"stage": [], "one at a time": []}
    for _ in range(repeats):
        began = time.perf_counter()
        ours = rows(chat_data.render_all(tokenizer, mixture, range(len(mixture)), 0, ctx))
        seconds["stage"].append(time.perf_counter() - began)
        began = time.perf_counter()
        theirs = rows(render(tokenizer, one["messages"]) for one in mixture)
        seconds["one at a time"].append(time.perf_counter() - began)
        assert np.array_equal(ours.tokens, theirs.tokens)
        assert np.array_equal(ours.labels, theirs.labels)
    fast, slow = (statistics.median(each) for each in seconds.values())
    count = len(mixture)
    print(f"{count:,} conversations, {ours.counts.tokens:,} tokens in {len(ours.tokens):,} rows")
    print(f"stage {fast:.2f} s ({count / fast:,.0f} conversations/s), one at a time {slow:.2f} s: {slow / fast:.2f}x")


def learned(file: Path) -> Tokenizer:
    """A tokenizer of 8,192 tokens from the text of the conversations."""
    import nanobpe

    texts = [str(message["content"]) for one in own_conversations.read(file) for message in one["messages"]]
    vocabulary = nanobpe.train(texts, vocab_size=8192 - len(SPECIAL_TOKENS))
    return Tokenizer(tuple(vocabulary.tokens), vocabulary.pattern)


if __name__ == "__main__":
    main()
