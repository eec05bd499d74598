"""MLflow holds what happened, once and truly, and is never waited for: against a real server and a database file."""

import itertools
import json
import math
from pathlib import Path

import pytest

from flows.gate import Version, contender, judge
from flows.store import open_store
from flows.track import Tracker, small_files
from nanochat.artifacts.store import FileStore
from tests import mlflow_server
from tests.s3_server import S3Server, free_port, s3_server_fixture  # noqa: F401
from tests.unreliable import between

pytestmark = pytest.mark.filterwarnings("ignore:.*noload:DeprecationWarning")  # of MLflow's own queries
names = itertools.count()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with mlflow_server.serve(tmp_path_factory.mktemp("mlflow"), free_port()) as running:
        yield running


@pytest.fixture(scope="session")
def database(tmp_path_factory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('tracking')}/new/mlflow.db"


@pytest.fixture(params=["database", "server"])
def uri(request, database) -> str:
    return database if request.param == "database" else request.getfixturevalue("server").uri


@pytest.fixture
def name() -> str:
    """Of an experiment or a model: no test meets another's."""
    return f"test-{next(names)}"


def rows(first: int, last: int, at: float = 1000.0) -> list[dict]:
    return [{"step": s, "time": at + s, "loss": 5 - s / 100, "tok_per_s": 1e4, "note": "x"} for s in range(first, last)]


def info(address: str, inputs: dict | None = None, **params: object) -> dict:
    tags = {"execution.device_batch_size": 8, "git_dirty": False}
    return {"address": address, "name": address.split("/")[0], "params": params, "tags": tags, "inputs": inputs or {}}


def closed(tracker: Tracker) -> None:
    assert tracker.close(60) == 0
    assert tracker.outbox.dropped == 0


class Seen:
    """What a person sees in MLflow."""

    def __init__(self, uri: str, experiment: str) -> None:
        from mlflow import MlflowClient

        self.client = MlflowClient(uri, registry_uri=uri)
        self.id = self.client.get_experiment_by_name(experiment).experiment_id

    def runs(self, tag: str = "nanochat.address") -> list:
        found = self.client.search_runs([self.id], order_by=["start_time"])
        return [run for run in found if tag in run.data.tags]

    def curve(self, run: object, metric: str) -> list[tuple[int, float, int]]:
        return [(m.step, m.value, m.timestamp) for m in self.client.get_metric_history(run.info.run_id, metric)]

    def files(self, run: object) -> set[str]:
        return {each.path for each in self.client.list_artifacts(run.info.run_id)}


