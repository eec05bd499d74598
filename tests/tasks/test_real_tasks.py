"""The published tasks: what they ask, what counts as right, and where their rows come from."""

import json
from pathlib import Path

import pytest

from nanochat.tasks import make
from nanochat.tasks.arc import ArcEasy
from nanochat.tasks.gsm8k import Gsm8k, final_number, parts
from nanochat.tasks.humaneval import HumanEval, program
from nanochat.tasks.mbpp import Mbpp
from nanochat.tasks.mmlu import Mmlu
from nanochat.tasks.smoltalk import SmolTalk
from nanochat.tools import sandbox
from nanochat.tools.calculator import evaluate
from tests.paths import SHARED

DATA = SHARED / "data"
needs_shared = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not at hand")
needs_sandbox = pytest.mark.skipif(sandbox.unavailable() is not None, reason=f"no sandbox: {sandbox.unavailable()}")
ANSWER = "Natalia sold 48/2 = <<48/2=24>>24 clips.\nIn all <<48+24=72>>72.\n#### 72"
CODE_ROW = {
    "task_id": "a/0",
    "prompt": "import math\n\n\ndef half(x):\n    return x / 2\n\n\ndef quarter(x):\n    ''' x / 4 '''\n",
    "entry_point": "quarter",
    "canonical_solution": "    return half(half(x))\n",
    "test": "def check(candidate):\n    assert candidate(8) == half(4)\n",
}


def write(folder: Path, name: str, *rows: dict) -> Path:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def test_calculator_annotations_become_tool_calls():
    assert parts(ANSWER) == [
        {"type": "text", "text": "Natalia sold 48/2 = "},
        {"type": "python", "text": "48/2"},
        {"type": "python_output", "text": "24"},
        {"type": "text", "text": "24 clips.\nIn all "},
        {"type": "python", "text": "48+24"},
        {"type": "python_output", "text": "72"},
        {"type": "text", "text": "72.\n#### 72"},
    ]


@pytest.mark.parametrize(
    "said", ["#### 72", "so\n#### 72.0", "#### $72", "####72.", "#### 1\nno:\n#### 72", "#### 072.00"]
)
def test_equal_numbers_are_right_however_they_are_written(tmp_path, said):
    task = Gsm8k("test", write(tmp_path, "gsm8k_test.jsonl", {"question": "?", "answer": ANSWER}))
    assert task.correct(0, said)
    assert task.reward(0, said) == 1.0


@pytest.mark.parametrize(
    "said", ["72", "#### 72\n#### 73", "#### 7 2", "#### seventy-two", "#### -72", "", "#### 72.5"]
)
def test_other_numbers_and_unmarked_ones_are_wrong(tmp_path, said):
    task = Gsm8k("test", write(tmp_path, "gsm8k_test.jsonl", {"question": "?", "answer": ANSWER}))
    assert not task.correct(0, said)


@pytest.mark.parametrize(
    ("text", "number"),
    [("#### 1,234,567", 1234567), ("#### -$5", -5), ("#### $-5", -5), ("#### .5", 0.5), ("#### ,", None)],
)
def test_numbers_are_read_as_numbers(text, number):
    assert final_number(text) == number


def test_multiple_choice_offers_letters_and_takes_one(tmp_path):
    row = {"question": "Sky?", "choices": ["red", "blue", "green"], "answer": 1}
    task = Mmlu("test", write(tmp_path, "mmlu_test.jsonl", row))
    question, answer = task[0]["messages"]
    assert "- blue=B\n" in question["content"]
    assert answer["content"] == "B"
    assert task.choices(0) == ("A", "B", "C")
    assert task.correct(0, "B")
    assert not task.correct(0, "A")


def test_rows_come_shuffled_in_one_order_and_by_index(tmp_path):
    rows = [{"question": f"é{i}", "choices": ["a", "b"], "answer": 0} for i in range(50)]
    task = Mmlu("test", write(tmp_path, "mmlu_test.jsonl", *rows))
    order = [task.row(i)["question"] for i in range(len(task))]
    assert sorted(order) == sorted(row["question"] for row in rows)
    assert order != [row["question"] for row in rows]
    assert order == [task.row(i)["question"] for i in range(50)]
    with pytest.raises(IndexError):
        task.row(50)


def test_an_answer_may_be_a_function_of_its_own_a_fence_or_the_rest_of_the_prompt():
    whole = CODE_ROW["prompt"] + CODE_ROW["canonical_solution"]
    for said in (
        whole,
        f"Here:\n```python\n{whole}```\nDone.",
        f"```\n{whole}",
        "def quarter(x):\n    return half(half(x))",
        CODE_ROW["canonical_solution"],
    ):
        names: dict = {}
        exec(program(CODE_ROW, said), names)
        assert names["quarter"](8) == 2


@needs_sandbox
def test_code_is_judged_by_its_tests(tmp_path):
    task = HumanEval("test", write(tmp_path, "humaneval_test.jsonl", CODE_ROW))
    assert task.correct(0, task[0]["messages"][-1]["content"])
    assert not task.correct(0, "def quarter(x):\n    return x")
    assert not task.correct(0, "import os\nos._exit(0)")


def test_a_split_that_does_not_exist_or_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="task 'humaneval' has no split 'train': it has only test"):
        make("humaneval", "train", tmp_path)
    with pytest.raises(ValueError, match=r"arc_easy_train\.jsonl is missing; add arc_easy to task_data\.tasks"):
        make("arc_easy", "train", tmp_path)
    with pytest.raises(ValueError, match="its file is missing; add mmlu"):
        make("mmlu", "test")


