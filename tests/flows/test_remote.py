"""GPU stages on another work pool, with real workers: made once, found by both sides, gone when cancelled."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from flows.form import changed
from nanochat.artifacts import metrics
from nanochat.recipes import apply, stages_of
from nanochat.workflow import launch
from nanochat.workflow.runner import Job, Observer, RunContext, run_plan, work_directory
from tests import toy_corpus
from tests.flow_home import FlowHome
from tests.paths import ROOT
from tests.prefect_server import eventually
from tests.unreliable import between

LONG = ("midtrain.num_steps=100000", "midtrain.checkpoint_every=50")


@pytest.fixture(scope="module")
def whole(deployed, tmp_path_factory):
    """A home in which everything of the recipe is made: by the plain runner, which is quicker than a flow."""
    home = FlowHome(path := tmp_path_factory.mktemp("whole"), toy_corpus.make(path / "corpus"), deployed)
    run_plan(list(home.steps().values()), RunContext(home.store, path), Observer())
    return home


@pytest.fixture(scope="module")
def pools(whole, deployed, tmp_path_factory):
    """A worker of each pool, in a copy of that home."""
    path = tmp_path_factory.mktemp("pools") / "home"
    shutil.copytree(whole.path, path)
    environment = {
        **os.environ,
        **deployed.environment,
        "NANOCHAT_HOME": str(path),
        "PREFECT_WORKER_QUERY_SECONDS": "2",
    }
    workers = []
    for pool in ("cpu-pool", "gpu-pool"):
        command = [
            "env",
            "--default-signal=INT,TERM",
            sys.executable,
            "-m",
            "prefect",
            "worker",
            "start",
            "--pool",
            pool,
        ]
        with (path / f"{pool}.log").open("wb") as log:
            workers.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log))
    yield FlowHome(path, whole.settings, deployed)
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
    for worker in workers:
        worker.wait(60)


def submit(home, *more, **parameters):
    """A run of the deployed pipeline."""
    knobs = changed("micro", apply(stages_of("micro"), [*home.settings, *more]))
    with home.server.client() as client:
        deployment = client.read_deployment_by_name("pipeline/pipeline")
        given = {**deployment.parameters, "recipe": "micro", "knobs": knobs, **parameters}
        return client.create_flow_run_from_deployment(deployment.id, parameters=given).id


def ended(home, run_id):
    """The final state of a run."""
    return eventually(lambda: (state := home.server.run(run_id).state).is_final() and state, 200)


def at_work(home, address):
    work = work_directory(home.path, address)
    eventually(lambda: len(list(metrics.read(work / metrics.FILE))) > 2 and launch.marked(str(work)), 100)
    return str(work)


def test_a_gpu_stage_is_made_once_on_its_pool_for_all_pipelines_that_want_it(pools):
    knobs = ("sft.seed=9",)
    steps = pools.steps(*knobs, only=["sft"])
    address = steps["sft"].address
    runs = [submit(pools, *knobs, only=["sft"]) for _ in range(2)]
    assert [ended(pools, run).name for run in runs] == ["Completed", "Completed"]
    [child] = pools.server.runs_tagged(f"address:{address}")
    assert (child.state.name, child.work_pool_name) == ("Completed", "gpu-pool")
    record = pools.store.record(address)
    assert record["facts"]["pipeline_run"] in map(str, runs)
    for run in runs:
        mine = record["facts"]["pipeline_run"] == str(run)
        # beside the tasks of the plan, Prefect shows the child of the run that started it
        states = pools.server.tasks(run, len(steps) + mine)
        assert states[address].name == ("Completed" if mine else "Cached")
    assert [status for status, _ in pools.tracked(address)] == ["FINISHED"]


def test_cancelling_a_pipeline_ends_its_stages_wherever_they_are(pools):
    here, there = (("midtrain.seed=21", *LONG), ("midtrain.seed=22", *LONG))
    runs = [submit(pools, *here, only=["midtrain"], gpu_deployment=""), submit(pools, *there, only=["midtrain"])]
    addresses = [pools.steps(*knobs)["midtrain"].address for knobs in (here, there)]
    marks = [at_work(pools, address) for address in addresses]
    for run in runs:
        pools.server.cancel(run)
    assert [ended(pools, run).name for run in runs] == ["Cancelled", "Cancelled"]
    [child] = pools.server.runs_tagged(f"address:{addresses[1]}")
    assert ended(pools, child.id).name == "Cancelled"
    assert "error was encountered while running hook" not in (pools.path / "cpu-pool.log").read_text(encoding="utf-8")
    for address, mark in zip(addresses, marks, strict=True):
        assert launch.marked(mark) == []
        assert pools.is_free(address)
        assert pools.store.record(address) is None
        assert [status for status, _ in pools.tracked(address)] == ["KILLED"]


def test_a_stage_whose_flow_dies_is_started_again_and_one_that_fails_is_not(pools):
    dying, failing = ("midtrain.seed=31", "midtrain.num_steps=60"), ("sft.seed=32", "sft.device=cuda")
    addresses = pools.steps(*dying)["midtrain"].address, pools.steps(*failing)["sft"].address
    first, second = submit(pools, *dying, only=["midtrain"]), submit(pools, *failing, only=["sft"])
    at_work(pools, addresses[0])
    os.kill(json.loads(pools.store.get(f"leases/{addresses[0]}.json")[0])["pid"], signal.SIGKILL)
    assert ended(pools, first).name == "Completed"
    children = pools.server.runs_tagged(f"address:{addresses[0]}")
    assert sorted(child.state.name for child in children) == ["Completed", "Crashed"]
    state = ended(pools, second)
    assert state.name == "Failed"
    assert state.message.startswith(f"{addresses[1]}: ")
    assert "cuda" in state.message.lower()
    assert len(pools.server.runs_tagged(f"address:{addresses[1]}")) == 1


def test_a_forced_stage_that_fails_on_the_pool_is_no_success(pools):
    steps = pools.steps(only=["sft"])
    before = pools.store.record(steps["sft"].address)
    state = ended(pools, submit(pools, "sft.device=cuda", only=["sft"], force=["sft"]))
    assert state.name == "Failed"
    assert state.message.startswith(f"{steps['sft'].address}: ")
    assert pools.store.record(steps["sft"].address) == before


@contextmanager
def asking(home, path, url=""):
    """A run of a plan with a store below `path`, and the client with which it asks for its children."""
    from prefect.client.orchestration import get_client
    from prefect.logging import disable_run_logger
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    from flows import settings
    from flows.run import PipelineRun

    run = PipelineRun("micro", list(home.steps().values()), settings.read({}, home=path), frozenset(), "stage/gpu")
    run.id = str(path)
    with temporary_settings({PREFECT_API_URL: url or home.server.url, PREFECT_CLIENT_MAX_RETRIES: 0 if url else 5}):
        with disable_run_logger(), get_client(sync_client=True) as client:
            yield run, client


@pytest.fixture
def idle(whole, deployed):
    """The deployed server with a GPU pool whose worker gets nothing to do."""
    from prefect.client.schemas.actions import WorkPoolUpdate

    with deployed.client() as client:
        client.update_work_pool("gpu-pool", WorkPoolUpdate(is_paused=True))
        yield whole
        for child in deployed.runs_tagged(f"address:{whole.steps()['rl'].address}"):
            deployed.cancel(child.id)
        client.update_work_pool("gpu-pool", WorkPoolUpdate(is_paused=False))


def test_a_run_is_shared_by_those_who_want_the_address_of_one_store_only(idle, tmp_path):
    from flows.remote import _attach_or_start, _patiently

    job, children = Job(idle.steps()["rl"]), []
    for path in (tmp_path / "a", tmp_path / "b", tmp_path / "a"):
        with asking(idle, path) as (run, client):
            children.append(_patiently(lambda client=client, run=run: _attach_or_start(client, run, job), run))
    first, second, third = children
    assert (first.id, first.parameters["store"]) == (third.id, f"file://{tmp_path}/a/store")
    assert (second.id != first.id, second.parameters["store"]) == (True, f"file://{tmp_path}/b/store")


def flow_that_asks(home, path, job, force=frozenset(), secret=""):
    """A flow run whose task asks for a child as the pipeline's does: the child and the flow run's id."""
    from prefect import flow, task
    from prefect.runtime import flow_run

    from flows import remote

    with asking(home, path) as (run, client):
        run.force = force
        run.settings = [*run.settings, *([secret] if secret else [])]

        @task
        def asks():
            return remote._patiently(lambda: remote._attach_or_start(client, run, job), run)

        @flow
        def pipeline_of_a_test():
            run.id = flow_run.get_id()
            return asks(), flow_run.get_id()

        return pipeline_of_a_test()


def shown(home, run_id):
    """The task runs of a flow run beside the one that asks, by name."""
    return {name: state for name, state in home.server._tasks(run_id).items() if not name.startswith("asks")}


def test_of_two_that_ask_at_the_same_moment_only_one_shows_the_child_and_no_task_never_ends(
    idle, tmp_path, monkeypatch
):
    from flows import remote

    job, name = Job(idle.steps()["rl"]), f"{idle.steps()['rl'].address} on stage/gpu"
    tagged = remote._tagged
    monkeypatch.setattr(remote, "_tagged", lambda client, *tags: [])  # neither sees what the other has just started
    secret = "download.url=http://me:SECRET@host/?sig=SECRET"
    child, first = flow_that_asks(idle, tmp_path, job, secret=secret)
    same, second = flow_that_asks(idle, tmp_path, job)
    assert same.id == child.id
    assert (len(shown(idle, first)), shown(idle, second)) == (1, {})
    assert set(shown(idle, first)) == {name}
    assert "SECRET" not in child.model_dump_json()

    forced, third = flow_that_asks(idle, tmp_path, job, frozenset(["rl"]))
    assert forced.id != child.id  # that one might only find the artifact made
    assert forced.parameters["force"] is True
    assert set(shown(idle, third)) == {name}

    monkeypatch.setattr(remote, "_tagged", tagged)  # and one that comes later attaches
    later, fourth = flow_that_asks(idle, tmp_path, job)
    assert later.id in (child.id, forced.id)
    assert shown(idle, fourth) == {}

    for each in (child, forced):  # what stands for a child ends with it
        idle.server.cancel(each.id)
    eventually(
        lambda: [state.is_final() for run in (first, third) for state in shown(idle, run).values()] == [True] * 2
    )


def test_asking_again_after_a_lost_answer_or_a_crash_leaves_one_task_for_the_child(idle, tmp_path):
    from prefect import flow
    from prefect.runtime import flow_run

    from flows import remote

    job = Job(idle.steps()["rl"])
    with asking(idle, tmp_path) as (run, client):

        @flow
        def pipeline_of_a_test():
            run.id = flow_run.get_id()
            for _ in range(2):  # killed, or cut off, before the child was made
                remote._patiently(lambda: remote._placeholder(client, run, job, 0), run)
            asked = [remote._patiently(lambda: remote._attach_or_start(client, run, job), run) for _ in range(2)]
            return asked, flow_run.get_id()

        (child, again), run_id = pipeline_of_a_test()
    assert child.id == again.id
    assert len(shown(idle, run_id)) == 1


def test_a_server_that_is_away_is_asked_again_and_keeps_no_cancelled_run_from_ending(idle, tmp_path, monkeypatch):
    from flows import remote
    from flows.observer import FlowObserver

    monkeypatch.setattr(remote, "POLL_SECONDS", 0.1)
    job = Job(idle.steps()["rl"])
    with between(idle.server.url.removesuffix("/api")) as proxy:
        with asking(idle, tmp_path, f"{proxy.endpoint}/api") as (run, client):
            proxy.fail("reset", "503", "reset")
            child = remote._patiently(lambda: remote._attach_or_start(client, run, job), run)
            assert [each.id for each in idle.server.runs_tagged(f"parent:{run.id}")] == [child.id]
            proxy.fail_always("reset")
            run.stopping.set()
            with pytest.raises(launch.Stopped, match="was cancelled"):
                remote._follow(client, child, run, job, FlowObserver(run.stopping, lambda job: None, None))
            with pytest.raises(launch.Stopped, match="was cancelled"):
                remote._patiently(lambda: remote._attach_or_start(client, run, job), run)
            proxy.fail_always(None)
            with pytest.raises(httpx.HTTPStatusError):  # what is refused is not asked again
                remote._patiently(lambda: client.read_flow_runs(limit=10**6), run)


def test_a_cancelled_pipeline_takes_runs_along_that_never_began(pools):
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect.states import Scheduled

    from flows.remote import cancel_children

    in_an_hour = Scheduled(scheduled_time=datetime.now(UTC) + timedelta(hours=1))
    given = {"recipe": "micro", "settings": [], "name": "sft", "address": "sft/none"}
    with pools.server.client() as client:
        parent = client.create_flow_run_from_deployment(
            client.read_deployment_by_name("pipeline/pipeline").id, state=in_an_hour
        )
        gpu = client.read_deployment_by_name("stage/gpu").id
        tags = [f"parent:{parent.id}"]
        child = client.create_flow_run_from_deployment(gpu, parameters=given, state=in_an_hour, tags=tags)
    with temporary_settings({PREFECT_API_URL: pools.server.url}):
        cancel_children(flow=None, flow_run=parent, state=parent.state)
    assert ended(pools, child.id).name == "Cancelled"
    pools.server.cancel(parent.id)


def test_a_worker_refuses_what_it_would_make_otherwise_or_from_nothing(whole, tmp_path):
    from flows.pipeline import stage

    steps = whole.steps()
    given = {"recipe": "micro", "settings": whole.settings, "name": "sft"}
    other = stage.fn(**given, address="sft/d1-00000000", store=whole.store.uri)
    assert other.message.startswith(f"this worker calls it {steps['sft'].address}, the pipeline sft/d1-00000000: bring")
    empty = stage.fn(**given, address=steps["sft"].address, store=str(tmp_path / "empty"))
    assert empty.message.startswith(f"{steps['midtrain'].address} is not in file://")
    assert other.is_failed()
    assert empty.is_failed()
