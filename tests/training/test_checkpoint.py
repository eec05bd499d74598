"""Checkpoints: complete or invisible, whenever the writer dies; models: every weight or a clear refusal."""

import hashlib
import json
import logging
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from nanochat.model.config import GPTConfig
from nanochat.model.gpt import GPT
from nanochat.model.weights import load_model, save_model
from nanochat.training import checkpoint
from nanochat.training.checkpoint import MANIFEST, newest, prune, remove_leftovers, share_of
from nanochat.training.staging import FileImage

CONFIG = GPTConfig.modern(2, vocab_size=300, sequence_len=16, width=32, head_dim=8)


def tensors(value: float) -> dict[str, Tensor]:
    return {"a": torch.full((5, 3), value), "b": torch.arange(4) + int(value)}


def image(values: dict[str, Tensor]) -> FileImage:
    made = FileImage(values, pinned=False)
    made.fill(values)
    return made


def write(root: Path, *steps: int, rank: int = 0, num_ranks: int = 1) -> None:
    """What one rank does; of the optimizer each has a piece, and the weights `a` and `b` are on different ones."""
    for step in steps:
        files = {
            "model": image(share_of(tensors(step), rank, num_ranks)),
            "optimizer": image(
                {name: t.reshape(-1).tensor_split(num_ranks)[rank] for name, t in tensors(step + 0.5).items()}
            ),
        }
        checkpoint.write(root, step, files, {"seconds": step}, rank=rank, num_ranks=num_ranks)


def steps_in(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    write(tmp_path, 7)
    found = newest(tmp_path)
    assert (found.step, found.state()) == (7, {"step": 7, "seconds": 7})
    for name, tensor in tensors(7).items():
        assert torch.equal(found.weights()[name], tensor)
    assert torch.equal(found.optimizer()["a"], torch.full((15,), 7.5))
    assert steps_in(tmp_path) == ["step-000007"]


def test_shares_of_several_ranks_are_one_checkpoint_once_all_are_there(tmp_path: Path) -> None:
    for rank in (2, 1):
        write(tmp_path, 7, rank=rank, num_ranks=3)
        assert newest(tmp_path) is None
    write(tmp_path, 7, num_ranks=3)
    found = newest(tmp_path)
    for name, tensor in tensors(7).items():
        assert torch.equal(found.weights()[name], tensor)
        assert torch.equal(found.optimizer()[name], tensors(7.5)[name].reshape(-1))
    kinds = [f"{kind}-{rank}-of-3.safetensors" for kind in ("model", "optimizer") for rank in range(3)]
    assert steps_in(tmp_path / "step-000007") == sorted([*kinds, "state.json", MANIFEST])


def test_a_rank_that_does_not_write_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "PATIENCE", 0.05)
    write(tmp_path, 1)
    write(tmp_path, 2, rank=1, num_ranks=3)
    with pytest.raises(TimeoutError, match="rank 2 of 3 did not write its share"):
        write(tmp_path, 2, num_ranks=3)
    assert newest(tmp_path).step == 1


def test_weights_are_shared_out_whole_and_evenly() -> None:
    weights = {name: weight.detach() for name, weight in model().state_dict().items()}
    shares = [share_of(weights, rank, 3) for rank in range(3)]
    assert sorted(name for share in shares for name in share) == sorted(weights)
    sizes = [sum(weight.nbytes for weight in share.values()) for share in shares]
    assert max(sizes) - min(sizes) <= max(weight.nbytes for weight in weights.values())


def test_the_bytes_of_a_file_and_its_digest_are_those_that_a_reader_finds(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    values = {
        "half": torch.randn(3, 5, generator=draw).bfloat16(),
        "é": torch.randn(7, generator=draw),
        "count": torch.tensor(2**40),
        "none": torch.empty(0, 4),
        "turned": torch.randn(4, 6, generator=draw).T,
    }
    made = FileImage(values, pinned=False)
    made.fill({name: torch.zeros_like(value) for name, value in values.items()})
    made.fill(values)
    said = made.write(tmp_path / "a.safetensors")
    content = (tmp_path / "a.safetensors").read_bytes()
    assert said == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    found = load_file(tmp_path / "a.safetensors")
    assert found.keys() == values.keys()
    for name, value in values.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
        assert torch.equal(found[name], value), name
    image({}).write(tmp_path / "empty.safetensors")  # of a rank that has no share
    assert not load_file(tmp_path / "empty.safetensors")
    with pytest.raises(FileExistsError):
        made.write(tmp_path / "a.safetensors")
    with pytest.raises(AssertionError, match="laid out for"):
        made.fill({"half": values["half"]})


def test_the_newest_is_the_highest_step(tmp_path: Path) -> None:
    assert newest(tmp_path / "never") is None
    write(tmp_path, 999999, 1000000, 2)
    assert newest(tmp_path).step == 1000000


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


@pytest.mark.parametrize("operation", ["fsync", "rename", "unlink", "mkdir"])
def test_a_writer_that_dies_at_any_moment_leaves_the_checkpoint_before(
    operation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 0, 1)
    for survived in range(20):
        left, real = [survived], getattr(os, operation)

        def dying(*args: object, left: list[int] = left, real: object = real, **named: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return real(*args, **named)

        remove_leftovers(tmp_path)
        with monkeypatch.context() as patched:
            patched.setattr(os, operation, dying)
            try:
                write(tmp_path, 2)
                break
            except Killed:
                assert newest(tmp_path).step in (1, 2)
        if newest(tmp_path).step == 2:  # died after the rename: durable or not, it is whole
            break
    assert survived >= 1
    if newest(tmp_path).step == 1:
        remove_leftovers(tmp_path)
        write(tmp_path, 2)
    assert torch.equal(newest(tmp_path).weights()["a"], tensors(2)["a"])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda d: cut(d / "model-0-of-1.safetensors"), "model-0-of-1.safetensors has .* bytes instead of"),
        (lambda d: flip(d / "optimizer-0-of-1.safetensors"), "optimizer-0-of-1.safetensors has another digest"),
        (lambda d: (d / "state.json").unlink(), "state.json is missing"),
        (lambda d: cut(d / "manifest.json"), "manifest.json is no manifest"),
        (lambda d: (d / "manifest.json").write_text("{}", encoding="utf-8"), "manifest.json is no manifest"),
    ],
)
def test_a_damaged_one_is_passed_over_and_named(
    spoil: object, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, 1, 2)
    spoil(tmp_path / "step-000002")
    with caplog.at_level(logging.WARNING):
        assert newest(tmp_path).step == 1
    assert "step-000002 is damaged" in caplog.text
    assert re.search(said, caplog.text)


