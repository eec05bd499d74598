"""A corpus of two tiny parquet shards and the settings that make the recipe `micro` as small as it can be.

`make(directory)` writes the shards and returns the settings for the command line; the text is the same every time.
It does not test anything.
"""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow
import pyarrow.parquet

TEXT = "the a model token learns reads writes numbers from text and then it answers questions about cats 12 7 345"
NUM_DOCUMENTS = 200  # a shard
TRAINED = ("pretrain", "midtrain", "sft", "rl")
ASKED = ("chat_eval_mid", "chat_eval_sft", "chat_eval_rl")
MICRO = [
    *(f"{stage}.{knob}" for stage in TRAINED for knob in ("num_steps=2", "checkpoint_every=1", "device=cpu")),
    *(f"{stage}.{knob}" for stage in ASKED for knob in ("max_problems=2", "max_new_tokens=4", "device=cpu")),
    "base_eval.eval_rows=2",
    "base_eval.device=cpu",
    "rl.max_new_tokens=4",
]


def make(directory: Path) -> list[str]:
    """Writes shard 0 (training) and shard 1 (validation); the settings for `nanochat run micro`."""
    directory.mkdir(parents=True, exist_ok=True)
    for index in range(2):
        pyarrow.parquet.write_table(pyarrow.table({"text": _documents(index)}), shard(directory, index))
    url = f"file://{directory.absolute()}/shard_{{index:05d}}.parquet"
    return ["download.corpus=toy", f"download.url={url}", "download.validation_shard=1", *MICRO]


def shard(directory: Path, index: int) -> Path:
    """Where `make` puts a shard."""
    return directory / f"shard_{index:05d}.parquet"


def _documents(seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(TEXT.split(), k=draw.randint(20, 100))) + "." for _ in range(NUM_DOCUMENTS)]
