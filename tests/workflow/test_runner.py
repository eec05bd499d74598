"""The runner and the launcher with real processes: nothing twice, nothing half, nothing left behind."""

import json
import os
import signal
import sys
import threading
import time

import pytest

from nanochat import recipes
from nanochat.artifacts import metrics, provenance
from nanochat.artifacts.store import FileStore
from nanochat.pipeline import TaskData
from nanochat.workflow import launch, runner
from nanochat.workflow.launch import StageFailed, Stopped
from nanochat.workflow.plan import plan
from nanochat.workflow.runner import Job, Observer, RunContext, find, run_job, work_directory
from tests import toy_corpus
from tests.paths import ROOT


def job():
    return Job(plan([TaskData()])[0])


def workshop(tmp_path, **more):
    return RunContext(FileStore(tmp_path / "store"), tmp_path, {"pipeline_run": "one"}, grace_seconds=5, **more)


class Recorder(Observer):
    def __init__(self, reason=None):
        self.events, self.reason = [], reason

    def started(self, job):
        self.events.append("started")

    def finished(self, job, outcome):
        self.events.append("finished")

    def failed(self, job, status, cause):
        self.events.append((status, cause))

    def should_stop(self):
        return self.reason


def test_a_stage_is_made_once(tmp_path):
    shop, watch = workshop(tmp_path), Recorder()
    first = run_job(job(), shop, watch)
    assert not first.cached
    assert watch.events == ["started", "finished"]
    second = run_job(job(), shop, Recorder())
    assert second.cached
    assert second.record["files"] == first.record["files"]
    assert not work_directory(tmp_path, job().address).exists()
    assert first.record["code"]["nanochat.stages.task_data"]


def test_a_forced_stage_is_made_again_once_per_run(tmp_path):
    run_job(job(), workshop(tmp_path), Recorder())
    shop = RunContext(FileStore(tmp_path / "store"), tmp_path, {"pipeline_run": "two"}, force=frozenset(["task_data"]))
    assert not run_job(job(), shop, Recorder()).cached
    assert run_job(job(), shop, Recorder()).cached


