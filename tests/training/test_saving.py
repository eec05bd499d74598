"""Saving beside the training: snapshots, one at a time, killed at any moment, and from any number of ranks to any other.

Run as a script, this file is a process that saves: `ROOT go-on` a rank that takes over and saves again, `ROOT for-ever`.
"""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nanochat.artifacts.metrics import Metrics
from nanochat.training import distributed
from nanochat.training.checkpoint import Checkpoint, newest, remove_leftovers
from nanochat.training.distributed import World
from nanochat.training.optim import OptimSettings, build_optimizer
from nanochat.training.saving import Saver
from nanochat.training.state import TrainState
from tests.model.test_model import MODERN, shaken
from tests.paths import ROOT
from tests.training.test_optim import with_gradients

PATIENCE = 120.0
LARGE = 2**22  # numbers: what takes some milliseconds to write


def files(value: float, size: int = 1000) -> dict[str, dict[str, Tensor]]:
    return {"model": {"w": torch.full((size,), value)}, "optimizer": {"w.slot": torch.full((size,), value)}}


def is_of(found: Checkpoint, step: int) -> bool:
    numbers = (found.weights()["w"], found.optimizer()["w.slot"])
    return found.step == step and all(bool((tensor == step).all()) for tensor in numbers)


@pytest.fixture(name="disk")
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Nothing is written until this is set."""
    moves, real = threading.Event(), hashlib.sha256

    def waiting() -> object:
        assert moves.wait(PATIENCE)
        return real()

    monkeypatch.setattr(hashlib, "sha256", waiting)
    return moves


def test_what_is_saved_is_of_the_moment_of_saving(tmp_path: Path, disk: threading.Event) -> None:
    values, state = files(1.0), {"last": {"loss": 3.0}}
    saver = Saver(tmp_path, World(), values)
    saver.save(1, values, state)
    for tensors in values.values():
        for tensor in tensors.values():
            tensor.fill_(2.0)  # training goes on before a byte is written
    assert newest(tmp_path) is None
    disk.set()
    saver.wait()
    assert is_of(newest(tmp_path), 1)


def test_the_next_save_waits_for_the_one_before(tmp_path: Path, disk: threading.Event) -> None:
    saver = Saver(tmp_path, World(), files(0))
    saver.save(1, files(1), {})
    second = threading.Thread(target=saver.save, args=(2, files(2), {}))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    assert [path.name for path in tmp_path.iterdir()] == [".saving-step-000001"]
    disk.set()
    second.join()
    saver.wait()
    assert is_of(Checkpoint(tmp_path / "step-000001", 1), 1)
    assert is_of(newest(tmp_path), 2)


def test_a_whole_one_is_never_written_over_and_a_damaged_one_is_replaced(tmp_path: Path) -> None:
    saver = Saver(tmp_path, World(), files(0))
    saver.save(3, files(3), {})
    saver.wait()
    saver.wait()  # harmless
    with pytest.raises(FileExistsError, match="step-000003 is there already and whole"):
        saver.save(3, files(4), {})
    assert is_of(newest(tmp_path), 3)
    (tmp_path / "step-000003" / "state.json").unlink()
    assert newest(tmp_path) is None
    saver.save(3, files(3), {})
    saver.wait()
    assert is_of(newest(tmp_path), 3)


def test_a_failure_is_told_once_with_the_place_and_saving_can_go_on(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    saver = Saver(root, World(), files(0))
    root.write_text("in the way", encoding="utf-8")
    saver.save(1, files(1), {})
    with pytest.raises(OSError, match=f"checkpoint of step 1 could not be written to {root} .*Not a directory"):
        saver.save(2, files(2), {})
    root.unlink()
    saver.save(2, files(2), {})
    saver.wait()
    assert is_of(newest(root), 2)


def started(mode: str, root: Path, ranks: int = 1) -> subprocess.Popen[bytes]:
    runner = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    with (root / f"{mode}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, *runner, __file__, str(root), mode],
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


@pytest.mark.parametrize("moment", [0.0, 0.01, 0.03])
def test_killed_while_it_writes_it_leaves_a_whole_one(moment: float, tmp_path: Path) -> None:
    with started("for-ever", tmp_path) as process:
        until = time.monotonic() + PATIENCE
        while not list(tmp_path.glob("step-*/manifest.json")) and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(moment)
        process.kill()
    found = newest(tmp_path)
    assert is_of(found, found.step)
    assert process.returncode == -signal.SIGKILL
    remove_leftovers(tmp_path)
    saver = Saver(tmp_path, World(), files(0))
    saver.save(found.step + 1, files(found.step + 1), {})
    saver.wait()
    assert is_of(newest(tmp_path), found.step + 1)


def save_for_ever(root: Path) -> None:
    saver = Saver(root, World(), files(0, LARGE))
    for step in range(1, 100_000):
        saver.save(step, files(step, LARGE), {})


def test_any_number_of_ranks_goes_on_from_any_other_to_the_bit(tmp_path: Path) -> None:
    go_on(tmp_path)
    for step, ranks in enumerate((3, 2, 1), start=2):
        if ranks == 1:
            go_on(tmp_path)
        else:
            process = started("go-on", tmp_path, ranks)
            assert process.wait(PATIENCE) == 0, (tmp_path / "go-on.log").read_text("utf-8")[-3000:]
        before, after = (Checkpoint(tmp_path / "step" / f"step-{number:06d}", number) for number in (step - 1, step))
        assert len(list(after.directory.glob("optimizer-*.safetensors"))) == ranks
        for one, other in ((before.weights(), after.weights()), (before.optimizer(), after.optimizer())):
            assert one.keys() == other.keys()
            assert all(torch.equal(one[name], other[name].view_as(one[name])) for name in one)
        assert any(numbers.any() for numbers in after.optimizer().values())


def go_on(root: Path) -> None:
    """Takes the newest checkpoint over, or trains a little where there is none, and saves what it has as the next."""
    world = distributed.start("cpu")
    settings = OptimSettings(weight_decay=0.1, normuon_beta2=0.9, muon_value_gates=True)
    model = shaken(MODERN, seed=world.rank + 9)  # each rank another: nothing but the checkpoint makes them equal
    optimizer = build_optimizer(model, settings, world)
    run = TrainState(model, optimizer, Metrics(None), root / "step", {}, world, 9, 1)
    with run.all_saved():
        run.resume()
        for seed in () if run.step else (1, 2, 3):
            with_gradients(model, seed)
            optimizer.step()
        assert not run.step or optimizer.num_steps == run.step
        run.step += 1
        run.save()
    distributed.stop()


if __name__ == "__main__":
    {"go-on": go_on, "for-ever": save_for_ever}[sys.argv[2]](Path(sys.argv[1]))
