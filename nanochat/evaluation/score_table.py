"""The table of scores: stages across, tasks down, in Markdown that a terminal shows as well.

Promises: a figure that was not measured is left blank, one that could not be run is said to be so; accuracies stand
with their 95 % interval, means of accuracies with their standard error. It measures nothing.
Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

BITS_PER_BYTE = "bits_per_byte"
PASS = re.compile(r"_pass_at_\d+$")


def table(report: Mapping[str, Any]) -> str:
    """The scores of report.json, stages across and tasks down: a Markdown table that a terminal shows as well."""
    stages = report["stages"]
    metrics = _ordered(metric for stage in stages.values() for metric in stage["metrics"])
    rows = [["score", *map(column, stages)]]
    for metric in metrics:
        rows.append([_label(metric, stages), *(_figure(metric, stage) for stage in stages.values())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_line(row, widths) for row in rows]
    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def column(evaluation: str) -> str:
    """The heading of an evaluation: `base_eval` → base, `chat_eval_sft` → sft."""
    return evaluation.removeprefix("chat_eval_").removesuffix("_eval")


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
    if metric in stage["tasks"]:
        low, high = (100 * stage["tasks"][metric][bound] for bound in ("low", "high"))
        return f"{100 * value:.1f} % [{low:.0f}, {high:.0f}]"
    if metric.endswith("_share") or PASS.search(metric):
        return f"{100 * value:.1f} %"
    if metric in stage["errors"]:
        return f"{value:.4f} ± {stage['errors'][metric]:.4f}"
    return f"{value:g}" if metric == "core_tasks" else f"{value:.4f}"


def _line(cells: list[str], widths: list[int]) -> str:
    first, *rest = (
        cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
    )
    return "| " + " | ".join([first, *rest]) + " |"
