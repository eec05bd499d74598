"""Generated tasks: train and test share no problem, each answer key accepts itself and refuses what is wrong."""

import collections
import itertools
import re

import pytest

from nanochat.data.chat_template import render
from nanochat.data.tokenizer import Tokenizer
from nanochat.tasks import TASKS, make
from nanochat.tasks.answers import last_number
from nanochat.tasks.arithmetic import TOOL_SHARE, is_held_out, key
from nanochat.tasks.counting import LETTERS, VOWELS, how_many
from nanochat.tasks.spelling import spelled
from nanochat.tasks.task import Task
from nanochat.tasks.words import ASKED_AGAIN, KEPT, WORDS, words
from nanochat.tools.calculator import evaluate

GENERATED = (
    "identity", "chitchat", "arithmetic", "calculations", "word_problems", "spelling", "counting", "series", "letter_counting",
)  # fmt: skip
SAMPLE = 3000


def questions(task, count=SAMPLE):
    return [task[index]["messages"][0]["content"] for index in range(min(count, len(task)))]


def said(messages):
    """What an engine gives as the text of the reference answer."""
    content = messages[-1]["content"]
    names = {"text": ("", ""), "python": ("<|python_start|>", "<|python_end|>")}
    output = ("<|output_start|>", "<|output_end|>")
    if isinstance(content, str):
        return content
    return "".join(names.get(p["type"], output)[0] + p["text"] + names.get(p["type"], output)[1] for p in content)


@pytest.mark.parametrize("name", GENERATED)
def test_train_and_test_share_no_question(name):
    assert not set(questions(make(name, "train"), 20_000)) & set(questions(make(name, "test")))


@pytest.mark.parametrize("name", GENERATED)
def test_there_are_enough_different_held_out_questions(name):
    held_out = questions(make(name, "test"))
    assert len(set(held_out)) >= 200
    assert len(set(held_out)) >= 0.95 * len(held_out)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", GENERATED)
def test_a_conversation_depends_on_its_index_alone_and_answers_itself(name, split):
    task, again = make(name, split), make(name, split)
    for index in reversed(range(min(300, len(task)))):
        messages = task[index]["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant"]
        assert messages == again[index]["messages"]
        assert task.correct(index, said(messages)) is True
        assert task.reward(index, said(messages)) == 1.0
        for wrong in ("", "I do not know.", "Bananas are yellow"):
            assert task.correct(index, wrong) is False
            assert task.reward(index, wrong) == 0.0


@pytest.mark.parametrize("name", GENERATED)
def test_there_is_an_end(name):
    task = make(name, "test")
    assert len(list(task)) == len(task)
    with pytest.raises(IndexError):
        task[len(task)]


@pytest.mark.parametrize("name", GENERATED)
def test_conversations_are_short(name):
    """Even where every byte is a token; decoding and RL are cheap, and what the real recipes add fits into any row."""
    most = {"letter_counting": 360, "word_problems": 320, "chitchat": 260}.get(name, 240)
    letters = Tokenizer(tuple(bytes([byte]) for byte in range(256)))
    assert max(len(render(letters, one["messages"])[0]) for one in make(name, "test")) <= most


def test_the_mirror_image_of_a_sum_is_in_the_same_split():
    train, test = make("arithmetic", "train"), make("arithmetic", "test")
    assert key("1,200*3") == key("3*1200") == "1200 * 3"
    assert key("(2+3)*4") != key("(3+2)*4")
    assert all(is_held_out(test.problem(index)[1]) for index in range(len(test)))
    assert not any(is_held_out(train.problem(index)[1]) for index in range(SAMPLE))


def test_arithmetic_answers_are_right_and_a_quarter_of_them_call_the_calculator():
    train = make("arithmetic", "train")
    called = 0
    for index in range(SAMPLE):
        _, call = train.problem(index)
        content = train[index]["messages"][-1]["content"]
        result = evaluate(call)
        if re.fullmatch(r"[0-9+*()-]+", call):
            assert eval(re.sub(r"\b0+(?=[0-9])", "", call)) == int(result)  # our own numbers
        if isinstance(content, list):
            called += 1
            assert [part["text"] for part in content] == [call, result, f"That makes {result}."]
        else:
            assert content == f"That makes {result}."
    assert abs(called / SAMPLE - TOOL_SHARE) < 0.03


