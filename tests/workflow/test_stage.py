"""A stage is declared once: its address says exactly what made it, and what cannot be right is refused at once."""

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat import recipes
from nanochat.artifacts.digest import canonical, digest
from nanochat.pipeline import Download, Pretrain, Rl, Tokenizer, WordCounts
from nanochat.workflow.plan import differences, plan
from nanochat.workflow.stage import STAGES, Stage, execution, identity
from tests.paths import ROOT


def addresses(recipe="micro", *settings, only=()):
    return {step.name: step.address for step in plan(recipes.apply(recipes.stages_of(recipe), settings), only)}


def changed(*settings):
    before, after = addresses(), addresses("micro", *settings)
    return {name for name in before if before[name] != after[name]}


def test_an_rl_knob_changes_rl_and_its_descendants_only():
    assert changed("rl.lr_frac=0.1") == {"rl", "chat_eval_rl", "report", "register"}


def test_an_sft_knob_changes_what_follows_sft():
    assert changed("sft.num_steps=5") == {"sft", "chat_eval_sft", "rl", "chat_eval_rl", "report", "register"}


@pytest.mark.parametrize(
    "setting", ["device_batch_size=1", "num_ranks=2", "compile=true", "log_every=5", "dtype=float32", "url="]
)
def test_execution_knobs_change_no_address(setting):
    assert changed(setting) == set()


def test_the_number_of_shards_keeps_the_shards_that_are_there():
    few = {step.name: step for step in plan([Download(num_shards=1), WordCounts(), Tokenizer()])}
    many = {step.name: step for step in plan([Download(num_shards=3), WordCounts(), Tokenizer()])}
    assert few["download"].address != many["download"].address
    assert many["download"].parts[:2] == few["download"].parts
    assert len(many["download"].parts) == 4


def test_addresses_are_the_same_in_another_process():
    script = "from nanochat import recipes; from nanochat.workflow.plan import plan\nfor s in plan(recipes.stages_of('micro')): print(s.address)"
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, encoding="utf-8"
    ).stdout.split()
    assert printed == list(addresses().values())


def test_an_address_reads_as_stage_label_and_fingerprint():
    steps = plan(recipes.stages_of("tiny"))
    pretrain = next(step for step in steps if step.name == "pretrain")
    assert pretrain.address.startswith("pretrain/d4-")
    assert pretrain.label == "d4"
    assert digest(pretrain.preimage).startswith(pretrain.address.rsplit("-", 1)[1])


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
)


@given(plain)
def test_canonical_form_is_stable(value):
    assert canonical(value) == canonical(value)
    if isinstance(value, dict):
        assert canonical(dict(reversed(value.items()))) == canonical(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, object(), {1: 2}, {"a": b"bytes"}, {1, 2}])
def test_what_has_no_canonical_form_is_refused(value):
    with pytest.raises((TypeError, ValueError)):
        canonical(value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["pretrain.depth=0"], "pretrain.depth = 0: must be at least 1"),
        (["pretrain.depht=2"], "unknown knob of pretrain 'depht': did you mean 'depth'"),
        (["pretrian.depth=2"], "unknown stage 'pretrian': did you mean 'pretrain'"),
        (["sead=2"], "unknown knob 'sead': did you mean 'seed'"),
        (["depth"], "write STAGE.KNOB=VALUE"),
        (["depth=two"], "pretrain.depth = 'two': needs a value of type int"),
        (["rl.lr_frac=fast"], "rl.lr_frac = 'fast': needs a number"),
        (["rl.lr_frac=nan"], "needs a value of type float"),
        (["tokenizer.vocab_size=264"], "tokenizer.vocab_size = 264: must be at least 265"),
        (["tokenize.packing=tight"], "choose one of best_fit, stream"),
        (["compile=maybe"], "pretrain.compile = 'maybe': needs a value of type bool"),
        (["pretrain.warmdown_ratio=1.5"], "must be at most 1"),
        (["pretrain.window_pattern=SX"], "use only the letters S and L"),
    ],
)
def test_a_wrong_knob_is_refused_with_its_name_and_the_remedy(settings, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        recipes.apply(recipes.stages_of("micro"), settings)


def test_an_unknown_recipe_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="unknown recipe 'tyni': did you mean 'tiny'"):
        recipes.stages_of("tyni")


def test_a_bare_knob_is_set_on_every_stage_that_has_it():
    stages = recipes.apply(recipes.stages_of("micro"), ["seed=7", "pretrain.seed=8"])
    assert {stage.seed for stage in stages if "seed" in stage.knobs()} == {7, 8}


def test_a_stage_without_its_input_is_refused():
    with pytest.raises(ValueError, match="takes 'download', which the recipe does not have"):
        plan([Tokenizer()])


def test_only_keeps_a_stage_and_what_it_needs():
    assert set(addresses(only=["tokenizer"])) == {"download", "word_counts", "tokenizer"}
    with pytest.raises(ValueError, match="unknown stage 'tokeniser': did you mean"):
        addresses(only=["tokeniser"])


def test_two_stages_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two stages are called 'rl'"):
        type("Rl", (Stage,), {"__module__": __name__})


def test_a_new_stage_is_a_class_and_nothing_else():
    try:

        class Quantize(Stage, takes=(Pretrain,), makes=("model.bin",)):
            """Makes the model small."""

            bits: int = identity(8, "bits per weight", at_least=2)
            threads: int = execution(1, "threads")

        stages = [*recipes.stages_of("micro"), Quantize(bits=4)]
        step = plan(stages)[-1]
        assert step.address.startswith("quantize/d1-")
        assert step.stage.values("identity") == {"bits": 4}
        assert step.stage.work == "quantize"
        with pytest.raises(NotImplementedError):
            step.stage.num_parts()
    finally:
        STAGES.pop("quantize", None)


def test_every_stage_has_its_file_and_every_file_its_stage():
    """A stage names its work; `gather` is where its parts are joined."""
    files = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "nanochat" / "stages").glob("*.py")}
    done = {name for name, text in files.items() if "\ndef run(" in text}
    assert done == {stage.work for stage in STAGES.values()}
    joined = {name for name, text in files.items() if "\ndef gather(" in text}
    assert joined == {stage.work for stage in STAGES.values() if stage.mapped}


def test_differences_name_the_knob():
    one, two = plan(recipes.stages_of("micro")), plan(recipes.apply(recipes.stages_of("micro"), ["rl.lr_frac=0.1"]))
    lines = differences(one[-4].preimage, two[-4].preimage)
    assert lines == [f"knobs.lr_frac: {Rl().lr_frac!r} -> 0.1"]


def test_every_recipe_can_be_planned():
    for name in recipes.RECIPES:
        assert plan(recipes.stages_of(name))
        assert recipes.description(name)
