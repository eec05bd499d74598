"""The processes of one training run: who am I, how many are we, and the four collectives everybody needs.

One process is a world of size 1 without a process group, and every function here works in it, so callers have one code
path. The environment (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_*`, as torchrun sets them) is read in `start` and
nowhere else. gloo on CPU, nccl on CUDA. Not here: the sharding of gradients (nanochat/optim.py), launching, and dying
with the parent.
"""

import json
import os
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

TIMEOUT = timedelta(minutes=10)  # longer than a cold compile on one rank (pitfall: uneven compile trips the watchdog)


@dataclass(frozen=True)
class World:
    """This process's place among those of the run; `device` is where its tensors live."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


def start(device: str | None = None) -> World:
    """Join the run that torchrun started, or be one alone; `device` is "cpu", "cuda" or None for what the machine has.

    Raises ValueError for half a torchrun environment, or for CUDA where there is none.
    """
    given = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    if None in given.values() and set(given.values()) != {None}:
        raise ValueError(f"incomplete torchrun environment {given}: set all three of them, or none")
    rank, size, local_rank = (int(value or default) for value, default in zip(given.values(), (0, 1, 0), strict=True))
    place = _device(device, local_rank)
    if size > 1:
        on_cuda = place.type == "cuda"
        dist.init_process_group("nccl" if on_cuda else "gloo", timeout=TIMEOUT, device_id=place if on_cuda else None)
    return World(rank, size, local_rank, place)


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


def broadcast_object(value: object, source: int = 0) -> object:
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


def barrier() -> None:
    """Wait until every rank is here."""
    if dist.is_initialized():
        dist.barrier()


def _device(name: str | None, local_rank: int) -> torch.device:
    kind = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"device={kind!r}: take 'cpu' or 'cuda'")
    if kind == "cpu":
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"device='cuda' with LOCAL_RANK={local_rank}, but this machine has {torch.cuda.device_count()} GPUs: "
            "start fewer processes, or take device='cpu'"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
