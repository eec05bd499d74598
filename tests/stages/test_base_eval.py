"""Scores of the base model: the same whatever the batch and the number of ranks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nanochat.artifacts.metrics import FILE, Metrics, read
from nanochat.data.tokenizer import Tokenizer
from nanochat.evaluation import scores
from nanochat.evaluation.scores import TaskScore
from nanochat.model.config import GPTConfig
from nanochat.model.gpt import GPT
from nanochat.model.weights import save_model
from nanochat.pipeline import BaseEval
from nanochat.stages.base_eval import run as base_eval
from nanochat.workflow.launch import FOREIGN
from nanochat.workflow.stage import StageContext
from tests import published_core
from tests.paths import ROOT

BYTES = Tokenizer(tuple(bytes([byte]) for byte in range(256)))
CONTEXT = 64
STAGE = BaseEval(eval_rows=5, device="cpu", dtype="float32", device_batch_size=2)


def save_base_model(folder: Path) -> Path:
    model = GPT(GPTConfig(CONTEXT, BYTES.vocab_size, 1, 2, 1, 32))
    model.init_weights(seed=3)
    with torch.no_grad():
        model.lm_head.weight.copy_(torch.randn(model.lm_head.weight.shape, generator=torch.Generator().manual_seed(1)))
    save_model(model, folder, stage="pretrain")
    BYTES.save(folder / "tokenizer.json")
    np.save(folder / "token_bytes.npy", BYTES.token_bytes())
    return folder


def save_rows(folder: Path, count: int) -> tuple[Path, Path]:
    whole, part = folder / "tokenize", folder / "part"
    whole.mkdir()
    part.mkdir()
    text = BYTES.encode("The quick brown fox jumps over the lazy dog. " * 100)
    rows = [[BYTES.bos, *text[7 * i : 7 * i + CONTEXT]] for i in range(count)]
    np.array(rows, dtype="<u2").tofile(part / "rows.bin")
    (part / "stats.json").write_text(json.dumps({"rows": count, "bytes": count * CONTEXT}), encoding="utf-8")
    (whole / "index.json").write_text(
        json.dumps({"sequence_len": CONTEXT, "vocab_size": BYTES.vocab_size}), encoding="utf-8"
    )
    return whole, part


@pytest.fixture(params=["sums, letters"])
def place(tmp_path, request):
    whole, part = save_rows(tmp_path, 7)
    inputs = {"pretrain": save_base_model(tmp_path / "model"), "tokenize": whole}
    inputs["core_data"] = published_core.artifact(tmp_path / "core", request.param)
    (tmp_path / "out").mkdir()
    return StageContext(inputs, {"tokenize": (part,)}, tmp_path / "out", tmp_path / "work", Metrics(tmp_path / FILE))


@pytest.mark.parametrize("place", [""], indirect=True)
def test_without_core_tasks_there_are_bits_per_byte_and_samples(place):
    numbers = base_eval(STAGE, place)
    assert set(numbers) == {"bits_per_byte"}
    score = scores.read(place.out)
    assert score["metrics"] == numbers
    assert score["tasks"] == {}
    samples = (place.out / "samples.md").read_text(encoding="utf-8")
    assert "**The capital of France is**" in samples
    assert "The quick brown fox" in samples  # the held-out text


def test_the_numbers_and_the_digest_do_not_depend_on_the_batch(place):
    stage = STAGE.replaced(core_max_per_task=6)
    first = base_eval(stage, place)
    one = scores.read(place.out)
    assert first["core_tasks"] == 2
    assert one["tasks"]["sums"]["n"] == 6
    assert one["tasks"]["letters"]["n"] == 3
    assert first["core"] == scores.mean_centered(
        TaskScore(t["correct"], t["n"], t["baseline"]) for t in one["tasks"].values()
    )
    assert one["note"] == "CORE over 2 of 22 tasks, at most 6 examples each"
    again = base_eval(stage.replaced(device_batch_size=16), place)
    assert again == pytest.approx(first, rel=1e-6)
    assert scores.read(place.out)["digest"] == one["digest"]
    base_eval(stage.replaced(eval_rows=4), place)
    assert scores.read(place.out)["digest"] != one["digest"]
    assert list(read(place.metrics.path))[-1]["done"] == 9


def test_bits_per_byte_are_of_the_named_number_of_rows(place):
    all_rows = base_eval(STAGE.replaced(eval_rows=1000), place)
    assert base_eval(STAGE.replaced(eval_rows=7), place) == all_rows
    assert base_eval(STAGE.replaced(eval_rows=1), place) != all_rows


def test_two_ranks_return_what_one_does_and_one_of_them_writes(place):
    stage = STAGE.replaced(core_max_per_task=6)
    expected = base_eval(stage, place)
    files = {path.name: path.read_bytes() for path in place.out.iterdir()}
    work = place.out.parent / "ranks"
    (work / "out").mkdir(parents=True)
    spec = {"stage": "base_eval", "knobs": stage.values("identity") | stage.values("execution"), "part": None}
    spec |= {"inputs": {name: str(path) for name, path in place.inputs.items()}, "work": str(work), "gather": False}
    spec |= {"parts": {name: list(map(str, some)) for name, some in place.input_parts.items()}, "addresses": {}}
    (work / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    command = [sys.executable, "-m", "nanochat", "ranks", "2", str(work / "spec.json"), "--logs", str(work / "logs")]
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    subprocess.run(command, cwd=ROOT, env=environment | {"OMP_NUM_THREADS": "1"}, check=True, timeout=120)
    numbers = json.loads((work / "result.json").read_text(encoding="utf-8"))["numbers"]
    assert numbers == pytest.approx(expected, rel=1e-6)
    assert {name: numbers[name] for name in ("core", "core_tasks")} == {n: expected[n] for n in ("core", "core_tasks")}
    made = {path.name: path.read_bytes() for path in (work / "out").iterdir()}
    assert made["samples.md"] == files["samples.md"]
    one, two = (json.loads(some["scores.json"]) for some in (files, made))
    assert {**two, "metrics": None} == {**one, "metrics": None}


def test_core_has_its_standard_error_beside_the_metrics(place):
    numbers = base_eval(STAGE.replaced(core_max_per_task=6), place)
    score = scores.read(place.out)
    assert set(score["metrics"]) == set(numbers) == {"bits_per_byte", "core", "core_tasks"}
    tasks = [TaskScore(t["correct"], t["n"], t["baseline"]) for t in score["tasks"].values()]
    assert score["errors"] == {"core": scores.standard_error(tasks)}
