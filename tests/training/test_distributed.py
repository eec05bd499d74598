"""Two gloo processes train as one does, and the collectives say the same to both; run as a script, this file is a rank."""

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nanochat.training import distributed
from nanochat.training.distributed import World
from nanochat.training.optim import OptimSettings, build_optimizer
from tests.model.test_model import MODERN, shaken, some_tokens
from tests.paths import ROOT

STEPS, ROWS = 4, 4
SETTINGS = OptimSettings(weight_decay=0.1, cautious=True, normuon_beta2=0.9)
# Of how far each parameter moved. AdamW with eps 1e-10 divides by tiny gradients and Newton-Schulz runs in bf16: both magnify
# the last bits of a sum taken in another order. A wrong update is off by its whole size.
TOLERANCE = 0.1
RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


def train(model, optimizer, world, steps):
    """The rows of each step shared out among the ranks; returns the global mean losses."""
    losses = []
    for step in steps:
        tokens = some_tokens(MODERN, ROWS, 33, seed=step)[world.rank :: world.size]
        loss = model.loss(tokens[:, :-1], tokens[:, 1:]) / (ROWS * 32)
        loss.backward()
        optimizer.step(momentum=0.9)
        losses.append(distributed.all_reduce_sum(loss.detach()).item())
    return losses


def be_a_rank(out):
    """What one of the processes does; it reports what it saw, and its weights and optimizer state."""
    torch.set_num_threads(1)
    world = distributed.start("cpu")
    number = torch.tensor([1.0, 10.0]) * (world.rank + 1)
    said = {
        "rank": world.rank,
        "sum": distributed.all_reduce_sum(number).tolist(),
        "kept": number.tolist(),
        "told": distributed.broadcast_object({"step": 7, "name": "é", "rank": world.rank}, source=1),
        "nothing": distributed.broadcast_object(None),
    }
    model = shaken(MODERN)
    optimizer = build_optimizer(model, SETTINGS, world)
    said["losses"] = train(model, optimizer, world, range(STEPS))
    said["shares"] = [bucket.share for bucket in optimizer.buckets]
    distributed.barrier()
    save_file(model.state_dict(), out / f"model-{world.rank}.safetensors")
    save_file(optimizer.state_share(), out / f"state-{world.rank}.safetensors")
    distributed.barrier()
    resumed = build_optimizer(model, SETTINGS, world)
    resumed.load_state(state_of(out), STEPS)
    said["losses after"] = train(model, resumed, world, range(STEPS, 2 * STEPS))
    save_file(model.state_dict(), out / f"later-{world.rank}.safetensors")
    (out / f"said-{world.rank}.json").write_text(json.dumps(said), encoding="utf-8")
    distributed.stop()
    distributed.stop()  # harmless


def state_of(out):
    """The shares that both ranks saved, joined."""
    shares = [load_file(out / f"state-{rank}.safetensors") for rank in range(2)]
    names = shares[0].keys() | shares[1].keys()
    return {name: torch.cat([share[name] for share in shares if name in share]) for name in names}


