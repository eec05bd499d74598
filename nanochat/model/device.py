"""Which device a process takes, and what that multiplies fast: the one place that chooses the precision of products.

Promises: the choice depends on what the device has, never on a timing, so that a run that is resumed on the same kind
of machine goes on bit for bit; it never enters an address. Whatever multiplies matrices (model, optimizer, inference
copy, cache, evaluation, chat) takes `compute_dtype`'s answer, directly or as the model's `compute_dtype`.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

KNOBS = {"bfloat16": torch.bfloat16, "float32": torch.float32}
CPU_BF16 = ("avx512_bf16", "amx_bf16")  # as torch.cpu.get_capabilities() names the units that multiply bf16
AMPERE = (8, 0)  # the first compute capability with bf16 tensor cores
ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")  # the user's limits on what oneDNN may use; the first one wins
ISA_WITH_BF16 = ("ALL", "DEFAULT", "BF16", "FP16", "AMX", "AVX10")  # parts of the values that leave bf16 units in use


def compute_dtype(knob: str, device: torch.device) -> torch.dtype:
    """The precision of matrix products: `auto` is bf16 where the device has units for it, else fp32.

    Without them torch multiplies bf16 number by number: 26 times slower than fp32 on an AVX2 processor. By capability,
    because `torch.cuda.is_bf16_supported()` also says yes where bf16 is emulated. bf16 needs no loss scaling.
    """
    if knob != "auto":
        return KNOBS[knob]
    return torch.bfloat16 if bf16_units(device) else torch.float32


def device_of(knob: str, local_rank: int = 0) -> torch.device:
    """The device of a process: `auto` is the GPU of its local rank where torch can use GPUs here, else the CPU.

    Raises ValueError for CUDA where there is none, not one for each process, or one that this torch has no kernels for.
    """
    usable = torch.cuda.is_available() and has_kernels(torch.cuda.get_device_capability(0), torch.cuda.get_arch_list())
    kind = knob
    if knob == "auto":
        kind = "cuda" if usable else "cpu"
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"device={kind!r}: take 'cpu', 'cuda' or 'auto'")
    if kind == "cpu":
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"device={knob!r} with LOCAL_RANK={local_rank}, but this machine has {torch.cuda.device_count()} GPUs: "
            "start fewer processes, or take device='cpu'"
        )
    if not usable:
        capability, built = torch.cuda.get_device_capability(local_rank), ", ".join(torch.cuda.get_arch_list())
        raise ValueError(
            f"device='cuda': a GPU of compute capability {capability[0]}.{capability[1]}, and this torch is built for "
            f"{built}: take device='cpu', or a torch that is built for it"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def has_kernels(capability: tuple[int, int], built: Sequence[str]) -> bool:
    """Whether a torch built for these architectures runs on a GPU of this compute capability.

    Machine code (sm_90) runs on its own major version from its minor version on, intermediate code (compute_90) on
    everything newer, and what ends in a letter on nothing else (CUDA C++ programming guide, "Application
    compatibility"). Names of another kind, as those of ROCm, are taken on trust.
    """
    for arch in built:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", arch)
        if not found:
            return True
        version = (int(found[2]), int(found[3]))
        if found[4]:
            runs = version == capability
        else:
            runs = version <= capability and (found[1] == "compute" or version[0] == capability[0])
        if runs:
            return True
    return False


def bf16_units(device: torch.device) -> str:
    """The units of the device that multiply bf16, by name; empty where it has none, or where they are switched off."""
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        return f"sm_{capability[0]}{capability[1]}" if capability >= AMPERE else ""
    if device.type != "cpu" or not _onednn_may_use_bf16(os.environ):
        return ""
    has: dict[str, Any] = getattr(
        torch.cpu, "get_capabilities", dict
    )()  # an older torch cannot say, and fp32 is always right
    return next((name for name in CPU_BF16 if has.get(name)), "")


def _onednn_may_use_bf16(environment: Mapping[str, str]) -> bool:
    limit = next((environment[name] for name in ISA_LIMITS if environment.get(name)), "ALL").upper()
    return any(part in limit for part in ISA_WITH_BF16)


def arithmetic(dtype: torch.dtype, device: torch.device) -> str:
    """Which arithmetic a process used, for its record: `float32 on cpu (AMD EPYC)`."""
    return f"{str(dtype).removeprefix('torch.')} on {device.type} ({_name(device)})"


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    has: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    widest = next((name for name in (*CPU_BF16, "avx512_f", "avx2") if has.get(name)), "")
    return ", ".join(filter(None, (str(has.get("cpu_name") or "").strip() or "unknown processor", widest)))
