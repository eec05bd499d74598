"""Words that were fetched: no split of the embedded ones changes, what is held out stays out, and the small recipe has its own."""

import hashlib
import json

import pytest

from nanochat.data.chat_template import render
from nanochat.data.tokenizer import Tokenizer
from nanochat.inference.tool_calls import ToolCalls
from nanochat.recipes import TINY_MIDTRAIN, TINY_SFT
from nanochat.tasks import make
from nanochat.tasks.mixture import Mixture, parse_mixture
from nanochat.tasks.task import held_out
from nanochat.tasks.words import FETCHED_TEST_SHARE, NUM_COMMON, WORDS, words
from tests.paths import SHARED

LETTERS = "abcdefghijklmnop"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """As the stage leaves it: thousands of made up words of six letters, and embedded ones among them."""
    path = tmp_path_factory.mktemp("task_data")
    made = ["".join(LETTERS[number >> 4 * place & 15] for place in range(5)) + "z" for number in range(0, 2**20, 50)]
    (path / "words.txt").write_text("\n".join([*made, *WORDS[::2]]) + "\n", encoding="ascii")
    return path


@pytest.mark.parametrize(
    ("mixture", "split", "digest"),
    [
        (TINY_MIDTRAIN, "train", "7ca3bc462b4188ffb0c3704b62c4edff7953663143cff365248d4235e89039b0"),
        (TINY_MIDTRAIN, "test", "5405a24842899c371a1aefed988c731ac5e983cbd72c74ea80b47888d6fbdb18"),
        (TINY_SFT, "train", "9e4d36e161f157ea10db314bd5f0eb23bbe617af7d3b446a4016bcf7a6ae9231"),
        (TINY_SFT, "test", "5405a24842899c371a1aefed988c731ac5e983cbd72c74ea80b47888d6fbdb18"),
    ],
)
def test_the_small_recipe_reads_the_conversations_it_always_read(tmp_path, mixture, split, digest):
    """Its models were measured on these; `tmp_path` is what task_data leaves there: no list of words."""
    sha = hashlib.sha256()
    for conversation in Mixture(parse_mixture(mixture), split, tmp_path, 1):
        sha.update(json.dumps(conversation).encode())
    assert sha.hexdigest() == digest


def test_embedded_words_keep_their_split_and_every_word_is_in_one(folder):
    train, validation, test = (words(split, folder) for split in ("train", "validation", "test"))
    for own, held in (("validation", validation), ("test", test)):
        assert words(own) == tuple(word for word in held if word in WORDS)
        assert not set(train) & set(held)
        assert len(set(held)) == len(held)
    assert not set(validation) & set(test)
    assert set(words("train")) == set(train) & set(WORDS)
    assert set(WORDS[:NUM_COMMON]) <= set(train)
    fetched = (folder / "words.txt").read_text(encoding="ascii").split()
    assert {*train, *validation, *test} == {*WORDS, *fetched}


def test_every_fifth_training_word_is_one_that_people_use(folder):
    """So that 200,000 rows of a list of 370,000 words still spell each of these often."""
    train = words("train", folder)
    common = train[::5]
    assert set(common[: len(words("train"))]) == set(words("train"))
    assert not set(WORDS).intersection(train) - set(common)
    rest = [word for place, word in enumerate(train) if place % 5]
    assert len(set(rest)) == len(rest)


def test_a_fetched_word_is_held_out_by_its_digest_alone(folder):
    more = {*words("train", folder), *words("validation", folder), *words("test", folder)} - set(WORDS)
    wanted = {word for word in more if held_out(f"word {word}", FETCHED_TEST_SHARE)}
    assert wanted == set(words("test", folder)) - set(WORDS)
    assert 0.5 < len(set(words("validation", folder)) - set(WORDS)) / len(wanted) < 2
    assert 0.5 < len(wanted) / len(more) / FETCHED_TEST_SHARE < 1.5


