"""The reference implementation as a process to ask: from a checkout, with our shape, weights and tokenizer.

Not here: what it does (peer_process.py), what is compared (engine.py, core_eval.py).
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from nanochat.data.tokenizer import Tokenizer
from nanochat.model.gpt import GPT

PROGRAM = Path(__file__).with_name("peer_process.py")


class Peer:
    """`checkout` is a folder with their nanochat/; `dtype` is what they call NANOCHAT_DTYPE."""

    def __init__(
        self, checkout: Path, model: GPT, tokenizer: Tokenizer, dtype: torch.dtype, threads: int, clock: str
    ) -> None:
        self.folder = tempfile.TemporaryDirectory()
        weights, vocabulary = Path(self.folder.name) / "weights.pt", Path(self.folder.name) / "tokenizer.json"
        torch.save(dict(model.state_dict()), weights)
        tokenizer.save(vocabulary)
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.child = subprocess.Popen(
            [sys.executable, "-P", str(PROGRAM), str(checkout.resolve())],
            env={**kept, "NANOCHAT_DTYPE": str(dtype).removeprefix("torch."), "OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        shape = {"config": model.config.as_dict(), "threads": threads, "clock": clock}
        try:
            self._asked({**shape, "weights": str(weights), "tokenizer": str(vocabulary)})
        except ValueError:
            self.close()
            raise

    def close(self) -> None:
        """Nothing of it is left."""
        self.child.kill()
        self.child.communicate()
        self.folder.cleanup()

    def ask(self, do: str, **job: Any) -> dict[str, Any]:
        """What that method of `Served` answers."""
        return self._asked({"do": do, **job})

    def _asked(self, job: dict[str, Any]) -> dict[str, Any]:
        assert self.child.stdin
        assert self.child.stdout
        self.child.stdin.write(json.dumps(job) + "\n")
        self.child.stdin.flush()
        line = self.child.stdout.readline()
        if not line:
            raise ValueError("the peer ended without an answer: is the checkout whole? It says why above")
        return json.loads(line)

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
