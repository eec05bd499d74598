"""Conversations about who the model is: the pieces are in identity_conversations.txt, here they are put together.

A question comes as it is written, behind an opener, and carelessly typed; an answer is one of several; a follow-up, a
question on another topic, thanks or a farewell may come after. Promises: no two conversations begin with the same
message; no question or follow-up is in both splits, however it is typed; all is the same on every machine. There is no
verdict on an answer, because many are right, so it is never asked. Not here: the short facts that a small model can
learn (nanochat/tasks/identity.py). Standard library only.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from nanochat.tasks.identity import NAME
from nanochat.tasks.spelling import spelled
from nanochat.tasks.task import Split, Task, held_out, in_random_order

PIECES = Path(__file__).with_name("identity_conversations.txt")
TEST_SHARE = 0.15
FORMS = ("plain", "opened", "careless", "opened")  # in which a question opens a conversation
CALLS = ("Hi! ", "Hello! ", "Hey! ", "Hi there. ", "Good morning. ", "Good evening. ", "Hello again. ")
LEADS = (  # before a question, which then begins with a small letter
    "Hi, ", "Hello, ", "Hey, ", "Excuse me, ", "Tell me, ", "Sorry, but ", "One question: ", "Quick question: ",
    "A simple question: ", "Just curious: ", "I was wondering: ", "I have to ask: ", "Before we start: ",
    "Honestly, ", "Be honest: ", "Let me put it this way: ", "In simple words: ", "Seriously, ",
    "Come on, ", "So, ", "Okay, ", "Now tell me: ", "Just answer me: ", "No long speech, please: ", "Once more: ",
    "For the last time: ", "I don't have much time: ",
)  # fmt: skip
TURNS = (
    "Okay. ",
    "I see. ",
    "Thanks. ",
    "Good. ",
    "Interesting. ",
    "And ",
    "Also, ",
    "One more question: ",
    "Then ",
    "",
)
ASKING = (
    "What", "Who", "How", "Why", "Where", "When", "Which", "Whose", "Do", "Does", "Did", "Are", "Is", "Can", "Could",
    "Will", "Would", "Should", "Have", "Were", "Was", "May",
)  # fmt: skip
ALONE = ("greeting", "how_are_you", "may_i", "thanks", "goodbye", "impatience")  # with no opener before them
LEADING = {"greeting": 0.6, "may_i": 0.6, "thanks": 0.2}  # on to a question on another topic, and how often
CLOSING = ("thanks", "goodbye")
AFTER = (0.4, 0.3, 0.15, 0.15)  # nothing, a follow-up, a question on another topic, a follow-up and a closing word
SHORT_FORMS = {"you": "u", "your": "ur", "please": "pls", "are": "r"}
Turn = tuple[str, str]  # what the user says and what the assistant answers


@dataclass
class Topic:
    """Questions that each of the answers fits, and what may be asked after any of these."""

    name: str
    questions: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    follow_ups: list[Turn] = field(default_factory=list)


class IdentityConversations(Task):
    """`Are you ChatGPT?` - `No, I am nanochat. …` - `But you sound just like it.` - …"""

    name = "identity_conversations"
    baseline = 0.0
    splits: ClassVar[tuple[Split, ...]] = ("train", "test")  # nothing is rewarded

    def __init__(self, split: Split, data_dir: Path | None = None) -> None:
        super().__init__(split, data_dir)
        self.conversations = _conversations(split)

    def __len__(self) -> int:
        return len(self.conversations)

    def __getitem__(self, index: int) -> dict[str, Any]:
        messages: list[dict[str, str]] = []
        for asked, answer in self.conversations[index]:
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        return {"messages": messages}


@cache
def topics() -> tuple[Topic, ...]:
    """All pieces, of both splits."""
    found, asked = list[Topic](), ""
    for line in PIECES.read_text(encoding="utf-8").replace("{letters}", spelled(NAME)).splitlines():
        mark, _, text = line.replace("{name}", NAME).partition(" ")
        if mark == "==":
            found.append(Topic(text))
        elif mark == "?":
            found[-1].questions.append(text)
        elif mark == "!":
            found[-1].answers.append(text)
        elif mark == ">":
            asked = text
        elif mark == "<":
            found[-1].follow_ups.append((asked, text))
        else:
            assert mark in ("", "#"), line
    return tuple(found)


@cache
def _conversations(split: Split) -> tuple[tuple[Turn, ...], ...]:
    own = {topic.name: _of_split(topic, split) for topic in topics()}
    made: dict[str, tuple[Turn, ...]] = {}
    for topic in own.values():
        for question in topic.questions:
            dice = random.Random(f"identity {question}")
            first = dice.randrange(len(topic.answers))
            for number, form in enumerate(FORMS):
                asked = _formed(question, form, topic, dice)
                if asked and asked not in made:
                    answer = topic.answers[(first + number) % len(topic.answers)]
                    made[asked] = ((asked, answer), *_rest(topic, own, dice))
    return tuple(made[asked] for asked in in_random_order(made))


def _of_split(topic: Topic, split: Split) -> Topic:
    def belongs(text: str) -> bool:
        return held_out(letters(text), TEST_SHARE) == (split == "test")

    follow_ups = [turn for turn in topic.follow_ups if belongs(turn[0])]
    return Topic(topic.name, list(filter(belongs, topic.questions)), topic.answers, follow_ups)


def letters(text: str) -> str:
    """What two ways to type the same have in common: they belong to the same split."""
    return "".join(filter(str.isalpha, text.lower()))


def _rest(topic: Topic, own: dict[str, Topic], dice: random.Random) -> Iterator[Turn]:
    """What comes after the first question and its answer."""
    follow_up = [dice.choice(topic.follow_ups)] if topic.follow_ups else []
    other = dice.choice([one for one in own.values() if one.questions and one.name not in (*ALONE, topic.name)])
    question = dice.choice(other.questions)
    change = (_led(question, dice.choice(TURNS), ""), dice.choice(other.answers))
    last = own[dice.choice([name for name in CLOSING if own[name].questions])]
    closing = (dice.choice(last.questions), dice.choice(last.answers))
    if topic.name in LEADING:
        after = [[], [change]][dice.random() < LEADING[topic.name]]
    else:
        after = dice.choices(([], follow_up, [change], [*follow_up, closing]), AFTER)[0]
    yield from [] if topic.name == "goodbye" else after


def _formed(question: str, form: str, topic: Topic, dice: random.Random) -> str:
    """The question in one of FORMS; nothing where it cannot have that form."""
    if form == "plain":
        return question
    if form == "careless":
        return _careless(question, dice)
    if topic.name in ALONE:
        return ""
    return _led(question, dice.choice(LEADS if dice.random() < 0.8 else CALLS), dice.choice(CALLS))


def _led(question: str, lead: str, instead: str) -> str:
    """The question behind a lead; `instead`, a sentence or nothing, before one that would not go on from a lead."""
    goes_on = question.split(" ")[0] in ASKING and not any(mark in question[:-1] for mark in ".!?")
    if lead.endswith((". ", "! ")) or not lead:
        return lead + question
    return lead + question[0].lower() + question[1:] if goes_on else instead + question


def _careless(question: str, dice: random.Random) -> str:
    """Small letters, no marks at the end, and a slip of the finger or two words cut short."""
    words = question.lower().rstrip("?.! ").replace("'", "").split(" ")
    long = [at for at, word in enumerate(words) if len(word) >= 5 and word.isalpha() and word != NAME]
    if long and dice.random() < 0.6:
        at = dice.choice(long)
        words[at] = _slipped(words[at], dice)
    elif dice.random() < 0.4:
        words = [SHORT_FORMS.get(word, word) for word in words]
    return " ".join(words)


def _slipped(word: str, dice: random.Random) -> str:
    """The word with two of its inner letters changed about, or without one of them."""
    at = dice.randrange(1, len(word) - 2)
    if word[at] != word[at + 1] and dice.random() < 0.6:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return word[:at] + word[at + 1 :]
