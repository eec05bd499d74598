"""Rows of others, of the CORE tasks and of the published ones, are read, or refused by file and line."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.data import json_lines
from nanochat.evaluation.core_bundle import KEYS, CoreTask, load_examples
from nanochat.pipeline import TaskData
from nanochat.stages.task_data import run as fetch
from nanochat.tasks.from_file import Origin

CODE_ROW = {
    "task_id": "t/0", "prompt": 'def double(x):\n    """Twice x."""\n', "entry_point": "double",
    "canonical_solution": "    return 2 * x\n", "test": "def check(candidate):\n    assert candidate(3) == 6\n",
}  # fmt: skip
GOOD = {
    "multiple_choice": {"query": "q", "choices": ["a", "b"], "gold": 1},
    "schema": {"context_options": ["a", "b"], "continuation": "c", "gold": 0},
    "language_modeling": {"context": "a", "continuation": "b"},
}


def examples_of(folder, kind, content, shots=0):
    path = folder / "task.jsonl"
    path.write_bytes(content)
    return load_examples(CoreTask("task", path, kind, shots, " ", 0.0), 100)


@pytest.mark.parametrize("kind", KEYS)
def test_blank_lines_and_a_mark_at_the_beginning_are_passed_over(tmp_path, kind):
    line = json.dumps({**GOOD[kind], "note": "a\u2028b"}, ensure_ascii=False).encode()
    read = examples_of(tmp_path, kind, b"\xef\xbb\xbf" + line + b"\n\n  \r\n" + line)
    assert read == [{**GOOD[kind], "note": "a\u2028b"}] * 2


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("multiple_choice", {"gold": 7}, "gold = 7: needs the number of one of 2"),
        ("multiple_choice", {"gold": -1}, "gold = -1"), ("multiple_choice", {"gold": True}, "gold = True"),
        ("multiple_choice", {"gold": "1"}, "gold = '1'"), ("multiple_choice", {"choices": []}, r"choices = \[\]"),
        ("multiple_choice", {"choices": ["a", 2]}, "needs a list of at least 2 texts"),
        ("multiple_choice", {"choices": "ab"}, "choices = 'ab'"), ("multiple_choice", {"query": None}, "query = None"),
        ("schema", {"context_options": ["a"]}, "context_options"), ("schema", {"gold": 2}, "gold = 2"),
        ("language_modeling", {"continuation": ""}, "continuation = '': needs a text"),
        ("language_modeling", {"context": 5}, "context = 5"),
        ("language_modeling", {"context": "\ud83d"}, "half of a character"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_asked_is_refused_by_line(tmp_path, kind, change, said):
    good, bad = json.dumps(GOOD[kind]), json.dumps({**GOOD[kind], **change})
    with pytest.raises(ValueError, match=rf"task\.jsonl, line 3: .*{said}"):
        examples_of(tmp_path, kind, f"{good}\n\n{bad}\n".encode())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe{}", "is not UTF-8"), (b"{", "not JSON"), (b'{"a": NaN}', "NaN is no number"), (b"[1]", "needs an object"),
        (b'{"a": 1, "b": 2, "a": 1}', "'a' is there twice"), (b'{"a": [1e999]}', "1e999 is too large"),
        (b"\0", "not JSON"), (b"[" * 100_000, "nested too deeply|not JSON"), (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
    ],
)  # fmt: skip
def test_what_is_no_row_is_refused_by_line(tmp_path, content, said):
    (tmp_path / "rows").write_bytes(b"{}\n" + content)
    with pytest.raises(ValueError, match=f"rows, line 2: .*({said})"):
        list(json_lines.read(tmp_path / "rows"))


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**6), kind=st.sampled_from(sorted(KEYS)))
def test_a_changed_line_is_read_or_refused_by_its_number(tmp_path_factory, seed, kind):
    dice, line = random.Random(seed), bytearray(json.dumps(GOOD[kind]).encode())
    for _ in range(dice.randint(1, 3)):
        at = dice.randrange(len(line))
        line[at : at + dice.randint(0, 2)] = dice.randbytes(dice.randint(0, 2)).replace(b"\n", b" ")
    good = json.dumps(GOOD[kind]).encode()
    try:
        read = examples_of(tmp_path_factory.mktemp("rows"), kind, good + b"\n" + bytes(line) + b"\n" + good)
    except ValueError as error:
        assert "line 2" in str(error)  # noqa: PT017
    else:
        assert 2 <= len(read) <= 3
        for row in read:
            options = row.get("choices") or row.get("context_options")
            assert kind == "language_modeling" or 0 <= row["gold"] < len(options)


ROWS = {
    "mmlu": {"question": "q", "choices": ["a", "b"], "answer": 1},
    "arc_easy": {"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"},
    "gsm8k": {"question": "q", "answer": "#### 1"},
    "smoltalk": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    "humaneval": CODE_ROW,
}  # fmt: skip
ODD = [
    None,
    5,
    "",
    [],
    {},
    [None],
    "\ud83d",
    {"text": 5, "label": 5},
    {"text": ["a"], "label": ["A", "B"]},
    True,
    [[1]],
    {"a": 1},
]


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_a_task_with_anything_odd_in_it_is_read_or_refused_by_line(tmp_path, name):
    from nanochat.artifacts.metrics import Metrics
    from nanochat.workflow.stage import StageContext

    origins = {name: {"test": Origin("", None, "test")}}
    (tmp_path / "out").mkdir()
    place = StageContext({}, {}, tmp_path / "out", tmp_path / "work", Metrics(None))
    for key in ROWS[name]:
        for odd in ODD:
            lines = [ROWS[name], {**ROWS[name], key: odd}]
            (tmp_path / f"{name}_test.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
            try:
                fetch(TaskData(tasks=name, source=str(tmp_path)), place, origins)
            except ValueError as error:
                assert f"{name}_test.jsonl, line 2: " in str(error)  # noqa: PT017
