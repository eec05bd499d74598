"""Who the model is: its name, its kind, its maker, what it can do, how it works, and what it is not.

Questions are put together from a beginning and an ending, and a share of those pairs is held out, so that no held-out
question was met in training whatever stands around it. Promises: an answer counts as right if it names the fact that
was asked for. Edit FACTS to give a model another identity. Standard library only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.tasks.task import Split, Task, dialogue, in_random_order, in_split

NAME = "nanochat"
TEST_SHARE = 0.2
OPENERS = ("", "Hello, ", "Hi, ", "Hey, ", "Good morning, ", "Excuse me, ", "One question: ", "Before we start, ")


@dataclass(frozen=True)
class Fact:
    """What is asked (each beginning with each ending), what is answered, and the words that must be in the answer."""

    answer: str
    needs: tuple[str, ...]
    direct: tuple[str, ...]  # questions of their own
    endings: tuple[str, ...]  # what follows `tell me` and its like


BEGINNINGS = (
    "tell me",
    "please tell me",
    "can you tell me",
    "could you tell me",
    "I want to know",
    "I would like to know",
    "may I ask",
    "do you know",
    "let me know",
    "explain to me",
)
REQUESTS = ("tell me", "please tell me", "I want", "I would", "let me", "explain")  # these end with a full stop
FACTS = (
    Fact(
        f"I am {NAME}, a small language model.",
        (NAME, "language model"),
        ("what is your name", "who are you", "what are you called", "what should I call you", "do you have a name"),
        ("your name", "who you are", "what your name is", "what you are called", "what I should call you"),
    ),
    Fact(
        f"I am {NAME}: I was trained from scratch with an open pipeline.",
        ("trained", "pipeline"),
        (
            "who made you",
            "who built you",
            "who created you",
            "who trained you",
            "who is your maker",
            "where do you come from",
        ),
        ("who made you", "who built you", "who created you", "who trained you", "where you come from"),
    ),
    Fact(
        "I can chat, calculate, spell words and count letters.",
        ("calculate", "spell", "count"),
        (
            "what can you do",
            "what are you good at",
            "what can I ask you",
            "how can you help me",
            "what are your skills",
        ),
        ("what you can do", "what you are good at", "what I can ask you", "how you can help me", "your skills"),
    ),
    Fact(
        "No, I am a language model, not a person.",
        ("language model", "not a person"),
        ("are you a human", "are you a person", "are you alive", "am I talking to a human", "are you a real person"),
        ("if you are a human", "if you are a person", "whether you are alive", "if I am talking to a human"),
    ),
    Fact(
        "I predict one token after another with a small transformer.",
        ("predict", "transformer"),
        ("how do you work", "how do you think", "how do you write your answers", "what is inside you"),
        ("how you work", "how you think", "how you write your answers", "what is inside you"),
    ),
)


class Identity(Task):
    """`Who are you?` - `I am nanochat, a small language model.`"""

    name = "identity"
    baseline = 0.0

    def __init__(self, split: Split, data_dir: Path | None = None) -> None:
        super().__init__(split, data_dir)
        known = dict(_questions(split))
        self.questions = [(asked, known[asked]) for asked in in_random_order(known)]

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        question, fact = self.questions[index]
        return dialogue(question, fact.answer)

    def correct(self, index: int, completion: str) -> bool:
        said = completion.lower()
        return all(word in said for word in self.questions[index][1].needs)


def _questions(split: Split) -> Iterator[tuple[str, Fact]]:
    for fact in FACTS:
        indirect = [f"{beginning} {ending}" for beginning in BEGINNINGS for ending in fact.endings]
        for core in (*fact.direct, *indirect):
            if in_split(core, split, TEST_SHARE):
                for opener in OPENERS:
                    yield sentence(opener, core), fact


def sentence(opener: str, core: str) -> str:
    """The question or request `core` after an opener, with a capital and its mark."""
    text = opener + core + ("." if core.startswith(REQUESTS) else "?")
    return text[0].upper() + text[1:]
