"""Measures the base model: bits per byte on the pinned shard, CORE on what was fetched, and what it says when let go.

Promises: the numbers are those of the same rows and questions whatever the batch and the number of ranks, and every
rank returns them; only rank 0 writes; scores.json says how many CORE tasks the figure stands for (22 is the whole).
Not here: CORE's rules and bits per byte (nanochat/evaluation/).
"""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from nanochat.data.rows import Rows
from nanochat.data.tokenizer import Tokenizer
from nanochat.evaluation import scores
from nanochat.evaluation.bits_per_byte import bits_per_byte
from nanochat.evaluation.core_bundle import NUM_TASKS, CoreTask
from nanochat.evaluation.core_bundle import load as load_core
from nanochat.evaluation.core_metric import ask_task
from nanochat.evaluation.scores import TaskScore
from nanochat.inference.engine import Engine
from nanochat.inference.load import load
from nanochat.model.gpt import GPT
from nanochat.stages.trainer import process_group
from nanochat.training.distributed import World, barrier
from nanochat.workflow.stage import StageContext

if TYPE_CHECKING:
    from nanochat.pipeline import BaseEval

PROMPTS = (
    "The capital of France is",
    "The chemical symbol of gold is",
    "If yesterday was Friday, then tomorrow will be",
    "The opposite of hot is",
    "The planets of the solar system are:",
    "Return the number of",
)
SAMPLE_TOKENS = 48


def run(stage: BaseEval, ctx: StageContext) -> dict[str, float]:
    """Writes scores.json and samples.md; returns `bits_per_byte` and, with tasks, `core` and `core_tasks`."""
    tasks = load_core(ctx["core_data"], stage.core_max_per_task)
    with process_group(stage) as world:
        model, tokenizer = load(ctx["pretrain"], stage.device, stage.dtype, world.local_rank)
        rows = Rows(ctx["tokenize"], ctx.parts("tokenize")[:1])  # the pinned shard
        used = rows[: stage.eval_rows]  # (N, T + 1)
        token_bytes = np.load(ctx["pretrain"] / "token_bytes.npy")
        bpb = bits_per_byte(model, used, token_bytes, stage.device_batch_size, stage.eval_rows, world)
        metrics, errors = {"bits_per_byte": bpb}, {}
        asked: dict[str, Any] = {"rows": hashlib.sha256(used.astype("<i8").tobytes()).hexdigest()}
        results, digests = _core(stage, ctx, model, tokenizer, tasks, world)
        if results:
            metrics |= {"core": scores.mean_centered(results.values()), "core_tasks": float(len(results))}
            errors, asked["core"] = {"core": scores.standard_error(results.values())}, digests
        if world.rank == 0:
            (ctx.out / "samples.md").write_text(_samples(model, tokenizer, used[0].tolist()), encoding="utf-8")
            note = f"CORE over {len(results)} of {NUM_TASKS} tasks, at most {stage.core_max_per_task} examples each"
            scores.write(ctx.out, metrics, results, asked, errors, note=note if results else "no CORE tasks were asked")
        barrier()
    return metrics


def _tell(ctx: StageContext, before: int, total: int, done: int) -> None:
    ctx.metrics.progress(before + done, total, "CORE questions")


def _core(
    stage: BaseEval,
    ctx: StageContext,
    model: GPT,
    tokenizer: Tokenizer,
    tasks: list[tuple[CoreTask, list[dict[str, Any]]]],
    world: World,
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
            progress=partial(_tell, ctx, before, total),
            world=world,
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
