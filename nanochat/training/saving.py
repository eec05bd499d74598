"""Saving while training goes on: this rank's tensors are copied aside, and a thread writes them.

Promises: `save` returns when the copy is made, and what is written is of that moment; never two at once: the next save
waits for the one before; what goes wrong in the thread is raised by the next `save` or `wait`, with the directory; the
thread knows neither torch's process group nor its kernels, so that it disturbs no collective and no sum. Not here: the
files (nanochat/training/checkpoint.py), when to save.
"""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat.training import checkpoint
from nanochat.training.distributed import World
from nanochat.training.staging import FileImage

Files = Mapping[str, Mapping[str, Tensor]]  # what a rank saves: by kind of file, tensors by name


class Saver:
    """Writes this rank's share of checkpoints into `root`; memory for `files` is taken at once."""

    def __init__(self, root: Path, world: World, files: Files) -> None:
        self.root, self.world = root, world
        pinned = world.device.type == "cuda"
        self.images = {kind: FileImage(tensors, pinned=pinned) for kind, tensors in files.items()}
        self.step, self.thread = 0, threading.Thread()
        self.failure: BaseException | None = None

    def save(self, step: int, files: Files, state: Mapping[str, Any]) -> None:
        """Copies the tensors and starts writing step-NNNNNN; first waits for the save before, and raises as `wait`.

        Raises:
            FileExistsError: that step is there already, whole: two runs work in the same place.
        """
        self.wait()
        if self.world.rank == 0:
            checkpoint.refuse_to_replace(self.root, step)
        for kind, image in self.images.items():
            image.fill(files[kind])
        if self.world.device.type == "cuda":
            torch.cuda.current_stream(self.world.device).synchronize()
        self.step = step
        self.thread = threading.Thread(target=self._write, args=(step, dict(state)), name="checkpoint", daemon=True)
        self.thread.start()

    def wait(self) -> None:
        """Until this rank's part of the last save is done: its own files, and on rank 0 the whole checkpoint.

        Raises:
            OSError: it could not be written. Earlier checkpoints are as they were.
        """
        if self.thread.ident is not None:
            self.thread.join()
        failure, self.failure = self.failure, None
        if failure is not None:
            raise OSError(
                f"the checkpoint of step {self.step} could not be written to {self.root} ({failure}); those before it "
                "are whole: make room or repair the disk there, and start again"
            ) from failure

    def _write(self, step: int, state: Mapping[str, Any]) -> None:
        try:
            checkpoint.write(self.root, step, self.images, state, rank=self.world.rank, num_ranks=self.world.size)
        except BaseException as error:  # whatever it is, the training process has to hear of it
            self.failure = error
