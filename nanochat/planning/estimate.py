"""What a plan takes, before a cent is spent: what is done, sizes, and of every stage time, money, memory and disk.

Every derived number comes with its reason (scaling.py), every stage with its cost (costs.py). Of every stage that
trains it says the tokens of a step, the steps, the epochs and the rates that it really takes. It measures nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from nanochat import scaling
from nanochat.errors import unknown
from nanochat.model.gpus import DOLLARS_AN_HOUR
from nanochat.pipeline import Chat, Pretrain, Rl, Tokenize, Tokenizer
from nanochat.planning.costs import Cost, Hardware, Plan, batch_of, costs
from nanochat.redaction import bare
from nanochat.scaling import Hyperparameters, Rates
from nanochat.training.schedule import Schedule
from nanochat.workflow.explain import Status
from nanochat.workflow.plan import Step

GIB = 2**30
USUAL_GPU = "H100"
ON_A_CPU = 1e15  # FLOPs of pretraining, up to which a plan is priced for a CPU where no GPUs are named: some hours


def parse_gpus(text: str) -> tuple[int, str]:
    """`8xH100` → (8, "H100"). ValueError for anything else."""
    match = re.fullmatch(r"([0-9]{1,6})x(\w+)", text)
    if not match or int(match[1]) < 1:
        raise ValueError(f"--gpus {text!r}: write it as 8xH100")
    if match[2] not in DOLLARS_AN_HOUR:
        raise ValueError(unknown("GPU", match[2], DOLLARS_AN_HOUR))
    return int(match[1]), match[2]


def hardware_of(gpus: str, pretrain: Pretrain, derived: Hyperparameters) -> Hardware:
    """The GPUs that are named, else H100s, as many as the recipe has ranks, else the CPU for what one can do."""
    if gpus:
        return Hardware(*parse_gpus(gpus))
    return Hardware(1) if derived.flops < ON_A_CPU else Hardware(pretrain.num_ranks, USUAL_GPU)


def describe(recipe: str, steps: Iterable[Step], found: Iterable[Status], gpus: str = "") -> dict[str, Any]:
    """The plan as data; `parameters` is the size of the model, `stages` what each of them costs."""
    steps, found = list(steps), list(found)
    by_name = {step.name: step for step in steps}
    described: dict[str, Any] = {"recipe": recipe, "steps": [_step(status) for status in found]}
    pretrain = by_name.get("pretrain")
    if pretrain is None or not isinstance(pretrain.stage, Pretrain):
        return described
    tokenizer, tokenize = by_name["tokenizer"].stage, by_name["tokenize"].stage
    assert isinstance(tokenizer, Tokenizer), tokenizer
    assert isinstance(tokenize, Tokenize), tokenize
    derived = scaling.derive(pretrain.stage, tokenizer.vocab_size, tokenize.sequence_len)
    hardware = hardware_of(gpus, pretrain.stage, derived)
    plan = Plan({name: step.stage for name, step in by_name.items()}, derived, hardware)
    priced = costs(plan)
    done = {status.step.name for status in found if status.done}
    stages = [_stage(cost, by_name[cost.name].address, cost.name in done, hardware) for cost in priced]
    by_cost = {cost.name: cost for cost in priced}
    return described | _model(plan, pretrain.stage, by_cost) | _totals(stages, hardware) | {"stages": stages}


def _stage(cost: Cost, address: str, cached: bool, hardware: Hardware) -> dict[str, Any]:
    on_gpus = cost.device != "cpu"
    return {
        "name": cost.name,
        "address": address,
        "cached": cached,
        "device": cost.device,
        "steps": cost.steps,
        "tokens_per_step": cost.tokens_per_step,
        "epochs": cost.epochs,
        "seconds": cost.seconds,
        "dollars": None if cost.seconds is None else hardware.dollars(cost.seconds) if on_gpus else 0.0,
        "memory_bytes": cost.memory_bytes,
        "disk_bytes": cost.disk_bytes,
        "warnings": list(cost.warnings),
    }


def _totals(stages: list[dict[str, Any]], hardware: Hardware) -> dict[str, Any]:
    """Of what is still to be made; a stage whose time is not known makes the sum a lower bound."""
    to_make = [stage for stage in stages if not stage["cached"]]
    totals = {key: sum(stage[key] or 0 for stage in to_make) for key in ("seconds", "dollars", "disk_bytes")}
    pretrain = next(stage for stage in stages if stage["name"] == "pretrain")
    return {
        "gpus": f"{hardware.count}x{hardware.kind}" if hardware.kind else "cpu",
        "hours": pretrain["seconds"] / 3600,
        "dollars": pretrain["dollars"],
        "total": totals,
    }


def _step(status: Status) -> dict[str, Any]:
    step = status.step
    return {
        "stage": step.name,
        "address": step.address,
        "parts": [part.address for part in step.parts],
        "on": step.stage.on,
        "done": status.done,
        "reasons": list(status.reasons),
        "knobs": bare({**step.stage.values("identity"), **step.stage.values("execution")}),
        "inputs": {name: each.address for name, each in step.inputs.items()},
    }


def _model(plan: Plan, stage: Pretrain, by_cost: dict[str, Cost]) -> dict[str, Any]:
    derived = plan.derived
    return {
        "parameters": derived.num_parameters,
        "n_layer": derived.config.n_layer,
        "n_embd": derived.config.n_embd,
        "n_head": derived.config.n_head,
        "total_batch_size": derived.total_batch_size,
        "num_steps": derived.num_steps,
        "tokens": derived.tokens,
        "flops": derived.flops,
        "weight_decay": derived.weight_decay,
        "device_batch_size": plan.rows(stage, derived.total_batch_size),
        "peak_memory_bytes": by_cost["pretrain"].memory_bytes,
        "reasons": derived.reasons,
        "training": list(_training(plan, stage, by_cost)),
    }


def _training(plan: Plan, pretrain: Pretrain, by_cost: dict[str, Cost]) -> Iterator[dict[str, Any]]:
    """The stages that train: tokens of a step over all ranks, steps, rates after `lr_frac` and batch, their sum."""
    derived = plan.derived
    rates = derived.rates
    ramps: Schedule | None = Schedule(derived.num_steps, rates.warmup_steps, rates.warmdown_ratio, rates.final_lr_frac)
    yield _trained(by_cost["pretrain"], rates, derived.lr_scale, ramps, exact=True)
    for name in ("midtrain", "sft", "rl"):
        stage = plan.stages.get(name)
        if isinstance(stage, Chat):
            tokens, ratio = batch_of(plan, name), stage.warmdown_ratio
        elif isinstance(stage, Rl):
            tokens, ratio = stage.most_tokens_per_step(), 1.0
        else:
            continue
        steps = by_cost[name].steps
        ramps = Schedule(steps, warmdown_ratio=ratio) if steps else None
        scale = stage.lr_frac * scaling.lr_scale(pretrain.architecture, tokens)
        yield _trained(by_cost[name], rates, scale, ramps, exact=bool(stage.num_steps))


def _trained(cost: Cost, rates: Rates, scale: float, ramps: Schedule | None, *, exact: bool) -> dict[str, Any]:
    learning_rates = {each: rate * scale for each, rate in rates.learning_rates().items()}
    multipliers = sum(ramps.lr(step) for step in range(ramps.num_steps)) if ramps else None
    return {
        "stage": cost.name,
        "tokens_per_step": cost.tokens_per_step,
        "num_steps": cost.steps,
        "exact": exact,  # else by the mean lengths of conversations
        "epochs": cost.epochs,
        "learning_rates": learning_rates,
        "matrix_lr_sum": None if multipliers is None else learning_rates["matrix_lr"] * multipliers,
    }


def text(described: dict[str, Any]) -> str:
    """The same for people."""
    if "stages" not in described:
        lines = [f"recipe {described['recipe']}"]
        for step in described["steps"]:
            lines.append(f"  {'done   ' if step['done'] else 'to make'}  {step['on']}  {step['address']}")
        return "\n".join(lines)
    sizes = [
        "",
        f"  parameters  {described['parameters']:,}",
        f"  training    {described['tokens']:,} tokens in {described['num_steps']:,} steps",
        f"  FLOPs       {described['flops']:.3g}",
        f"  memory      {described['peak_memory_bytes'] / GIB:.1f} GiB a rank at the most, estimated, with "
        f"{described['device_batch_size']} rows a forward pass",
    ]
    reasons = ["", "  because"] + [f"    {name}: {reason}" for name, reason in described["reasons"].items()]
    return "\n".join([*_priced(described), *sizes, *_rates(described), *reasons])


def _priced(described: dict[str, Any]) -> Iterator[str]:
    """A line a stage, the totals and the warnings."""
    parts = {step["stage"]: len(step["parts"]) for step in described["steps"]}
    addresses = {stage["name"]: _address(stage, parts) for stage in described["stages"]}
    width = max(map(len, addresses.values()))
    yield f"recipe {described['recipe']} on {described['gpus']}"
    yield f"           {'device':<6} {'stage':<{width}} {'time':>9} {'dollars':>9} {'disk':>9}"
    for stage in described["stages"]:
        time = "?" if stage["seconds"] is None else duration(stage["seconds"])
        dollars = f"{stage['dollars']:,.2f}" if stage["dollars"] else ""
        state = "done   " if stage["cached"] else "to make"
        disk = _size(stage["disk_bytes"])
        row = f"  {state}  {stage['device']:<6} {addresses[stage['name']]:<{width}} {time:>9} {dollars:>9} {disk:>9}"
        yield row.rstrip()
    total = described["total"]
    money = f"{total['dollars']:,.2f}" if total["dollars"] else ""
    unknown = any(stage["seconds"] is None and not stage["cached"] for stage in described["stages"])
    time = f"> {duration(total['seconds'])}" if unknown else duration(total["seconds"])
    row = f"{time:>9} {money:>9} {_size(total['disk_bytes']):>9}"
    yield f"  {'to make':<15} {'all of it':<{width}} {row}".rstrip()
    for stage in described["stages"]:
        for warning in stage["warnings"]:
            yield f"  ! {stage['name']} {warning}"


def _address(stage: dict[str, Any], parts: dict[str, int]) -> str:
    count = parts.get(stage["name"], 0)
    return f"{stage['address']}  ({count} parts)" if count else stage["address"]


def _rates(described: dict[str, Any]) -> Iterator[str]:
    """A line for each stage that trains."""
    yield ""
    yield "  stage      tokens a step    steps  epochs   rates: matrix, embedding, head, scalars    sum of the first"
    for each in described["training"]:
        rates = "  ".join(f"{rate:.3g}" for rate in each["learning_rates"].values())
        mark = "" if each["exact"] else "~"
        steps = f"{mark}{each['num_steps']:,}" if each["num_steps"] else "?"
        epochs = "" if each["epochs"] is None else f"{each['epochs']:.2g}"
        total = f"{each['matrix_lr_sum']:.3g}" if each["num_steps"] else ""
        line = f"  {each['stage']:<9}{each['tokens_per_step']:>15,}{steps:>9}{epochs:>8}   {rates:<43}{total}"
        yield line.rstrip()


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.4 h`, `2.1 days`."""
    for unit, size, most in (("s", 1, 90), ("min", 60, 90 * 60), ("h", 3600, 48 * 3600)):
        if seconds < most:
            return f"{seconds / size:.1f} {unit}" if unit == "h" else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.1f} days"


def _size(count: float) -> str:
    if count < 1e6:
        return ""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
