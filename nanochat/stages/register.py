"""Names the model versions with their scores.

Promises: every version stands with the address of its artifact and the digest of what it was asked. It talks to no
registry: which version becomes champion is decided by the gate (flows/gate.py).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from nanochat.workflow.stage import StageContext

if TYPE_CHECKING:
    from nanochat.pipeline import Register


def run(stage: Register, ctx: StageContext) -> dict[str, float]:
    """Writes versions.json: a version per chat stage, the last one as candidate.

    `metric` is what the gate compares, and only between versions of equal `digest`.

    Raises:
        ValueError: the metric was not measured.
    """
    stages = json.loads((ctx["report"] / "report.json").read_text(encoding="utf-8"))["stages"]
    versions = []
    for name, evaluation in _evaluations(stage).items():
        measured = stages[evaluation]
        if stage.metric not in measured["metrics"]:
            known = ", ".join(sorted(measured["metrics"]))
            raise ValueError(f"register.metric = {stage.metric!r}: {evaluation} did not measure it; there is {known}")
        versions.append(
            {
                "stage": name,
                "address": ctx.addresses[name],
                "metrics": measured["metrics"],
                "digest": measured["digest"],
                "evaluation": measured["address"],
            }
        )
    proposal = {"metric": stage.metric, "candidate": versions[-1]["stage"], "versions": versions}
    (ctx.out / "versions.json").write_text(json.dumps(proposal, indent=1) + "\n", encoding="utf-8")
    return {stage.metric: versions[-1]["metrics"][stage.metric]}


def _evaluations(stage: Register) -> dict[str, str]:
    """Every chat model that is registered, and the stage that evaluated it."""
    pairs = ((taken, evaluation) for report in stage.takes for evaluation in report.takes for taken in evaluation.takes)
    return {
        taken.name: evaluation.name
        for taken, evaluation in pairs
        if taken in stage.takes and "scores.json" in evaluation.makes
    }