@pytest.mark.parametrize("name", ["arithmetic", "calculations", "word_problems"])
def test_the_numbers_of_a_sum_are_those_of_its_message(name):
    """So that a small model can copy them: in words, in parts and in powers they are others."""
    task = make(name, "train")
    copied = 0
    for index in range(SAMPLE):
        message, call = task.problem(index)
        numbers = set(re.findall(r"[0-9][0-9,.]*", message.replace(", ", " ").rstrip(".")))
        copied += set(re.findall(r"[0-9][0-9,.]*", call)) <= {number.rstrip(".,") for number in numbers} | {"100"}
    assert copied > 0.6 * SAMPLE


def test_sums_come_in_every_notation():
    """Of eight thousand messages each has some; who takes a notation away sees it here."""
    asked = [make(name, "train").problem(index)[0] for name in ("arithmetic", "calculations") for index in range(4000)]
    for form in (
        r"[0-9]\+[0-9]", r"[0-9] \+ [0-9]", r"[0-9] ?[x\u00d7] ?[0-9]", r"[0-9] ?\u00f7 ?[0-9]", r"[0-9] ?/ ?[0-9]", r"=$", r"= \?$",
        r"^[0-9 ]+[-+*/][0-9 ]+$", r"divided by", r"[0-9]% of [0-9]", r"percent", r"[0-9],[0-9]{3}", r"[0-9]\.[0-9]",
        r"\([0-9]", r"[0-9] ?\+ ?[0-9]+ ?\+ ?[0-9]", r"\bhalf\b", r"[dD]ouble", r"seven", r"\u2019s", r"^what",
        r"(squared|\^)", r"average",
    ):  # fmt: skip
        assert sum(bool(re.search(form, message)) for message in asked) >= 8, form


def test_a_division_by_zero_has_no_answer_and_is_right_where_that_is_said(monkeypatch):
    task = make("calculations", "test")
    monkeypatch.setattr(task, "problem", lambda index: ("5/0", "5/0"))
    assert task.correct(0, said(task[0]["messages"]))
    assert not task.correct(0, "That makes 0.")


def test_only_what_follows_the_tools_answer_counts():
    task = make("arithmetic", "test")
    _, call = task.problem(0)
    result = evaluate(call)
    tool = f"<|python_start|>{call}<|python_end|><|output_start|>{result}<|output_end|>"
    assert task.correct(0, f"{tool}That makes {result}.")
    assert not task.correct(0, f"{tool}That makes {result}1.")
    assert not task.correct(0, tool)


def test_a_story_has_a_whole_result_that_is_not_negative_unless_it_is_about_money():
    task = make("word_problems", "train")
    for index in range(SAMPLE):
        message, call = task.problem(index)
        result = evaluate(call)
        assert result is not None
        assert not result.startswith("-")
        assert result.isdecimal() or "." in call or "$" in message
        assert "{" not in message
        assert "(|" not in message


def test_common_words_are_never_held_out_and_all_words_are_in_one_split():
    train, test = words("train"), words("test")
    assert set(train[: len(KEPT)]) == set(KEPT) == set(WORDS[: len(KEPT)])
    assert {"strawberry", "keyboard", "banana", "mississippi", "necessary"} <= set(train)
    assert sorted({*train, *test}) == sorted(WORDS)
    assert not set(train) & set(test)
    assert len(set(WORDS)) == len(WORDS)
    assert all(word.isascii() and word.isalpha() and word.islower() for word in WORDS)


def test_spelling_covers_every_training_word_equally_often_and_no_held_out_one():
    task, known = make("spelling", "train"), words("train")
    spelled_words = {task.word(index) for index in range(3 * len(known))}
    assert not spelled_words & set(words("test"))
    assert len(spelled_words & set(known)) > 0.95 * len(set(known))
    assert known.count("strawberry") == 1 + ASKED_AGAIN
    assert any(word not in WORDS for word in spelled_words)  # fragments


def test_held_out_words_are_made_of_pieces_that_training_words_have():
    """Nineteen of twenty runs of three letters, so that a model can have learned how they are spelled."""
    known = {word[at : at + 3] for word in words("train") for at in range(len(word) - 2)}
    pieces = [word[at : at + 3] for word in words("test") for at in range(len(word) - 2)]
    assert sum(piece in known for piece in pieces) >= 0.94 * len(pieces)


@pytest.mark.parametrize("answer", ["c a t", " c a t ", "C A T", "c a t."])
def test_spelling_accepts_the_letters_in_order(answer, monkeypatch):
    task = make("spelling", "test")
    monkeypatch.setattr(task, "word", lambda index: "cat")
    assert task.correct(0, answer)
    for wrong in ("c a", "c a t s", "a c t", "cat", "ca t", "c-at"):
        assert not task.correct(0, wrong)


