"""The Prefect flow on a real server: nothing twice, honest states, failures that say why, nothing left running."""

import json
import signal

import pytest

from nanochat.artifacts import metrics
from nanochat.recipes import apply, stages_of
from nanochat.workflow import launch
from nanochat.workflow.plan import plan
from nanochat.workflow.runner import work_directory
from tests import toy_corpus
from tests.flow_home import FlowHome
from tests.prefect_server import eventually
from tests.unreliable import between

LONG = ["midtrain.num_steps=100000", "midtrain.checkpoint_every=50"]


def test_the_first_run_makes_every_stage_under_its_address(made):
    home, run = made
    assert run.state.name == "Completed", home.log.read_text(encoding="utf-8")
    steps = home.steps()
    parts = {part.address for step in steps.values() for part in step.parts}
    states = home.states(run, steps, len(parts))
    assert set(states) == {*steps, *parts}
    assert {state.name for state in states.values()} == {"Completed"}
    assert states["rl"].message.endswith(home.store.location(steps["rl"].address))
    assert [status for status, _ in home.tracked(steps["rl"].address)] == ["FINISHED"]
    assert [status for status, _ in home.tracked(run.id)] == ["FINISHED"]


def test_progress_and_results_are_artifacts_of_the_run(made):
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    home, run = made
    with home.server.client() as client:
        mine = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
        found = {artifact.key: artifact.data for artifact in client.read_artifacts(artifact_filter=mine)}
    pretrain = home.steps()["pretrain"].address
    assert found[pretrain.replace("/", "-")] == 100.0
    assert "| score" in found["scores-d1"]
    assert f"| {pretrain} |" in found["nanochat-micro"]
    assert home.store.location(pretrain) in found["nanochat-micro"]


def test_a_second_run_finds_everything(home):
    states = home.states(home.run(), home.steps())
    assert set(states) == set(home.steps()), "no part was looked at"
    assert {state.name for state in states.values()} == {"Cached"}
    assert list((home.path / "work").rglob("spec.json")) == []


def test_a_knob_of_rl_reruns_rl_and_what_follows_from_it(home):
    run = home.run("rl.lr_frac=0.01")
    states = home.states(run, home.steps("rl.lr_frac=0.01"))
    made = {name for name, state in states.items() if state.name == "Completed"}
    assert made == {"rl", "chat_eval_rl", "report", "register"}
    assert {state.name for name, state in states.items() if name not in made} == {"Cached"}


def test_a_stage_that_fails_leaves_its_cause_and_nothing_else_and_the_retry_makes_what_is_missing(home, tmp_path):
    source = tmp_path / "tasks"
    source.mkdir()
    rows = source / "humaneval_test.jsonl"
    rows.write_text("{}\n", encoding="utf-8")
    knobs = ("task_data.tasks=humaneval", f"task_data.source={source}")
    steps = home.steps(*knobs, only=["midtrain"])
    data = steps["task_data"].address
    run = home.run(*knobs, only="midtrain")
    cause = run.state.message
    assert run.state.name == "Failed"
    assert cause.startswith(f"{data}: ValueError: {rows}, line 1: task_id = None: needs text")
    assert "Traceback" not in home.log.read_text(encoding="utf-8")
    parts = {part.address for part in steps["midtrain_data"].parts}
    states = home.states(run, steps, len(parts))
    assert (states["task_data"].name, states["task_data"].message) == ("Failed", cause)
    assert (states["midtrain"].name, states["pretrain"].name) == ("NotReady", "Cached")
    assert home.store.record(data) is None
    for tracked in (data, run.id):
        [(status, tags)] = home.tracked(tracked)
        assert (status, tags["nanochat.cause"]) == ("FAILED", cause)

    row = {
        "task_id": "a",
        "prompt": "def f():\n",
        "canonical_solution": "    return 1\n",
        "test": "def check(f):\n    assert f() == 1\n",
        "entry_point": "f",
    }
    rows.write_text(json.dumps(row) + "\n", encoding="utf-8")
    states = home.states(home.run(*knobs, only="midtrain"), steps, len(parts))
    made = {"task_data", "midtrain_data", "midtrain", *parts}
    assert {name for name, state in states.items() if state.name == "Completed"} == made
    assert [status for status, _ in home.tracked(data)] == ["FINISHED"]


