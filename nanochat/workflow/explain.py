"""Says in words what a plan will do and why: what is done, what is new, and what made it so.

Promises: every step that has to be made is explained against the nearest artifact that the store holds, knob by knob;
a step that is done although execution knobs differ says that these change nothing. It changes nothing itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from nanochat.artifacts.store import Store
from nanochat.workflow.plan import Step, differences, flatten
from nanochat.workflow.runner import Job, find


@dataclasses.dataclass(frozen=True)
class Status:
    """Whether a step is done, and why or why not."""

    step: Step
    done: bool
    reasons: tuple[str, ...]


def statuses(steps: Iterable[Step], store: Store, force: Iterable[str] = ()) -> list[Status]:
    """What the store has of a plan, in order."""
    known: dict[str, list[dict[str, Any]]] = {}
    for address in store.addresses():
        known.setdefault(address.split("/")[0], []).append({"address": address})
    found = []
    for step in steps:
        outcome = find(Job(step), store)
        if step.name in force:
            found.append(Status(step, False, ("forced",)))
        elif outcome is not None:
            changed = _execution_changes(step, outcome.record)
            note = (outcome.note,) if outcome.note else ()
            found.append(Status(step, True, (*note, *changed)))
        else:
            found.append(Status(step, False, _reasons(step, known.get(step.name, []), store)))
    return found


def _execution_changes(step: Step, record: dict[str, Any] | Any) -> tuple[str, ...]:
    before, now = record.get("execution", {}), step.stage.values("execution")
    return tuple(
        f"{name}: {before[name]!r} -> {now[name]!r} changes only how it is reached"
        for name in sorted(now)
        if name in before and before[name] != now[name]
    )


def _reasons(step: Step, others: list[dict[str, Any]], store: Store) -> tuple[str, ...]:
    """Against the artifact of the same stage that differs least."""
    nearest: tuple[int, str, list[str]] | None = None
    for other in others:
        record = store.record(other["address"])
        if record is None or "part" in record["preimage"]:
            continue
        lines = differences(record["preimage"], step.preimage)
        if nearest is None or len(lines) < nearest[0]:
            nearest = (len(lines), other["address"], lines)
    if nearest is None:
        return ("nothing like it is in the store",)
    return tuple(f"{line} (since {nearest[1]})" for line in nearest[2])


def lines_of(found: Iterable[Status]) -> list[str]:
    """The same for people."""
    lines = []
    for status in found:
        lines.append(f"{'done   ' if status.done else 'to make'}  {status.step.address}")
        lines += [f"             {reason}" for reason in status.reasons]
    return lines


def explain_address(address: str, other: str | None, store: Store) -> list[str]:
    """What is in the digest of an address, or what differs between two. ValueError: no such artifact."""
    record = store.known(address)
    if other is None:
        made = [f"  made with {arithmetic}" for arithmetic in record.get("arithmetic", ())]
        return [address, *(f"  {name} = {value!r}" for name, value in flatten(record["preimage"]).items()), *made]
    lines = differences(record["preimage"], store.known(other)["preimage"])
    return [f"{address} -> {other}", *(f"  {line}" for line in lines or ["no difference"])]
