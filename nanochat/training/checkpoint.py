"""Training checkpoints on disk: safetensors and JSON, nothing that could execute.

A checkpoint is a directory `step-000123`: every rank's share of the weights and of the optimizer state, the position of
the run, and a manifest of sizes and digests. A weight is whole in one of the shares; of the optimizer each has a piece
of every tensor that it owns a part of, and the pieces in the order of the ranks are the tensor, so that any number of
ranks can go on from it. Promises: complete or invisible (every rank writes under another name, the first one waits for
all, then the manifest is last, synced to the disk, then it is renamed), whenever a process is killed; a damaged one is
passed over for the one before it, and says so; an older one goes only when a newer one is durable; an existing step is
never written over. Not here: when to save (nanochat/training/loop.py), in what thread (nanochat/training/saving.py),
copies in the store (nanochat/artifacts/mirror.py).
"""

import json
import logging
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat.artifacts.files import sha256_of, sync, write_aside
from nanochat.artifacts.mirror import MANIFEST
from nanochat.model.weights import read_tensors, write_json
from nanochat.training.staging import FileImage

WEIGHTS, OPTIMIZER = "model", "optimizer"  # kinds of files
STATE = "state.json"
FORMAT = "nanochat-checkpoint-2"
KEEP_LAST = 2  # one to fall back on when the newest turns out damaged
PATIENCE = 600.0  # seconds that the first rank waits for the others' files once its own are written
POLL_SECONDS = 0.02

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
        return {name: weight for share in self._shares(WEIGHTS) for name, weight in share.items()}

    def optimizer(self) -> dict[str, Tensor]:
        """Whole optimizer state by name, flat, on the CPU, without a trace of how many ranks saved it."""
        pieces: dict[str, list[Tensor]] = {}
        for share in self._shares(OPTIMIZER):
            for name, piece in share.items():
                pieces.setdefault(name, []).append(piece.reshape(-1))
        return {name: torch.cat(of_ranks) for name, of_ranks in pieces.items()}

    def _shares(self, kind: str) -> Iterator[dict[str, Tensor]]:
        """The files of a kind, in the order of the ranks, as the manifest lists them. ValueError: of other code."""
        manifest = json.loads((self.directory / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise ValueError(
                f"{self.directory} has the format {manifest['format']!r}, and this code reads {FORMAT!r}: go on with "
                "the code that wrote it, or move it away and start anew"
            )
        for name in manifest["files"]:
            if name.startswith(kind):
                yield read_tensors(self.directory / name)


def share_of(weights: Mapping[str, Tensor], rank: int, num_ranks: int) -> dict[str, Tensor]:
    """Those weights that a rank writes: whole ones, so that each rank has about as many bytes."""
    shares: list[dict[str, Tensor]] = [{} for _ in range(num_ranks)]
    sizes = [0] * num_ranks
    for name in sorted(weights, key=lambda name: -weights[name].nbytes):  # the largest first, to the least laden
        least = sizes.index(min(sizes))
        shares[least][name] = weights[name]
        sizes[least] += weights[name].nbytes
    return shares[rank]


def refuse_to_replace(root: Path, step: int) -> None:
    """FileExistsError where that step is there already and whole; one that is damaged will be replaced."""
    final = _directory(root, step)
    if final.exists():
        if not (cause := damage(final)):
            raise FileExistsError(f"{final} is there already and whole: another run works in the same directory")
        log.warning("replacing the damaged checkpoint %s (%s)", final, cause)


def write(
    root: Path, step: int, images: Mapping[str, FileImage], state: Mapping[str, Any], *, rank: int, num_ranks: int
) -> None:
    """Writes the share of one rank, by kind of file; every rank of the run calls it, in any order, on one file system.

    On rank 0 it returns when `root`/step-NNNNNN is whole and would survive a power cut, and older ones are pruned.

    Raises:
        FileExistsError: a file of this share is there already: two runs work in the same place.
        TimeoutError: another rank's share did not appear.
    """
    fresh = _fresh(root, step)
    fresh.mkdir(parents=True, exist_ok=True)
    described = {}
    for kind, image in images.items():
        name = f"{kind}-{rank}-of-{num_ranks}.safetensors"
        described[name] = image.write(fresh / name)
    write_aside(fresh / _receipt(rank), json.dumps(described))
    if rank == 0:
        _publish(root, step, state, num_ranks)
        prune(root)


def _publish(root: Path, step: int, state: Mapping[str, Any], num_ranks: int) -> None:
    """Waits for every rank's share and gives the checkpoint its name."""
    fresh, final, deadline = _fresh(root, step), _directory(root, step), time.monotonic() + PATIENCE
    files: dict[str, Any] = {}
    for rank in range(num_ranks):
        receipt = fresh / _receipt(rank)
        while not receipt.exists():
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"rank {rank} of {num_ranks} did not write its share into {fresh} within {PATIENCE:.0f} seconds "
                    "after rank 0 had: see its log"
                )
            time.sleep(POLL_SECONDS)
        files |= json.loads(receipt.read_text(encoding="utf-8"))
        receipt.unlink()
    write_json(fresh / STATE, {"step": step, **state})
    files[STATE] = _describe(fresh / STATE)
    write_json(fresh / MANIFEST, {"format": FORMAT, "step": step, "files": files})
    sync(fresh)
    if final.exists():
        final.rename(root / f".damaged-{final.name}")
    fresh.rename(final)
    sync(root)


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
    """Removes what killed processes left behind: their names start with a dot. Call it before anything is saved."""
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


def _directory(root: Path, step: int) -> Path:
    return root / f"step-{step:06d}"


def _fresh(root: Path, step: int) -> Path:
    """Where a checkpoint is written before it has its name."""
    return root / f".saving-{_directory(root, step).name}"


def _receipt(rank: int) -> str:
    """The file by which a rank says that its share is on the disk, and what is in it."""
    return f"written-{rank}.json"


def _describe(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": sha256_of(path)}
