"""What an evaluation writes down: accuracies with their chance level, and a digest of what was asked.

A score says nothing without its question: two `scores.json` can be compared only where their digests are equal.
Promises: accuracies are kept as counts, so that they can be checked, and stand with an interval of 95 %; chance is
taken out the same way everywhere (CORE, arXiv:2406.11794, and ChatCORE). It asks nothing itself.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from math import comb, sqrt
from pathlib import Path
from typing import Any

from nanochat.artifacts.digest import digest

FILE = "scores.json"
Z = 1.959963984540054  # of the normal distribution 95 % lie within so many standard deviations


@dataclasses.dataclass(frozen=True)
class TaskScore:
    """How many of the `samples` answers to each of `n` questions are correct, and the share that guessing would get."""

    correct: int
    n: int
    baseline: float = 0.0
    samples: int = 1

    @property
    def accuracy(self) -> float:
        return self.correct / (self.n * self.samples)

    @property
    def interval(self) -> tuple[float, float]:
        """Low and high of the 95 % score interval of the accuracy (Wilson 1927, doi:10.1080/01621459.1927.10502953).

        Of `n` questions, however many answers each has: those to one question are alike, so that they say less than as
        many questions. With several answers it is rather too wide than too narrow.
        """
        p, n = self.accuracy, self.n
        middle = p + Z * Z / (2 * n)
        half = Z * sqrt(p * (1 - p) / n + (Z / (2 * n)) ** 2)
        scale = 1 + Z * Z / n
        return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)

    @property
    def centered(self) -> float:
        """0 at chance, 1 when all is correct; negative below chance."""
        return (self.accuracy - self.baseline) / (1 - self.baseline)

    @property
    def centered_variance(self) -> float:
        """Of `centered`, if the questions were drawn independently: p (1 - p) / n / (1 - baseline)^2."""
        return self.accuracy * (1 - self.accuracy) / self.n / (1 - self.baseline) ** 2

    def as_dict(self) -> dict[str, float]:
        """The form of scores.json; `low` and `high` are the interval, `samples` stands there if it is not 1."""
        low, high = self.interval
        content = {"accuracy": self.accuracy, "low": low, "high": high, "n": self.n, "correct": self.correct}
        return content | {"baseline": self.baseline} | ({"samples": self.samples} if self.samples > 1 else {})


def mean_centered(scores: Iterable[TaskScore]) -> float:
    """The unweighted mean of the centered accuracies: a task of 32 questions counts as much as one of 20,000."""
    centered = [score.centered for score in scores]
    return sum(centered) / len(centered)


def standard_error(scores: Iterable[TaskScore]) -> float:
    """Of `mean_centered`: the variances of independent tasks add up. It knows of the choice of questions alone.

    Not of the seed of the training, which moves CORE by as much.
    """
    variances = [score.centered_variance for score in scores]
    return sqrt(sum(variances)) / len(variances)


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Chance that one of `k` answers is right, from `samples` answers to a problem of which `correct` are.

    The unbiased estimator 1 - C(n - c, k) / C(n, k) of arXiv:2107.03374.
    """
    assert 0 <= correct <= samples, (correct, samples)
    assert 1 <= k <= samples, (k, samples)
    return 1 - comb(samples - correct, k) / comb(samples, k)


def pass_counts(samples: int) -> list[int]:
    """The k of pass@k that `samples` answers allow: powers of two and all of them; none for one answer."""
    powers = [1 << shift for shift in range(1, samples.bit_length()) if 1 << shift < samples]
    return [*powers, samples] if samples > 1 else []


def pass_name(task: str, k: int) -> str:
    """The name of a metric pass@k; MLflow takes no @."""
    return f"{task}_pass_at_{k}"


def text_digest(texts: Iterable[str]) -> str:
    """sha256 over texts; each is preceded by its length, so that moving a border changes it."""
    sha = hashlib.sha256()
    for text in texts:
        data = text.encode()
        sha.update(f"{len(data)}:".encode() + data)
    return sha.hexdigest()


def write(
    out: Path,
    metrics: Mapping[str, float],
    tasks: Mapping[str, TaskScore],
    asked: Mapping[str, Any],
    errors: Mapping[str, float] | None = None,
    **notes: Any,
) -> dict[str, float]:
    """Writes scores.json and returns the metrics.

    `asked` is all that makes the question, `errors` are standard errors of metrics, `notes` for the reader.
    """
    content = {
        "metrics": dict(metrics),
        "errors": dict(errors or {}),
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
    if missing := {"metrics", "errors", "tasks", "digest"} - set(content):
        raise ValueError(f"{path} has no {', '.join(sorted(missing))}: evaluate again")
    return content
