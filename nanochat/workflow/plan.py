"""From stages to steps: the order, the inputs and the addresses of a run, before anything is done.

`plan(stages)` is what both runners walk and what `nanochat plan` prints. Promises: an address depends on the stage's
name, version and identity knobs and on the addresses of its inputs, on nothing else; `explain` says what two addresses
differ in. It does not look into any store.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from nanochat.artifacts.digest import digest
from nanochat.errors import shortened, unknown
from nanochat.workflow.stage import STAGES, Stage

LONGEST_LABEL = 100  # file systems take 255 bytes a name, and ours have a digest and marks of temporary files beside it
FINGERPRINT_LENGTH = 8  # 32 bits; the record keeps the whole pre-image, so that a collision is seen, not trusted


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of a mapped stage: an artifact of its own, which another run with more shards finds again."""

    index: int
    address: str
    preimage: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Step:
    """A stage with its inputs resolved: what is done, and the address under which the result lies."""

    stage: Stage
    inputs: Mapping[str, Step]
    address: str
    preimage: Mapping[str, Any]
    parts: tuple[Part, ...] = ()

    @property
    def name(self) -> str:
        return self.stage.name

    @property
    def label(self) -> str:
        return self.address.split("/")[1].rsplit("-", 1)[0]


def plan(stages: Iterable[Stage], only: Iterable[str] = ()) -> list[Step]:
    """Steps in the order in which they can run. `only` names stages to keep, with all that they need.

    Raises:
        ValueError: an input is missing among the stages, or `only` names none of them.
    """
    by_name = {stage.name: stage for stage in stages}
    wanted = _with_inputs(only, by_name) if only else set(by_name)
    steps: dict[str, Step] = {}
    for name in STAGES:  # the order of declaration is topological: a class must exist before another can take it
        if name in wanted:
            steps[name] = _step(by_name[name].resolved(), steps)
    return list(steps.values())


def _with_inputs(only: Iterable[str], by_name: Mapping[str, Stage]) -> set[str]:
    wanted, todo = set(), list(only)
    while todo:
        name = todo.pop()
        if name not in by_name:
            raise ValueError(unknown("stage", name, by_name))
        if name not in wanted:
            wanted.add(name)
            todo += [taken.name for taken in by_name[name].takes]
    return wanted


def _step(stage: Stage, steps: Mapping[str, Step]) -> Step:
    for taken in stage.takes:
        if taken.name not in steps:
            raise ValueError(f"stage {stage.name!r} takes {taken.name!r}, which the recipe does not have: add it")
    inputs = {taken.name: steps[taken.name] for taken in stage.takes}
    label = stage.label() or next(step.label for step in inputs.values())
    if len(label) > LONGEST_LABEL:
        knobs = ", ".join(f"{stage.name}.{name}" for name, value in stage.values("identity").items() if value == label)
        what = knobs or f"the name of {stage.name}"
        raise ValueError(f"{what} = {shortened(label)}: becomes a folder's name: at most {LONGEST_LABEL} characters")
    whole = _preimage(stage, {name: step.address for name, step in inputs.items()})
    return Step(stage, inputs, _address(label, whole), whole, _parts(stage, inputs, label))


def _parts(stage: Stage, inputs: Mapping[str, Step], label: str) -> tuple[Part, ...]:
    if not stage.mapped:
        return ()
    mapped_inputs = [step for step in inputs.values() if step.parts]
    count = len(mapped_inputs[0].parts) if mapped_inputs else stage.num_parts()
    parts = []
    for index in range(count):
        sources = {name: (step.parts[index].address if step.parts else step.address) for name, step in inputs.items()}
        preimage = _preimage(stage, sources, part=index)
        parts.append(Part(index, _address(f"{label}.{index:05d}", preimage), preimage))
    return tuple(parts)


def _preimage(stage: Stage, inputs: Mapping[str, str], part: int | None = None) -> dict[str, Any]:
    made = {
        "stage": stage.name,
        "version": stage.version,
        "knobs": stage.meaning(of_parts=part is not None),
        "inputs": dict(inputs),
    }
    return made if part is None else {**made, "part": part}


def _address(label: str, preimage: Mapping[str, Any]) -> str:
    return f"{preimage['stage']}/{label}-{digest(preimage)[:FINGERPRINT_LENGTH]}"


def flatten(preimage: Mapping[str, Any]) -> dict[str, Any]:
    """One line a fact: `knobs.depth`, `inputs.tokenizer`, `version`."""
    flat: dict[str, Any] = {}
    for key, value in preimage.items():
        flat |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, Mapping) else {key: value}
    return flat


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two pre-images, one line each: `knobs.depth: 12 -> 20`."""
    before, after = flatten(old), flatten(new)
    lines = []
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            lines.append(f"{key}: {before.get(key, '(none)')!r} -> {after.get(key, '(none)')!r}")
    return lines
