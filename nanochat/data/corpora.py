"""The corpora that are known by name: where their shards are, how many there are, and which one is pinned.

A new one is an entry of the table. Promises: what an entry says is all that `download.corpus=NAME` needs; its last
shard is the validation shard and is never trained on. Standard library only; it fetches nothing. Not here: what the
knobs mean together (sources.py), folders of one's own (own_text.py).
"""

from __future__ import annotations

import dataclasses

PYTHON_DOCS = "python-docs"


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A corpus in numbered shards, counted from 0; sizes are rough."""

    name: str
    url: str  # with {index:05d}; empty: made on this machine
    num_shards: int  # all there are, the pinned one included
    validation_shard: int  # -1: it holds out documents of its own
    text_column: str
    licence: str
    source: str  # the page that describes it
    shard_bytes: int  # of a file
    shard_characters: int

    @property
    def num_training_shards(self) -> int:
        """How many there are to train on: those before the pinned one, or all."""
        return self.num_shards if self.validation_shard < 0 else self.num_shards - 1


def _published(name: str, dataset: str, num_shards: int, licence: str, source: str) -> Corpus:
    """A Hugging Face data set of parquet shards of 250 million characters, of which the last is pinned."""
    url = f"https://huggingface.co/datasets/{dataset}/resolve/main/shard_{{index:05d}}.parquet"
    return Corpus(name, url, num_shards, num_shards - 1, "text", licence, source, 100_000_000, 250_000_000)


_ALL = (
    Corpus(
        PYTHON_DOCS,
        url="",
        num_shards=4,  # fixed, so that a shard holds the same text however many are taken
        validation_shard=-1,
        text_column="text",
        licence="of Python and of each installed package",
        source="https://docs.python.org/3/license.html",
        shard_bytes=5_000_000,
        shard_characters=12_000_000,
    ),
    _published(
        "fineweb-edu",
        "karpathy/fineweb-edu-100b-shuffle",
        1823,
        licence="ODC-By 1.0",
        source="https://huggingface.co/datasets/HuggingFaceFW/fineweb-edu",
    ),
    _published(
        "climbmix",
        "karpathy/climbmix-400b-shuffle",
        6543,
        licence="CC BY-NC 4.0",
        source="https://huggingface.co/datasets/nvidia/Nemotron-ClimbMix",
    ),
)
CORPORA: dict[str, Corpus] = {each.name: each for each in _ALL}