@pytest.fixture(scope="module", name="two")
def two_ranks(tmp_path_factory):
    """The files of a run of two processes."""
    out = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = os.environ | {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "PYTHONPATH": str(ROOT),
    }
    ranks = []
    for rank in range(2):
        names = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        with (out / f"log-{rank}.txt").open("w", encoding="utf-8") as log:
            command = [sys.executable, "-W", "error", __file__, str(out)]
            ranks.append(subprocess.Popen(command, env=shared | names, stdout=log, stderr=subprocess.STDOUT))
    try:
        codes = [process.wait(timeout=240) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert codes == [0, 0], "\n".join((out / f"log-{rank}.txt").read_text(encoding="utf-8") for rank in range(2))
    return out


def said(two, rank):
    return json.loads((two / f"said-{rank}.json").read_text(encoding="utf-8"))


def alone(steps):
    model = shaken(MODERN)
    optimizer = build_optimizer(model, SETTINGS, World())
    return model, optimizer, train(model, optimizer, World(), steps)


def test_collectives_say_the_same_to_all(two):
    for rank in range(2):
        words = said(two, rank)
        assert words["rank"] == rank
        assert words["sum"] == [3.0, 30.0]
        assert words["kept"] == [rank + 1.0, 10.0 * (rank + 1)]
        assert words["told"] == {"step": 7, "name": "é", "rank": 1}
        assert words["nothing"] is None


def test_who_is_done_waits_for_the_slow_and_all_have_everything(tmp_path):
    worlds = [World(rank, 3) for rank in range(3)]
    said = [{"rank": rank, "text": "é\ud800"} for rank in range(3)]  # half a pair, as a model may write it
    with ThreadPoolExecutor() as pool:
        early = [pool.submit(distributed.gather_files, said[rank], tmp_path / "here", worlds[rank]) for rank in (2, 0)]
        assert wait(early, timeout=0.5).done == set()
        assert distributed.gather_files(said[1], tmp_path / "here", worlds[1]) == said
        assert [future.result(timeout=60) for future in early] == [said, said]
    assert distributed.gather_files((1, "a"), tmp_path / "alone", World()) == [[1, "a"]]
    assert not (tmp_path / "alone").exists()


def test_all_ranks_hold_the_same_weights(two):
    for name in ("model", "later"):
        first, second = (load_file(two / f"{name}-{rank}.safetensors") for rank in range(2))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first), name


def test_two_ranks_train_as_one_does(two):
    model, optimizer, losses = alone(range(STEPS))
    assert said(two, 0)["losses"] == said(two, 1)["losses"]
    assert said(two, 0)["losses"] == pytest.approx(losses, rel=2e-3)
    start, together = shaken(MODERN).state_dict(), load_file(two / "model-0.safetensors")
    for name, weight in model.state_dict().items():
        moved = (weight - start[name]).norm()
        assert (together[name] - weight).norm() < TOLERANCE * moved, name
    whole = {name: len(numbers) for name, numbers in optimizer.state_share().items()}
    assert {name: len(numbers) for name, numbers in state_of(two).items()} == whole


def test_the_state_is_really_shared_out(two):
    _, optimizer, _ = alone(range(0))
    whole = [bucket.share for bucket in optimizer.buckets]
    for share, all_of_it in zip(said(two, 0)["shares"], whole, strict=True):
        assert all_of_it / 2 <= share < all_of_it or all_of_it == 1
    three_matrices = next(bucket for bucket in optimizer.buckets if "blocks.0.up_proj.weight" in bucket.names)
    assert three_matrices.share == 3 * three_matrices.shape[0] * three_matrices.shape[1]  # so two ranks need padding


def test_a_state_saved_by_two_ranks_continues_on_one(two):
    model = shaken(MODERN, seed=9)
    model.load_state_dict(load_file(two / "model-0.safetensors"))
    optimizer = build_optimizer(model, SETTINGS, World())
    state = state_of(two)
    optimizer.load_state(state, STEPS)
    back = optimizer.state_share()
    assert all(torch.equal(state[name], back[name]) for name in state)
    start = {name: weight.clone() for name, weight in model.state_dict().items()}
    losses = train(model, optimizer, World(), range(STEPS, 2 * STEPS))
    assert losses == pytest.approx(said(two, 0)["losses after"], rel=2e-3)
    later = load_file(two / "later-0.safetensors")
    for name, weight in model.state_dict().items():
        assert (later[name] - weight).norm() < TOLERANCE * (weight - start[name]).norm(), name


def test_one_process_is_a_world_of_one_without_a_process_group(monkeypatch):
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    world = distributed.start("cpu")
    assert world == World(0, 1, 0, torch.device("cpu"))
    x = torch.ones(3)
    assert torch.equal(distributed.all_reduce_sum(x), x)
    assert distributed.broadcast_object({"a": [1, 2]}) == {"a": [1, 2]}
    distributed.barrier()
    distributed.stop()


def test_half_an_environment_and_unknown_devices_are_refused(monkeypatch):
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="device='tpu'"):
        distributed.start("tpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="has 0 GPUs"):
        distributed.start("cuda")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match="incomplete torchrun environment"):
        distributed.start("cpu")


if __name__ == "__main__":
    be_a_rank(Path(sys.argv[1]))
