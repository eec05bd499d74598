"""The schedules: never negative, never beyond one, and with the shape that their names say, whatever the length of a run."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.training.schedule import (
    CLASSIC_MOMENTUM,
    MODERN_MOMENTUM,
    Schedule,
    lr_multiplier,
    muon_momentum,
    weight_decay_multiplier,
)

schedules = st.builds(
    Schedule,
    num_steps=st.integers(1, 3000),
    warmup_steps=st.integers(0, 4000),
    warmdown_ratio=st.floats(0, 1),
    final_lr_frac=st.floats(0, 1),
    muon=st.sampled_from([CLASSIC_MOMENTUM, MODERN_MOMENTUM]),
)


@given(schedules)
def test_no_multiplier_is_ever_negative_or_above_one(schedule: Schedule) -> None:
    for step in {0, schedule.num_steps // 3, schedule.num_steps // 2, schedule.num_steps - 1}:
        assert 0 < schedule.lr(step) <= 1
        assert 0 < schedule.weight_decay(step) <= 1
        assert 0.85 <= schedule.momentum(step) <= schedule.muon.peak


@given(schedules)
def test_the_learning_rate_rises_once_and_falls_once(schedule: Schedule) -> None:
    values = [schedule.lr(step) for step in range(min(schedule.num_steps, 300))]
    signs = [(b > a) - (b < a) for a, b in pairwise(values) if a != b]
    assert signs == sorted(signs, reverse=True)


def test_an_unset_schedule_is_constant() -> None:
    assert {lr_multiplier(step, 10) for step in range(10)} == {1.0}


def test_warm_up_and_warm_down_are_linear() -> None:
    rise = [lr_multiplier(step, 100, warmup_steps=4) for step in range(5)]
    assert rise == [0.25, 0.5, 0.75, 1.0, 1.0]
    fall = [lr_multiplier(step, 10, warmdown_ratio=0.4, final_lr_frac=0.5) for step in range(5, 10)]
    assert fall == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6])


def test_a_run_shorter_than_its_warm_up_still_warms_down() -> None:
    values = [lr_multiplier(step, 10, warmup_steps=40, warmdown_ratio=0.5) for step in range(10)]
    assert values[-1] < max(values) < 1


def test_momentum_warms_up_over_300_steps_or_a_quarter_of_a_short_run() -> None:
    assert [muon_momentum(step, 5000) for step in (0, 150, 300, 4999)] == pytest.approx([0.85, 0.9, 0.95, 0.95])
    assert [muon_momentum(step, 40) for step in (0, 5, 10)] == pytest.approx([0.85, 0.9, 0.95])
    assert muon_momentum(0, 1) == 0.85


def test_modern_momentum_rises_higher_and_falls_with_the_learning_rate() -> None:
    def at(step: int, num_steps: int) -> float:
        return muon_momentum(step, num_steps, MODERN_MOMENTUM, warmdown_ratio=0.65)

    assert [at(step, 2000) for step in (0, 200, 400, 700, 1350)] == pytest.approx([0.85, 0.91, 0.97, 0.97, 0.935])
    assert at(1999, 2000) == pytest.approx(0.90, abs=1e-3)
    assert [at(step, 100) for step in (0, 25, 99)] == pytest.approx([0.85, 0.97, 0.90], abs=2e-3)  # the reference: none


def test_weight_decay_fades_out() -> None:
    values = [weight_decay_multiplier(step, 100) for step in range(100)]
    assert values == sorted(values, reverse=True)
    assert (values[0], values[50]) == (1.0, pytest.approx(0.5))
    assert values[-1] < 0.001


@pytest.mark.parametrize(
    ("knobs", "named"),
    [
        ({"num_steps": 0}, "num_steps"),
        ({"num_steps": 5, "warmup_steps": -1}, "warmup_steps"),
        ({"num_steps": 5, "warmdown_ratio": 1.5}, "warmdown_ratio"),
        ({"num_steps": 5, "final_lr_frac": float("nan")}, "final_lr_frac"),
    ],
)
def test_a_schedule_that_is_none_is_refused_by_name(knobs: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Schedule(**knobs)


def test_a_step_outside_the_run_is_a_bug() -> None:
    for step in (-1, 10):
        with pytest.raises(AssertionError, match=str(step)):
            lr_multiplier(step, 10)
