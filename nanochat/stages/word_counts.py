"""Counts the words of one shard, which is all that learning a tokenizer needs to know of it: shards are counted side by
side, on as many machines as there are, and the counts add up to those of the whole text.

Promises that the counts depend on the text alone, and memory that is bounded by the distinct words and one batch of
texts; text goes from the file to the counter without becoming Python strings. The validation shard is not counted: no
token may come from it. It does not learn merges (stages/tokenizer.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from nanochat.data.python_bpe import SPLIT_PATTERN
from nanochat.data.shards import COUNTS, text_batches, truncated_texts

if TYPE_CHECKING:
    import pyarrow as pa

    from nanochat.pipeline import WordCounts
    from nanochat.workflow.stage import StageContext


def run(stage: WordCounts, ctx: StageContext) -> dict[str, float]:
    """Writes words.counts and stats.json of this part; of part 0, the validation shard, only that nothing was counted.

    Reads the shard's first `max_chars` characters, at most `doc_cap` of one document.
    """
    stats = {"characters": 0, "bytes": 0, "distinct_words": 0}
    if ctx.part != 0:
        import nanobpe

        total = min(
            stage.max_chars, json.loads((ctx["download"] / "stats.json").read_text(encoding="utf-8"))["characters"]
        )
        read = _Progress(ctx, total)
        texts = truncated_texts(text_batches(ctx["download"] / "text.parquet"), stage.max_chars, stage.doc_cap)
        counts = nanobpe.count(read.along(texts), pattern=SPLIT_PATTERN, threads=stage.threads or None)
        counts.save(ctx.out / COUNTS)
        stats = {"characters": read.characters, "bytes": counts.total_bytes, "distinct_words": len(counts)}
    (ctx.out / "stats.json").write_text(json.dumps(stats), encoding="utf-8")
    return {name: float(value) for name, value in stats.items()}


def gather(stage: WordCounts, ctx: StageContext) -> dict[str, float]:
    """Writes index.json: what was counted of each part."""
    parts = [json.loads((part / "stats.json").read_text(encoding="utf-8")) for part in ctx.parts(stage.name)]
    (ctx.out / "index.json").write_text(json.dumps({"parts": parts}, indent=1), encoding="utf-8")
    return {name: float(sum(part[name] for part in parts)) for name in ("characters", "bytes")}


class _Progress:
    """Counts the characters that pass, and reports them some hundred times."""

    def __init__(self, ctx: StageContext, total: int) -> None:
        self.metrics, self.total, self.characters, self._reported = ctx.metrics, total, 0, 0

    def along(self, batches: Iterable[pa.Array]) -> Iterator[pa.Array]:
        import pyarrow.compute as pc

        for texts in batches:
            yield texts
            self.characters += pc.sum(pc.utf8_length(texts)).as_py() or 0
            if (self.characters - self._reported) * 100 >= self.total:
                self._report(self.total)
        self._report(self.characters)  # less than the total where documents were cut

    def _report(self, total: int) -> None:
        self._reported = self.characters
        self.metrics.progress(self.characters, total, "characters")
