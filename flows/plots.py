"""Figures of a run: the curves of what was logged by step, and the scores of an evaluation.

Promises: drawn off screen, without pyplot, so that any thread may; None where there is nothing to draw. It does not
save or send them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# what a person looks at first, in this order; from the reward on of reinforcement learning alone
CURVES = (
    "loss",
    "val_bpb",
    "reward",
    "held_out_pass_rate",
    "held_out_pass_at_1",
    "flat_groups",
    "entropy_estimate",
    "answer_tokens",
    "truncated",
    "kl_to_start",
    "clipped",
)


def curves(rows: Iterable[Mapping[str, Any]], title: str, names: Iterable[str] = CURVES) -> Figure | None:
    """One panel above the other for each of `names` that the rows have, against the step."""
    rows = list(rows)
    series = {name: [(row["step"], row[name]) for row in rows if name in row and "step" in row] for name in names}
    series = {name: points for name, points in series.items() if points}
    if not series:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1 + 2.5 * len(series)), layout="constrained")
    panels = figure.subplots(len(series), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (name, points) in zip(panels, series.items(), strict=True):
        panel.plot(*zip(*points, strict=True), linewidth=1, marker="." if len(points) < 40 else "")
        panel.set_ylabel(name)
        panel.grid(alpha=0.3)
    panels[-1].set_xlabel("step")
    figure.suptitle(title)
    return figure


def scores(tasks: Mapping[str, Mapping[str, float]], title: str) -> Figure | None:
    """A bar per task with its accuracy, and a mark where guessing would be."""
    if not tasks:
        return None
    from matplotlib.figure import Figure

    names = list(tasks)
    figure = Figure(figsize=(8, 1 + 0.35 * len(names)), layout="constrained")
    panel = figure.subplots()
    panel.barh(names, [tasks[name]["accuracy"] for name in names])
    panel.plot([tasks[name].get("baseline", 0.0) for name in names], names, "|", color="black", markersize=14)
    panel.invert_yaxis()
    panel.set_xlim(0, 1)
    panel.set_xlabel("accuracy (the mark is chance)")
    figure.suptitle(title)
    return figure
