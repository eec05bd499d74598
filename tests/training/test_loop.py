"""The loop: the same training whatever the device batch, exact resume, stopping, refusing what diverges, and its log."""

import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from nanochat.artifacts import metrics
from nanochat.errors import Interrupted
from nanochat.model.config import GPTConfig
from nanochat.model.gpt import GPT
from nanochat.pipeline import Midtrain
from nanochat.stages.trainer import from_artifact, process_group
from nanochat.training.checkpoint import newest
from nanochat.training.distributed import World
from nanochat.training.loop import Batch, accumulate_gradients, fit, split_rows, stop_signals
from nanochat.training.optim import MuonAdamW, OptimSettings, build_optimizer
from nanochat.training.schedule import Schedule
from tests.training.small_pretrain import place, pretrained

CONFIG = GPTConfig.modern(1, vocab_size=300, sequence_len=16, width=32, head_dim=16)
STEPS = 8


@dataclass
class Rows:
    """A source of fixed rows with weights, some of them negative, and some targets masked; `at` runs before a step."""

    device_batch_size: int = 4
    at: dict[int, object] = field(default_factory=dict)
    spoil: float = 1.0

    def batch(self, step: int) -> list[Batch]:
        if step in self.at:
            self.at[step]()
        draw = np.random.default_rng(step)
        tokens = torch.from_numpy(draw.integers(0, 300, (6, 17)))
        targets = torch.where(torch.from_numpy(draw.random((6, 16)) < 0.3), -1, tokens[:, 1:])
        weights = torch.from_numpy(draw.normal(1, 1, (6, 16))).float() * self.spoil
        return split_rows(tokens[:, :-1], targets, self.device_batch_size, 60.0, weights)

    def numbers(self) -> dict[str, float]:
        return {"reward": 0.25}


def started() -> tuple[GPT, MuonAdamW]:
    model = GPT(CONFIG)
    model.init_weights(3)
    return model, build_optimizer(model, OptimSettings(matrix_lr=0.01), World())


def kept(root: Path, name: str) -> dict[str, Any]:
    """Where the run `name` writes, and what it is trained on."""
    ctx = place(root, name)
    return {"metrics": ctx.metrics, "checkpoints": ctx.work / "checkpoints", "inputs": ctx.addresses}


def trained(root: Path, name: str, source: Rows | None = None, **options: object) -> tuple[dict, dict[str, Tensor]]:
    """The numbers, and weights and optimizer state, of the run `name`, from the start or from its checkpoint."""
    model, optimizer = started()
    settings = {"num_steps": STEPS, "tokens_per_step": 96, "log_every": 1} | options
    numbers = fit(
        model, optimizer, source or Rows(), Schedule(STEPS, warmdown_ratio=0.5), World(), **kept(root, name), **settings
    )
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    return numbers, weights | optimizer.state_share()


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """How far apart two models are, as a share of their norm. Single numbers differ more: AdamW makes a full step of a
    gradient that is nothing but rounding, and Newton-Schulz rounds to bf16."""
    weights = [name for name in a if not name.endswith(("exp_avg", "exp_avg_sq", "momentum", "variance"))]
    apart = sum(float((a[name] - b[name]).square().sum()) for name in weights)
    return (apart / sum(float(a[name].square().sum()) for name in weights)) ** 0.5


def log_of(root: Path, name: str) -> list[dict[str, float]]:
    timing = ("time", "tok_per_s", "eta_seconds", "checkpoint_stall")
    return [{k: v for k, v in row.items() if k not in timing} for row in metrics.read(root / name / "metrics.jsonl")]


def saved_steps(root: Path, name: str) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in (root / name / "work" / "checkpoints").iterdir())


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("at", [0, 3, 6])
def test_stopped_and_resumed_equals_uninterrupted_to_the_bit(at: int, tmp_path: Path) -> None:
    def look(step: int) -> dict[str, float]:
        return {"looked": step}

    options = {"evaluate": look, "eval_every": 2, "checkpoint_every": 2}
    expected = trained(tmp_path, "whole", **options)[1]
    with pytest.raises(Interrupted, match=f"stopped after step {at + 1} of {STEPS} and saved"):
        trained(tmp_path, "stopped", Rows(at={at: interrupt}), **options)
    assert saved_steps(tmp_path, "stopped")[-1] == at + 1
    assert_same(trained(tmp_path, "stopped", **options)[1], expected)
    assert log_of(tmp_path, "stopped") == log_of(tmp_path, "whole")
    assert [row["looked"] for row in log_of(tmp_path, "whole") if "looked" in row] == [0, 2, 4, 6, 8]


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    numbers, expected = trained(tmp_path, "a")
    again, state = trained(tmp_path, "a", Rows(at={0: interrupt}))
    assert_same(state, expected)
    assert (again["loss"], again["seconds"]) == (numbers["loss"], numbers["seconds"])