def test_a_pipeline_is_a_parent_run_with_a_child_per_stage(uri, name, tmp_path):
    store, made = FileStore(tmp_path / "store"), tmp_path / "made"
    made.mkdir()
    scores = {"tasks": {"spelling": {"accuracy": 0.75, "baseline": 0.25}}}
    (made / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    (made / "samples.md").write_text("# hello\n", encoding="utf-8")
    record = store.publish("midtrain/d4-01", {path.name: path for path in made.iterdir()}, {})
    inputs = {"midtrain": {"address": "midtrain/d4-01", "uri": store.location("midtrain/d4-01"), "record": record}}

    tracker = Tracker(uri, name)
    parent = tracker.pipeline_run("flow-run-1", "tiny", {"prefect.flow_run_id": "flow-run-1", "git_dirty": True})
    run = tracker.stage_run(parent, info("sft/d4-02", inputs, depth=4, lr_frac=0.5))
    run.forward(rows(0, 1000))
    run.forward(
        [{"step": 1000, "time": 3000.0, "loss": 1.0, "val_bpb": math.nan}, {"done": 1, "total": 2, "time": 1.0}]
    )
    run.finish("FINISHED", numbers={"chatcore": 0.5, "loss": 9.0}, files=small_files(made))
    tracker.cached(parent, "tokenizer/v1-03")
    tracker.finish_pipeline("FINISHED")
    closed(tracker)

    seen = Seen(uri, name)
    (pipeline,), (stage,) = seen.runs("nanochat.pipeline"), seen.runs()
    assert (pipeline.info.status, stage.info.status) == ("FINISHED", "FINISHED")
    assert pipeline.data.tags["nanochat.cached.tokenizer"] == "tokenizer/v1-03"
    assert pipeline.data.tags["prefect.flow_run_id"] == parent == "flow-run-1"
    assert stage.data.tags["mlflow.parentRunId"] == pipeline.info.run_id
    assert stage.data.tags["nanochat.address"] == "sft/d4-02"
    assert stage.data.tags["execution.device_batch_size"] == "8"
    assert stage.data.params == {"depth": "4", "lr_frac": "0.5"}
    (dataset,) = [each.dataset for each in stage.inputs.dataset_inputs]
    assert dataset.name == "midtrain/d4-01"
    assert len(dataset.digest) == 36
    expected = [(s, 5 - s / 100, 1000_000 + 1000 * s) for s in range(1000)] + [(1000, 1.0, 3000_000)]
    assert seen.curve(stage, "loss") == expected
    assert seen.curve(stage, "chatcore")[0][:2] == (1000, 0.5)
    assert math.isnan(seen.curve(stage, "val_bpb")[0][1])
    assert set(stage.data.metrics) == {"loss", "tok_per_s", "val_bpb", "chatcore"}
    assert seen.files(stage) == {"scores.json", "samples.md", "curves.png", "scores.png"}


def test_a_resumed_stage_goes_on_in_its_run_and_no_step_stands_twice(uri, name):
    first = Tracker(uri, name)
    run = first.stage_run(first.pipeline_run("p", "tiny", {}), info("pretrain/d4-01", depth=4))
    run.forward(rows(0, 60))
    run.forward(rows(0, 60))
    run.finish("FAILED", cause="ValueError: out of luck")
    first.finish_pipeline("FAILED", "pretrain: out of luck")
    closed(first)
    seen = Seen(uri, name)
    (failed,), (pipeline,) = seen.runs(), seen.runs("nanochat.pipeline")
    assert (failed.info.status, failed.data.tags["nanochat.cause"]) == ("FAILED", "ValueError: out of luck")
    assert (pipeline.info.status, pipeline.data.tags["nanochat.cause"]) == ("FAILED", "pretrain: out of luck")

    second = Tracker(uri, name)  # another process: the file was cut at step 40 and goes on at another time
    run = second.stage_run(second.pipeline_run("p", "tiny", {}), info("pretrain/d4-01", depth=4))
    run.forward(rows(0, 40))
    run.forward(rows(40, 80, at=5000.0))
    closed(second)
    (resumed,) = seen.runs()
    assert resumed.info.run_id == failed.info.run_id
    assert resumed.info.status == "RUNNING"
    assert "nanochat.cause" not in resumed.data.tags
    assert [step for step, _, _ in seen.curve(resumed, "loss")] == list(range(80))

    third = Tracker(uri, name)
    run = third.stage_run(third.pipeline_run("p", "tiny", {}), info("pretrain/d4-01", depth=4))
    run.forward(rows(0, 80))
    run.finish("KILLED", cause="the run was cancelled")
    third.finish_pipeline("KILLED", "cancelled")
    closed(third)
    (killed,), (pipeline,) = seen.runs(), seen.runs("nanochat.pipeline")
    assert (killed.info.status, pipeline.info.status) == ("KILLED", "KILLED")
    assert [step for step, _, _ in seen.curve(killed, "loss")] == list(range(80))


def test_what_is_made_again_on_request_is_a_run_of_its_own(database, name):
    for value in (1.0, 2.0):
        tracker = Tracker(database, name)
        run = tracker.stage_run(tracker.pipeline_run("p", "tiny", {}), info("sft/d4-01"))
        run.forward([{"step": 1, "time": 1.0, "loss": value}])
        run.finish("FINISHED")
        closed(tracker)
    seen = Seen(database, name)
    assert [run.data.metrics["loss"] for run in seen.runs()] == [1.0, 2.0]


def test_a_stage_made_while_mlflow_was_away_is_told_by_the_next_run(database, name, tmp_path):
    store, made = FileStore(tmp_path / "store"), tmp_path / "made"
    made.mkdir()
    (made / "samples.md").write_text("# hello\n", encoding="utf-8")
    (made / "metrics.jsonl").write_text(mlflow_server.as_lines(rows(0, 30)), encoding="utf-8")
    files = {path.name: path for path in made.iterdir()}
    record = store.publish("sft/d4-01", files, {"numbers": {"chatcore": 0.5}, "finished": 2000.0})

    away = Tracker(f"http://127.0.0.1:{free_port()}", name)
    run = away.stage_run(away.pipeline_run("p", "tiny", {}), info("sft/d4-01"))
    run.forward(rows(0, 30))
    run.finish("FINISHED", numbers={"chatcore": 0.5}, files=small_files(made))
    away.finish_pipeline("FINISHED")
    assert away.close(0.2) >= 5

    tracker = Tracker(database, name)  # an artifact that cannot be had is not told, and holds nothing up
    gone = {**info("sft/d4-00"), "record": record}
    tracker.cached(tracker.pipeline_run("o", "tiny", {}), "sft/d4-00", gone, lambda: store.fetch("sft/d4-00"))
    assert (tracker.close(60), tracker.outbox.dropped) == (0, 1)
    for pipeline in ("p", "q"):  # the second finds it told
        tracker = Tracker(database, name)
        parent = tracker.pipeline_run(pipeline, "tiny", {})
        tracker.cached(
            parent, "sft/d4-01", {**info("sft/d4-01", depth=4), "record": record}, lambda: store.fetch("sft/d4-01")
        )
        closed(tracker)
    seen = Seen(database, name)
    (stage,) = seen.runs()
    assert (stage.info.status, stage.info.end_time) == ("FINISHED", 2000_000)
    assert stage.data.params == {"depth": "4"}
    assert [step for step, _, _ in seen.curve(stage, "loss")] == list(range(30))
    assert seen.curve(stage, "chatcore") == [(29, 0.5, 2000_000)]
    assert seen.files(stage) == {"samples.md", "curves.png"}
    assert [run.data.tags["nanochat.cached.sft"] for run in seen.runs("nanochat.pipeline")] == [
        "sft/d4-00",
        "sft/d4-01",
        "sft/d4-01",
    ]


def test_killing_the_server_in_the_middle_loses_nothing_and_holds_up_nothing(server, name, caplog):
    tracker = Tracker(server.uri, name)
    tracker.outbox.pauses = (0.2,)
    parent = tracker.pipeline_run("p", "tiny", {})
    run = tracker.stage_run(parent, info("pretrain/d4-01"))
    run.forward(rows(0, 50))
    assert tracker.outbox.flush(60) == 0
    server.kill()
    for first in range(50, 100, 10):
        run.forward(rows(first, first + 10))
    run.finish("FINISHED", numbers={"val_bpb": 1.5})
    tracker.finish_pipeline("FINISHED")
    assert tracker.outbox.flush(1) > 0
    assert tracker.outbox.failures > 0
    server.start()
    closed(tracker)
    assert sum("work goes on without it" in record.message for record in caplog.records) == 1
    seen = Seen(server.uri, name)
    (stage,) = seen.runs()
    assert stage.info.status == "FINISHED"
    assert [step for step, _, _ in seen.curve(stage, "loss")] == list(range(100))
    assert stage.data.metrics["val_bpb"] == 1.5


def test_a_server_that_never_answers_is_not_waited_for(server, name, caplog):
    with between(server.uri) as proxy:
        proxy.fail_always("hang")
        tracker = Tracker(proxy.endpoint, name)
        run = tracker.stage_run(tracker.pipeline_run("p", "tiny", {}), info("pretrain/d4-01"))
        run.forward(rows(0, 1000))
        run.finish("FINISHED")
        assert len(tracker.outbox) >= 4
        assert tracker.close(0.5) >= 4
    assert "were left out" in caplog.text
    dropped = tracker.outbox.dropped
    run.tag("late", "it is")
    assert tracker.outbox.dropped == dropped + 1


def test_what_mlflow_refuses_is_dropped_counted_and_said(database, name, caplog):
    tracker = Tracker(database, name)
    parent = tracker.pipeline_run("p", "tiny", {})
    tracker.stage_run(parent, info("sft/d4-01", depth=4))
    run = tracker.stage_run(parent, info("sft/d4-01", depth=5))  # a parameter never changes
    run.finish("FINISHED", numbers={"chatcore": 0.5})
    assert tracker.close(60) == 0
    assert tracker.outbox.dropped == 1
    assert "does not take it" in caplog.text
    (stage,) = Seen(database, name).runs()
    assert (stage.info.status, stage.data.params["depth"]) == ("FINISHED", "4")


def test_rows_that_mlflow_would_not_take_go_with_the_next_batch(database, name):
    tracker = Tracker(database, name)
    run = tracker.stage_run(tracker.pipeline_run("p", "tiny", {}), info("sft/d4-01"))
    run.forward(rows(0, 20))
    assert tracker.outbox.flush(60) == 0
    client = Seen(database, name).client
    client.delete_run(run.id)  # nothing is taken for a deleted run
    run.forward(rows(20, 40))
    assert tracker.outbox.flush(60) == 0
    assert tracker.outbox.dropped == 1
    client.restore_run(run.id)
    run.forward(rows(40, 60))
    run.finish("FINISHED")
    assert (tracker.close(60), tracker.outbox.dropped) == (0, 1)
    seen = Seen(database, name)
    (stage,) = seen.runs()
    assert stage.info.status == "FINISHED"
    assert [step for step, _, _ in seen.curve(stage, "loss")] == list(range(60))


def test_rows_that_mlflow_refused_to_the_end_are_told_by_the_next_run(database, name, tmp_path):
    store, lines = FileStore(tmp_path / "store"), tmp_path / "metrics.jsonl"
    lines.write_text(mlflow_server.as_lines(rows(0, 30)), encoding="utf-8")
    record = store.publish("sft/d4-01", {lines.name: lines}, {"numbers": {}, "finished": 2000.0})
    tracker = Tracker(database, name)
    run = tracker.stage_run(tracker.pipeline_run("p", "tiny", {}), info("sft/d4-01"))
    run.forward(rows(0, 20))
    assert tracker.outbox.flush(60) == 0
    run.forward([*rows(20, 30), {"step": 30, "time": 1.0, "no!name": 1.0}])
    run.finish("FINISHED", numbers={"chatcore": 0.5})
    assert tracker.close(60) == 0
    assert tracker.outbox.dropped == 2, "the rows, and the same once more at the end"
    seen = Seen(database, name)
    (stage,) = seen.runs()
    assert (stage.info.status, stage.data.metrics["chatcore"]) == ("FINISHED", 0.5)
    for _ in range(2):  # the second finds it told
        tracker = Tracker(database, name)
        parent, told = tracker.pipeline_run("p", "tiny", {}), {**info("sft/d4-01"), "record": record}
        tracker.cached(parent, "sft/d4-01", told, lambda: store.fetch("sft/d4-01"))
        closed(tracker)
        (stage,) = seen.runs()
        assert stage.info.status == "FINISHED"
        assert [step for step, _, _ in seen.curve(stage, "loss")] == list(range(30))


A, B, C = (Version(f"{s}/x", s, {"chatcore": v}, "asked") for s, v in (("mid", 0.2), ("sft", 0.5), ("rl", 0.5)))


def test_the_gate_compares_only_on_the_same_questions_and_lets_no_worse_one_in():
    unmeasured = Version("rl/y", "rl", {}, "asked")
    other = Version("rl/z", "rl", {"chatcore": 0.9}, "asked otherwise")
    assert contender([A, B, C], "chatcore") is C  # of equals the later
    assert contender([A, B, unmeasured], "chatcore") is B
    assert contender([A, B, other], "chatcore") is other
    assert contender([unmeasured], "chatcore") is unmeasured
    assert judge(A, None, "chatcore").promoted
    assert judge(C, B, "chatcore").promoted
    worse = judge(A, B, "chatcore")
    assert (worse.promoted, worse.reason) == (False, "kept out: chatcore 0.2, champion sft/x (version 0) has 0.5")
    assert "other questions" in judge(other, B, "chatcore").reason
    assert "was not measured" in judge(unmeasured, B, "chatcore").reason
    assert "was not measured" in judge(B, unmeasured, "chatcore").reason


def entries(run: str, digest: str = "q", **scores: float) -> list[dict]:
    return [
        {"address": f"{stage}/{run}", "stage": stage, "metrics": {"chatcore": score}, "digest": digest}
        for stage, score in scores.items()
    ]


def test_versions_are_entered_once_and_champion_moves_only_through_the_gate(uri, name, tmp_path):
    store, tracker = FileStore(tmp_path), Tracker(uri, name)

    def register(*args: str, **scores: float) -> tuple[bool, str]:
        verdict = tracker.register(name, entries(*args, **scores), store).result(60)
        return verdict.promoted, verdict.reason

    def aliases() -> dict[str, int]:
        return {alias: int(version) for alias, version in client.get_registered_model(name).aliases.items()}

    assert register("a", midtrain=0.1, sft=0.6, rl=0.4) == (True, "promoted: there was no champion")
    client = Seen(uri, name).client
    assert aliases() == {"candidate": 3, "champion": 2}
    assert register("b", rl=0.5) == (False, "kept out: chatcore 0.5, champion sft/a (version 2) has 0.6")
    assert register("c", "another digest", rl=0.9)[0] is False
    assert aliases() == {"candidate": 5, "champion": 2}
    assert register("d", rl=0.6)[0] is True
    assert aliases() == {"candidate": 6, "champion": 6}
    assert register("a", midtrain=0.1, sft=0.6, rl=0.4) == (False, "promoted: there was no champion")  # as it was told
    versions = {int(v.version): v for v in client.search_model_versions(f"name = '{name}'")}
    assert len(versions) == 6
    assert versions[2].tags["nanochat.address"] == "sft/a"
    assert versions[2].tags["nanochat.source"] == f"file://{tmp_path}/sft/a"
    assert float(versions[2].tags["nanochat.metric.chatcore"]) == 0.6
    assert "other questions" in versions[5].tags["nanochat.gate"]
    assert aliases() == {"candidate": 6, "champion": 6}  # a run found cached takes nothing back
    assert register("d", rl=0.7) == (True, "is the champion already")  # evaluated again: the tags follow
    assert float(client.get_model_version(name, "6").tags["nanochat.metric.chatcore"]) == 0.7
    by_hand = client.create_model_version(name, source=str(tmp_path)) if uri.startswith("sqlite") else versions[1]
    client.set_registered_model_alias(name, "champion", by_hand.version)
    assert register("e", rl=0.05)[0] is False
    assert aliases()["champion"] == int(by_hand.version)
    closed(tracker)


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """The files of a chat stage's artifact."""
    from nanochat.data.tokenizer import Tokenizer
    from nanochat.model.gpt import GPT, GPTConfig
    from nanochat.model.weights import save_model

    directory, tokenizer = tmp_path_factory.mktemp("model"), Tokenizer(tuple(bytes([byte]) for byte in range(256)))
    model = GPT(GPTConfig.classic(1, tokenizer.vocab_size, 32, width=16, head_dim=8))
    model.init_weights(0)
    save_model(model, directory, stage="rl", step=1)
    tokenizer.save(directory / "tokenizer.json")
    return directory


@pytest.mark.filterwarnings("ignore")  # MLflow's and its libraries' own
@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_registered_version_loads_and_answers_without_a_copy_in_mlflow(
    uri, kind, name, model, tmp_path, request, monkeypatch
):
    import mlflow

    if kind == "s3":
        running: S3Server = request.getfixturevalue("s3_server")
        for variable, value in running.environment.items():
            monkeypatch.setenv(variable, value)
        running.create_bucket(f"bucket-{name}")
    store = open_store(f"s3://bucket-{name}/x" if kind == "s3" else str(tmp_path / "a b"), tmp_path / "cache")
    store.publish("rl/a", {path.name: path for path in model.iterdir()}, {})
    tracker = Tracker(uri, name)
    tracker.register(name, entries("a", rl=0.5), store)
    closed(tracker)
    mlflow.set_tracking_uri(uri)
    (answer,) = mlflow.pyfunc.load_model(f"models:/{name}@champion").predict(["hello"])
    assert isinstance(answer, str)
    weights = list(Path(tmp_path / "a b" if kind == "folder" else tmp_path).rglob("*.safetensors"))
    assert len(weights) == (1 if kind == "folder" else 0)
    assert store.addresses() == ["rl/a"]
