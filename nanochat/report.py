"""Joins the scores of all stages in one table, and names the model versions with theirs.

`report` writes report.md for people and report.json for programs, `table` the same table for the terminal, `register`
the versions that a registry takes. Promises: every figure stands beside the address of what was measured and the
digest of what was asked; figures that answer different questions are marked. It measures nothing and talks to no
registry: which version becomes champion is decided by the gate (flows/).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from nanochat import scores
from nanochat.stage import Place

if TYPE_CHECKING:
    from nanochat.pipeline import Register, Report

COLUMNS = {"base_eval": "base", "chat_eval_mid": "mid", "chat_eval_sft": "sft", "chat_eval_rl": "rl"}
EVALUATED_BY = {"midtrain": "chat_eval_mid", "sft": "chat_eval_sft", "rl": "chat_eval_rl"}
BITS_PER_BYTE = "bits_per_byte"


def report(stage: Report, place: Place) -> dict[str, float]:
    """Writes report.md and report.json; returns every figure as `column.metric`, e.g. `sft.chatcore`."""
    content: dict[str, Any] = {"stages": {}}
    for name in COLUMNS:
        score = scores.read(place[name])
        kept = {key: score[key] for key in ("metrics", "tasks", "digest")}
        content["stages"][name] = {"address": place.addresses[name], **kept, "not_run": score.get("not_run", {})}
    (place.out / "report.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (place.out / "report.md").write_text(_markdown(content), encoding="utf-8")
    return {
        f"{column}.{metric}": value
        for name, column in COLUMNS.items()
        for metric, value in content["stages"][name]["metrics"].items()
    }


def register(stage: Register, place: Place) -> dict[str, float]:
    """Writes versions.json: a version per chat stage, the last one as candidate.

    `metric` is what the gate compares, and only between versions of equal `digest`.

    Raises:
        ValueError: the metric was not measured.
    """
    stages = json.loads((place["report"] / "report.json").read_text(encoding="utf-8"))["stages"]
    versions = []
    for name, evaluation in EVALUATED_BY.items():
        measured = stages[evaluation]
        if stage.metric not in measured["metrics"]:
            known = ", ".join(sorted(measured["metrics"]))
            raise ValueError(f"register.metric = {stage.metric!r}: {evaluation} did not measure it; there is {known}")
        versions.append(
            {
                "stage": name,
                "address": place.addresses[name],
                "metrics": measured["metrics"],
                "digest": measured["digest"],
                "evaluation": measured["address"],
            }
        )
    proposal = {"metric": stage.metric, "candidate": versions[-1]["stage"], "versions": versions}
    (place.out / "versions.json").write_text(json.dumps(proposal, indent=1) + "\n", encoding="utf-8")
    return {stage.metric: versions[-1]["metrics"][stage.metric]}


def table(report: Mapping[str, Any]) -> str:
    """The scores of report.json, stages across and tasks down: a Markdown table that a terminal shows as well."""
    stages = report["stages"]
    metrics = _ordered(metric for name in COLUMNS if name in stages for metric in stages[name]["metrics"])
    rows = [["score", *(COLUMNS[name] for name in COLUMNS if name in stages)]]
    for metric in metrics:
        rows.append([_label(metric, stages), *(_figure(metric, stages[name]) for name in COLUMNS if name in stages)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_line(row, widths) for row in rows]
    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _ordered(metrics: Iterable[str]) -> list[str]:
    """Each once; the summaries first."""
    once = list(dict.fromkeys(metrics))
    first = [metric for metric in (BITS_PER_BYTE, "core", "core_tasks", "chatcore") if metric in once]
    return first + [metric for metric in once if metric not in first]


def _label(metric: str, stages: Mapping[str, Any]) -> str:
    counts = {stage["tasks"][metric]["n"] for stage in stages.values() if metric in stage["tasks"]}
    return f"{metric} (n={', '.join(map(str, sorted(counts)))})" if counts else metric


def _figure(metric: str, stage: Mapping[str, Any]) -> str:
    if metric not in stage["metrics"]:
        return "not run" if metric in stage["not_run"] else ""
    value = stage["metrics"][metric]
    if metric in stage["tasks"] or metric.endswith("_share"):
        return f"{100 * value:.1f} %"
    return f"{value:g}" if metric == "core_tasks" else f"{value:.4f}"


def _line(cells: list[str], widths: list[int]) -> str:
    first, *rest = (
        cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
    )
    return "| " + " | ".join([first, *rest]) + " |"


def _markdown(content: Mapping[str, Any]) -> str:
    return "\n".join(_lines(content)) + "\n"


def _lines(content: Mapping[str, Any]) -> Iterator[str]:
    stages = content["stages"]
    yield "# Scores\n"
    yield table(content)
    yield "\n`chatcore` and `core` are means of accuracies centered so that guessing gives 0."
    chats = {stages[name]["digest"] for name in EVALUATED_BY.values()}
    if len(chats) > 1:
        yield "\n**The chat stages were asked different questions: their figures cannot be compared.**"
    for name, reason in {task: why for stage in stages.values() for task, why in stage["not_run"].items()}.items():
        yield f"\n{name}: {reason}."
    yield "\n| measured | address | asked |\n|---|---|---|"
    for name, column in COLUMNS.items():
        yield f"| {column} | `{stages[name]['address']}` | `{stages[name]['digest'][:12]}` |"
