"""What a plan says of training: the rates that are really taken, after `lr_frac` and the batch."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from nanochat.model import memory
from nanochat.pipeline import Pretrain, SftData
from nanochat.planning import estimate
from nanochat.planning.costs import chat_rows
from nanochat.planning.rates import PACKED
from nanochat.recipes import RECIPES, apply, stages_of
from nanochat.workflow.explain import Status
from nanochat.workflow.plan import plan
from nanochat.workflow.stage import STAGES
from tests.paths import ROOT

TRAINED = {"pretrain", "midtrain", "sft", "rl"}

REAL = sorted(RECIPES.keys() - {"tiny", "micro", "small"})


def training_of(recipe: str, *settings: str) -> dict[str, dict]:
    described = estimate.describe(recipe, plan(apply(stages_of(recipe), settings)), [])
    return {each["stage"]: each for each in described["training"]}


@pytest.mark.parametrize("recipe", REAL)
def test_a_step_of_finetuning_is_not_pretrainings(recipe: str) -> None:
    stages = training_of(recipe)
    assert stages["pretrain"]["tokens_per_step"] == stages["midtrain"]["tokens_per_step"] >= 2**19
    assert stages["sft"]["tokens_per_step"] == 16_384  # about 32 conversations, as in the reference
    assert stages["rl"]["tokens_per_step"] == 16 * 16 * 256


@pytest.mark.parametrize("recipe", REAL)
def test_the_rows_of_a_real_recipe_fit_into_80_gb(recipe: str) -> None:
    described = estimate.describe(recipe, plan(stages_of(recipe)), [])
    assert 20e9 < described["peak_memory_bytes"] < 0.9 * 80e9


def test_rates_are_those_after_the_fraction_and_the_batch() -> None:
    stages = training_of("speedrun")
    rates = {name: stage["learning_rates"]["matrix_lr"] for name, stage in stages.items()}
    small = 0.5**0.5  # a batch below 2^18 tokens counts as that
    expected = {"pretrain": 0.02 * 2**0.5, "midtrain": 0.02 * 2**0.5, "sft": 0.02 * 0.02 * small}
    assert rates == pytest.approx(expected | {"rl": 0.02 * 0.05 * small})
    assert stages["pretrain"]["learning_rates"]["embedding_lr"] == pytest.approx(0.3 * 2**0.5)
    classic = training_of("classic-d20")["sft"]["learning_rates"]
    assert classic == pytest.approx(
        {"matrix_lr": 4e-4, "embedding_lr": 4e-3, "unembedding_lr": 8e-5, "scalar_lr": 0.01}
    )


def test_the_sum_of_the_rates_is_that_of_the_steps() -> None:
    stages = training_of("speedrun", "sft.num_steps=4", "sft.warmdown_ratio=1.0")
    rate = stages["sft"]["learning_rates"]["matrix_lr"]
    assert stages["sft"]["exact"]
    assert stages["sft"]["matrix_lr_sum"] == pytest.approx(rate * (4 + 3 + 2 + 1) / 5)
    midtrain = stages["midtrain"]  # one epoch, by the mean lengths of its conversations
    assert not midtrain["exact"]
    fifth = -(-midtrain["num_steps"] // 5)  # in which the rates fall
    assert midtrain["matrix_lr_sum"] == pytest.approx(
        midtrain["learning_rates"]["matrix_lr"] * (midtrain["num_steps"] - fifth / 2), rel=1e-6
    )


def test_the_plan_prints_them() -> None:
    text = estimate.text(described("speedrun"))
    assert re.search(r"sft +16,384 +~\d{3} +1   0.000283  0.00424  0.000113  0.00707", text)
    assert re.search(r"to make  H100   pretrain/d24-\w{8} +\S+ (min|h) +[\d.]+ +5.5 GB", text)
    assert re.search(r"to make +all of it +[\d.]+ h +[\d.]+ +[\d.]+ GB", text)


def described(recipe: str, *settings: str, gpus: str = "") -> dict[str, Any]:
    return estimate.describe(recipe, plan(apply(stages_of(recipe), settings)), [], gpus)


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_every_stage_is_priced(recipe: str) -> None:
    plan_of_it = described(recipe)
    stages = {stage["name"]: stage for stage in plan_of_it["stages"]}
    assert list(stages) == [step.name for step in plan(stages_of(recipe))]
    keys = "name address cached device steps tokens_per_step epochs seconds dollars memory_bytes disk_bytes warnings"
    for name, stage in stages.items():
        assert set(stage) == set(keys.split())
        assert (stage["steps"] is not None) == (stage["memory_bytes"] is not None) == (name in TRAINED)
        assert stage["seconds"] is None or stage["seconds"] > 0
        on_gpus = STAGES[name].on == "gpu" and recipe in REAL
        assert (stage["device"] != "cpu") == on_gpus == bool(stage["dollars"])
        if recipe != "micro":
            assert not stage["warnings"], name
    known = [stage for stage in stages.values() if stage["seconds"] is not None]
    assert plan_of_it["total"]["seconds"] == pytest.approx(sum(stage["seconds"] for stage in known))
    assert plan_of_it["total"]["dollars"] == pytest.approx(sum(stage["dollars"] for stage in known))
    if recipe in REAL:
        assert len(known) == len(stages)
        assert stages["pretrain"]["seconds"] > 0.5 * sum(s["seconds"] for s in known if s["device"] != "cpu")
        assert stages["sft"]["steps"] > 500  # the reference has some 700


@pytest.mark.parametrize(
    ("settings", "gpus", "stage", "said"),
    [
        (
            ["pretrain.device_batch_size=32"],
            "8xH100",
            "pretrain",
            "does not fit: .*device_batch_size=0 takes what fits",
        ),
        (
            ["download.num_shards=50"],
            "8xH100",
            "pretrain",
            r"needs 5\.8B tokens, 50 shards .* download.num_shards=1[5-7]",
        ),
        (["pretrain.depth=80"], "8xH100", "pretrain", r"does not fit: .* pretrain.depth=3\d does, with checkpoint"),
        (
            ["sequence_len=65536", "total_batch_size=524288"],
            "8xH100",
            "pretrain",
            "pretrain.checkpoint_activations=true",
        ),
        ([], "4xH100", "pretrain", "pretrain.num_ranks = 8 on 4 GPUs: lower it"),
        (["sft.total_batch_size=1048576"], "", "sft", r"one epoch is about \d+ steps, .* lower sft.total_batch_size"),
        (["rl.num_steps=50000"], "", "rl", r"takes [\d.]+ h, longer than pretraining"),
        (
            ["chat_eval_sft.num_samples=4096", "chat_eval_sft.temperature=1"],
            "",
            "chat_eval_sft",
            "times as long as sft",
        ),
    ],
)
def test_a_person_would_warn(settings: list[str], gpus: str, stage: str, said: str) -> None:
    plan_of_it = described("speedrun", *settings, gpus=gpus)
    warnings = next(each["warnings"] for each in plan_of_it["stages"] if each["name"] == stage)
    assert any(re.search(said, warning) for warning in warnings), warnings
    assert f"  ! {stage} " in estimate.text(plan_of_it)


def test_options_of_rl_cost_what_they_take() -> None:
    def rl(*settings: str) -> dict[str, Any]:
        stages = described("d12", "rl.device_batch_size=8", *settings)["stages"]
        return next(stage for stage in stages if stage["name"] == "rl")

    plain, distant, twice = rl(), rl("rl.kl_coef=0.1"), rl("rl.clip=0.2", "rl.updates_per_rollout=2")
    assert distant["memory_bytes"] - plain["memory_bytes"] == 2 * described("d12")["parameters"]
    assert twice["memory_bytes"] == plain["memory_bytes"]
    assert plain["seconds"] < distant["seconds"] < twice["seconds"]
    assert rl("rl.eval_samples=64")["seconds"] > plain["seconds"]
    short, both = rl("rl.task=arithmetic"), rl("rl.task=gsm8k, arithmetic")
    assert short["seconds"] < plain["seconds"] < both["seconds"]  # by the longest answers, and two looks


def test_what_is_cached_costs_nothing_more() -> None:
    steps = plan(stages_of("speedrun"))
    found = [Status(step, step.name == "pretrain", ()) for step in steps]
    whole, rest = described("speedrun"), estimate.describe("speedrun", steps, found)
    saved = next(stage["dollars"] for stage in whole["stages"] if stage["name"] == "pretrain")
    assert whole["total"]["dollars"] - rest["total"]["dollars"] == pytest.approx(saved)


def test_a_file_of_ones_own_has_an_unknown_length(tmp_path: Path) -> None:
    file, answer = tmp_path / "own.jsonl", {"role": "assistant", "content": "Hello"}
    lines = [json.dumps([{"role": "user", "content": f"Hi {number}"}, answer]) for number in range(5)]
    file.write_text("\n".join(lines), encoding="utf-8")
    stages = {stage["name"]: stage for stage in described("speedrun", f"sft_data.mixture=jsonl:{file}")["stages"]}
    assert stages["sft"]["steps"] is stages["sft"]["seconds"] is None


def test_what_is_not_known_is_said_to_be_so_and_what_is_too_long_is_cut() -> None:
    made = described("micro", "chat_eval_sft.tasks=nothing")
    assert next(stage for stage in made["stages"] if stage["name"] == "chat_eval_sft")["seconds"] is None
    assert re.search(r"all of it +> \d+ (s|min)", estimate.text(made))
    short = chat_rows(SftData(mixture="smoltalk:1000", sequence_len=255))
    assert short == (1000, pytest.approx(1000 / PACKED))


def test_the_table_of_memory_is_that_of_the_formula() -> None:
    page = (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]
    table = {first: rest for first, *rest in rows}
    for family, column in (("modern", 0), ("classic", 1)):
        told = {name: cells[column] for name, cells in table.items()}
        assert told["a token, channel and layer"] == f"{memory.LAYER_BYTES[family]:g}"
        assert told["a token and channel, once"] == f"{memory.MODEL_BYTES[family]:g}"
        assert told["a number of Muon's largest bucket, in its update"] == f"{memory.MUON_BYTES[family]:g}"
        assert f"{memory.BLOCK_INPUT_BYTES:g}" == told["a token, channel and layer with `checkpoint_activations`"]
        (logits,) = [cell for name, cell in told.items() if name.startswith("a token and entry of the vocabulary")]
        assert logits == str(memory.LOGIT_BYTES)
    for recipe in REAL:
        made = described(recipe)
        ranks, rows_a_pass, passes, gib = table[recipe]
        pretrain = next(stage for stage in stages_of(recipe) if isinstance(stage, Pretrain))
        assert (int(ranks), int(rows_a_pass)) == (pretrain.num_ranks, made["device_batch_size"])
        assert int(passes) == -(-made["total_batch_size"] // (2048 * int(ranks) * int(rows_a_pass)))
        assert gib == f"{made['peak_memory_bytes'] / 2**30:.1f}"


@pytest.mark.parametrize(
    ("seconds", "said"), [(5, "5 s"), (89, "89 s"), (600, "10 min"), (3 * 3600, "3.0 h"), (3 * 86400, "3.0 days")]
)
def test_durations_are_as_people_say_them(seconds: float, said: str) -> None:
    assert estimate.duration(seconds) == said
