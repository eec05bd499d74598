"""What an evaluation writes down: accuracies with their chance level, and a digest of what was asked.

A score says nothing without its question: two `scores.json` can be compared only where their digests are equal.
Promises: accuracies are kept as counts, so that they can be checked; chance is taken out the same way everywhere (CORE,
arXiv:2406.11794, and ChatCORE). It asks nothing itself.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nanochat.artifacts.digest import digest

FILE = "scores.json"


@dataclasses.dataclass(frozen=True)
class TaskScore:
    """How many of `n` questions were answered correctly, and the share that guessing would get."""

    correct: int
    n: int
    baseline: float = 0.0

    @property
    def accuracy(self) -> float:
        return self.correct / self.n

    @property
    def centered(self) -> float:
        """0 at chance, 1 when all is correct; negative below chance."""
        return (self.accuracy - self.baseline) / (1 - self.baseline)

    def as_dict(self) -> dict[str, float]:
        """The form of scores.json."""
        return {"accuracy": self.accuracy, "n": self.n, "correct": self.correct, "baseline": self.baseline}


def mean_centered(scores: Iterable[TaskScore]) -> float:
    """The unweighted mean of the centered accuracies: a task of 32 questions counts as much as one of 20,000."""
    centered = [score.centered for score in scores]
    return sum(centered) / len(centered)


def text_digest(texts: Iterable[str]) -> str:
    """sha256 over texts; each is preceded by its length, so that moving a border changes it."""
    sha = hashlib.sha256()
    for text in texts:
        data = text.encode()
        sha.update(f"{len(data)}:".encode() + data)
    return sha.hexdigest()


def write(
    out: Path, metrics: Mapping[str, float], tasks: Mapping[str, TaskScore], asked: Mapping[str, Any], **notes: Any
) -> dict[str, float]:
    """Writes scores.json and returns the metrics. `asked` is all that makes the question, `notes` for the reader."""
    content = {
        "metrics": dict(metrics),
        "tasks": {name: score.as_dict() for name, score in tasks.items()},
        "digest": digest(dict(asked)),
        "asked": dict(asked),
        **notes,
    }
    (out / FILE).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return dict(metrics)


def read(artifact: Path) -> dict[str, Any]:
    """scores.json of an evaluation's artifact; ValueError where it is none."""
    path = artifact / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: {artifact.name} is not the artifact of an evaluation") from None
    if missing := {"metrics", "tasks", "digest"} - set(content):
        raise ValueError(f"{path} has no {', '.join(sorted(missing))}: evaluate again")
    return content
