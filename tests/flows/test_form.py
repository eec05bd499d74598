"""The run form: the same knobs as everywhere else, only what was filled in, nothing unknown."""

import pytest
from pydantic import ValidationError

from flows.form import Knobs, changed, filled_in, settings_of
from nanochat.recipes import RECIPES, apply, stages_of
from nanochat.workflow.plan import plan
from nanochat.workflow.stage import STAGES

SETTINGS = [
    "pretrain.depth=2",
    "pretrain.compile=false",
    "pretrain.matrix_lr=0.5",
    "tokenize.packing=stream",
    "sft_data.mixture=arithmetic:1, identity:2",
    "seed=7",
]


def test_every_knob_of_every_stage_is_a_field_with_its_help():
    schema = Knobs.model_json_schema()
    for name, stage in STAGES.items():
        if not stage.knobs():
            continue
        box = schema["$defs"][stage.__name__]
        assert box["title"] == name
        assert list(box["properties"]) == list(stage.knobs())
        for knob in stage.knobs().values():
            field = box["properties"][knob.name]
            assert field["description"].startswith(knob.help)
            assert "default" not in field, "an empty box keeps the recipe's value"
            if knob.choices:
                assert field["enum"] == list(knob.choices)
            if knob.at_least is not None:
                assert field["minimum"] == knob.at_least


def test_an_empty_form_changes_nothing():
    assert filled_in(Knobs()) == {}


@pytest.mark.parametrize("recipe", RECIPES)
def test_form_and_command_line_say_the_same(recipe):
    wanted = apply(stages_of(recipe), SETTINGS)
    filled = filled_in(changed(recipe, wanted))
    assert filled == changed(recipe, wanted)
    assert apply(stages_of(recipe), settings_of(filled)) == wanted
    assert changed(recipe, stages_of(recipe)) == {}


def test_a_worker_is_given_what_a_folder_of_ones_own_was_resolved_to(tmp_path):
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    steps = plan(apply(stages_of("micro"), [f"download.corpus={tmp_path}"]), ["download"])
    (tmp_path / "a.txt").unlink()  # the worker's machine does not have it
    settings = settings_of(filled_in(changed("micro", [step.stage for step in steps])))
    assert plan(apply(stages_of("micro"), settings), ["download"]) == steps


@pytest.mark.parametrize(
    ("filled", "complaint"),
    [
        ({"pretrain": {"depht": 3}}, "depht"),
        ({"pretraining": {}}, "pretraining"),
        ({"pretrain": {"depth": 0}}, "greater than or equal to 1"),
        ({"pretrain": {"depth": "deep"}}, "valid integer"),
        ({"tokenize": {"packing": "tight"}}, "'best_fit' or 'stream'"),
    ],
)
def test_what_cannot_be_is_refused(filled, complaint):
    with pytest.raises(ValidationError, match=complaint):
        filled_in(filled)
