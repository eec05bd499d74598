"""Measures the base model: bits per byte on the pinned shard, CORE on the tasks at hand, and what it says when let go.

Promises: the numbers are those of the same rows and questions whatever the batch; scores.json says how many CORE tasks
the figure stands for (22 is the whole of it); a named task that is not at hand is refused before the model is loaded.
Not here: CORE's rules (nanochat/core.py, nanochat/core_questions.py), bits per byte (nanochat/bits_per_byte.py).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nanochat import scores
from nanochat.bits_per_byte import bits_per_byte
from nanochat.checkpoint import load_model
from nanochat.core import ask_task
from nanochat.core_questions import NUM_TASKS, CoreTask, load_examples, load_tasks
from nanochat.device import compute_dtype
from nanochat.distributed import start
from nanochat.engine import Engine
from nanochat.model import GPT
from nanochat.rows import Rows
from nanochat.scores import TaskScore
from nanochat.stage import Place
from nanochat.tokenizer import Tokenizer

if TYPE_CHECKING:
    from nanochat.pipeline import BaseEval, ChatEval

PROMPTS = (
    "The capital of France is",
    "The chemical symbol of gold is",
    "If yesterday was Friday, then tomorrow will be",
    "The opposite of hot is",
    "The planets of the solar system are:",
    "Return the number of",
)
SAMPLE_TOKENS = 48


def base_eval(stage: BaseEval, place: Place) -> dict[str, float]:
    """Writes scores.json and samples.md; returns `bits_per_byte` and, where tasks are named, `core` and `core_tasks`.

    Raises:
        ValueError: a CORE task is not in the bundle, or the bundle is not there.
    """
    tasks = [(t, load_examples(t, stage.core_max_per_task)) for t in load_tasks(stage.core_data, stage.core)]
    model, tokenizer = load(place["pretrain"], stage)
    rows = Rows.validation(place)
    used = rows[: stage.eval_rows]  # (N, T + 1)
    token_bytes = np.load(place["pretrain"] / "token_bytes.npy")
    bpb = bits_per_byte(model, used, token_bytes, stage.device_batch_size, stage.eval_rows)
    metrics = {"bits_per_byte": bpb}
    asked: dict[str, Any] = {"rows": hashlib.sha256(used.astype("<i8").tobytes()).hexdigest()}
    results, digests = _core(stage, place, model, tokenizer, tasks)
    if results:
        metrics |= {"core": scores.mean_centered(results.values()), "core_tasks": float(len(results))}
        asked["core"] = digests
    (place.out / "samples.md").write_text(_samples(model, tokenizer, used[0].tolist()), encoding="utf-8")
    note = f"CORE over {len(results)} of {NUM_TASKS} tasks, at most {stage.core_max_per_task} examples each"
    return scores.write(place.out, metrics, results, asked, note=note if results else "no CORE tasks were asked")


def load(artifact: Path, stage: BaseEval | ChatEval) -> tuple[GPT, Tokenizer]:
    """Model and tokenizer of a trained stage, on the device and in the precision of the stage."""
    device = start(stage.device).device
    model, _ = load_model(artifact, device)
    model.compute_dtype = compute_dtype(stage.dtype, device)
    return model.eval(), Tokenizer.from_file(artifact / "tokenizer.json")


def _core(
    stage: BaseEval,
    place: Place,
    model: GPT,
    tokenizer: Tokenizer,
    tasks: list[tuple[CoreTask, list[dict[str, Any]]]],
) -> tuple[dict[str, TaskScore], dict[str, str]]:
    """Score and digest of the questions per CORE task."""
    results, digests = {}, {}
    limit = stage.core_max_per_task
    total, before = sum(min(limit, len(examples)) for _, examples in tasks), 0
    for task, examples in tasks:
        results[task.label], digests[task.label] = ask_task(
            model,
            tokenizer,
            task,
            examples,
            limit,
            tokens_per_batch=stage.device_batch_size * model.config.sequence_len,
            progress=lambda done, before=before: place.metrics.progress(before + done, total, "CORE questions"),
        )
        before += results[task.label].n
    return results, digests


def _samples(model: GPT, tokenizer: Tokenizer, row: list[int]) -> str:
    """Greedy continuations of fixed prompts, and of held-out text beside what really follows there."""
    count = min(SAMPLE_TOKENS, model.config.sequence_len // 2)
    prompts = [[tokenizer.bos, *tokenizer.encode(text)][:count] for text in PROMPTS] + [row[:count]]
    said = Engine(model, tokenizer, calculator=False).generate(prompts, count)
    lines = ["# Samples of the base model", "", f"Greedy, {count} tokens."]
    for prompt, completion in zip(prompts, said, strict=True):
        lines += ["", f"**{_inline(tokenizer.decode(prompt[1:]))}** {_inline(completion.text)}"]
    truth = tokenizer.decode(row[count : 2 * count])
    return "\n".join([*lines, "", f"(In the held-out text follows: {_inline(truth)})", ""])


def _inline(text: str) -> str:
    return " ".join(text.split()).replace("*", "\\*")
