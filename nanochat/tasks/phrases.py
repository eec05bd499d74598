"""Phrases from a small grammar, and the ways in which people type them.

A pattern is text in which `(one|another|)` stands for any of its alternatives, also nested, and `{name}` for one of a
named list; « and » stand for round brackets of the text. `typed` writes a phrase as strangers do: carefully, in small
letters, without marks or apostrophes, with those of a telephone, with a slip of the finger. Files of patterns are read
here. Promises: what comes out depends on the dice alone. Not here: what is answered, and what is held out (topics.py,
the tasks). Standard library only.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

NAME = "nanochat"  # the model's
CHOICE = re.compile(r"\(([^()]*)\)")
NAMED = re.compile(r"\{([a-z_]+)\}")
DEEPEST = 8  # named lists within named lists
BRACKETS = str.maketrans("«»", "()")
END = re.compile(r"(?<=[^\s?.!=])[?.!]+$")  # the marks at the end of a message that is not all marks
SHORT_FORMS = {"you": "u", "your": "ur", "please": "pls", "are": "r", "what's": "whats", "thanks": "thx"}
CARELESS, ABRUPT, SLIPS, SHORTENED, LOUD = 0.4, 0.25, 0.04, 0.05, 0.02  # shares of the messages


@dataclass
class Topic:
    """Patterns of one kind; where they all get one answer, that, and the words which it needs. `weight`: how often."""

    name: str
    weight: float = 1.0
    answer: str = ""
    needs: tuple[str, ...] = ()
    patterns: list[str] = field(default_factory=list)


def expanded(pattern: str, dice: random.Random, lists: Mapping[str, str] | None = None) -> str:
    """One of the phrases that a pattern stands for; names that `lists` does not have stay."""
    for _ in range(DEEPEST):
        pattern = NAMED.sub(lambda found: (lists or {}).get(found[1], found[0]), pattern)
    while CHOICE.search(pattern):
        pattern = CHOICE.sub(lambda found: dice.choice(found[1].split("|")), pattern)
    return re.sub(r"(?<!=) +(?=[?.!,]|$)|^ +", "", re.sub("  +", " ", pattern)).translate(BRACKETS)


def typed(phrase: str, dice: random.Random, *, slips: bool = True) -> str:
    """A phrase as somebody types it; where `slips` is False every word stays as it is spelled, but for capitals."""
    text = phrase
    if slips and dice.random() < SLIPS:
        text = slipped(text, dice)
    if slips and dice.random() < SHORTENED:
        text = " ".join(SHORT_FORMS.get(word, word) for word in text.split(" "))
    if dice.random() < CARELESS:
        text = text.lower()
        text = END.sub("", text) if dice.random() < 0.75 else text
        text = re.sub(r"(?<=[a-z])'(?=[a-z])", "", text) if dice.random() < 0.4 else text
    else:
        text = re.sub(r"\bi\b(?=[ ']|$)", "I", text[:1].upper() + text[1:])
        if dice.random() < ABRUPT:
            text = END.sub(lambda found: dice.choice(("", "", found[0] * 2, found[0] + "!")), text)
    if "'" in text and dice.random() < 0.3:
        text = re.sub(r"(?<=[A-Za-z])'(?=[a-z])", "\u2019", text)
    return text.upper() if slips and dice.random() < LOUD else text


def slipped(text: str, dice: random.Random) -> str:
    """The text with a slip in one of its longer words: two letters changed about, one left out, or one twice."""
    words = text.split(" ")
    long = [at for at, word in enumerate(words) if len(word) >= 4 and word.isalpha()]
    if not long:
        return text
    at = dice.choice(long)
    word, place = words[at], dice.randrange(1, len(words[at]) - 2)
    one, two = word[place], word[place + 1]
    words[at] = word[:place] + dice.choice((two + one, two, one + one + two)) + word[place + 2 :]
    return " ".join(words)


def letters(text: str) -> str:
    """What two ways to type the same have in common, so that they belong to the same split: letters, digits, signs."""
    plain = text.lower().replace("\u2019", "'")
    return "".join(letter for letter in plain if letter.isalnum() or letter in "+-*/%()") or plain.strip()


@cache
def read(file: str) -> tuple[tuple[Topic, ...], Mapping[str, str]]:
    """The topics of a file beside this one, and its named lists; its first lines say how it is written."""
    found, lists = list[Topic](), dict[str, str]()
    text = Path(__file__).with_name(file).read_text(encoding="utf-8")
    for line in text.replace("{name}", NAME).splitlines():
        mark, _, text = line.partition(" ")
        if mark == "==":
            title, _, weight = text.partition(" ")
            found.append(Topic(title, float(weight or 1)))
        elif mark == "!":
            found[-1].answer = text
        elif mark == "=":
            found[-1].needs = tuple(text.split(" + "))
        elif mark == "?":
            found[-1].patterns.append(text)
        elif mark == "@":
            title, _, lists[title] = text.partition(" ")
        else:
            assert mark in ("", "#"), line
    return tuple(found), lists


def asked(name: str, dice: random.Random) -> str:
    """One of the questions about words and numbers of that name."""
    every, lists = read("questions.txt")
    (topic,) = (one for one in every if one.name == name)
    return expanded(dice.choice(topic.patterns), dice, lists)