def test_a_signal_in_the_last_step_ends_the_run_as_done(tmp_path: Path) -> None:
    assert trained(tmp_path, "a", Rows(at={STEPS - 1: interrupt}))[0]["loss"]


def test_signals_go_back_to_whom_they_belonged(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    trained(tmp_path, "a")
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_nothing_listens_for_signals() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def inside() -> None:
        with stop_signals() as stop:
            seen.append((stop.is_set(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


@pytest.mark.parametrize("device_batch_size", [1, 3, 100])
def test_the_device_batch_changes_only_roundings(device_batch_size: int, tmp_path: Path) -> None:
    expected, one = trained(tmp_path, "four", Rows(4))
    numbers, other = trained(tmp_path, "other", Rows(device_batch_size))
    assert numbers["loss"] == pytest.approx(expected["loss"], rel=1e-3)
    assert distance(other, one) < 0.05


def test_the_loss_and_gradient_are_those_of_the_whole_step_at_once() -> None:
    model, _ = started()
    batches = Rows(4).batch(0)
    mean, wished = accumulate_gradients(model.loss, batches, World(), lambda: True, lambda: False)
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    whole = Rows(6).batch(0)[0]
    loss = model.loss(whole.inputs, whole.targets, whole.weights) / 60.0
    loss.backward()
    assert mean == pytest.approx(float(loss.detach()), rel=1e-5)
    assert wished == [True, False]
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_micro_batches_have_one_shape_and_the_filling_counts_for_nothing() -> None:
    rows = torch.arange(10).view(5, 2)
    batches = split_rows(rows, rows, 2, 10.0, torch.ones(5, 2))
    assert [batch.inputs.shape for batch in batches] == [(2, 2)] * 3
    assert batches[-1].targets.tolist() == [[8, 9], [-1, -1]]
    assert batches[-1].weights.tolist() == [[1, 1], [0, 0]]
    assert [len(batch.inputs) for batch in split_rows(rows, rows, 4, 10.0)] == [3, 3]
    with pytest.raises(ValueError, match="sum over nothing"):
        split_rows(rows, rows, 2, 0.0)


def test_a_source_without_a_micro_batch_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="no micro-batch"):
        accumulate_gradients(started()[0].loss, [], World())


def test_a_loss_that_is_not_finite_reaches_neither_weights_nor_disk(tmp_path: Path) -> None:
    source = Rows()

    def spoil() -> None:
        source.spoil = float("inf")

    source.at = {5: spoil}
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|-?inf) after 5 steps.*[Ll]ower the learning rates"):
        trained(tmp_path, "a", source, checkpoint_every=2)
    assert saved_steps(tmp_path, "a") == [2, 4]
    for tensor in newest(tmp_path / "a" / "work" / "checkpoints").weights().values():
        assert tensor.isfinite().all()


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    class Spoiled(MuonAdamW):
        def step(self, *scales: float) -> None:
            super().step(*scales)
            with torch.no_grad():
                self.buckets[0].parameters[0][0] = float("nan")

    model, optimizer = started()
    spoiled = Spoiled(optimizer.buckets)
    with pytest.raises(FloatingPointError, match=r"blocks.* is not finite after 1 steps"):
        fit(model, spoiled, Rows(), Schedule(1), World(), **kept(tmp_path, "a"), num_steps=1, tokens_per_step=96)
    assert not list((tmp_path / "a").rglob("step-*"))


@pytest.mark.parametrize(("minutes", "steps"), [(1e-9, [7, 8]), (0.0, [8]), (600.0, [8])])
def test_the_clock_asks_for_checkpoints_and_they_change_nothing(
    minutes: float, steps: list[int], tmp_path: Path
) -> None:
    expected = trained(tmp_path, "never")[1]
    assert_same(trained(tmp_path, "a", checkpoint_minutes=minutes)[1], expected)
    assert saved_steps(tmp_path, "a") == steps  # the last two are kept


@contextmanager
def no_file_larger_than(size: int) -> Iterator[Callable[[], None]]:
    """A function that sets such a limit, which stands for a full disk; it is taken back at the end."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("every", [2, 4])  # found out at the next checkpoint, and at the end
def test_a_full_disk_stops_the_run_in_words_and_loses_nothing_of_before(every: int, tmp_path: Path) -> None:
    expected = trained(tmp_path, "whole")[1]
    checkpoints = tmp_path / "a" / "work" / "checkpoints"

    def fills() -> None:
        while newest(checkpoints) is None:
            time.sleep(0.001)
        disk_fills()

    with (
        no_file_larger_than(30_000) as disk_fills,
        pytest.raises(OSError, match=r"checkpoint of step \d could not be written to .*/checkpoints \(.*too large"),
    ):
        trained(tmp_path, "a", Rows(at={2 * every - 1: fills}), checkpoint_every=every)
    assert newest(checkpoints).step == every
    assert_same(trained(tmp_path, "a", checkpoint_every=every)[1], expected)


def test_an_error_of_the_training_is_not_hidden_by_one_of_the_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = Rows()
    with no_file_larger_than(30_000) as disk_fills:
        source.at = {0: disk_fills, 3: lambda: setattr(source, "spoil", float("inf"))}
        with pytest.raises(FloatingPointError, match="the loss is"):
            trained(tmp_path, "a", source, checkpoint_every=2)
    assert "the checkpoint of step 2 could not be written" in caplog.text


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    trained(tmp_path, "a")
    model, optimizer = started()
    with pytest.raises(ValueError, match="is of another run"):
        fit(model, optimizer, Rows(), Schedule(9), World(), **kept(tmp_path, "a"), num_steps=9, tokens_per_step=96)


def test_the_log_says_what_a_run_is_watched_by(tmp_path: Path) -> None:
    numbers, _ = trained(tmp_path, "a", log_every=4)
    rows = list(metrics.read(tmp_path / "a" / "metrics.jsonl"))
    assert [row["step"] for row in rows] == [1, 4, 8]
    assert rows[-1].keys() >= {"loss", "lr_multiplier", "tok_per_s", "eta_seconds", "num_steps", "time", "reward"}
    assert all(0 <= row["checkpoint_stall"] < 1 for row in rows)
    assert 0 < numbers["checkpoint_stall"] < 1
    assert rows[-1]["eta_seconds"] == 0
    assert numbers["seconds"] > 0
    assert numbers["checkpoint_seconds"] > 0
    assert numbers["eval_seconds"] == 0
    assert numbers["loss"] == rows[-1]["loss"]


def test_pretraining_learns_and_passes_everything_on(tmp_path: Path) -> None:
    numbers = pretrained(tmp_path, "a", num_steps=40, eval_every=20, max_epochs=2)
    bits = [row["val_bpb"] for row in metrics.read(tmp_path / "a" / "metrics.jsonl") if "val_bpb" in row]
    assert len(bits) == 3
    assert bits[0] == pytest.approx(np.log2(300), rel=1e-4)  # knows nothing: the head starts at 0.001
    assert bits[-1] == numbers["val_bpb"] < 0.9 * bits[0]
    assert numbers.keys() >= {"loss", "num_parameters", "tokens", "flops", "seconds", "tok_per_s"}
    out = tmp_path / "a" / "out"
    assert {p.name for p in out.iterdir()} == {"model.safetensors", "model.json", "tokenizer.json", "token_bytes.npy"}


def test_the_next_stage_trains_at_a_fraction_of_pretrainings_rates(tmp_path: Path) -> None:
    pretrained(tmp_path, "a", num_steps=1)
    stage = Midtrain(lr_frac=0.5, device="cpu", compile=False)
    first = from_artifact(stage, place(tmp_path, "b"), World(), tmp_path / "a" / "out", 0)
    first.write_artifact({"num_steps": 1})
    second = from_artifact(stage, place(tmp_path, "c"), World(), tmp_path / "b" / "out", 2**19)
    assert second.settings == first.settings  # not a fraction of a fraction
    assert first.optimizer.buckets[0].lr == pytest.approx(0.5 * 0.5**0.5 * 0.02)  # of 256 tokens, scaled as of 2^18
    assert second.optimizer.buckets[0].lr == pytest.approx(0.5 * 0.02)  # scaled by its own batch, not pretraining's
    assert not [bucket for bucket in second.optimizer.buckets if getattr(bucket, "decay", 0)]
    assert first.rows_per_step() == 8


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"num_steps": 1000}, r"needs 8,000 rows .* 200 rows \* max_epochs 1 .*num_steps to 25 .*max_epochs = 40"),
        ({"total_batch_size": 100}, "total_batch_size = 100"),
    ],
)
def test_what_pretraining_cannot_do_is_refused_with_the_remedy(knobs: dict, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        pretrained(tmp_path, "a", **knobs)


@pytest.mark.parametrize(
    ("error", "left"), [(None, True), (Interrupted("saved"), True), (ValueError("of this rank"), False)]
)
def test_the_ranks_part_together_but_not_after_an_error_of_one(
    error: Exception | None, left: bool, tmp_path: Path
) -> None:
    """After an error the others wait in another collective, so that leaving, itself a collective, would hang."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        stage = Midtrain(device="cpu")
        with nullcontext() if error is None else pytest.raises(type(error)), process_group(stage):
            if error is not None:
                raise error
        assert dist.is_initialized() != left
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
