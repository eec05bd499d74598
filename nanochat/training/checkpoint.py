"""Training checkpoints on disk: safetensors and JSON, nothing that could execute.

A checkpoint is a directory `step-000123` with the weights, the whole optimizer state, the position of the run
and a manifest of sizes and digests. Promises: complete or invisible (written under another name, manifest last, synced
to the disk, then renamed), whenever the process is killed; a damaged one is passed over for the one before it, and says
so; an older one goes only when a newer one is durable; an existing step is never written over. Not here: when to save
(nanochat/training/loop.py), and copies in the store.
"""

import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nanochat.artifacts.files import sha256_of, sync
from nanochat.model.weights import WEIGHTS, read_tensors, write_json, write_tensors

OPTIMIZER, STATE, MANIFEST = "optimizer.safetensors", "state.json", "manifest.json"
KEEP_LAST = 2  # one to fall back on when the newest turns out damaged

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk: after `step` optimizer steps."""

    directory: Path
    step: int

    def state(self) -> dict[str, Any]:
        """What the loop needs besides tensors."""
        return json.loads((self.directory / STATE).read_text(encoding="utf-8"))

    def weights(self) -> dict[str, Tensor]:
        """Weights by name, on the CPU."""
        return read_tensors(self.directory / WEIGHTS)

    def optimizer(self) -> dict[str, Tensor]:
        """Whole optimizer state by name, on the CPU, of no particular number of ranks."""
        return read_tensors(self.directory / OPTIMIZER)


def save(
    root: Path, step: int, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], state: Mapping[str, Any]
) -> Checkpoint:
    """Writes `root`/step-NNNNNN; when it returns, the checkpoint survives a power cut.

    Raises:
        FileExistsError: that step is there already, whole: two runs work in the same place.
    """
    final = root / f"step-{step:06d}"
    if final.exists():
        if not (cause := damage(final)):
            raise FileExistsError(f"{final} is there already and whole: another run works in the same directory")
        log.warning("replacing the damaged checkpoint %s (%s)", final, cause)
    root.mkdir(parents=True, exist_ok=True)
    remove_leftovers(root)
    fresh = root / f".saving-{final.name}"
    fresh.mkdir()
    write_tensors(fresh / WEIGHTS, weights)
    write_tensors(fresh / OPTIMIZER, optimizer)
    write_json(fresh / STATE, {"step": step, **state})
    files = {name: _describe(fresh / name) for name in (WEIGHTS, OPTIMIZER, STATE)}
    write_json(fresh / MANIFEST, {"format": "nanochat-checkpoint-1", "step": step, "files": files})
    sync(fresh)
    if final.exists():
        final.rename(root / f".damaged-{final.name}")
    fresh.rename(final)
    sync(root)
    return Checkpoint(final, step)


def newest(root: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None; those passed over are named with what is wrong with them."""
    for step, directory in reversed(_listed(root)):
        if not (cause := damage(directory)):
            return Checkpoint(directory, step)
        log.warning("checkpoint %s is damaged (%s): falling back to an older one", directory, cause)
    return None


def prune(root: Path, keep_last: int = KEEP_LAST) -> None:
    """Removes all but the newest `keep_last` checkpoints. Call it when a newer one is durable, never before."""
    assert keep_last >= 1, f"keep_last = {keep_last} would remove the only checkpoint"
    for _, directory in _listed(root)[:-keep_last]:
        gone = root / f".pruned-{directory.name}"
        directory.rename(gone)  # at once, so that a kill half-way leaves nothing that looks like a checkpoint
        shutil.rmtree(gone)


def remove_leftovers(root: Path) -> None:
    """Removes what killed processes left behind: their names start with a dot, and no other's do."""
    for leftover in root.glob(".*-step-*"):
        shutil.rmtree(leftover)


def damage(directory: Path) -> str:
    """What is wrong with a checkpoint, or an empty string: the files are held against the manifest, byte for byte."""
    manifest = directory / MANIFEST
    if not manifest.is_file():
        return f"there is no {MANIFEST}"
    try:
        files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
    except (ValueError, KeyError, TypeError):
        return f"{MANIFEST} is no manifest"
    for name, facts in files.items():
        if not (directory / name).is_file():
            return f"{name} is missing"
        if (size := (directory / name).stat().st_size) != facts["size"]:
            return f"{name} has {size} bytes instead of {facts['size']}"
        if _describe(directory / name) != facts:
            return f"{name} has another digest than the manifest"
    return ""


def _listed(root: Path) -> list[tuple[int, Path]]:
    """Directories with a manifest, oldest first."""
    found = ((re.fullmatch(r"step-(\d+)", path.parent.name), path.parent) for path in root.glob(f"step-*/{MANIFEST}"))
    return sorted((int(match[1]), directory) for match, directory in found if match)


def _describe(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": sha256_of(path)}
