"""The data of the real tasks: fetched once, checked, training apart from test, and from nowhere else."""

import hashlib
import json
from pathlib import Path

import pytest

from nanochat.artifacts.metrics import Metrics
from nanochat.pipeline import TaskData
from nanochat.stages.task_data import run as fetch
from nanochat.tasks import make
from nanochat.tasks.from_file import Origin
from nanochat.tasks.published import ORIGINS
from nanochat.tasks.words import words
from nanochat.workflow.stage import StageContext
from tests.broken_server import broken_server
from tests.paths import SHARED

DATA = SHARED / "data"


def place_in(folder: Path) -> StageContext:
    (folder / "out").mkdir(exist_ok=True)
    (folder / "work").mkdir(exist_ok=True)
    return StageContext({}, {}, folder / "out", folder / "work", Metrics(folder / "metrics.jsonl"))


def write(path: Path, *rows: dict) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def gsm(*names: str) -> list[dict]:
    return [{"question": f"How many {name}?", "answer": "#### 1"} for name in names]


def test_no_tasks_make_an_index_and_nothing_else(tmp_path):
    place = place_in(tmp_path)
    assert fetch(TaskData(), place) == {"rows": 0.0}
    assert [path.name for path in place.out.iterdir()] == ["index.json"]


def test_local_lines_are_checked_counted_and_digested(tmp_path):
    write(tmp_path / "gsm8k_train.jsonl", *gsm("apples", "pears"))
    write(tmp_path / "gsm8k_test.jsonl", *gsm("plums"))
    place = place_in(tmp_path)
    assert fetch(TaskData(tasks="gsm8k", source=str(tmp_path)), place) == {"rows": 3.0}
    index = json.loads((place.out / "index.json").read_text(encoding="utf-8"))
    assert index["tasks"] == ["gsm8k"]
    for name, rows in (("gsm8k_train.jsonl", 2), ("gsm8k_test.jsonl", 1)):
        data = (place.out / name).read_bytes()
        assert index["files"][name] == {"rows": rows, "in_test": 0, "sha256": hashlib.sha256(data).hexdigest()}
    assert [len(make("gsm8k", split, place.out)) for split in ("train", "validation", "test")] == [1, 1, 1]


def test_a_training_row_that_is_also_tested_is_left_out(tmp_path):
    write(tmp_path / "gsm8k_train.jsonl", *gsm("apples", "pears", "  PLUMS"))
    write(tmp_path / "gsm8k_test.jsonl", *gsm("plums"))
    place = place_in(tmp_path)
    fetch(TaskData(tasks="gsm8k", source=str(tmp_path)), place)
    assert (
        json.loads((place.out / "index.json").read_text(encoding="utf-8"))["files"]["gsm8k_train.jsonl"]["in_test"] == 1
    )
    train, validation, test = (
        {row["messages"][0]["content"] for row in make("gsm8k", split, place.out)}
        for split in ("train", "validation", "test")
    )
    assert train | validation == {"How many apples?", "How many pears?"}
    assert not (train | validation) & test


def test_a_training_row_that_is_validated_on_and_a_validation_row_that_is_tested_are_left_out(tmp_path):
    program = lambda text: {"text": text, "code": "def f():\n    return 1", "test_list": ["assert f() == 1"]}  # noqa: E731
    write(tmp_path / "mbpp_train.jsonl", program("One."), program("Two."), program("Three."), program("Four."))
    write(tmp_path / "mbpp_validation.jsonl", program("two."), program("Three."))
    write(tmp_path / "mbpp_test.jsonl", program("THREE."))
    place = place_in(tmp_path)
    fetch(TaskData(tasks="mbpp", source=str(tmp_path)), place)
    asked = {
        split: [row["messages"][0]["content"].split("\n")[0] for row in make("mbpp", split, place.out)]
        for split in ("train", "validation", "test")
    }
    assert {split: sorted(texts) for split, texts in asked.items()} == {
        "train": ["Four.", "One."],
        "validation": ["two."],
        "test": ["THREE."],
    }


