"""Knobs of the stages: what does not change a result has no place in its address, and what does has; values are checked."""

import pytest

from nanochat.pipeline import BaseEval, CoreData, Midtrain, Pretrain, Rl, Sft


@pytest.mark.parametrize("knobs", [{}, {"architecture": "classic", "aspect_ratio": 65, "depth": 3}])
def test_window_patterns_are_checked_for_every_shape(knobs):
    with pytest.raises(ValueError, match=r"pretrain.window_pattern = 'SX': use only the letters S and L"):
        Pretrain(window_pattern="SX", **knobs)
    Pretrain(window_pattern="SSL", **knobs)


def test_a_negative_weight_decay_other_than_the_sign_for_the_depths_is_refused():
    for value in (-0.1, -2.0):
        with pytest.raises(ValueError, match=f"pretrain.weight_decay = {value}: take 0 or more, or -1"):
            Pretrain(weight_decay=value)
    assert [Pretrain(weight_decay=value).weight_decay for value in (-1, 0, 0.5)] == [-1.0, 0.0, 0.5]


def test_reinforcement_learning_has_no_batch_in_tokens():
    assert all("total_batch_size" in stage.knobs() for stage in (Pretrain, Midtrain, Sft))
    assert "total_batch_size" not in Rl.knobs()


def test_another_core_bundle_is_another_result():
    assert {"tasks", "revision"} == set(CoreData().values("identity"))
    assert CoreData in BaseEval.takes


def test_core_data_is_named_for_what_it_holds():
    assert [CoreData(tasks=tasks).label() for tasks in ("", "all", "copa", "copa, piqa")] == [
        "none",
        "all",
        "copa",
        "2-tasks",
    ]


def test_looks_at_core_need_a_source():
    with pytest.raises(
        ValueError, match=r"pretrain\.core_every = 5: needs pretrain\.core_source, an artifact of core_data"
    ):
        Pretrain(core_every=5)
    assert Pretrain(core_every=5, core_source="core").values("identity") == Pretrain().values("identity")