def test_one_without_a_manifest_is_invisible_and_its_step_can_be_made_again(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    (tmp_path / "step-000002" / "manifest.json").unlink()
    assert newest(tmp_path).step == 1
    write(tmp_path, 2)
    assert newest(tmp_path).step == 2
    write(tmp_path, 3)
    assert steps_in(tmp_path) == [".damaged-step-000002", "step-000002", "step-000003"]


def test_a_share_that_lacks_at_the_newest_falls_back_to_the_one_before(tmp_path: Path) -> None:
    for step in (1, 2):
        for rank in (1, 0):
            write(tmp_path, step, rank=rank, num_ranks=2)
    flip(tmp_path / "step-000002" / "optimizer-1-of-2.safetensors")
    assert newest(tmp_path).step == 1
    (tmp_path / "step-000001" / "model-1-of-2.safetensors").unlink()
    assert newest(tmp_path) is None


def test_one_of_another_format_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 1)
    manifest = tmp_path / "step-000001" / MANIFEST
    manifest.write_text(manifest.read_text(encoding="utf-8").replace("checkpoint-2", "checkpoint-1"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"has the format 'nanochat-checkpoint-1'.*move it away"):
        newest(tmp_path).weights()


def test_pruning_keeps_the_newest_and_leftovers_go_with_the_next_start(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3)
    assert steps_in(tmp_path) == ["step-000002", "step-000003"]
    (tmp_path / ".saving-step-000004").mkdir()
    (tmp_path / ".pruned-step-000001").mkdir()
    (tmp_path / ".pruned-step-000001" / "manifest.json").write_text("{}", encoding="utf-8")
    assert newest(tmp_path).step == 3
    remove_leftovers(tmp_path)
    write(tmp_path, 4)
    assert steps_in(tmp_path) == ["step-000003", "step-000004"]
    with pytest.raises(AssertionError, match="keep_last = 0"):
        prune(tmp_path, keep_last=0)


def model(seed: int = 1) -> GPT:
    made = GPT(CONFIG)
    made.init_weights(seed)
    return made


def test_a_model_comes_back_to_the_bit_with_what_was_said_of_it(tmp_path: Path) -> None:
    original = model()
    save_model(original, tmp_path, stage="pretrain", step=3)
    loaded, facts = load_model(tmp_path)
    assert (facts["stage"], facts["step"], loaded.config) == ("pretrain", 3, CONFIG)
    for name, weight in original.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight)
    tokens = torch.arange(16)[None]
    assert torch.equal(loaded(tokens), original(tokens))
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def rewrite(directory: Path, **changes: object) -> None:
    path = directory / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda d: (d / "model.json").unlink(), "there is no model.json"),
        (lambda d: (d / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda d: cut(d / "model.safetensors"), "cannot be read"),
        (lambda d: rewrite(d, architecture_version=99), "architecture version 99"),
        (lambda d: rewrite(d, n_layer=3), "does not fit its model.json"),
        (lambda d: rewrite(d, vocab_size=301), r"the config says \(301, 32\), the file holds \(300, 32\)"),
        (lambda d: rewrite(d, backout=False), "backout_lambda: the config says None"),
    ],
)
def test_a_model_that_is_not_whole_is_refused(spoil: object, said: str, tmp_path: Path) -> None:
    save_model(model(), tmp_path)
    spoil(tmp_path)
    with pytest.raises(ValueError, match=said):
        load_model(tmp_path)


def test_a_file_that_is_no_checkpoint_has_tensors_named_missing(tmp_path: Path) -> None:
    write(tmp_path, 1)
    (tmp_path / "step-000001" / "optimizer-0-of-1.safetensors").unlink()
    with pytest.raises(ValueError, match=r"optimizer-0-of-1.safetensors is missing"):
        checkpoint.Checkpoint(tmp_path / "step-000001", 1).optimizer()
