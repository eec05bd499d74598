"""Learns the tokenizer, in Rust, from the words that were counted of every training shard.

Promises: the tokens depend on the counts alone; what the corpus is too small for is refused by knob. Not here: the
counting (word_counts.py), encoding (data/tokenizer.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanochat.data.shards import COUNTS, text_batches, truncated_texts
from nanochat.data.tokenizer import SPECIAL_TOKENS, Tokenizer, bytes_per_token

if TYPE_CHECKING:
    from nanochat import pipeline
    from nanochat.workflow.stage import StageContext

_SAMPLE_CHARACTERS = 1_000_000  # of validation text; bytes per token varies in the third digit beyond that


def run(stage: pipeline.Tokenizer, ctx: StageContext) -> dict[str, float]:
    """Learns `stage.vocab_size` tokens, specials included, from the words of all training shards.

    Memory grows with the distinct words, not with the text. The returned `bytes_per_token` is measured on the
    validation shard.
    """
    import nanobpe

    try:
        counts = nanobpe.Counts.load(*(part / COUNTS for part in ctx.parts("word_counts")[1:]))
        vocabulary = nanobpe.learn(counts, vocab_size=stage.vocab_size - len(SPECIAL_TOKENS))
    except (nanobpe.VocabularySizeError, nanobpe.CorpusTooSmallError, nanobpe.EmptyCorpusError) as error:
        knobs = f"tokenizer.vocab_size = {stage.vocab_size} (of them {len(SPECIAL_TOKENS)} special)"
        raise ValueError(f"{knobs}, or take more text (download.num_shards, word_counts.max_chars): {error}") from error
    tokenizer = Tokenizer(tuple(vocabulary.tokens), vocabulary.pattern)
    tokenizer.save(ctx.out / "tokenizer.json")
    validation = text_batches(ctx.parts("download")[0] / "text.parquet")
    sample = truncated_texts(validation, _SAMPLE_CHARACTERS, _SAMPLE_CHARACTERS)
    return {
        "vocab_size": tokenizer.vocab_size,
        "distinct_words": len(counts),
        "bytes_counted": counts.total_bytes,
        "bytes_per_token": bytes_per_token(tokenizer, [text for texts in sample for text in texts.to_pylist()]),
    }
