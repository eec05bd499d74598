"""Generated tasks: train and test share no problem, each answer key accepts itself and refuses what is wrong."""

import itertools

import pytest

from nanochat.data.chat_template import render
from nanochat.data.tokenizer import Tokenizer
from nanochat.tasks import TASKS, make
from nanochat.tasks.answers import last_number
from nanochat.tasks.arithmetic import OPERATORS, TOOL_SHARE
from nanochat.tasks.spelling import spelled
from nanochat.tasks.task import Task
from nanochat.tasks.words import NUM_COMMON, WORDS, words

GENERATED = ("identity", "chitchat", "arithmetic", "spelling", "counting", "letter_counting")
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


@pytest.mark.parametrize("split", ["train", "validation", "test"])
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
    most = 360 if name == "letter_counting" else 140
    letters = Tokenizer(tuple(bytes([byte]) for byte in range(256)))
    assert max(len(render(letters, one["messages"])[0]) for one in make(name, "test")) <= most


def test_the_mirror_image_of_a_sum_is_in_the_same_split():
    train, test = make("arithmetic", "train"), make("arithmetic", "test")
    problems = {(sign, *sorted((a, b))) for a, sign, b in map(test.problem, range(len(test)))}
    assert len({test.problem(index) for index in range(len(test))}) == len(test)
    assert not problems & {(sign, *sorted((a, b))) for a, sign, b in map(train.problem, range(SAMPLE))}


def test_arithmetic_answers_are_right_and_a_third_of_them_call_the_calculator():
    train = make("arithmetic", "train")
    called = 0
    for index in range(SAMPLE):
        a, sign, b = train.problem(index)
        content = train[index]["messages"][-1]["content"]
        result = eval(f"{a}{sign}{b}")  # our own numbers
        assert OPERATORS[sign](a, b) == result >= 0
        if isinstance(content, list):
            called += 1
            assert [part["text"] for part in content] == [f"{a}{sign}{b}", str(result), f"That makes {result}."]
        else:
            assert content == f"That makes {result}."
    assert abs(called / SAMPLE - TOOL_SHARE) < 0.03


def test_only_what_follows_the_tools_answer_counts():
    task = make("arithmetic", "test")
    a, sign, b = task.problem(0)
    result = OPERATORS[sign](a, b)
    tool = f"<|python_start|>{a}{sign}{b}<|python_end|><|output_start|>{result}<|output_end|>"
    assert task.correct(0, f"{tool}That makes {result}.")
    assert not task.correct(0, f"{tool}That makes {result + 1}.")
    assert not task.correct(0, tool)


def test_common_words_are_never_held_out_and_all_words_are_in_one_split():
    train, validation, test = words("train"), words("validation"), words("test")
    assert set(train[:NUM_COMMON]) == set(WORDS[:NUM_COMMON])
    assert sorted(train + validation + test) == sorted(WORDS)
    assert len(set(WORDS)) == len(WORDS)
    assert all(word.isascii() and word.isalpha() and word.islower() for word in WORDS)


def test_spelling_covers_every_training_word_equally_often_and_no_held_out_one():
    task, known = make("spelling", "train"), words("train")
    spelled_words = {task.word(index) for index in range(3 * len(known))}
    assert not spelled_words & set(words("test"))
    assert len(spelled_words & set(known)) > 0.95 * len(known)
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
    for index in range(len(task)):
        word, letter = task.problem(index)
        answer = task[index]["messages"][-1]["content"]
        assert answer.endswith(f"The answer is {word.count(letter)}.")
        assert "".join(filter(str.isalpha, answer.split(".")[0])) == word
        assert not task.correct(index, f"The answer is {word.count(letter) + 1}.")


def test_guessing_the_likeliest_count_is_what_the_baseline_says():
    task = make("counting", "test")
    counts = [word.count(letter) for word, letter in map(task.problem, range(len(task)))]
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
    assert len(by_answer) == 5
    for answer, other in itertools.product(by_answer, by_answer):
        assert task.correct(by_answer[answer], other) == (answer == other)


@pytest.mark.parametrize(
    ("text", "number"),
    [("", None), ("none", None), ("1 and 23.", 23), ("1,234.5!", 1234.5), ("it is -7", -7), ("#### 12", 12)],
)
def test_last_number(text, number):
    assert last_number(text) == number


def test_unknown_tasks_and_splits_are_refused():
    with pytest.raises(ValueError, match="unknown task 'speling': did you mean 'spelling'"):
        make("speling", "train")
    with pytest.raises(ValueError, match="task 'identity' has no split 'valid': it has only train, validation, test"):
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
