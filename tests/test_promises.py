"""Promises that need whole runs: killed and gone on to the same weights, two ranks, another store, a new stage."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy
import pytest
from numpy.linalg import norm
from safetensors.numpy import load_file

from flows.store import open_store
from nanochat import recipes
from nanochat.artifacts import metrics, mirror
from nanochat.artifacts.store import FileStore
from nanochat.workflow import launch, runner
from nanochat.workflow.plan import plan
from nanochat.workflow.runner import Observer, RunContext, work_directory
from tests import toy_corpus
from tests.paths import ROOT
from tests.s3_server import s3_server_fixture  # noqa: F401

STEPS = [
    f"{stage}.{knob}"
    for stage in ("pretrain", "sft", "rl")
    for knob in ("num_steps=12", "checkpoint_every=3", "log_every=1")
]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return [*toy_corpus.make(tmp_path_factory.mktemp("corpus")), *STEPS]


def steps_of(settings):
    return plan(recipes.apply(recipes.stages_of("micro"), settings))


@pytest.fixture(scope="module")
def whole(toy, tmp_path_factory):
    """An uninterrupted run of the whole recipe."""
    home = tmp_path_factory.mktemp("whole")
    runner.run_plan(steps_of(toy), RunContext(FileStore(home / "store"), home), Observer())
    return home


def digests(store):
    """sha256 of every file of every artifact; what tells times is left out."""
    records = {address: store.record(address) for address in store.addresses()}
    return {
        address: {name: entry["sha256"] for name, entry in record["files"].items() if name != metrics.FILE}
        for address, record in records.items()
    }


def test_a_second_run_makes_nothing(whole, toy):
    shop = RunContext(FileStore(whole / "store"), whole)
    assert all(outcome.cached for outcome in runner.run_plan(steps_of(toy), shop, Observer()))
    more = [*toy, "device_batch_size=1", "num_ranks=2", "log_every=7"]
    assert all(outcome.cached for outcome in runner.run_plan(steps_of(more), shop, Observer()))


def without(whole, home, names):
    """A copy of the store in which some stages are not made yet."""
    shutil.copytree(whole / "store", home / "store")
    for name in names:
        shutil.rmtree(home / "store" / name)
    return FileStore(home / "store")


@pytest.mark.parametrize("name", ["pretrain", "sft", "rl"])
def test_a_killed_trainer_goes_on_to_the_same_weights(whole, toy, tmp_path, name):
    store = without(whole, tmp_path, [name])
    step = next(step for step in steps_of(toy) if step.name == name)
    command = [sys.executable, "-m", "nanochat", "run", "micro", *toy, "--only", name, "--home", str(tmp_path)]
    work = work_directory(tmp_path, step.address).absolute()
    after = random.Random(f"{name} {time.time()}").randint(1, 11)
    run = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, encoding="utf-8"
    )
    deadline = time.monotonic() + 120
    while max((row.get("step", 0) for row in metrics.read(work / metrics.FILE)), default=0) < after:
        assert time.monotonic() < deadline, "the trainer does not get on"
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.01)
    for pid in launch.marked(str(work)):
        os.kill(pid, signal.SIGKILL)
    said = run.communicate(timeout=60)[1]
    if run.returncode == 0:
        pytest.skip(f"the trainer was done before it could be killed after step {after}")
    assert "killed by SIGKILL" in said
    assert store.record(step.address) is None
    assert subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False).returncode == 0
    assert digests(store)[step.address] == digests(FileStore(whole / "store"))[step.address], (
        f"killed after step {after}"
    )
    logged = [row["step"] for row in metrics.read(store.fetch(step.address) / metrics.FILE) if "loss" in row]
    assert logged == sorted(set(logged)), "a step stands twice"


def test_on_another_machine_a_mirrored_stage_goes_on_to_the_same_weights(whole, toy, tmp_path, monkeypatch):
    monkeypatch.setattr(mirror, "POLL_SECONDS", 0.01)
    knobs = ("num_steps=150", "checkpoint_every=10", "mirror_checkpoints=true")
    steps = plan(recipes.apply(recipes.stages_of("micro"), [*toy, *(f"pretrain.{k}" for k in knobs)]), ["pretrain"])
    address = steps[-1].address

    class Losing(Observer):
        def should_stop(self):
            return "the machine is lost" if store.get(f"checkpoints/{address}/newest.json") else None

    store = without(whole, tmp_path, ["pretrain"])
    with pytest.raises(launch.Stopped):
        runner.run_plan(steps, RunContext(store, tmp_path / "lost"), Losing())
    again = time.time()
    runner.run_plan(steps, RunContext(store, tmp_path / "other"), Observer())
    assert not store.keys("checkpoints/")
    (tmp_path / "undisturbed").mkdir()
    expected = without(whole, tmp_path / "undisturbed", ["pretrain"])
    runner.run_plan(steps, RunContext(expected, tmp_path / "undisturbed"), Observer())
    assert digests(store)[address] == digests(expected)[address]
    rows = [row for row in metrics.read(store.fetch(address) / metrics.FILE) if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, 151))
    assert rows[0]["time"] < again, "it began anew"


def test_an_s3_store_gives_the_same_addresses_and_digests(whole, toy, tmp_path, s3_server, monkeypatch):
    for key, value in s3_server.environment.items():
        monkeypatch.setenv(key, value)
    s3_server.create_bucket("artifacts")
    store = open_store("s3://artifacts/run", tmp_path / "cache")
    runner.run_plan(steps_of(toy), RunContext(store, tmp_path), Observer())
    assert digests(store) == digests(FileStore(whole / "store"))


def test_two_ranks_train_the_same_model(whole, toy, tmp_path):
    """Stated tolerance: losses to 1e-3, each parameter to 10 % of its norm.

    The sums run in another order, and Newton-Schulz works in bf16; a wrong update would be off by its whole size.
    """
    settings = [*toy, "dtype=float32"]
    found = []
    for ranks in (1, 2):
        home = tmp_path / str(ranks)
        without(whole, home, ["pretrain"])
        shop = RunContext(FileStore(home / "store"), home)
        steps = plan(recipes.apply(recipes.stages_of("micro"), [*settings, f"num_ranks={ranks}"]), ["pretrain"])
        runner.run_plan(steps, shop, Observer())
        where = shop.store.fetch(steps[-1].address)
        losses = [row["loss"] for row in metrics.read(where / metrics.FILE) if "loss" in row]
        found.append((losses, load_file(where / "model.safetensors")))
    (losses_1, weights_1), (losses_2, weights_2) = found
    numpy.testing.assert_allclose(losses_2, losses_1, rtol=1e-3)
    apart = {name: norm(weights_2[name] - weight) / (norm(weight) + 1e-3) for name, weight in weights_1.items()}
    assert max(apart.values()) < 0.1, apart


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_the_readme_s_new_stage_works_step_by_step(whole, toy, tmp_path):
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Add a stage")[1]
    declaration, work = blocks(section, "python")
    shutil.copytree(ROOT / "nanochat", tmp_path / "nanochat", ignore=shutil.ignore_patterns("__pycache__"))
    pipeline = tmp_path / "nanochat" / "pipeline.py"
    pipeline.write_text(pipeline.read_text(encoding="utf-8") + "\n\n" + declaration, encoding="utf-8")
    (tmp_path / "nanochat" / "stages" / "longest.py").write_text(work, encoding="utf-8")
    recipe = tmp_path / "nanochat" / "recipes.py"
    text = recipe.read_text(encoding="utf-8").replace("    Download,\n", "    Download,\n    Longest,\n", 1)
    recipe.write_text(
        text.replace("        Register(),\n    ]", "        Register(),\n        Longest(),\n    ]", 1),
        encoding="utf-8",
    )
    shutil.copytree(whole / "store", tmp_path / "home" / "store")
    (command,) = [line for line in blocks(section, "sh")[0].splitlines() if line.startswith("nanochat run")]
    words = command.replace("tiny", "micro").split()[1:]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    python = [sys.executable, "-m", "nanochat"]
    subprocess.run([*python, *words, *toy, "--home", str(tmp_path / "home")], cwd=tmp_path, env=environment, check=True)
    store = FileStore(tmp_path / "home" / "store")
    (address,) = [address for address in store.addresses() if address.startswith("longest/")]
    rows = json.loads((store.fetch(address) / "longest.json").read_text(encoding="utf-8"))
    assert len(rows) == 10
    assert rows == sorted(rows, key=lambda row: -row["characters"])
    said = subprocess.run(
        [*python, "knobs", "longest"],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert "count=10: how many" in said.stdout
    assert declaration.count("\n") <= 13


def test_two_seeds_are_two_models(whole, toy):
    one, two = steps_of(toy), steps_of([*toy, "seed=2"])
    changed = {a.name for a, b in zip(one, two, strict=True) if a.address != b.address}
    assert "pretrain" in changed
    assert changed.isdisjoint({"download", "tokenizer", "tokenize", "task_data"})


def test_digests_are_of_contents(whole):
    store = FileStore(whole / "store")
    address = next(address for address in store.addresses() if address.startswith("rl/"))
    entry = store.record(address)["files"]["model.safetensors"]
    assert hashlib.sha256((store.fetch(address) / "model.safetensors").read_bytes()).hexdigest() == entry["sha256"]