def test_a_training_row_that_another_task_tests_is_left_out(tmp_path):
    choice = lambda question: {"question": question, "choices": ["x", "y"], "answer": 0}  # noqa: E731
    talk = lambda *said: {  # noqa: E731
        "messages": [
            m for text in said for m in ({"role": "user", "content": text}, {"role": "assistant", "content": "1"})
        ]
    }
    write(tmp_path / "gsm8k_train.jsonl", *gsm("apples", "pears"))
    write(tmp_path / "gsm8k_test.jsonl", *gsm("plums"))
    write(tmp_path / "mmlu_train.jsonl", choice("how many  plums?"), choice("Why?"))
    write(tmp_path / "mmlu_test.jsonl", choice("How many pears?"))
    write(tmp_path / "smoltalk_train.jsonl", talk("Hello", "How many plums?"), talk("Hello"), talk("Bye"))
    write(tmp_path / "smoltalk_test.jsonl", talk("Bye"), talk("Hello", "there"))
    for order in ("gsm8k, mmlu, smoltalk", "smoltalk, mmlu, gsm8k"):
        place = place_in(tmp_path)
        fetch(TaskData(tasks=order, source=str(tmp_path)), place)
        files = json.loads((place.out / "index.json").read_text(encoding="utf-8"))["files"]
        assert {name: (entry["rows"], entry["in_test"]) for name, entry in files.items()} == {
            "gsm8k_train.jsonl": (1, 1),
            "gsm8k_test.jsonl": (1, 0),
            "mmlu_train.jsonl": (1, 1),
            "mmlu_test.jsonl": (1, 0),
            "smoltalk_train.jsonl": (1, 2),
            "smoltalk_test.jsonl": (2, 0),
        }
        assert make("smoltalk", "train", place.out)[0] == talk("Hello")