def test_counting_counts_aloud():
    task = make("counting", "test")
    assert spelled("cat") == "c a t"
    kinds = set()
    for index in range(len(task)):
        word, letters = task.problem(index)
        kinds.add(letters if len(letters) > 1 else "one")
        answer = task[index]["messages"][-1]["content"]
        count = sum(letter in letters for letter in word)
        assert answer.endswith(f"The answer is {count}.")
        assert "".join(filter(str.isalpha, answer.split(".")[0])) == word
        assert not task.correct(index, f"The answer is {count + 1}.")
    assert kinds == {LETTERS, VOWELS, "one"}


def test_guessing_the_likeliest_count_is_what_the_baseline_says():
    task = make("counting", "test")
    counts = [how_many(*task.problem(index)) for index in range(len(task))]
    assert abs(max(map(counts.count, set(counts))) / len(counts) - task.baseline) < 0.05


def test_a_greeting_answered_with_the_identity_is_wrong():
    task = make("chitchat", "test")
    greeting = next(index for index in range(len(task)) if task[index]["messages"][1]["content"].startswith("Hello"))
    assert task.correct(greeting, "Hello! What can I do for you?")
    assert not task.correct(greeting, "Hello! I am nanochat, a small language model.")
    assert not task.correct(greeting, "Goodbye!")


def test_each_question_of_identity_wants_its_own_fact():
    task = make("identity", "test")
    by_answer = {task[index]["messages"][1]["content"]: index for index in range(len(task))}
    assert len(by_answer) == len(task.topics)
    for answer, other in itertools.product(by_answer, by_answer):
        more = other == f"No, {answer}"  # which says it as well
        assert task.correct(by_answer[answer], other) == (answer == other or more)


def test_small_talk_of_one_kind_is_not_right_for_another():
    task = make("chitchat", "test")
    by_answer = {task[index]["messages"][1]["content"]: index for index in range(len(task))}
    assert len(by_answer) == len(task.topics) > 10
    right = {(answer, other) for answer in by_answer for other in by_answer if task.correct(by_answer[answer], other)}
    assert right == {(answer, answer) for answer in by_answer}


@pytest.mark.parametrize("name", ["identity", "chitchat"])
def test_every_topic_can_be_asked_in_many_ways_in_both_splits(name):
    for split, least in (("train", 30), ("test", 4)):
        task = make(name, split)
        counts = collections.Counter(task.problem(index)[1].name for index in range(min(len(task), 3000)))
        assert len(counts) == len(task.topics)
        assert min(counts.values()) >= least, counts
    for topic in make(name, "train").topics:
        assert topic.needs
        assert all(need in topic.answer.lower() for need in topic.needs)


@pytest.mark.parametrize("name", ["identity", "chitchat"])
def test_people_type_carefully_and_carelessly(name):
    asked = questions(make(name, "train"))
    small = [text for text in asked if text == text.lower()]
    bare = [text for text in small if text[-1] not in "?.!"]
    assert 0.3 < len(small) / len(asked) < 0.7
    assert 0.15 < len(bare) / len(asked) < 0.6
    assert any("\u2019" in text for text in asked)
    assert not [
        text for text in asked if "|" in text.replace("?|", "") or "{" in text or text != text.strip() or "  " in text
    ]


@pytest.mark.parametrize(
    ("text", "number"),
    [("", None), ("none", None), ("1 and 23.", 23), ("1,234.5!", 1234.5), ("it is -7", -7), ("#### 12", 12)],
)
def test_last_number(text, number):
    assert last_number(text) == number


def test_unknown_tasks_and_splits_are_refused():
    with pytest.raises(ValueError, match="unknown task 'speling': did you mean 'spelling'"):
        make("speling", "train")
    with pytest.raises(ValueError, match="task 'identity' has no split 'valid': it has only train, test"):
        make("identity", "valid")
    with pytest.raises(ValueError, match="'identity' is generative: it has no choices"):
        make("identity", "test").choices(0)


def test_a_task_needs_a_baseline_and_a_name_of_its_own():
    with pytest.raises(ValueError, match="task 'guess' has no baseline"):
        type("Guess", (Task,), {"name": "guess"})
    with pytest.raises(ValueError, match="two tasks are called 'identity'"):
        type("Identity", (Task,), {"name": "identity", "baseline": 0.0})
    bare = type("Bare", (Task,), {})("train")  # without a name it is a base of others
    assert bare not in TASKS.values()
    for unfinished in (bare.__len__, lambda: bare[0], lambda: bare.correct(0, "")):
        with pytest.raises(NotImplementedError):
            unfinished()
