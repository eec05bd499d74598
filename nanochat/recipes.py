"""Named settings: a recipe is a function that returns stages with knobs set; its docstring is its description.

Depth is the one dial; a recipe sets it and what its hardware or its data demand. `apply` puts single knobs on top
(`rl.num_steps=50`, or `seed=2` for every stage that has it). Nothing here is executed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from nanochat.errors import unknown
from nanochat.pipeline import (
    BaseEval,
    ChatEvalMid,
    ChatEvalRl,
    ChatEvalSft,
    CoreData,
    Download,
    Midtrain,
    MidtrainData,
    Pretrain,
    Register,
    Report,
    Rl,
    Sft,
    SftData,
    TaskData,
    Tokenize,
    Tokenizer,
    WordCounts,
)
from nanochat.workflow.stage import Stage

Recipe = Callable[[], list[Stage]]
RECIPES: dict[str, Recipe] = {}


def recipe(function: Recipe) -> Recipe:
    """Lists a recipe under its function's name, underscores as dashes."""
    RECIPES[function.__name__.replace("_", "-")] = function
    return function


def stages_of(name: str) -> list[Stage]:
    """The stages of a recipe. ValueError names the nearest one if there is none of that name."""
    if name not in RECIPES:
        raise ValueError(unknown("recipe", name, RECIPES))
    return RECIPES[name]()


def description(name: str) -> str:
    """The first sentence of a recipe's docstring."""
    return (RECIPES[name].__doc__ or "").split("\n")[0]


def apply(stages: Iterable[Stage], settings: Iterable[str]) -> list[Stage]:
    """Puts `STAGE.KNOB=VALUE` or, for every stage that has it, `KNOB=VALUE` on top of a recipe, in order."""
    by_name = {stage.name: stage for stage in stages}
    changes: dict[str, dict[str, str]] = {name: {} for name in by_name}
    for setting in settings:
        target, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"{setting!r}: write STAGE.KNOB=VALUE or KNOB=VALUE")
        name, dot, knob = target.rpartition(".")
        if dot and name not in by_name:
            raise ValueError(unknown("stage", name, by_name))
        chosen = [name] if dot else [n for n, stage in by_name.items() if knob in stage.knobs()]
        if not chosen:
            raise ValueError(unknown("knob", knob, {k for stage in by_name.values() for k in stage.knobs()}))
        for each in chosen:
            changes[each][knob] = value
    # all knobs of a stage at once: a corpus and its url are right only together
    return [stage.replaced(**changes[name]) if changes[name] else stage for name, stage in by_name.items()]


TINY_TASKS = "identity, chitchat, arithmetic, calculations:100, word_problems:100, spelling, counting, first_messages"
TINY_MIDTRAIN = (
    "spelling:9000, counting:6000, arithmetic:4000, calculations:4500, word_problems:3000, identity:4000, "
    "chitchat:5500, series:400, first_messages:200"
)
TINY_SFT = (
    "spelling:5000, counting:3500, arithmetic:2500, calculations:3000, word_problems:2500, identity:2500, "
    "chitchat:3500, series:300, first_messages:200"
)


@recipe
def tiny() -> list[Stage]:
    """The whole pipeline on two CPU cores in five to twelve minutes, with the embedded corpus and generated tasks."""
    asked: dict[str, Any] = {"tasks": TINY_TASKS, "max_problems": 300, "max_new_tokens": 80, "device_batch_size": 100}
    steps: dict[str, Any] = {"total_batch_size": 4096, "device_batch_size": 16, "checkpoint_every": 100}
    # 4,096 tokens a step are few for the modern rates: docs/log.md, 2026-11-28
    short: dict[str, Any] = {"warmup_steps": 20, "warmdown_ratio": 0.4, "final_lr_frac": 0.0, "scalar_lr": 0.1}
    often: dict[str, Any] = {
        "log_every": 1,
        "checkpoint_every": 10,
        "compile": False,
    }
    return [
        Download(),
        WordCounts(max_chars=20_000_000),
        Tokenizer(vocab_size=2048),
        Tokenize(sequence_len=256),
        TaskData(),
        CoreData(),
        Pretrain(depth=4, aspect_ratio=32, head_dim=64, num_steps=400, eval_every=100, **steps, **short),
        BaseEval(eval_rows=512),
        MidtrainData(mixture=TINY_MIDTRAIN, sequence_len=256),
        Midtrain(num_steps=240, **steps),
        ChatEvalMid(**asked),
        SftData(mixture=TINY_SFT, sequence_len=256),
        Sft(num_steps=400, total_batch_size=2048, device_batch_size=8, checkpoint_every=100),
        ChatEvalSft(**asked),
        Rl(task="arithmetic", num_steps=40, samples_per_prompt=8, max_new_tokens=48, lr_frac=0.09, **often),
        ChatEvalRl(**asked),
        Report(),
        Register(metric="chatcore"),
    ]


