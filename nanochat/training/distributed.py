"""The processes of one training run: who am I, how many are we, and the four collectives everybody needs.

One process is a world of size 1 without a process group, and every function here works in it, so callers have one code
path. The environment (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_*`, as torchrun sets them) is read in `start` and
nowhere else. gloo on CPU, nccl on CUDA. What may take ranks unequally long is gathered through files instead, which has
no timeout. Not here: the sharding of gradients (optim.py), launching, and dying with the parent.
"""

import json
import os
import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nanochat.artifacts.files import write_aside
from nanochat.model.device import device_of

MEETING = timedelta(minutes=3)  # for the processes of a run to find each other
POLL_SECONDS = 0.2  # between two looks whether the others are done
TIMEOUT = timedelta(minutes=10)  # longer than a cold compile on one rank (pitfall: uneven compile trips the watchdog)


@dataclass(frozen=True)
class World:
    """This process's place among those of the run; `device` is where its tensors live."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


def start(device: str = "auto") -> World:
    """Join the run that torchrun started, or be one alone; `device` is "cpu", "cuda" or "auto": what the machine has.

    Raises ValueError for half a torchrun environment, or for CUDA where there is none.
    """
    given = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    if None in given.values() and set(given.values()) != {None}:
        raise ValueError(f"incomplete torchrun environment {given}: set all three of them, or none")
    rank, size, local_rank = (int(value or default) for value, default in zip(given.values(), (0, 1, 0), strict=True))
    here = device_of(device, local_rank)
    if size > 1:
        _meet(rank, size, here)
    return World(rank, size, local_rank, here)


def _meet(rank: int, size: int, device: torch.device) -> None:
    """Find the other processes within `MEETING`; after that a collective may take `TIMEOUT`."""
    on_cuda = device.type == "cuda"
    try:
        store, *_ = next(dist.rendezvous("env://", rank, size, timeout=MEETING))
        backend, bound = ("nccl", device) if on_cuda else ("gloo", None)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT, device_id=bound)
    except (RuntimeError, ValueError) as error:  # of torch, DistStoreError among them
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise RuntimeError(
            f"rank {rank} of {size} did not meet the others at {where} within "
            f"{MEETING.seconds // 60} minutes: one of them ended, or the address is not reachable ({error})"
        ) from error


def stop() -> None:
    """Leave the run; harmless in a process that never joined one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def all_reduce_sum(x: Tensor) -> Tensor:
    """The sum of every rank's `x`, on every rank; `x` itself is left as it was."""
    if not dist.is_initialized():
        return x
    total = x.clone()
    dist.all_reduce(total)
    return total


def broadcast_object(value: Any, source: int = 0) -> Any:
    """Rank `source`'s `value` on every rank; it travels as JSON, so lists come back as lists and tuples do too."""
    if not dist.is_initialized():
        return json.loads(json.dumps(value))
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    text = json.dumps(value).encode() if dist.get_rank() == source else b""
    length = torch.tensor([len(text)], device=device)
    dist.broadcast(length, source)
    data = torch.empty(int(length), dtype=torch.uint8, device=device)
    if text:
        data.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
    dist.broadcast(data, source)
    return json.loads(bytes(data.tolist()))


def gather_files(value: Any, folder: Path, world: World) -> list[Any]:
    """Every rank's `value` on every rank, in the order of ranks, as JSON through `folder`.

    Not a collective: who is done waits for the others as long as they take, beyond `TIMEOUT`; where one of them ends,
    torchrun ends all. `folder` lies where all ranks see it and is of this call alone: a file of an earlier attempt
    would be taken for an answer.
    """
    if world.size == 1:
        return [json.loads(json.dumps(value))]
    folder.mkdir(parents=True, exist_ok=True)
    write_aside(folder / f"{world.rank}.json", json.dumps(value))
    paths = [folder / f"{rank}.json" for rank in range(world.size)]
    while not all(path.exists() for path in paths):
        time.sleep(POLL_SECONDS)
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def barrier() -> None:
    """Wait until every rank is here."""
    if dist.is_initialized():
        dist.barrier()