def test_two_runs_at_once_make_an_address_once(tmp_path):
    watches = [Recorder(), Recorder()]
    threads = [threading.Thread(target=run_job, args=(job(), workshop(tmp_path), watch)) for watch in watches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(watch.events for watch in watches) == [[], ["started", "finished"]]


def test_a_failed_stage_says_why_and_leaves_nothing_that_looks_whole(tmp_path):
    broken = Job(plan([TaskData(tasks="gsm8k", source=str(tmp_path / "nowhere"))])[0])
    watch = Recorder()
    with pytest.raises(StageFailed, match=r"task_data/gsm8k-\w+: ValueError: .*nowhere"):
        run_job(broken, workshop(tmp_path), watch)
    assert watch.events[0] == "started"
    assert watch.events[1][0] == "FAILED"
    assert find(broken, FileStore(tmp_path / "store")) is None


def test_a_collision_of_fingerprints_is_seen(tmp_path):
    shop = workshop(tmp_path)
    shop.store.publish(job().address, {}, {"preimage": {"stage": "another"}})
    with pytest.raises(ValueError, match="was made of something else"):
        run_job(job(), shop, Recorder())


def test_a_hit_made_by_other_code_says_so(tmp_path):
    run_job(job(), workshop(tmp_path), Recorder())
    path = tmp_path / "store" / job().address / "record.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["code"]["nanochat.stages.task_data"] = "0" * 64
    path.write_text(json.dumps(record), encoding="utf-8")
    assert (
        "made by other code: nanochat.stages.task_data changed" in run_job(job(), workshop(tmp_path), Recorder()).note
    )


class Script(launch.Process):
    """Any Python script in place of a stage."""

    def command(self):
        return [sys.executable, str(self.spec)]


def script(tmp_path, text):
    path = tmp_path / "script.py"
    path.write_text(text, encoding="utf-8")
    return Script(path, 1, tmp_path / "logs", mark=str(tmp_path))


GRANDCHILD = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("ready", flush=True)
time.sleep(600)
"""


def test_stopping_ends_grandchildren_in_sessions_of_their_own(tmp_path):
    process, log = script(tmp_path, GRANDCHILD), tmp_path / "logs" / "stage.log"

    def tick():
        return "enough" if log.exists() and "ready" in log.read_text(encoding="utf-8") else None

    with pytest.raises(Stopped, match="enough"):
        launch.run(process, tick, grace=2)
    assert launch.marked(str(tmp_path)) == []


def test_a_process_that_ignores_term_is_killed(tmp_path):
    text = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready', flush=True)\ntime.sleep(600)"
    process, log = script(tmp_path, text), tmp_path / "logs" / "stage.log"
    with pytest.raises(Stopped):
        launch.run(
            process,
            lambda: "enough" if log.exists() and "ready" in log.read_text(encoding="utf-8") else None,
            grace=0.2,
        )
    assert launch.marked(str(tmp_path)) == []


def test_much_output_blocks_nobody(tmp_path):
    process = script(tmp_path, "import sys\nfor _ in range(20000): print('x' * 100); print('y' * 100, file=sys.stderr)")
    assert launch.run(process, lambda: None) == 0
    assert (tmp_path / "logs" / "stage.log").stat().st_size > 4_000_000


def test_the_cause_is_the_stage_s_own_word_or_its_signal_or_its_last_lines(tmp_path):
    log = tmp_path / "stage.log"
    log.write_text("one\ntwo\n", encoding="utf-8")
    assert launch.cause(1, {"type": "ValueError", "message": "no", "rank": 0}, log) == "ValueError: no"
    assert launch.cause(1, {"type": "ValueError", "message": "no", "rank": 3}, log) == "ValueError: no (rank 3)"
    assert "lower device_batch_size" in launch.cause(1, {"type": "E", "message": "CUDA out of memory", "rank": 0}, log)
    assert "between ranks" in launch.cause(1, {"type": "E", "message": "NCCL error", "rank": 0}, log)
    assert launch.cause(-signal.SIGKILL, None, log).startswith("killed by SIGKILL: out of host memory")
    assert launch.cause(3, None, log).startswith("exit code 3: one | two")
    assert launch.cause(3, None, tmp_path / "none").startswith("exit code 3: no output")


PARENT = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from nanochat.workflow import launch
class Script(launch.Process):
    def command(self):
        return [sys.executable, "-c", {child!r}]
launch.run(Script(Path("x"), 1, Path({logs!r}), {mark!r}), lambda: None)
"""
CHILD = """
import sys, time
sys.path.insert(0, {root!r})
from nanochat.workflow import launch
launch.die_with_parent()
print("ready", flush=True)
time.sleep(600)
"""


def test_a_stage_dies_with_its_parent(tmp_path):
    root, logs = str(ROOT), tmp_path / "logs"
    text = PARENT.format(root=root, child=CHILD.format(root=root), logs=str(logs), mark=str(tmp_path))
    path = tmp_path / "parent.py"
    path.write_text(text, encoding="utf-8")
    parent = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, str(path)])
    deadline = time.monotonic() + 60
    while not ((logs / "stage.log").exists() and "ready" in (logs / "stage.log").read_text(encoding="utf-8")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert launch.marked(str(tmp_path))
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    while launch.marked(str(tmp_path)):
        assert time.monotonic() < deadline, "the stage outlives its parent"
        time.sleep(0.05)


def test_a_stage_that_keeps_asking_to_be_resumed_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "run", lambda process, tick, grace: 75)
    with pytest.raises(StageFailed, match="was interrupted 20 times in a row"):
        run_job(job(), workshop(tmp_path), Recorder())


def test_a_stage_that_ends_well_without_its_files_has_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "run", lambda process, tick, grace: 0)
    with pytest.raises(StageFailed, match="without making index"):
        run_job(job(), workshop(tmp_path), Recorder())


def test_the_code_of_a_stage_is_what_it_imports_and_nothing_else():
    used = provenance.closure(["nanochat.stages.midtrain"])
    assert {
        "nanochat.stages.midtrain",
        "nanochat.training.loop",
        "nanochat.model.gpt",
        "nanochat.data.conversation_packing",
    } <= used
    assert "nanochat.tasks.spelling" in provenance.closure(["nanochat.stages.chat_data"])
    assert "nanochat.stages.rl" not in used
    assert "nanochat.pipeline" not in used
    assert provenance.closure(["json", "nanochat.nowhere"]) == set()