ARC_ROW = {"question": "?", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"}
MESSAGES = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def test_published_rows_get_the_form_of_the_task():
    choice = {"question": "?", "choices": ["x", "y"], "answer": 1}
    assert ArcEasy.normalise({"id": "1", **ARC_ROW}) == choice
    assert Mmlu.normalise({**choice, "subject": "s"}) == choice
    assert Mmlu.normalise({"train": {**choice, "subject": ""}}) == choice
    assert Gsm8k.normalise({"question": "?", "answer": "#### 1", "more": 2}) == {"question": "?", "answer": "#### 1"}
    assert HumanEval.normalise({**CODE_ROW, "more": 1}) == CODE_ROW
    system = [{"role": "system", "content": "s"}, *MESSAGES]
    assert SmolTalk.normalise({"messages": system, "source": "x"}) == {"messages": system}


@pytest.mark.parametrize(
    ("task", "row", "complaint"),
    [
        (Gsm8k, {"question": "?", "answer": "72"}, "needs to end with `#### number`"),
        (Gsm8k, {"question": " ", "answer": "#### 1"}, "question = ' ': needs text"),
        (Mmlu, {"question": "?", "choices": ["a"], "answer": 0}, "needs a list of 2 to 10 texts"),
        (Mmlu, {"question": "?", "choices": ["a", "b"], "answer": 2}, "needs the index of one of the 2 choices"),
        (Mmlu, {"question": "?", "choices": ["a", "b"], "answer": True}, "answer = True: needs the index"),
        (ArcEasy, {**ARC_ROW, "answerKey": "B"}, "answerKey = 'B': needs one of the labels 1, 2"),
        (ArcEasy, {**ARC_ROW, "choices": ["x"]}, "needs text and label"),
        (HumanEval, {**CODE_ROW, "entry_point": "eighth"}, "need to define eighth and check"),
        (SmolTalk, {"messages": "a"}, "needs a list of objects"),
        (SmolTalk, {"messages": MESSAGES[:1]}, "must take turns, the assistant last; found user"),
        (SmolTalk, {"messages": MESSAGES[::-1]}, "must take turns"),
    ],
)
def test_rows_that_cannot_be_read_are_refused(task, row, complaint):
    with pytest.raises(ValueError, match=complaint):
        task.normalise(row)


@needs_shared
def test_the_calculator_agrees_with_the_annotations_of_gsm8k():
    agreed = total = 0
    for line in (DATA / "gsm8k_train.jsonl").read_text(encoding="utf-8").splitlines()[:1000]:
        for call, output in _calls(parts(json.loads(line)["answer"])):
            total += 1
            agreed += _as_number(evaluate(call)) == _as_number(output)
    assert total > 2000
    assert agreed / total > 0.95, (agreed, total)


def _calls(made: list[dict]) -> list[tuple[str, str]]:
    texts = [part["text"] for part in made if part["type"] != "text"]
    return list(zip(texts[::2], texts[1::2], strict=True))


def _as_number(text: str | None) -> float | None:
    try:
        return round(float(text), 2)
    except (TypeError, ValueError):
        return None


MBPP_ROW = {
    "text": "Write a function to double what is in a list.",
    "code": "import copy\r\ndef own(x):\r\n    return x * 2\r\ndef doubled(xs):\r\n    return [own(x) for x in xs]",
    "test_list": ["assert set(doubled([1, 2])) == {2, 4}", "assert doubled(['a\\n']) == ['a\\na\\n']"],
    "test_setup_code": "",
}


def mbpp(folder: Path, **changes) -> Mbpp:
    return Mbpp("train", write(folder, "mbpp_train.jsonl", Mbpp.normalise(MBPP_ROW | changes)))


def test_a_programming_problem_shows_its_assertions_and_its_reference_is_a_program(tmp_path):
    task = mbpp(tmp_path)
    asked, answer = task[0]["messages"]
    assert "doubled([1, 2])" in asked["content"]
    assert task.row(0)["entry_point"] == "doubled"
    assert answer["content"].startswith("```python\nimport copy\ndef own(x):\n")


@needs_sandbox
def test_a_program_is_right_where_its_assertions_hold(tmp_path):
    task = mbpp(tmp_path)
    assert task.reward(0, task[0]["messages"][1]["content"]) == 1.0
    assert task.correct(0, "def doubled(xs):\n    return [x + x for x in xs]")
    for wrong in (
        "",
        "def doubled(xs):\n    return xs",
        "def other(xs):\n    return xs + xs",
        "import os; os._exit(0)",
    ):
        assert task.reward(0, wrong) == 0.0


@needs_sandbox
def test_what_the_tests_set_up_is_there_for_both_sides(tmp_path):
    task = mbpp(
        tmp_path,
        code="def area(r):\n    return PI * r * r",
        test_list=["assert math.isclose(area(2), PI * 4)"],
        test_setup_code="import math\nPI = math.pi",
    )
    assert task.correct(0, "def area(r):\n    return PI * r**2")
    assert not task.correct(0, "def area(r):\n    return 3 * r**2")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"test_list": []}, r"test_list = \[\]: needs a list of assertions"),
        ({"test_list": ["assert other(1)"]}, "calls no function that code defines"),
        ({"code": "def doubled(:"}, "need to be Python"),
        ({"text": " "}, "text = ' ': needs text"),
    ],
)
def test_programming_problems_that_nobody_can_judge_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        Mbpp.normalise(MBPP_ROW | changes)
