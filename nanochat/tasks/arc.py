"""ARC (arXiv:1803.05457): science questions of primary school, an easy and a challenge set.

Not here: fetching (nanochat/stages/task_data.py). Standard library only.
"""

from typing import Any

from nanochat.tasks.from_file import MultipleChoice, Origin, choice_row


class Arc(MultipleChoice):
    """Rows of allenai/ai2_arc: {"question", "choices": {"text": [...], "label": [...]}, "answerKey"}."""

    @classmethod
    def normalise(cls, row: dict[str, Any]) -> dict[str, Any]:
        choices, key = row.get("choices"), row.get("answerKey")
        if not isinstance(choices, dict) or not {"text", "label"} <= set(choices):
            raise ValueError(f"choices = {choices!r}: needs text and label")
        labels = choices["label"]  # letters, in some rows digits
        if not isinstance(labels, list) or not isinstance(choices["text"], list) or len(labels) != len(choices["text"]):
            raise ValueError(f"choices = {choices!r}: needs as many labels as texts")
        if labels.count(key) != 1:
            raise ValueError(f"answerKey = {key!r}: needs one of the labels {', '.join(map(str, labels))}")
        return choice_row(row.get("question"), choices["text"], labels.index(key))


class ArcEasy(Arc):
    """The questions that word statistics solve."""

    name = "arc_easy"
    baseline = 0.25
    origins = {split: Origin("allenai/ai2_arc", "ARC-Easy", split) for split in ("train", "test")}


class ArcChallenge(Arc):
    """The questions that word statistics do not solve."""

    name = "arc_challenge"
    baseline = 0.25
    origins = {split: Origin("allenai/ai2_arc", "ARC-Challenge", split) for split in ("train", "test")}