def test_fetched_words_come_in_no_order(folder):
    first = [word[4] for word in words("train", folder)[:500] if word not in WORDS]  # sorted by it in the file
    assert min(map(first.count, LETTERS)) > 5


@pytest.mark.parametrize("name", ["spelling", "counting", "letter_counting"])
def test_tasks_take_the_fetched_words_and_train_on_none_that_is_held_out(folder, name):
    train, test = make(name, "train", folder), make(name, "test", folder)
    word = train.word if name == "spelling" else lambda index: train.problem(index)[0]
    met = {word(index) for index in range(30_000)}
    assert not met & set(words("test", folder))
    whole = 0.78 if name == "spelling" else 1.0  # of a word in five it asks for a fragment
    assert len(met & set(words("train", folder))) >= whole * len(set(words("train", folder)))
    assert {conversation["messages"][0]["content"] for conversation in test}.isdisjoint(
        train[index]["messages"][0]["content"] for index in range(0, 30_000, 10)
    )


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_letter_is_counted_by_hand_and_by_the_tool_to_one_number(folder, split):
    task = make("letter_counting", split, folder)
    counts = []
    for index in range(2000 if split == "train" else len(task)):
        word, letter = task.problem(index)
        by_hand, call, output, result = task[index]["messages"][1]["content"]
        assert [part["type"] for part in (by_hand, call, output, result)] == ["text", "python", "python_output", "text"]
        count = sum(one == letter for one in word)
        assert call["text"] == f"'{word}'.count('{letter}')"
        assert output["text"] == str(count)
        assert f" {count}. " in by_hand["text"]
        assert result["text"].endswith(f"\n\n#### {count}")
        counts.append(count)
        asked = task[index]["messages"][0]["content"].lower()
        assert word in asked
        assert task.correct(index, f"#### {count}")
        assert not task.correct(index, f"#### {count + 1}")
        assert not task.correct(index, f"<|python_start|>1<|python_end|><|output_start|>{count}<|output_end|>")


def test_letters_are_asked_for_in_many_words(folder):
    task = make("letter_counting", "train", folder)
    asked = [task[index]["messages"][0]["content"] for index in range(3000)]
    forms = {text.lower().replace(task.problem(index)[0], "WORD") for index, text in enumerate(asked)}
    assert len(set(asked)) > 2900
    assert len(forms) > 1000
    assert any("¿" in text for text in asked)
    assert any(text.endswith("?") for text in asked)
    assert not all(text.endswith("?") for text in asked)


def test_the_engine_answers_a_call_as_the_reference_does(folder):
    """Token after token through what the engine asks: from the end of a call on, it forces just what the reference has."""
    letters = Tokenizer(tuple(bytes([byte]) for byte in range(256)))
    begin, end = letters.special("<|output_start|>"), letters.special("<|output_end|>")
    task = make("letter_counting", "test", folder)
    for index in range(0, len(task), 7):
        ids, mask = render(letters, task[index]["messages"])
        calls, forced = ToolCalls(letters), []
        answer = ids.index(letters.special("<|assistant_start|>")) + 1
        for token in ids[answer:]:
            forced.append(0 in calls.pending)
            if forced[-1]:
                assert calls.forced(0) == token
            else:
                calls.watch(0, token)
        first, last = ids.index(begin) - answer, ids.index(end) - answer
        assert [column for column, was in enumerate(forced) if was] == list(range(first, last + 1))
        assert not any(mask[answer + first : answer + last + 1])


@pytest.mark.skipif(not (SHARED / "data" / "words_alpha.txt").is_file(), reason="the shared data is not at hand")
def test_guessing_the_likeliest_count_of_real_words_is_about_the_baseline(tmp_path):
    (tmp_path / "words.txt").write_bytes((SHARED / "data" / "words_alpha.txt").read_bytes())
    task = make("letter_counting", "test", tmp_path)
    counts = [word.count(letter) for word, letter in map(task.problem, range(len(task)))]
    assert abs(max(map(counts.count, set(counts))) / len(counts) - task.baseline) < 0.08
