"""Each training shard is counted within its budget, the same whatever the threads; the validation shard is not."""

import json
from pathlib import Path
from types import SimpleNamespace

import nanobpe
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.artifacts.metrics import Metrics, read
from nanochat.data.shards import COUNTS, text_batches, truncated_texts
from nanochat.stages.word_counts import gather
from nanochat.stages.word_counts import run as count_words
from nanochat.workflow.stage import StageContext

TEXTS = [path.read_text(encoding="utf-8") for path in sorted(Path(json.__file__).parent.rglob("*.py"))] + [
    "naïve 日本語"
]


def shard(directory: Path, texts: list[str], part: int = 1) -> StageContext:
    """The place of one part, after its download."""
    for folder in ("download", "out"):
        (directory / folder).mkdir(parents=True)
    pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), directory / "download" / "text.parquet")
    (directory / "download" / "stats.json").write_text(
        json.dumps({"characters": sum(map(len, texts))}), encoding="utf-8"
    )
    metrics = Metrics(directory / "metrics.jsonl")
    return StageContext({"download": directory / "download"}, {}, directory / "out", directory, metrics, part=part)


def knobs(**values: int) -> SimpleNamespace:
    return SimpleNamespace(**{"name": "word_counts", "max_chars": 10**9, "doc_cap": 10**6, "threads": 0} | values)


def cut(texts: list[str], most: int, most_per_text: int) -> list[str]:
    """What `beginnings` does, one text after the other."""
    out = []
    for text in texts:
        out.append(text[: min(most, most_per_text)])
        most -= len(out[-1])
        if not most:
            break
    return out


@given(st.lists(st.lists(st.text(max_size=9)), max_size=4), st.integers(1, 60), st.integers(1, 12))
def test_budgets_cut_documents_and_corpus(batches: list[list[str]], most: int, most_per_text: int) -> None:
    sound = [[text for text in batch if text.isprintable()] for batch in batches]
    found = truncated_texts((pa.array(batch, pa.string()) for batch in sound), most, most_per_text)
    texts = [text for batch in found for text in batch.to_pylist()]
    expected = cut([text for batch in sound for text in batch], most, most_per_text)
    assert [text for text in texts if text] == [text for text in expected if text]


def test_nulls_are_no_texts_and_hide_none_after_them(tmp_path: Path) -> None:
    place = shard(tmp_path, ["some", "words"])
    pq.write_table(pa.table({"text": ["some", None, "words"]}), place["download"] / "text.parquet")
    count_words(knobs(), place)
    assert [word for word, _ in nanobpe.Counts.load(place.out / COUNTS).items()] == [b"some", b"words"]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_shard_is_counted_within_its_budget_whatever_the_threads(tmp_path: Path, threads: int) -> None:
    place = shard(tmp_path, TEXTS)
    numbers = count_words(knobs(max_chars=20_000, doc_cap=9_000, threads=threads), place)
    budget = cut(TEXTS, 20_000, 9_000)
    found, expected = nanobpe.Counts.load(place.out / COUNTS), nanobpe.count(budget)
    assert found.items() == expected.items()
    assert numbers == {
        "characters": sum(map(len, budget)),
        "bytes": sum(len(text.encode()) for text in budget),
        "distinct_words": len(expected),
    }
    reports = list(read(place.metrics.path))
    assert (reports[-1]["done"], reports[-1]["total"], reports[-1]["unit"]) == (20_000, 20_000, "characters")


def test_the_validation_shard_is_not_counted_and_the_parts_add_up(tmp_path: Path) -> None:
    places = [shard(tmp_path / str(part), texts, part) for part, texts in enumerate([["x"], ["ab c"], ["日本", ""]])]
    for place in places:
        count_words(knobs(), place)
    assert not (places[0].out / COUNTS).exists()
    whole = tmp_path / "whole"
    whole.mkdir()
    numbers = gather(
        knobs(), StageContext({}, {"word_counts": tuple(p.out for p in places)}, whole, whole, Metrics(None))
    )
    assert numbers == {"characters": 6, "bytes": 10}
    assert [
        part["distinct_words"] for part in json.loads((whole / "index.json").read_text(encoding="utf-8"))["parts"]
    ] == [0, 2, 1]


def test_a_shard_is_read_in_order(tmp_path: Path) -> None:
    texts = [str(i) for i in range(3000)]
    place = shard(tmp_path, texts)
    batches = text_batches(place["download"] / "text.parquet")
    assert [text for batch in batches for text in batch.to_pylist()] == texts


def test_ctrl_c_ends_the_stage_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = shard(tmp_path, TEXTS)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(place.metrics, "progress", interrupt)
    with pytest.raises(KeyboardInterrupt):
        count_words(knobs(), place)
    assert list(place.out.iterdir()) == []