@pytest.mark.filterwarnings("ignore:Artifact creation outside of a flow:FutureWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # sockets of Prefect's client
@pytest.mark.filterwarnings("ignore:.*noload:DeprecationWarning")  # of MLflow's own queries
def test_a_store_that_fails_while_the_stages_are_submitted_fails_the_run_and_cancels_nothing(tmp_path, prefect_server):
    from prefect.logging import disable_run_logger
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows import pipeline, settings
    from flows.run import PipelineRun

    home = FlowHome(tmp_path, toy_corpus.make(tmp_path / "corpus"), prefect_server)
    steps = plan(apply(stages_of("micro"), home.settings), ["download"])
    run = PipelineRun("micro", steps, settings.read({}, home=tmp_path), frozenset())
    (tmp_path / "store" / steps[-1].address / "record.json").mkdir(parents=True)
    with temporary_settings({PREFECT_API_URL: prefect_server.url}), disable_run_logger():
        state = pipeline._run_recorded(run, steps, "a-run")
    assert state.is_failed()
    assert state.message.startswith(f"{steps[-1].address}: IsADirectoryError: ")
    [(status, tags)] = home.tracked("a-run")
    assert (status, tags["nanochat.cause"]) == ("FAILED", state.message)


def test_progress_without_a_known_end_names_none():
    from flows.observer import fraction, words

    row = {"done": 1200, "total": 0, "unit": "rows"}
    assert (words(row), fraction(row)) == ("1,200 rows", None)
    assert words({**row, "total": 2000}) == "1,200 of 2,000 rows"


def test_two_runs_at_once_make_each_address_once(home):
    steps = home.steps("sft.seed=5", only=["sft"])
    processes, logs = [], []
    for number in range(2):
        home.log = home.path / f"{number}.log"
        logs.append(home.log)
        processes.append(home.start("sft.seed=5", only="sft"))
    names = []
    for process, home.log in zip(processes, logs, strict=True):
        assert process.wait(100) == 0
        names.append(home.states(home.said(), steps)["sft"].name)
    assert sorted(names) == ["Cached", "Completed"]


def test_cancelling_a_run_from_the_api_leaves_nothing_running(home):
    process, steps = home.start(*LONG, only="midtrain"), home.steps(*LONG, only=["midtrain"])
    address = steps["midtrain"].address
    mark = home.at_work(process, address)
    home.server.cancel(home.server.latest_run().id)
    assert process.wait(60) == 1
    assert launch.marked(mark) == []
    assert home.is_free(address)
    assert home.store.record(address) is None
    run = home.said()
    assert run.state.name == "Cancelled"
    assert home.states(run, steps)["midtrain"].name == "Cancelled"
    assert [status for tracked in (address, run.id) for status, _ in home.tracked(tracked)] == ["KILLED", "KILLED"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_and_says_so(home, number):
    process, address = home.start(*LONG, only="midtrain"), home.steps(*LONG)["midtrain"].address
    mark = home.at_work(process, address)
    run = home.server.latest_run()
    process.send_signal(number)
    process.wait(60)
    assert launch.marked(mark) == []
    assert home.is_free(address)
    state = home.server.run(run.id).state
    assert state.is_final(), state
    assert state.name != "Completed"
    assert [status for tracked in (address, run.id) for status, _ in home.tracked(tracked)] == ["KILLED", "KILLED"]


def test_ctrl_c_leaves_nothing_running(home):
    process, address = home.start(*LONG, only="midtrain"), home.steps(*LONG)["midtrain"].address
    mark = home.at_work(process, address)
    process.send_signal(signal.SIGINT)
    process.wait(60)
    assert launch.marked(mark) == []
    assert home.is_free(address)
    assert home.said().state.name == "Cancelled"


def test_a_killed_flow_takes_its_trainer_along_and_the_next_run_goes_on(home):
    knobs = ("midtrain.num_steps=40", "midtrain.checkpoint_every=2")
    process, address = home.start(*knobs, only="midtrain"), home.steps(*knobs)["midtrain"].address
    mark = home.at_work(process, address, steps=5)
    process.kill()
    process.wait(10)
    eventually(lambda: not launch.marked(mark))
    assert home.store.record(address) is None
    assert list(work_directory(home.path, address).rglob("*.safetensors")), "a checkpoint"
    assert home.run(*knobs, only="midtrain").state.name == "Completed"
    steps = [row["step"] for row in metrics.read(home.store.fetch(address) / metrics.FILE) if "loss" in row]
    assert steps == sorted(set(steps))


def test_a_server_that_is_away_for_a_while_ends_nothing(home):
    knobs = ("midtrain.num_steps=100",)
    address = home.steps(*knobs)["midtrain"].address
    with between(home.server.url.removesuffix("/api")) as proxy:
        process = home.start(*knobs, only="midtrain", url=f"{proxy.endpoint}/api")
        home.at_work(process, address)
        proxy.fail_always("reset")
        home.at_work(process, address, steps=60)
        proxy.fail_always(None)
        assert process.wait(100) == 0, home.log.read_text(encoding="utf-8")
    assert home.store.record(address) is not None
    assert home.said().state.name == "Completed"
