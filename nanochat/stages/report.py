"""Joins the scores of all stages: report.md for people, report.json for programs.

Promises: every figure stands beside the address of what was measured and the digest of what was asked; figures that
answer different questions are marked. It measures nothing. Not here: how the table looks (evaluation/score_table.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from nanochat.evaluation import scores
from nanochat.evaluation.score_table import column, table
from nanochat.workflow.stage import StageContext

if TYPE_CHECKING:
    from nanochat.pipeline import Report


def run(stage: Report, ctx: StageContext) -> dict[str, float]:
    """Writes report.md and report.json; returns every figure as `column.metric`, e.g. `sft.chatcore`."""
    content: dict[str, Any] = {"stages": {}}
    for name in (taken.name for taken in stage.takes):
        score = scores.read(ctx[name])
        kept = {key: score[key] for key in ("metrics", "errors", "tasks", "digest")}
        content["stages"][name] = {"address": ctx.addresses[name], **kept, "not_run": score.get("not_run", {})}
    (ctx.out / "report.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (ctx.out / "report.md").write_text(_markdown(content), encoding="utf-8")
    return {
        f"{column(name)}.{metric}": value
        for name, measured in content["stages"].items()
        for metric, value in measured["metrics"].items()
    }


def _markdown(content: Mapping[str, Any]) -> str:
    return "\n".join(_lines(content)) + "\n"


def _lines(content: Mapping[str, Any]) -> Iterator[str]:
    stages = content["stages"]
    yield "# Scores\n"
    yield table(content)
    yield "\n`chatcore` and `core` are means of accuracies centered so that guessing gives 0, ± a standard error; in"
    yield "brackets is the 95 % interval of an accuracy. Both tell of the choice of questions, not of a seed."
    chats = {stages[name]["digest"] for name in stages if name.startswith("chat_eval")}
    if len(chats) > 1:
        yield "\n**The chat stages were asked different questions: their figures cannot be compared.**"
    for name, reason in {task: why for stage in stages.values() for task, why in stage["not_run"].items()}.items():
        yield f"\n{name}: {reason}."
    yield "\n| measured | address | asked |\n|---|---|---|"
    for name in stages:
        yield f"| {column(name)} | `{stages[name]['address']}` | `{stages[name]['digest'][:12]}` |"
