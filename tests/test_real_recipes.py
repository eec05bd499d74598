"""The recipes for GPUs, small enough for two cores: their stages, tasks and ranks, from the first shard to a version.

Only sizes differ from what a node of GPUs would run. The data is real and comes through connections that break.
"""

import json
import shutil

import pytest

from nanochat import recipes
from nanochat.artifacts import metrics
from nanochat.artifacts.store import FileStore
from nanochat.evaluation.core_bundle import LABELS
from nanochat.planning.preflight import preflight
from nanochat.tasks.mixture import parse_mixture
from nanochat.tasks.task import asked_problems
from nanochat.tools import sandbox
from nanochat.workflow.plan import plan
from nanochat.workflow.runner import Observer, RunContext, run_plan
from tests import published_sources
from tests.flow_home import FlowHome

pytestmark = pytest.mark.skipif(
    bool(published_sources.missing()), reason=f"the shared data is not at hand: {published_sources.missing()}"
)
ASKED = ("chat_eval_mid", "chat_eval_sft", "chat_eval_rl")
SMALL = [  # identity knobs: the sizes
    "num_shards=2",
    "word_counts.max_chars=500_000",
    "vocab_size=1024",
    "sequence_len=256",
    "pretrain.depth=2",
    "aspect_ratio=32",
    "head_dim=32",
    "total_batch_size=2048",
    "pretrain.num_steps=20",
    "base_eval.eval_rows=16",
    "core_max_per_task=2",
    "midtrain.num_steps=10",
    "sft.num_steps=10",
    "rl.num_steps=2",
    "prompts_per_step=2",
    "samples_per_prompt=2",
    "max_new_tokens=16",
    "max_problems=3",
    "part_size=300",
]
HERE = [  # execution knobs: this machine
    "num_ranks=2",
    "device=cpu",
    "compile=false",
    "pretrain.eval_rows=16",
    "final_eval_rows=16",
    "eval_problems=3",
]
CONVERSATIONS = 600  # of a mixture


def small(name, *more):
    """The settings that change a recipe only in size, and some more."""
    stages = {stage.name: stage for stage in recipes.stages_of(name)}
    mixtures = [f"{data}.mixture={divided(stages[data].mixture)}" for data in ("midtrain_data", "sft_data")]
    return [*SMALL, *mixtures, *more]


def divided(mixture):
    """The same tasks in nearly the same proportions."""
    rows = parse_mixture(mixture)
    total = sum(rows.values())
    return ", ".join(f"{name}:{max(3, CONVERSATIONS * count // total)}" for name, count in rows.items())


def steps_of(name, *more, only=()):
    return plan(recipes.apply(recipes.stages_of(name), small(name, *more)), only)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    with published_sources.serve(tmp_path_factory.mktemp("published")) as sources:
        yield sources


@pytest.fixture(scope="module")
def settings(sources):
    return [*HERE, *sources.settings()]


@pytest.fixture(scope="module")
def speedrun(settings, tmp_path_factory):
    """A run of the whole recipe: where it lies, its steps and what became of them."""
    home = tmp_path_factory.mktemp("speedrun")
    context, steps = RunContext(FileStore(home / "store"), home), steps_of("speedrun", *settings)
    preflight(steps, context.store, reads_buckets=False)
    return context, steps, run_plan(steps, context, Observer())


def artifact(speedrun, name):
    context, steps, _ = speedrun
    return context.store.fetch(next(step.address for step in steps if step.name == name))


def logged(folder, name):
    return [row[name] for row in metrics.read(folder / metrics.FILE) if name in row]


def test_every_stage_of_speedrun_is_made_once(speedrun):
    context, steps, outcomes = speedrun
    assert {step.name for step in steps} == {stage.name for stage in recipes.stages_of("speedrun")}
    assert not any(outcome.cached for outcome in outcomes)
    assert all(outcome.cached for outcome in run_plan(steps, context, Observer()))


def test_all_that_was_fetched_came_through_broken_connections(speedrun, sources):
    assert {name: site.faults for name, site in sources.sites.items() if site.faults} == {}
    injected = {name: len(faults) for name, faults in published_sources.FAULTS.items()}
    assert {name: len(sources.sites[name].seen) - 1 for name in injected} == injected
    assert sum(injected.values()) == 6


