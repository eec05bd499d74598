"""What a model says about itself: a thousand conversations, all different, none of them in both splits."""

import itertools
import re
from collections import Counter

import pytest

from nanochat.data.chat_template import render
from nanochat.data.tokenizer import Tokenizer
from nanochat.tasks import make
from nanochat.tasks.identity import NAME
from nanochat.tasks.identity_conversations import letters, topics

SPLITS = ("train", "test")


@pytest.fixture(scope="module")
def conversations():
    return {
        split: [conversation["messages"] for conversation in make("identity_conversations", split)] for split in SPLITS
    }


def asked(messages):
    return [message["content"] for message in messages if message["role"] == "user"]


def answered(messages):
    return [message["content"] for message in messages if message["role"] == "assistant"]


def test_there_are_more_than_a_thousand_and_no_two_begin_alike(conversations):
    every = conversations["train"] + conversations["test"]
    assert len(conversations["train"]) >= 2000
    assert len(conversations["test"]) >= 200
    assert len({messages[0]["content"] for messages in every}) == len(every)
    assert len({str(messages) for messages in every}) == len(every)
    assert len({letters(messages[0]["content"]) for messages in every}) > 0.9 * len(every)


def test_no_user_says_the_same_in_both_splits_however_it_is_typed(conversations):
    said = {split: {letters(text) for messages in conversations[split] for text in asked(messages)} for split in SPLITS}
    assert not said["train"] & said["test"]


def test_they_are_conversations_of_two_to_six_messages(conversations):
    tokenizer = Tokenizer(tuple(bytes([byte]) for byte in range(256)))
    lengths = Counter(map(len, conversations["train"]))
    assert set(lengths) == {2, 4, 6}
    assert min(lengths.values()) >= 100
    for messages in itertools.chain(*conversations.values()):
        ids, _ = render(tokenizer, messages)  # refuses what is no conversation
        assert len(ids) < 1800  # bytes


def test_a_conversation_depends_on_its_index_alone(conversations):
    task = make("identity_conversations", "train")
    for index in (0, 7, len(task) - 1):
        assert task[index]["messages"] == conversations["train"][index]
    with pytest.raises(IndexError):
        task[len(task)]


def test_answers_are_short_and_of_many_kinds(conversations):
    answers = Counter(text for messages in conversations["train"] for text in answered(messages))
    assert len(answers) > 250
    assert max(answers.values()) < 0.02 * answers.total()
    for text in answers:
        assert len(re.findall(r"[.!?](?:\s|$)", text)) <= 4
        assert len(text) < 400
        assert "{" not in text


def test_every_topic_has_what_it_takes():
    names = [topic.name for topic in topics()]
    assert len(set(names)) == len(names) > 50
    questions = [question for topic in topics() for question in topic.questions]
    assert len(set(questions)) == len(questions) > 700
    for topic in topics():
        assert len(topic.questions) >= 4, topic.name
        assert len(set(topic.answers)) == len(topic.answers) >= 3, topic.name


def test_nothing_depends_on_the_size_of_the_model_and_no_other_is_claimed_to_be_it():
    for topic in topics():
        for text in (*topic.answers, *(answer for _, answer in topic.follow_ups)):
            assert not re.search(
                r"\b(small|tiny|large|billion|parameters|GPU)\b", text.replace("a large collection", "")
            ), text
            assert not re.search(r"\bI am (ChatGPT|GPT|Claude|Gemini|Llama|Siri|Alexa|a person|human)\b", text), text


def test_who_asks_for_the_name_is_told_it(conversations):
    (naming,) = (topic for topic in topics() if topic.name == "name")
    assert all(NAME in answer for answer in naming.answers)
    for messages in itertools.chain(*conversations.values()):
        if messages[0]["content"] in naming.questions:
            assert NAME in messages[1]["content"]


def test_users_type_carefully_and_carelessly(conversations):
    first = [messages[0]["content"] for messages in conversations["train"]]
    careless = [text for text in first if text == text.lower() and text[-1] not in "?.!"]
    assert 0.15 < len(careless) / len(first) < 0.45
    assert "How do you work?" in first or "how do you work" in first
    assert any(text.startswith("Just answer me: ") for text in first)
    assert all(text == text.strip() and "  " not in text for text in first)
    assert not any(re.search(r"[,:] [A-Z](?!PT)[a-z]* ", text) for text in first if text.startswith("Just answer me: "))


def test_there_is_no_verdict_on_an_answer():
    with pytest.raises(NotImplementedError):
        make("identity_conversations", "test").correct(0, NAME)
