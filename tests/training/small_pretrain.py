"""A very small pretraining, in this process (`pretrained`) or as one of its own: `python small_pretrain.py ROOT NAME KNOBS`.

KNOBS is JSON. Exits as a stage does: 0 done, 75 saved and to be started again. Rows repeat three of sixteen tokens, so that
there is something to learn in a few steps. It tests nothing by itself.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from nanochat.artifacts.metrics import Metrics
from nanochat.errors import Interrupted
from nanochat.pipeline import Pretrain
from nanochat.stages.pretrain import run as pretrain
from nanochat.workflow.launch import RESUME_EXIT_CODE
from nanochat.workflow.stage import StageContext

VOCAB_SIZE, SEQUENCE_LEN = 300, 16
SMALL = {
    "depth": 1,
    "aspect_ratio": 32,
    "head_dim": 16,
    "total_batch_size": 8 * SEQUENCE_LEN,
    "num_steps": 12,
    "device_batch_size": 4,
    "device": "cpu",
    "compile": False,
    "log_every": 1,
    "checkpoint_every": 3,
    "eval_every": 4,
}


def place(root: Path, name: str, num_rows: int = 200) -> StageContext:
    """A place for the run `name`, with a corpus of `num_rows` packed rows under `root` that all runs share.

    Every rank of a run calls this, so that the corpus is made aside and renamed: nobody reads half of it.
    """
    if not (root / "corpus").exists():
        aside = Path(tempfile.mkdtemp(dir=root))
        _corpus(aside, num_rows)
        with suppress(OSError):  # another rank was first
            aside.rename(root / "corpus")
    tokenizer, tokenize = root / "corpus" / "tokenizer", root / "corpus" / "tokenize"
    for folder in ("out", "work"):
        (root / name / folder).mkdir(parents=True, exist_ok=True)
    metrics = Metrics(root / name / "metrics.jsonl" if os.environ.get("RANK", "0") == "0" else None)
    parts = (tokenize / "part0", tokenize / "part1")
    inputs = {"tokenizer": tokenizer, "tokenize": tokenize}
    return StageContext(inputs, {"tokenize": parts}, root / name / "out", root / name / "work", metrics)


def _corpus(folder: Path, num_rows: int) -> None:
    tokenize, tokenizer = folder / "tokenize", folder / "tokenizer"
    for index, count in enumerate((24, num_rows)):
        _shard(tokenize / f"part{index}", count)
    index = {"sequence_len": SEQUENCE_LEN, "vocab_size": VOCAB_SIZE, "dtype": "uint16"}
    (tokenize / "index.json").write_text(json.dumps(index), encoding="utf-8")
    np.save(tokenize / "token_bytes.npy", np.ones(VOCAB_SIZE, np.int32))
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_text("{}", encoding="utf-8")


def _shard(directory: Path, count: int) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(count)
    rhymes = np.tile(draw.integers(0, 16, (count, 3)), (1, SEQUENCE_LEN))[:, : SEQUENCE_LEN + 1]
    rhymes.astype("<u2").tofile(directory / "rows.bin")
    (directory / "stats.json").write_text(json.dumps({"rows": count, "bytes": count * SEQUENCE_LEN}), encoding="utf-8")


def pretrained(root: Path, name: str, **knobs: object) -> dict[str, float]:
    """Runs it in this process and returns its numbers."""
    return pretrain(Pretrain(**SMALL | knobs), place(root, name))


if __name__ == "__main__":
    try:
        pretrained(Path(sys.argv[1]), sys.argv[2], **json.loads(sys.argv[3]))
    except Interrupted:
        sys.exit(RESUME_EXIT_CODE)
