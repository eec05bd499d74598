"""A model on disk: `model.safetensors` and `model.json`, nothing that could execute.

Promises: every weight must be there, and no other; what another version of the architecture wrote is refused. Not here:
the state of a training run (training/checkpoint.py).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nanochat.artifacts.files import sync
from nanochat.model.config import GPTConfig
from nanochat.model.gpt import GPT

ARCHITECTURE_VERSION = 1  # raised when the same model.json stands for another function
WEIGHTS = "model.safetensors"
MODEL_JSON = "model.json"


def save_model(model: GPT, directory: Path, **extra: Any) -> None:
    """Writes `model.safetensors` (fp32) and `model.json`: the config, the architecture's version and `extra`."""
    directory.mkdir(parents=True, exist_ok=True)
    write_tensors(directory / WEIGHTS, {name: weight.float() for name, weight in model.state_dict().items()})
    facts = {"architecture_version": ARCHITECTURE_VERSION, **model.config.as_dict(), **extra}
    write_json(directory / MODEL_JSON, facts)


def load_model(directory: Path, device: torch.device | str = "cpu") -> tuple[GPT, dict[str, Any]]:
    """The model in `directory` and all that its `model.json` says. Every weight must be there, and no other.

    Raises:
        ValueError: a file is missing or cut, the architecture is another version's, or the weights do not fit.
    """
    facts = read_model_json(directory)
    with torch.device("meta"):
        model = GPT(GPTConfig.from_dict(facts))
    weights = read_tensors(directory / WEIGHTS)
    expected = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    if wrong := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        first = f"{wrong[0]}: the config says {expected.get(wrong[0])}, the file holds {found.get(wrong[0])}"
        raise ValueError(f"{directory / WEIGHTS} does not fit its {MODEL_JSON} in {len(wrong)} tensors ({first})")
    model.load_state_dict(weights, assign=True)
    return model.to(device), facts


def read_model_json(directory: Path) -> dict[str, Any]:
    """What `model.json` says, after a look at its version. Raises ValueError as `load_model` does."""
    path = directory / MODEL_JSON
    if not path.is_file():
        raise ValueError(f"no model in {directory}: there is no {MODEL_JSON}")
    facts = json.loads(path.read_text(encoding="utf-8"))
    if (version := facts.get("architecture_version")) != ARCHITECTURE_VERSION:
        raise ValueError(
            f"{path}: architecture version {version}, this code computes version {ARCHITECTURE_VERSION}: "
            "use the code that trained it, or train again"
        )
    return facts


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Tensors by name as safetensors, synced to the disk."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    sync(path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name, on the CPU. Raises ValueError for a file that is missing or cut."""
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read ({error}): fetch or make it again") from error


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Indented JSON, synced to the disk."""
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    sync(path)
