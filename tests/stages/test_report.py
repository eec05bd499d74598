"""The report joins what was measured, marks what cannot be compared, and proposes versions as plain data."""

import json
from pathlib import Path

import pytest

from nanochat.artifacts.metrics import Metrics
from nanochat.evaluation import scores
from nanochat.evaluation.score_table import table
from nanochat.evaluation.scores import TaskScore
from nanochat.pipeline import Register, Report
from nanochat.stages.register import run as register
from nanochat.stages.report import run as report
from nanochat.workflow.stage import StageContext

EVALUATIONS = ("base_eval", "chat_eval_mid", "chat_eval_sft", "chat_eval_rl")


def report_place(folder: Path, digests=("a", "b", "b", "b"), not_run=None) -> StageContext:
    inputs = {}
    for number, (name, asked) in enumerate(zip(EVALUATIONS, digests, strict=True)):
        inputs[name] = folder / name
        inputs[name].mkdir()
        if name == "base_eval":
            scores.write(inputs[name], {"bits_per_byte": 1.5}, {}, {"asked": asked})
            continue
        task = TaskScore(10 * number, 40, 0.0)
        metrics = {"spelling": task.accuracy, "chatcore": task.centered}
        metrics |= {"spelling_pass_at_4": 0.9, "spelling_tool_call_share": 0.0}
        errors = {"chatcore": scores.standard_error([task])}
        scores.write(inputs[name], metrics, {"spelling": task}, {"asked": asked}, errors, not_run=not_run or {})
    (folder / "out").mkdir()
    addresses = {name: f"{name}/d4-0123" for name in EVALUATIONS}
    return StageContext(inputs, {}, folder / "out", folder / "work", Metrics(None), addresses=addresses)


def register_place(folder: Path, reported: StageContext) -> StageContext:
    (folder / "registered").mkdir()
    addresses = {name: f"{name}/d4-4567" for name in ("midtrain", "sft", "rl", "report")}
    return StageContext(
        {"report": reported.out}, {}, folder / "registered", folder / "work", Metrics(None), addresses=addresses
    )


def test_the_table_shows_stages_across_and_tasks_down(tmp_path):
    place = report_place(tmp_path)
    numbers = report(Report(), place)
    assert numbers["base.bits_per_byte"] == 1.5
    assert numbers["rl.spelling"] == 0.75
    shown = table(json.loads((place.out / "report.json").read_text(encoding="utf-8")))
    assert shown == (
        "| score                    |   base |             mid |             sft |              rl |\n"
        "|--------------------------|-------:|----------------:|----------------:|----------------:|\n"
        "| bits_per_byte            | 1.5000 |                 |                 |                 |\n"
        "| chatcore                 |        | 0.2500 ± 0.0685 | 0.5000 ± 0.0791 | 0.7500 ± 0.0685 |\n"
        "| spelling (n=40)          |        | 25.0 % [14, 40] | 50.0 % [35, 65] | 75.0 % [60, 86] |\n"
        "| spelling_pass_at_4       |        |          90.0 % |          90.0 % |          90.0 % |\n"
        "| spelling_tool_call_share |        |           0.0 % |           0.0 % |           0.0 % |"
    )
    written = (place.out / "report.md").read_text(encoding="utf-8")
    assert shown in written
    assert "`chat_eval_rl/d4-0123`" in written
    assert "cannot be compared" not in written


def test_different_questions_are_marked(tmp_path):
    place = report_place(tmp_path, digests=("a", "b", "c", "b"))
    report(Report(), place)
    assert "their figures cannot be compared" in (place.out / "report.md").read_text(encoding="utf-8")


def test_what_was_not_run_is_said(tmp_path):
    place = report_place(tmp_path, not_run={"humaneval": "not run: no sandbox"})
    report(Report(), place)
    assert "humaneval: not run: no sandbox." in (place.out / "report.md").read_text(encoding="utf-8")


def test_versions_have_addresses_metrics_and_digests(tmp_path):
    reported = report_place(tmp_path)
    report(Report(), reported)
    place = register_place(tmp_path, reported)
    assert register(Register(), place) == {"chatcore": 0.75}
    proposal = json.loads((place.out / "versions.json").read_text(encoding="utf-8"))
    assert (proposal["metric"], proposal["candidate"]) == ("chatcore", "rl")
    assert [version["stage"] for version in proposal["versions"]] == ["midtrain", "sft", "rl"]
    last = proposal["versions"][-1]
    assert last["address"] == "rl/d4-4567"
    assert last["evaluation"] == "chat_eval_rl/d4-0123"
    assert last["metrics"]["spelling"] == 0.75
    assert last["digest"] == scores.read(reported["chat_eval_rl"])["digest"]


def test_a_metric_that_was_not_measured_is_refused(tmp_path):
    reported = report_place(tmp_path)
    report(Report(), reported)
    with pytest.raises(
        ValueError, match=r"register\.metric = 'mmlu': chat_eval_mid did not measure it; there is chatcore, spelling"
    ):
        register(Register(metric="mmlu"), register_place(tmp_path, reported))
