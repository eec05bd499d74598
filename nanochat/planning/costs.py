"""What each stage of a plan costs: seconds, device, money, memory, disk, and what a person would warn of.

Every stage is priced, on CPUs and evaluations too, from its knobs alone: by the sizes that follow from the depth, the
rates of planning/rates.py and, for conversations, their mean lengths. Promises: nothing is fetched or measured; what
cannot be known before (the length of a file of one's own) is None, never a guess. Not here: how it is told
(estimate.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nanochat import pipeline
from nanochat.data.corpora import CORPORA
from nanochat.model.gpus import DOLLARS_AN_HOUR, MEMORY_BYTES, PEAK_FLOPS
from nanochat.model.memory import USABLE, peak_memory, rows_of_a_pass
from nanochat.planning import rates
from nanochat.scaling import FEWEST_STEPS, Hyperparameters, shape, too_short
from nanochat.tasks.mixture import parse_mixture
from nanochat.tasks.task import asked_problems, comma_separated, weighted_tasks
from nanochat.workflow.out_of_memory import sparing
from nanochat.workflow.stage import Stage


@dataclass(frozen=True)
class Hardware:
    """Where the stages with a model run: so many GPUs of a kind, or, with an empty kind, cores of a CPU."""

    count: int
    kind: str = ""

    def flops(self, depth: int, ranks: int) -> float:
        """FLOP/s that training reaches on so many of them."""
        if not self.kind:
            return rates.CPU_FLOPS * rates.CPU_CORES
        return PEAK_FLOPS[self.kind] * rates.mfu(depth) * min(ranks, self.count)

    def dollars(self, seconds: float) -> float:
        """Of the whole node: it is rented also where a stage uses one of its GPUs."""
        return seconds / 3600 * self.count * DOLLARS_AN_HOUR[self.kind] if self.kind else 0.0

    @property
    def memory(self) -> int | None:
        """Bytes of a card."""
        return MEMORY_BYTES[self.kind] if self.kind else None


@dataclass(frozen=True)
class Cost:
    """Of one stage. `steps`, `tokens_per_step` and `epochs` are of those that train; None is not known or not so."""

    name: str
    device: str
    seconds: float | None = None
    steps: int | None = None
    tokens_per_step: int | None = None
    epochs: float | None = None
    memory_bytes: int | None = None
    disk_bytes: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What the costs of all stages follow from."""

    stages: Mapping[str, Stage]
    derived: Hyperparameters
    hardware: Hardware

    def stage(self, kind: type[Any]) -> Any:
        """The stage of a class."""
        return self.stages[kind.name]

    def trained_seconds(self, tokens: float, ranks: int) -> float:
        """Forward, backward and update over so many tokens."""
        config = self.derived.config
        return tokens * config.flops_per_token() / self.hardware.flops(config.n_layer, ranks)

    def read_seconds(self, tokens: float, ranks: int) -> float:
        """A forward pass over so many tokens."""
        return rates.FORWARD * self.trained_seconds(tokens, ranks)

    def decoded_seconds(self, answers: float, tokens: float, together: int, ranks: int) -> float:
        """Answers of so many tokens each, so many of them decoded together on each rank."""
        config = self.derived.config
        if not self.hardware.kind:
            return self.read_seconds(answers * tokens, 1) * 4
        step = config.n_layer * rates.DECODE_SECONDS + 2 * config.num_parameters() / rates.DECODE_BYTES
        return -(-answers // (together * min(ranks, self.hardware.count))) * tokens * step

    def rows(self, stage: Any, batch: int) -> int:
        """Rows of a forward pass of a stage that trains with so many tokens a step."""
        per_rank = max(1, batch // (self.derived.config.sequence_len * stage.num_ranks))
        if stage.device_batch_size:
            return min(stage.device_batch_size, per_rank)
        saving = sparing(vars(stage)) | {"copies": _copies(stage)}
        return rows_of_a_pass(self.derived.config, per_rank, self.hardware.memory, stage.num_ranks, **saving)


def costs(plan: Plan) -> list[Cost]:
    """Of every stage of the plan, in order, with warnings that compare them."""
    found = [_with_place(COSTS[name](plan, stage), plan) for name, stage in plan.stages.items()]
    by_name = {cost.name: cost for cost in found}
    return [dataclasses.replace(cost, warnings=(*cost.warnings, *_compared(cost, by_name))) for cost in found]


def _with_place(cost: Cost, plan: Plan) -> Cost:
    return dataclasses.replace(cost, device=plan.hardware.kind or "cpu") if cost.device == "gpu" else cost


def _compared(cost: Cost, by_name: Mapping[str, Cost]) -> list[str]:
    pretrain = by_name.get("pretrain")
    if pretrain is None or cost.seconds is None or pretrain.seconds is None or cost.name == "pretrain":
        return []
    said = []
    if cost.seconds > max(pretrain.seconds, 600) and cost.device != "cpu":
        said.append(f"takes {cost.seconds / 3600:.1f} h, longer than pretraining ({pretrain.seconds / 3600:.1f} h)")
    trains = {"chat_eval_mid": "midtrain", "chat_eval_sft": "sft", "chat_eval_rl": "rl"}.get(cost.name, "")
    trained = by_name[trains].seconds if trains in by_name else None
    if trained is not None and cost.seconds > max(2 * trained, 1800):
        said.append(f"takes {cost.seconds / trained:.0f} times as long as {trains}: lower {cost.name}.max_problems")
    return said


def _cpu(name: str, seconds: float, disk: float = 0.0) -> Cost:
    return Cost(name, "cpu", seconds + rates.CPU_STAGE_SECONDS, disk_bytes=int(disk))


def _download(plan: Plan, stage: Any) -> Cost:
    size = corpus_size(stage)[1]
    shards = stage.num_shards + 1
    if size is None:
        return Cost(stage.name, "cpu")
    seconds = shards * (size / rates.DOWNLOAD_BYTES + rates.CPU_STAGE_SECONDS)
    return _cpu(stage.name, seconds, shards * size)


def corpus_size(stage: Any) -> tuple[float | None, float | None]:
    """Characters and bytes of a shard of the corpus, where they are known."""
    corpus = CORPORA.get(stage.corpus)
    return (corpus.shard_characters, corpus.shard_bytes) if corpus else (None, None)


def _word_counts(plan: Plan, stage: Any) -> Cost:
    download = plan.stage(pipeline.Download)
    characters = corpus_size(download)[0]
    if characters is None:
        return Cost(stage.name, "cpu")
    counted = min(stage.max_chars, characters) / (rates.COUNT_BYTES * rates.CPU_CORES)
    return _cpu(stage.name, download.num_shards * (counted + rates.CPU_STAGE_SECONDS), download.num_shards * 5e6)


def _tokenizer(plan: Plan, stage: Any) -> Cost:
    return _cpu(stage.name, 10.0, 1e6)


def _tokenize(plan: Plan, stage: Any) -> Cost:
    download = plan.stage(pipeline.Download)
    characters = corpus_size(download)[0]
    if characters is None:
        return Cost(stage.name, "cpu")
    shards = download.num_shards + 1
    seconds = shards * (characters / (rates.ENCODE_BYTES * rates.CPU_CORES) + rates.CPU_STAGE_SECONDS)
    width = 2 if plan.derived.config.vocab_size <= 2**16 else 4
    return _cpu(stage.name, seconds, shards * characters / rates.BYTES_PER_TOKEN * width)


def _task_data(plan: Plan, stage: Any) -> Cost:
    size = 1.5e9 if "smoltalk" in comma_separated(stage.tasks) else 2e8 if stage.tasks else 0.0
    return _cpu(stage.name, size / rates.DOWNLOAD_BYTES, size)


def _core_data(plan: Plan, stage: Any) -> Cost:
    return _cpu(stage.name, 162e6 / rates.DOWNLOAD_BYTES if stage.tasks else 0.0, 4e8 if stage.tasks else 0.0)


def _pretrain(plan: Plan, stage: Any) -> Cost:
    derived = plan.derived
    looks = 1 + (derived.num_steps // stage.eval_every if stage.eval_every else 0)
    seen = (looks * stage.eval_rows + stage.final_eval_rows) * derived.config.sequence_len
    seconds = plan.trained_seconds(derived.tokens, stage.num_ranks) + plan.read_seconds(seen, stage.num_ranks)
    download = plan.stage(pipeline.Download)
    characters, epochs, warnings = corpus_size(download)[0], None, []
    if characters is not None:
        kept = rates.KEPT[plan.stage(pipeline.Tokenize).packing]
        there = kept * download.num_shards * characters / rates.BYTES_PER_TOKEN
        epochs = derived.tokens / there
        if epochs > stage.max_epochs:
            shards = -(-derived.tokens * rates.BYTES_PER_TOKEN // (kept * characters))
            warnings.append(
                f"needs {derived.tokens / 1e9:.1f}B tokens, {download.num_shards} shards have about "
                f"{there / 1e9:.1f}B: download.num_shards={shards:.0f}"
            )
    return _training(plan, stage, seconds, derived.num_steps, derived.total_batch_size, epochs, warnings)


def _training(
    plan: Plan, stage: Any, seconds: float | None, steps: int | None, batch: int, epochs: float | None, said: list[str]
) -> Cost:
    """Of a stage that trains: time to start, compile and save beside `seconds`, memory, and whether it fits."""
    config, rows = plan.derived.config, plan.rows(stage, batch)
    memory = peak_memory(config, rows, stage.num_ranks, copies=_copies(stage), **sparing(vars(stage)))
    card = plan.hardware.memory
    if card is not None and memory > USABLE * card:
        said = [*said, f"does not fit: {memory / 2**30:.0f} GiB of {card / 2**30:.0f}: {_remedy(plan, stage, rows)}"]
    if plan.hardware.kind and stage.num_ranks > plan.hardware.count:
        said = [*said, f"{stage.name}.num_ranks = {stage.num_ranks} on {plan.hardware.count} GPUs: lower it"]
    if seconds is not None:
        seconds *= 1 + rates.CHECKPOINT_SHARE
        seconds += rates.START_SECONDS + rates.COMPILE_SECONDS["cuda" if plan.hardware.kind else "cpu"] * stage.compile
    return Cost(stage.name, "gpu", seconds, steps, batch, epochs, memory, 4 * config.num_parameters(), tuple(said))


def _copies(stage: Any) -> int:
    """Sets of weights beside the trained one: RL may keep those of its start."""
    return stage.copies() if isinstance(stage, pipeline.Rl) else 0


def _remedy(plan: Plan, stage: Any, rows: int) -> str:
    """What makes a step fit: what the card holds, activations computed twice, or the largest depth that fits so."""
    if rows > 1:
        return f"{stage.name}.device_batch_size=0 takes what fits"
    config, saving = plan.derived.config, {**sparing(vars(stage)), "checkpoint_activations": True}
    saving["copies"] = _copies(stage)
    usable = USABLE * (plan.hardware.memory or 0)
    if peak_memory(config, 1, stage.num_ranks, **saving) <= usable:
        return f"{stage.name}.checkpoint_activations=true"
    pretrain = plan.stage(pipeline.Pretrain)
    for depth in range(config.n_layer - 1, 0, -1):
        smaller = shape(pretrain, config.vocab_size, config.sequence_len, depth)
        if peak_memory(smaller, 1, stage.num_ranks, **saving) <= usable:
            return f"pretrain.depth={depth} does, with checkpoint_activations=true"
    return "take a larger card"


def chat_rows(stage: Any) -> tuple[int, float | None]:
    """Conversations of a mixture and the rows that they fill, None where the length of some is not known."""
    mixture = parse_mixture(stage.mixture)
    tokens = 0.0
    for name, count in mixture.items():
        if name not in rates.CONVERSATION_TOKENS:
            return sum(mixture.values()), None
        tokens += count * min(rates.CONVERSATION_TOKENS[name][0], stage.sequence_len + 1)  # what is longer is cut
    return sum(mixture.values()), tokens / rates.PACKED / (stage.sequence_len + 1)


def _chat_data(plan: Plan, stage: Any) -> Cost:
    conversations, rows = chat_rows(stage)
    seconds = conversations / (rates.CONVERSATIONS * rates.CPU_CORES) + stage.num_parts() * rates.CPU_STAGE_SECONDS
    return _cpu(stage.name, seconds, 3 * (rows or 0) * (stage.sequence_len + 1))


def _chat(plan: Plan, stage: Any) -> Cost:
    batch = batch_of(plan, stage.name)
    rows = chat_rows(plan.stages[f"{stage.name}_data"])[1]
    rows_per_step = batch / plan.derived.config.sequence_len
    steps = stage.num_steps or (None if rows is None else int(-(-rows // rows_per_step)))
    epochs = None if rows is None or steps is None else steps * rows_per_step / rows
    said = []
    if not stage.num_steps and steps is not None and steps < FEWEST_STEPS:
        said = [f"one epoch is about {steps} steps, {too_short(stage.name)}"]
    seconds = None if steps is None else plan.trained_seconds(steps * batch, stage.num_ranks)
    return _training(plan, stage, seconds, steps, batch, 1.0 if not stage.num_steps else epochs, said)


def batch_of(plan: Plan, name: str) -> int:
    """Tokens of a step of midtraining or SFT: its own, or those of the stage before."""
    batch = plan.derived.total_batch_size
    for each in ("midtrain", "sft"):
        batch = getattr(plan.stages[each], "total_batch_size", 0) or batch
        if each == name:
            break
    return batch


def _rl(plan: Plan, stage: Any) -> Cost:
    steps = stage.num_steps or max(1, 7473 // stage.prompts_per_step)
    answers = stage.prompts_per_step * stage.samples_per_prompt
    tasks = weighted_tasks(stage.task, "rl.task")
    said = min(stage.max_new_tokens, max(rates.ANSWER_TOKENS.get(name, rates.USUAL_ANSWER) for name in tasks))
    ranks, batch = min(stage.num_ranks, stage.prompts_per_step), stage.most_tokens_per_step()
    seconds = steps * (
        plan.decoded_seconds(answers, said, 512, ranks)
        + stage.updates_per_rollout * plan.trained_seconds(batch, stage.num_ranks)
        + stage.copies() * plan.read_seconds(batch, stage.num_ranks)
    )
    looks = 1 + -(-steps // (stage.eval_every or steps))
    asked = looks * len(tasks) * stage.eval_problems * (1 + stage.eval_samples)
    seconds += plan.decoded_seconds(asked, said, 512, stage.num_ranks)
    return _training(plan, stage, seconds, steps, batch, None, [])


def _base_eval(plan: Plan, stage: Any) -> Cost:
    tokens = stage.eval_rows * plan.derived.config.sequence_len
    if labels := plan.stage(pipeline.CoreData).tasks:
        tasks = 22 if labels == "all" else len(comma_separated(labels))
        most = rates.CORE_EXAMPLES["22"] * tasks / 22
        tokens += min(most, min(stage.core_max_per_task, 4000) * tasks * 0.85) * rates.CORE_TOKENS
    return Cost(stage.name, "gpu", rates.START_SECONDS + plan.read_seconds(tokens, stage.num_ranks))


def _chat_eval(plan: Plan, stage: Any) -> Cost:
    seconds = rates.START_SECONDS
    for name, limit in asked_problems(stage.tasks, f"{stage.name}.tasks").items():
        if name not in rates.CONVERSATION_TOKENS:
            return Cost(stage.name, "gpu")
        _, prompt, problems = rates.CONVERSATION_TOKENS[name]
        count = min(stage.max_problems, limit or problems, problems)
        seconds += plan.read_seconds(count * prompt, stage.num_ranks)
        if name not in ("mmlu", "arc_easy", "arc_challenge"):
            said = min(stage.max_new_tokens, 2 * rates.ANSWER_TOKENS.get(name, rates.USUAL_ANSWER))
            answers = count * stage.num_samples
            seconds += plan.decoded_seconds(answers, said, stage.device_batch_size, stage.num_ranks)
    return Cost(stage.name, "gpu", seconds)


def _last(plan: Plan, stage: Any) -> Cost:
    return _cpu(stage.name, 0.0, 1e5)


COSTS: dict[str, Callable[[Plan, Any], Cost]] = {
    "download": _download,
    "word_counts": _word_counts,
    "tokenizer": _tokenizer,
    "tokenize": _tokenize,
    "task_data": _task_data,
    "core_data": _core_data,
    "pretrain": _pretrain,
    "base_eval": _base_eval,
    "midtrain_data": _chat_data,
    "midtrain": _chat,
    "chat_eval_mid": _chat_eval,
    "sft_data": _chat_data,
    "sft": _chat,
    "chat_eval_sft": _chat_eval,
    "rl": _rl,
    "chat_eval_rl": _chat_eval,
    "report": _last,
    "register": _last,
}