def test_the_machine_is_in_no_address(speedrun):
    _, steps, _ = speedrun
    assert [step.address for step in steps] == [step.address for step in steps_of("speedrun")]


def test_every_part_of_a_mixture_has_rows_and_some_are_held_out(speedrun):
    context, steps, _ = speedrun
    for step in (step for step in steps if step.name in ("midtrain_data", "sft_data")):
        assert len(step.parts) >= 3
        assert all(context.store.record(part.address)["numbers"]["rows"] > 0 for part in step.parts)
        numbers = context.store.record(step.address)["numbers"]
        assert numbers["conversations"] + numbers["dropped"] == sum(parse_mixture(step.stage.mixture).values())
        assert numbers["dropped"] < 0.02 * numbers["conversations"], "only what says nothing within a row"


@pytest.mark.parametrize(
    ("name", "measured"), [("pretrain", "val_bpb"), ("midtrain", "validation_loss"), ("sft", "validation_loss")]
)
def test_every_stage_that_learns_has_learned(speedrun, name, measured):
    first, *_, last = logged(artifact(speedrun, name), measured)
    assert last < first


def test_reinforcement_learning_asks_held_out_problems(speedrun):
    assert len(logged(artifact(speedrun, "rl"), "held_out_pass_rate")) == 2


@pytest.mark.parametrize("name", ASKED)
def test_every_task_of_the_recipe_is_asked(speedrun, name):
    (stage,) = (stage for stage in recipes.stages_of("speedrun") if stage.name == name)
    scores = json.loads((artifact(speedrun, name) / "scores.json").read_text(encoding="utf-8"))
    not_run = {"humaneval"} if sandbox.unavailable() else set()
    assert set(scores["not_run"]) == not_run
    assert set(scores["tasks"]) == set(asked_problems(stage.tasks, "tasks")) - not_run
    assert {score["n"] for score in scores["tasks"].values()} == {3}


def test_all_tasks_of_core_are_asked(speedrun):
    scores = json.loads((artifact(speedrun, "base_eval") / "scores.json").read_text(encoding="utf-8"))
    assert set(scores["tasks"]) == set(LABELS)
    assert {score["n"] for score in scores["tasks"].values()} == {2}


@pytest.mark.parametrize("name", ["d12", "one-gpu", "d26", "d32"])
def test_the_other_recipes_are_the_same_graph(name):
    """What was run is what they run, but for depth and shards, which are sizes, and the horizon."""
    same = "pretrain.tokens_per_parameter=8"
    assert [step.address for step in steps_of(name, same)] == [step.address for step in steps_of("speedrun")]


def test_classic_d20_packs_and_trains_in_its_own_way(settings, speedrun, tmp_path):
    steps = steps_of("classic-d20", *settings, only=["pretrain"])
    context = RunContext(FileStore(tmp_path / "store"), tmp_path)
    outcomes = run_plan(steps, context, Observer())
    assert not any(outcome.cached for outcome in outcomes)
    assert {step.address for step in steps}.isdisjoint(step.address for step in speedrun[1])
    model = context.store.fetch(steps[-1].address)
    first, *_, last = logged(model, "val_bpb")
    assert last < first
    packed = {step.name: outcome.numbers for step, outcome in zip(steps, outcomes, strict=True)}["tokenize"]
    assert packed["dropped_share"] < 0.01, "a stream loses nothing but its end"


@pytest.mark.filterwarnings("ignore:.*noload:DeprecationWarning")  # of MLflow's own queries
def test_through_prefect_speedrun_ends_with_registered_versions(speedrun, settings, prefect_server, tmp_path):
    """From reinforcement learning on: what comes before it is found where the plain runner made it."""
    context, steps, _ = speedrun
    shutil.copytree(context.store.root, tmp_path / "store")
    made = {"rl", "chat_eval_rl", "report", "register"}
    for name in made:
        shutil.rmtree(tmp_path / "store" / name)
    home = FlowHome(tmp_path, small("speedrun", *settings), prefect_server, "speedrun")
    run = home.run()
    assert run.state.name == "Completed", home.log.read_text(encoding="utf-8")
    states = home.states(run, home.steps())
    assert {name for name, state in states.items() if state.name == "Completed"} == made
    assert home.versions("nanochat-speedrun") == {
        step.address for step in steps if step.name in ("midtrain", "sft", "rl")
    }