def test_what_cannot_be_read_is_named_by_file_and_line(tmp_path):
    stage, place = TaskData(tasks="gsm8k", source=str(tmp_path)), place_in(tmp_path)
    with pytest.raises(ValueError, match=r"task_data\.source = .* there is no gsm8k_train\.jsonl"):
        fetch(stage, place)
    write(tmp_path / "gsm8k_train.jsonl", *gsm("pears"))
    write(tmp_path / "gsm8k_test.jsonl", *gsm("plums"), {"question": "?", "answer": "1"})
    with pytest.raises(ValueError, match=r"gsm8k_test\.jsonl, line 2: answer: needs to end with"):
        fetch(stage, place)
    (tmp_path / "gsm8k_test.jsonl").write_text('{"question": \n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"gsm8k_test\.jsonl, line 1: not JSON"):
        fetch(stage, place)
    (tmp_path / "gsm8k_test.jsonl").write_text("[1]\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 1: needs an object, found list"):
        fetch(stage, place)
    (tmp_path / "gsm8k_test.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match=r"gsm8k_test\.jsonl came out empty"):
        fetch(stage, place)


def test_an_unknown_task_is_refused_with_its_nearest(tmp_path):
    with pytest.raises(ValueError, match="unknown task with data 'gsm8': did you mean 'gsm8k'"):
        fetch(TaskData(tasks="gsm8"), place_in(tmp_path))


def test_a_task_that_needs_no_data_and_a_source_that_is_no_folder_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"task_data.tasks names 'spelling', which needs no data: take it out"):
        fetch(TaskData(tasks="gsm8k, spelling"), place_in(tmp_path))
    with pytest.raises(ValueError, match=r"task_data.source = 'nowhere': is not a folder"):
        fetch(TaskData(tasks="gsm8k", source="nowhere"), place_in(tmp_path))


def test_data_sets_are_read_through_datasets(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    choices = {"text": ["x", "y"], "label": ["A", "B"]}
    arc = lambda name: {"id": name, "question": name, "choices": choices, "answerKey": "B"}  # noqa: E731
    write(tmp_path / "arc" / "train.jsonl", arc("a"), arc("b"))
    write(tmp_path / "arc" / "test.jsonl", arc("c"))
    wrapped = {"train": {"question": "m", "choices": ["x", "y"], "answer": 1}}
    write(tmp_path / "aux" / "train.jsonl", wrapped)
    write(tmp_path / "mmlu" / "test.jsonl", {"question": "n", "subject": "s", "choices": ["x", "y"], "answer": 0})
    arc_folder = str(tmp_path / "arc")
    origins = {
        "arc_easy": {"train": Origin(arc_folder, None, "train"), "test": Origin(arc_folder, None, "test")},
        "mmlu": {
            "train": Origin(str(tmp_path / "aux"), None, "train"),
            "test": Origin(str(tmp_path / "mmlu"), None, "test"),
        },
    }
    place = place_in(tmp_path)
    assert fetch(TaskData(tasks="arc_easy, mmlu"), place, origins) == {"rows": 5.0}
    assert make("arc_easy", "test", place.out).row(0) == {"question": "c", "choices": ["x", "y"], "answer": 1}
    assert make("mmlu", "train", place.out).row(0) == wrapped["train"]


def test_every_task_with_data_is_a_task_and_tests_on_what_is_called_test():
    for name, splits in ORIGINS.items():
        assert splits["test"].split == "test"
        assert set(splits) <= {"train", "validation", "test"}
        assert all(origin.split == split for split, origin in splits.items())
        with pytest.raises(ValueError, match="is missing"):
            make(name, "test", Path("nowhere"))


def many_words(count=1500):
    """Different words of five letters, one a line."""
    letters = "abcdefghij"
    return ["".join(letters[number // 10**place % 10] for place in range(5)) for number in range(count)]


def listed(words, end="\n"):
    return "".join(word + end for word in words).encode()


def test_words_come_from_a_file_whatever_ends_its_lines(tmp_path):
    known, source = many_words(), tmp_path / "list"
    source.write_bytes(b"\xef\xbb\xbf" + listed(["a", *known, "", known[0], "x" * 21], "\r\n"))
    place = place_in(tmp_path)
    for uri in (str(source), f"file://{source}"):
        assert fetch(TaskData(words="english", words_source=uri), place) == {"rows": 0.0, "words": 1500.0}
        assert (place.out / "words.txt").read_bytes() == listed(known)
        about = json.loads((place.out / "index.json").read_text(encoding="utf-8"))["words"]
        assert about == {"source": uri, "count": 1500, "sha256": hashlib.sha256(source.read_bytes()).hexdigest()}
    assert set(known) <= {word for split in ("train", "validation", "test") for word in words(split, place.out)}


def test_words_are_fetched_through_a_connection_that_breaks(tmp_path, monkeypatch):
    monkeypatch.setattr("nanochat.data.fetch.LONGEST_WAIT", 0.0)
    known, place = many_words(60_000), place_in(tmp_path)
    with broken_server() as site:
        site.body, site.faults = listed(known), ["500", "reset", "cut"]
        url = site.url.replace("//", "//me:secret@")
        assert fetch(TaskData(words="english", words_source=url), place)["words"] == 60_000.0
        assert [bool(asked["range"]) for asked in site.seen] == [False, False, False, True]
        assert "secret" not in (place.out / "index.json").read_text(encoding="utf-8")
        site.faults = ["500"] * 5
        with pytest.raises(ConnectionError, match=r"gave up after 5 attempts \(task_data\.words_source\)"):
            fetch(TaskData(words="english", words_source=site.url), place)
        site.faults = ["404"]
        with pytest.raises(ValueError, match="the server refuses: 404"):
            fetch(TaskData(words="english", words_source=site.url), place)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (listed([*many_words(), "two words"]), "list, line 1501: 'two words' is no word: task_data.words_source needs"),
        (listed(["Apple", *many_words()]), "list, line 1: 'Apple' is no word"),
        (b"<html>\n", "list, line 1: '<html>'"),
        ("naïve\n".encode(), "list, line 1: 'naïve'"),
        (b"\xff\n", "list, line 1: "),
        (listed(many_words(999)), "list: 999 words of 3 to 20 letters are too few: .* at least 1,000; or set"),
        (b"", "list: 0 words"),
    ],
)  # fmt: skip
def test_what_is_no_list_of_words_is_refused_by_line(tmp_path, content, said):
    (tmp_path / "list").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        fetch(TaskData(words="english", words_source=str(tmp_path / "list")), place_in(tmp_path))


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not at hand")
def test_the_published_words_are_read(tmp_path):
    place = place_in(tmp_path)
    stage = TaskData(words="english", words_source=str(DATA / "words_alpha.txt"))
    assert fetch(stage, place)["words"] > 369_000
    assert len(words("train", place.out)) > 365_000
    assert 2000 < len(words("test", place.out)) < 3000
    assert make("spelling", "train", place.out).known == words("train", place.out)


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not at hand")
def test_the_published_files_are_read(tmp_path):
    place = place_in(tmp_path)
    fetch(TaskData(tasks="mmlu, gsm8k, arc_easy, arc_challenge, humaneval", source=str(DATA)), place)
    counts = {
        name: entry["rows"]
        for name, entry in json.loads((place.out / "index.json").read_text(encoding="utf-8"))["files"].items()
    }
    published = {"mmlu": 14042, "gsm8k": 1319, "arc_easy": 2376, "arc_challenge": 1172, "humaneval": 164}
    assert {name: counts[f"{name}_test.jsonl"] for name in published} == published
