"""Kill the trainer anywhere, start it again: the same weights to the bit. And two ranks train what one does."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from nanochat.artifacts import metrics
from nanochat.training.checkpoint import newest
from nanochat.workflow.launch import RESUME_EXIT_CODE
from tests.paths import ROOT
from tests.training.small_pretrain import pretrained
from tests.training.test_loop import distance

SCRIPT = Path(__file__).with_name("small_pretrain.py")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}  # sums are exact only among equals
PATIENCE = 120.0
KNOBS = {"num_steps": 80, "max_epochs": 4, "checkpoint_every": 1, "eval_every": 50}


def start(root: Path, name: str, knobs: dict[str, object], ranks: int = 1) -> subprocess.Popen[bytes]:
    """A process that trains `name`, or a torchrun of several."""
    runner = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    command = [sys.executable, *runner, str(SCRIPT), str(root), name, json.dumps(knobs)]
    output = (root / f"{name}.log").open("ab")
    with output:
        return subprocess.Popen(command, env=os.environ | ONE_THREAD, stdout=output, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen[bytes], root: Path, name: str) -> int:
    """Its exit code; what it printed, where it did not end by itself."""
    try:
        return process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        pytest.fail((root / f"{name}.log").read_text(encoding="utf-8")[-2000:])


def wait_for_step(process: subprocess.Popen[bytes], root: Path, name: str, step: int) -> None:
    """Until the log shows that step."""
    until = time.monotonic() + PATIENCE
    while max((row.get("step", 0) for row in metrics.read(root / name / "metrics.jsonl")), default=0) < step:
        assert process.poll() is None, (root / f"{name}.log").read_text(encoding="utf-8")[-2000:]
        assert time.monotonic() < until, f"{name} did not reach step {step}"
        time.sleep(0.005)


def weights_of(root: Path, name: str) -> dict:
    return load_file(root / name / "out" / "model.safetensors")


def test_killed_at_random_and_asked_to_stop_it_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    expected = start(tmp_path, "whole", KNOBS)
    draw = random.Random()
    for after in (draw.randint(1, 25), draw.randint(26, 50)):  # it saves after every step, so most kills hit a save
        process = start(tmp_path, "killed", KNOBS)
        wait_for_step(process, tmp_path, "killed", after)
        time.sleep(draw.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    process = start(tmp_path, "killed", KNOBS)
    wait_for_step(process, tmp_path, "killed", 60)
    process.send_signal(signal.SIGTERM)
    assert finish(process, tmp_path, "killed") == RESUME_EXIT_CODE
    assert newest(tmp_path / "killed" / "work" / "checkpoints").step >= 60
    assert not (tmp_path / "killed" / "out" / "model.safetensors").exists()
    assert finish(start(tmp_path, "killed", KNOBS), tmp_path, "killed") == 0

    assert finish(expected, tmp_path, "whole") == 0
    for file in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "killed" / "out" / file).read_bytes() == (tmp_path / "whole" / "out" / file).read_bytes()
    for run in ("killed", "whole"):
        rows = [row for row in metrics.read(tmp_path / run / "metrics.jsonl") if "loss" in row]
        assert [row["step"] for row in rows] == list(range(1, 81))


def test_two_ranks_train_what_one_does_and_either_can_continue_the_other(tmp_path: Path) -> None:
    knobs = {"num_steps": 12, "checkpoint_every": 4}
    pretrained(tmp_path, "one", **knobs)
    always = knobs | {"checkpoint_every": 0, "checkpoint_minutes": 1e-9}  # by the clock of one, after every step
    assert finish(start(tmp_path, "two", always, ranks=2), tmp_path, "two") == 0
    for number in ("loss", "val_bpb"):
        one, two = (
            {row["step"]: row[number] for row in metrics.read(tmp_path / name / "metrics.jsonl") if number in row}
            for name in ("one", "two")
        )
        assert two == pytest.approx(one, rel=2e-3)
    assert distance(weights_of(tmp_path, "two"), weights_of(tmp_path, "one")) < 0.02

    last = tmp_path / "two" / "work" / "checkpoints" / "step-000012"
    (last / "manifest.json").unlink()  # so that one rank continues from step 11 of two
    pretrained(tmp_path, "two", **knobs)
    assert distance(weights_of(tmp_path, "two"), weights_of(tmp_path, "one")) < 0.02
