"""Counts the words of one shard, which is all that learning a tokenizer needs to know of it: shards are counted side by
side, on as many machines as there are, and the counts add up to those of the whole text.

Promises that the counts depend on the text alone, and memory that is bounded by the distinct words and one batch of
texts; text goes from the file to the counter without becoming Python strings. The validation shard is not counted: no
token may come from it. It does not learn merges (tokenizer.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nanochat.plain_encoder import SPLIT_PATTERN

if TYPE_CHECKING:
    import pyarrow as pa

    from nanochat.pipeline import WordCounts
    from nanochat.stage import Place

COUNTS = "words.counts"
_BATCH_TEXTS = 1024  # a row group of text.parquet


def count_words(stage: WordCounts, place: Place) -> dict[str, float]:
    """Writes words.counts and stats.json of this part; of part 0, the validation shard, only that nothing was counted.

    Reads the shard's first `max_chars` characters, at most `doc_cap` of one document.
    """
    stats = {"characters": 0, "bytes": 0, "distinct_words": 0}
    if place.part != 0:
        import nanobpe

        total = min(
            stage.max_chars, json.loads((place["download"] / "stats.json").read_text(encoding="utf-8"))["characters"]
        )
        read = _Progress(place, total)
        texts = beginnings(text_batches(place["download"] / "text.parquet"), stage.max_chars, stage.doc_cap)
        counts = nanobpe.count(read.along(texts), pattern=SPLIT_PATTERN, threads=stage.threads or None)
        counts.save(place.out / COUNTS)
        stats = {"characters": read.characters, "bytes": counts.total_bytes, "distinct_words": len(counts)}
    (place.out / "stats.json").write_text(json.dumps(stats), encoding="utf-8")
    return {name: float(value) for name, value in stats.items()}


def gather(stage: WordCounts, place: Place) -> dict[str, float]:
    """Writes index.json: what was counted of each part."""
    parts = [json.loads((part / "stats.json").read_text(encoding="utf-8")) for part in place.parts(stage.name)]
    (place.out / "index.json").write_text(json.dumps({"parts": parts}, indent=1), encoding="utf-8")
    return {name: float(sum(part[name] for part in parts)) for name in ("characters", "bytes")}


def text_batches(file: Path) -> Iterator[pa.Array]:
    """The texts of a shard, in order, never more than a batch in memory."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as shard:
        for batch in shard.iter_batches(batch_size=_BATCH_TEXTS, columns=["text"]):
            yield batch.column(0)


def beginnings(batches: Iterable[pa.Array], most: int, most_per_text: int) -> Iterator[pa.Array]:
    """The beginnings of the texts, up to `most_per_text` characters each, until they make `most` together."""
    import pyarrow.compute as pc

    for batch in (some.drop_null() for some in batches):
        texts = pc.utf8_slice_codeunits(batch, 0, min(most, most_per_text))
        ends = pc.cumulative_sum(pc.utf8_length(texts).cast("int64"))  # characters up to the end of each text
        whole = pc.sum(pc.less_equal(ends, most)).as_py() or 0
        yield texts[:whole]
        most -= ends[whole - 1].as_py() if whole else 0
        if whole < len(texts):
            yield pc.utf8_slice_codeunits(texts[whole : whole + 1], 0, most)
            return
        if not most:
            return


class _Progress:
    """Counts the characters that pass, and reports them some hundred times."""

    def __init__(self, place: Place, total: int) -> None:
        self.metrics, self.total, self.characters, self._reported = place.metrics, total, 0, 0

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
