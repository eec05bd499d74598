"""Tasks whose messages are patterns by topic, all of a topic with one answer: who the model is, small talk.

The patterns are in a text file beside each task, because they are many. Promises: no message of the test split is met
in training, however it is typed. An answer counts as right if it has the words that its topic needs. Not here: how a
pattern is read (phrases.py). Standard library only.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, ClassVar

from nanochat.tasks.drawn import DrawnTask
from nanochat.tasks.phrases import Topic, expanded, letters, read, typed
from nanochat.tasks.task import Split, dialogue, held_out

TEST_SHARE = 0.2


class TopicTask(DrawnTask):
    """A task of the topics in `file`."""

    file: ClassVar[str]

    def __init__(self, split: Split, data_dir: Path | None = None) -> None:
        self.topics, self.lists = read(self.file)
        self.weights = [topic.weight for topic in self.topics]
        super().__init__(split, data_dir)

    def __getitem__(self, index: int) -> dict[str, Any]:
        message, topic = self.problem(index)
        return dialogue(message, topic.answer)

    def draw(self, dice: random.Random, split: Split) -> tuple[str, Topic]:
        """A message; in both splits every topic has the share that its weight says."""
        topic = dice.choices(self.topics, self.weights)[0]
        while True:
            phrase = expanded(dice.choice(topic.patterns), dice, self.lists)
            message = typed(phrase, dice)
            if all(held_out(letters(text), TEST_SHARE) == (split == "test") for text in (phrase, message)):
                return message, topic

    def correct(self, index: int, completion: str) -> bool:
        said = completion.lower()
        return all(word in said for word in self.problem(index)[1].needs)