@recipe
def micro() -> list[Stage]:
    """Seconds a stage and nothing learned: for tests of the machinery. Give it a corpus of your own."""
    asked: dict[str, Any] = {
        "tasks": "arithmetic, identity",
        "max_problems": 4,
        "max_new_tokens": 8,
        "device_batch_size": 4,
    }
    every: dict[str, Any] = {"num_steps": 12, "log_every": 1, "checkpoint_every": 3, "compile": False}
    steps: dict[str, Any] = {"total_batch_size": 128, "device_batch_size": 2, **every}
    rl: dict[str, Any] = {**every, "device_batch_size": 2, "num_steps": 6, "checkpoint_every": 2}
    return [
        Download(),
        WordCounts(max_chars=100_000),
        Tokenizer(vocab_size=320),
        Tokenize(sequence_len=64, buffer_docs=50),
        TaskData(),
        CoreData(),
        Pretrain(depth=1, aspect_ratio=32, head_dim=16, weight_decay=0.0, **steps),
        BaseEval(eval_rows=8),
        MidtrainData(mixture="arithmetic:40, identity:40", sequence_len=64),
        Midtrain(**steps),
        ChatEvalMid(**asked),
        SftData(mixture="arithmetic:40, identity:40", sequence_len=64),
        Sft(**steps),
        ChatEvalSft(**asked),
        Rl(task="arithmetic", prompts_per_step=2, samples_per_prompt=2, max_new_tokens=8, **rl),
        ChatEvalRl(**asked),
        Report(),
        Register(),
    ]