class LosesTheLease(Observer):
    """Another run takes the address over while ours works."""

    def __init__(self, store):
        self.store, self.ended = store, []

    def started(self, job):
        self.store.put(f"leases/{job.address}.json", b'{"token": 9, "holder": "another"}')

    def failed(self, job, status, cause):
        self.ended.append((status, cause))


def test_a_run_that_lost_its_lease_publishes_nothing(tmp_path):
    shop = workshop(tmp_path)
    watch = LosesTheLease(shop.store)
    with pytest.raises(Stopped, match="was lost to another run"):
        run_job(job(), shop, watch)
    assert watch.ended[0][0] == "KILLED"
    assert shop.store.record(job().address) is None


def test_a_forced_stage_that_fails_leaves_the_old_artifact_in_place(tmp_path):
    source = tmp_path / "tasks"
    source.mkdir()
    row = {"question": "1 + 1?", "answer": "#### 2"}
    for split in ("train", "test"):
        (source / f"gsm8k_{split}.jsonl").write_text(
            json.dumps({**row, "question": f"{split}: 1 + 1?"}) + "\n", encoding="utf-8"
        )
    again = Job(plan([TaskData(tasks="gsm8k", source=str(source))])[0])
    before = run_job(again, workshop(tmp_path), Recorder())
    (source / "gsm8k_test.jsonl").unlink()
    shop = RunContext(FileStore(tmp_path / "store"), tmp_path, {"pipeline_run": "two"}, force=frozenset(["task_data"]))
    with pytest.raises(StageFailed):
        run_job(again, shop, Recorder())
    assert shop.store.record(again.address) == before.record
    shop.store.fetch(again.address)


def test_two_stores_share_no_work_directory_at_the_same_time(tmp_path):
    work = work_directory(tmp_path, job().address)
    with runner._alone_in(work, Recorder()), pytest.raises(Stopped, match="enough"):
        run_job(job(), workshop(tmp_path), Recorder(reason="enough"))


def test_a_rank_that_aborts_while_its_interpreter_ends_spoils_nothing(tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    aborts = "import atexit, os\nif 'RANK' in os.environ:\n    atexit.register(os.abort)\n"
    (tmp_path / "site" / "sitecustomize.py").write_text(aborts, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=os.pathsep)
    settings = [*toy_corpus.make(tmp_path / "corpus"), "num_ranks=2"]
    steps = plan(recipes.apply(recipes.stages_of("micro"), settings), ["pretrain"])
    assert not runner.run_plan(steps, workshop(tmp_path), Recorder())[-1].cached


def test_a_torn_last_line_of_metrics_is_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo', encoding="utf-8")
    metrics.Metrics(path).log(2, loss=1.5)
    rows = list(metrics.read(path))
    assert [row["step"] for row in rows] == [1, 2]
    path.write_text(path.read_text(encoding="utf-8") + "not json\n[1]\n", encoding="utf-8")
    assert len(list(metrics.read(path))) == 2
    nowhere = metrics.Metrics(None)
    nowhere.log(1, loss=1.0)
    nowhere.truncate(0)
    assert list(metrics.read(tmp_path / "none")) == []


def test_a_lost_input_is_the_cause(tmp_path):
    steps = plan(recipes.apply(recipes.stages_of("micro"), toy_corpus.make(tmp_path / "corpus")), ["tokenizer"])
    shop = workshop(tmp_path)
    runner.run_plan(steps[:1], shop, Observer())
    shop.store.forget(steps[0].address)
    with pytest.raises(StageFailed, match="an input is gone or damaged"):
        run_job(Job(steps[1]), shop, Recorder())


def test_what_another_job_left_in_the_environment_makes_no_rank(tmp_path, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "7")
    process = script(
        tmp_path, "import os; print([n for n in os.environ if n in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR')])"
    )
    assert launch.run(process, lambda: None) == 0
    assert (tmp_path / "logs" / "stage.log").read_text(encoding="utf-8") == "[]\n"
