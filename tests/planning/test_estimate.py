"""What a plan says of training: the rates that are really taken, after `lr_frac` and the batch."""

import pytest

from nanochat.planning import estimate
from nanochat.recipes import RECIPES, apply, stages_of
from nanochat.workflow.plan import plan


def training_of(recipe: str, *settings: str) -> dict[str, dict]:
    described = estimate.describe(recipe, plan(apply(stages_of(recipe), settings)), [])
    return {each["stage"]: each for each in described["training"]}


@pytest.mark.parametrize("recipe", sorted(RECIPES.keys() - {"tiny", "micro"}))
def test_a_step_of_finetuning_is_not_pretrainings(recipe: str) -> None:
    stages = training_of(recipe)
    assert stages["pretrain"]["tokens_per_step"] == stages["midtrain"]["tokens_per_step"] >= 2**19
    assert stages["sft"]["tokens_per_step"] == 16_384  # about 32 conversations, as in the reference
    assert stages["rl"]["tokens_per_step"] == 16 * 16 * 256


@pytest.mark.parametrize("recipe", sorted(RECIPES.keys() - {"tiny", "micro"}))
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
    assert stages["midtrain"]["num_steps"] is stages["midtrain"]["matrix_lr_sum"] is None  # one epoch of its data
    rate = stages["sft"]["learning_rates"]["matrix_lr"]
    assert stages["sft"]["matrix_lr_sum"] == pytest.approx(rate * (4 + 3 + 2 + 1) / 5)


def test_the_plan_prints_them() -> None:
    text = estimate.text(estimate.describe("speedrun", plan(stages_of("speedrun")), []))
    assert "sft               16,384  1 epoch   0.000283  0.00424  0.000113  0.00707" in text