def _real(
    depth: int,
    num_shards: int,
    *,
    corpus: str = "climbmix",
    architecture: Literal["modern", "classic"] = "modern",
    tokens_per_parameter: float = 0.0,
    vocab_size: int = 32768,
    num_ranks: int = 8,
) -> list[Stage]:
    """A run on real data and GPUs: corpora and task mixtures of the reference (its commit 4a87a0d and later)."""
    asked: dict[str, Any] = {
        "tasks": "arc_easy, arc_challenge, mmlu, gsm8k, humaneval, letter_counting:256",
        "max_problems": 20_000,
    }
    classic = architecture == "classic"
    ranks: dict[str, Any] = {"num_ranks": num_ranks}
    look: dict[str, Any] = {"eval_rows": 5_120, "final_eval_rows": 20_480}  # 10.5 and 41.9 million tokens
    model: dict[str, Any] = {"depth": depth, "architecture": architecture, "tokens_per_parameter": tokens_per_parameter}
    return [
        Download(corpus=corpus, num_shards=num_shards),
        WordCounts(max_chars=2_000_000_000 // num_shards),
        Tokenizer(vocab_size=vocab_size),
        Tokenize(packing="stream" if classic else "best_fit"),
        TaskData(tasks="smoltalk, mmlu, gsm8k, arc_easy, arc_challenge, humaneval", words="english"),
        CoreData(tasks="all"),
        Pretrain(**model, eval_every=250, **look, **ranks),
        BaseEval(eval_rows=20_480, **ranks),
        MidtrainData(
            mixture="smoltalk:460000, mmlu:100000, gsm8k:8000, identity_conversations:2000, spelling:200000, "
            "letter_counting:80000"
        ),
        Midtrain(warmdown_ratio=0.2, **ranks, eval_every=150),
        ChatEvalMid(**asked, **ranks),
        SftData(
            mixture="arc_easy:2300, arc_challenge:1100, gsm8k:8000, smoltalk:10000, "
            "identity_conversations:1000, spelling:300, letter_counting:300"
        ),
        Sft(
            total_batch_size=16_384,  # about 32 conversations a step, as in the reference
            lr_frac=0.02,
            warmdown_ratio=1.0,
            **ranks,
            eval_every=100,
        ),
        ChatEvalSft(**asked, **ranks),
        Rl(task="gsm8k", num_steps=467, **ranks, device_batch_size=8, eval_every=60, eval_problems=400),
        ChatEvalRl(**asked, **ranks),
        Report(),
        Register(),
    ]


@recipe
def small() -> list[Stage]:
    """Real data on two CPU cores in well under an hour; give it text of your own: corpus=FOLDER."""
    asked: dict[str, Any] = {
        "tasks": "arc_easy, arc_challenge, mmlu, gsm8k, humaneval, letter_counting, spelling, arithmetic",
        "max_problems": 300,
        "max_new_tokens": 128,
        "device_batch_size": 100,
    }
    steps: dict[str, Any] = {"total_batch_size": 8192, "device_batch_size": 16}
    short: dict[str, Any] = {"warmup_steps": 20, "warmdown_ratio": 0.4, "final_lr_frac": 0.0, "scalar_lr": 0.1}
    return [
        Download(corpus="climbmix"),
        WordCounts(max_chars=100_000_000),
        Tokenizer(vocab_size=4096),
        Tokenize(sequence_len=512),
        TaskData(tasks="mmlu, gsm8k, arc_easy, arc_challenge, humaneval", words="english"),
        CoreData(tasks="all"),
        Pretrain(depth=4, aspect_ratio=48, head_dim=64, num_steps=500, eval_every=100, **steps, **short),
        BaseEval(eval_rows=512, core_max_per_task=20),
        MidtrainData(
            mixture="mmlu:6000, gsm8k:4000, identity_conversations:2000, spelling:14000, letter_counting:1500, "
            "arithmetic:6000",
            sequence_len=512,
        ),
        Midtrain(warmdown_ratio=0.2, **steps),
        ChatEvalMid(**asked),
        SftData(
            mixture="arc_easy:2200, arc_challenge:1100, gsm8k:1000, identity_conversations:2000, spelling:6000, "
            "letter_counting:8000, arithmetic:6000",
            sequence_len=512,
        ),
        Sft(**steps),
        ChatEvalSft(**asked),
        Rl(
            task="arithmetic",
            num_steps=30,
            samples_per_prompt=8,
            max_new_tokens=48,
            lr_frac=0.09,
            log_every=1,
            compile=False,
            device_batch_size=32,
        ),
        ChatEvalRl(**asked),
        Report(),
        Register(),
    ]


@recipe
def one_gpu() -> list[Stage]:
    """d20 on one GPU overnight; where the card is small `nanochat plan` names the depth that fits."""
    return _real(20, 160, num_ranks=1)


@recipe
def d12() -> list[Stage]:
    """A small real model for experiments: pretraining is under an hour on one H100."""
    return _real(12, 40, num_ranks=1)


@recipe
def speedrun() -> list[Stage]:
    """d24 on one node of 8 GPUs: the grade of GPT-2 in an afternoon, as the reference's time-to-GPT-2 run."""
    return _real(24, 170, tokens_per_parameter=8.0)


@recipe
def d26() -> list[Stage]:
    """d26 on one node of 8 GPUs: beyond GPT-2."""
    return _real(26, 330)


@recipe
def d32() -> list[Stage]:
    """d32 on one node of 8 GPUs: more than half a day."""
    return _real(32, 600)


@recipe
def classic_d20() -> list[Stage]:
    """The plain architecture of the first write-ups, to the parameter: 560,988,160."""
    return _real(20, 240, corpus="fineweb-edu", architecture="classic", vocab_size=65536)
