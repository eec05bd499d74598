"""A stage that runs out of memory goes on from its last checkpoint with half the rows, says so, and learns the same."""

import dataclasses
import json
import shutil
from collections import Counter

import pytest
from numpy.linalg import norm
from safetensors.numpy import load_file

from nanochat import recipes
from nanochat.artifacts.metrics import read
from nanochat.artifacts.store import FileStore
from nanochat.workflow import launch, out_of_memory
from nanochat.workflow.plan import plan
from nanochat.workflow.runner import Observer, RunContext, run_plan
from tests import toy_corpus

# Raises what torch raises on a GPU, in every process whose environment says so: at the given step of that process, where
# a forward pass has more rows than fit.
INJECTION = """
import importlib.machinery, os, sys

class Finder:
    def find_spec(self, name, path, target=None):
        if name != "nanochat.training.loop" or "OOM_STEP" not in os.environ:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            import torch
            original, calls = module.accumulate_gradients, []
            def accumulate_gradients(loss_of, batches, world, *wishes):
                calls.append(1)
                with open(os.environ["OOM_LOG"], "a") as log:
                    print(os.getpid(), file=log)
                if len(calls) == int(os.environ["OOM_STEP"]) and len(batches[0].inputs) > int(os.environ["OOM_ROWS"]):
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
                return original(loss_of, batches, world, *wishes)
            module.accumulate_gradients = accumulate_gradients
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
"""


class Told(Observer):
    def __init__(self):
        self.reasons = []

    def resuming(self, job, reason):
        self.reasons.append(reason)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Everything that pretraining takes, and what it gives when memory suffices."""
    home = tmp_path_factory.mktemp("whole")
    toy = toy_corpus.make(home / "corpus")
    knobs = [
        "pretrain.num_steps=8",
        "pretrain.checkpoint_every=2",
        "pretrain.total_batch_size=512",
        "pretrain.dtype=float32",
        "pretrain.architecture=classic",
    ]
    steps = plan(recipes.apply(recipes.stages_of("micro"), [*toy, *knobs, "device_batch_size=8"]), ["pretrain"])
    store = FileStore(home / "store")
    run_plan(steps, RunContext(store, home), Observer())
    return steps, store, load_file(store.fetch(steps[-1].address) / "model.safetensors")


def again(made, home, monkeypatch, *, step, rows, knob):
    """Pretraining once more, into another store, where memory runs out at a step for more than so many rows."""
    steps, whole, _ = made
    shutil.copytree(whole.root, home / "store")
    shutil.rmtree(home / "store" / "pretrain")
    store = FileStore(home / "store")
    (home / "injected").mkdir(parents=True)
    (home / "injected" / "sitecustomize.py").write_text(INJECTION, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(home / "injected"))
    monkeypatch.setenv("OOM_STEP", str(step))
    monkeypatch.setenv("OOM_ROWS", str(rows))
    monkeypatch.setenv("OOM_LOG", str(home / "calls"))
    told, last = Told(), steps[-1]
    otherwise = dataclasses.replace(last, stage=last.stage.replaced(device_batch_size=knob))
    run_plan([otherwise], RunContext(store, home), told)
    return told, store.fetch(last.address)


@pytest.mark.parametrize("step", [1, 2, 7])
def test_half_the_rows_from_the_last_checkpoint_give_the_same_model(made, tmp_path, monkeypatch, step):
    told, artifact = again(made, tmp_path, monkeypatch, step=step, rows=4, knob=8)
    (reason,) = told.reasons
    assert reason == "out of memory with 8 rows a forward pass: goes on from the last checkpoint with 4"
    saved = (step - 1) // 2 * 2  # every second step
    pids = (tmp_path / "calls").read_text(encoding="utf-8").split()
    assert list(Counter(pids).values()) == [step, 8 - saved]
    assert [row["step"] for row in read(artifact / "metrics.jsonl") if "loss" in row] == list(range(1, 9))
    found = load_file(artifact / "model.safetensors")
    for name, expected in made[2].items():  # sums in another order, and Adam on gradients of nearly nothing
        assert norm(found[name] - expected) <= 0.1 * norm(expected), name


def test_rows_that_the_stage_chose_itself_are_halved_until_they_fit(made, tmp_path, monkeypatch):
    told, artifact = again(made, tmp_path, monkeypatch, step=1, rows=2, knob=0)
    assert [reason.split()[4] for reason in told.reasons] == ["8", "4"]
    record = json.loads((artifact / "model.json").read_text(encoding="utf-8"))
    assert record["step"] == 8


def test_where_one_row_does_not_fit_the_error_stands_and_names_the_knob(made, tmp_path, monkeypatch):
    with pytest.raises(launch.StageFailed, match=r"out of memory \(lower device_batch_size\): OutOfMemoryError: CUDA"):
        again(made, tmp_path, monkeypatch, step=1, rows=0, knob=2)


@pytest.mark.parametrize(
    ("error", "about"),
    [
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", True),
        ("RuntimeError: [enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory", True),
        ("MemoryError: ", True),
        ("ValueError: sft: one epoch of its rows", False),
    ],
)
def test_only_errors_about_memory_are_answered(tmp_path, error, about):
    kind, _, message = error.partition(": ")
    said = out_of_memory.halve({"type": kind, "message": message}, {"device_batch_size": 6}, tmp_path)
    assert bool(said) == about
    assert out_of_memory.bounded({"device_batch_size": 0}, tmp_path) == {"device_batch_size": 3 if about else 0}
    assert out_of_memory.halve(None, {"device_batch_size": 6}, tmp_path) == ""
    assert out_of_memory.bounded({"num_shards": 1}, tmp_path) == {"num_shards": 1}


def test_halves_are_of_the_rows_really_taken_and_forgotten_when_memory_is_spared_otherwise(tmp_path):
    error, knobs = {"type": "OutOfMemoryError", "message": ""}, {"device_batch_size": 64, "loss_chunk": 0}
    out_of_memory.note_rows(tmp_path, 4)  # a rank has no more
    assert "with 4 rows a forward pass: goes on from the last checkpoint with 2" in out_of_memory.halve(
        error, knobs, tmp_path
    )
    assert out_of_memory.bounded(knobs, tmp_path)["device_batch_size"] == 2
    assert out_of_memory.bounded(knobs | {"loss_chunk": 2048}, tmp_path)["device_batch_size"] == 64
