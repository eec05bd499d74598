"""Patterns stand for what an obvious twin says, and typing a phrase changes neither its digits nor, where told, its words."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.tasks.phrases import CHOICE, expanded, letters, read, slipped, typed

FILES = ("identity.txt", "chitchat.txt", "questions.txt")


def every(pattern):
    """All phrases that a pattern stands for: the first innermost choice by each of its alternatives."""
    found = CHOICE.search(pattern)
    if found is None:
        return {re.sub(" +", " ", pattern).strip()}
    return {
        phrase
        for one in found[1].split("|")
        for phrase in every(pattern[: found.start()] + one + pattern[found.end() :])
    }


@pytest.mark.parametrize(
    ("pattern", "count"),
    [("who are you", 1), ("(who|what) are you( now|)", 4), ("(a|(b|c)(d|)) x", 5), ("(hi|) (you|)", 4)],
)
def test_a_pattern_stands_for_all_its_alternatives_and_nothing_else(pattern, count):
    wanted = every(pattern)
    assert len(wanted) == count
    assert {expanded(pattern, random.Random(seed)) for seed in range(300)} == wanted


def test_named_lists_are_put_in_also_within_each_other_and_others_stay():
    lists = {"animal": "(cat|{small})", "small": "(mouse|ant)"}
    phrases = {expanded("a {animal} in {word}", random.Random(seed), lists) for seed in range(50)}
    assert phrases == {f"a {one} in {{word}}" for one in ("cat", "mouse", "ant")}


def test_brackets_of_the_text_are_written_as_guillemets():
    assert expanded("(hi|hi) :»", random.Random(1)) == "hi :)"
    assert expanded("12 «a» = ?", random.Random(1)) == "12 (a) = ?"


@given(st.text("abcdefgh '?.!0123456789+=", min_size=1), st.integers(0, 1000))
def test_typing_depends_on_the_dice_alone_and_without_slips_keeps_letters_and_digits(phrase, seed):
    first, again = (typed(phrase, random.Random(seed), slips=False) for _ in range(2))
    assert first == again
    assert letters(first) == letters(phrase) or not letters(phrase).strip("?.! '=")


def test_people_type_a_phrase_in_many_ways():
    ways = {typed("what's the name of my dog?", random.Random(seed)) for seed in range(400)}
    for one in ("What's the name of my dog?", "whats the name of my dog", "What\u2019s the name of my dog?"):
        assert one in ways
    assert len(ways) > 20


@given(st.lists(st.text("abcdef", min_size=1, max_size=8), min_size=1, max_size=4), st.integers(0, 1000))
def test_a_slip_changes_one_word_by_one_letter_at_most(words, seed):
    after = slipped(" ".join(words), random.Random(seed))
    changed = [(old, new) for old, new in zip(words, after.split(" "), strict=True) if old != new]
    assert len(changed) <= 1
    for old, new in changed:
        assert len(old) >= 4
        assert abs(len(new) - len(old)) <= 1
        assert (new[0], new[-1]) == (old[0], old[-1])


@pytest.mark.parametrize("file", FILES)
def test_a_file_of_patterns_is_well_formed(file):
    """Brackets in pairs, names that are lists, no topic twice or empty."""
    found, lists = read(file)
    assert len({topic.name for topic in found}) == len(found)
    given_later = {"e", "word", "letter", "first", "last"} if file == "questions.txt" else set()
    for pattern in (*lists.values(), *(pattern for topic in found for pattern in topic.patterns)):
        depth = [pattern[:at].count("(") - pattern[:at].count(")") for at in range(len(pattern) + 1)]
        assert min(depth) == depth[-1] == 0, pattern
        assert set(re.findall(r"\{(\w+)\}", pattern)) <= lists.keys() | given_later, pattern
    assert all(topic.patterns for topic in found)
