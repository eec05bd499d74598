"""Rows read back as they were written, and every epoch goes through each of them once, wherever it is cut.

The oracles are plain arrays in memory and the obvious definition of an epoch. What fills the rows is not tested here.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.artifacts.metrics import Metrics
from nanochat.data.rows import EpochOrder, Rows, row_dtype
from nanochat.workflow.stage import StageContext


def lay(folder, counts, vocab_size=300, sequence_len=7):
    """A tokenized corpus of random rows: its whole, its parts, and the rows of each part."""
    rng = np.random.default_rng(0)
    whole, parts, rows = folder / "whole", [], []
    whole.mkdir()
    index = {"sequence_len": sequence_len, "vocab_size": vocab_size, "dtype": row_dtype(vocab_size).name}
    (whole / "index.json").write_text(json.dumps(index), encoding="utf-8")
    for number, count in enumerate(counts):
        part = folder / f"part{number}"
        part.mkdir()
        some = rng.integers(0, vocab_size, (count, sequence_len + 1))
        (part / "rows.bin").write_bytes(some.astype(row_dtype(vocab_size)).tobytes())
        (part / "stats.json").write_text(json.dumps({"rows": count, "bytes": 3 * count}), encoding="utf-8")
        parts.append(part)
        rows.append(some)
    return whole, parts, rows


@pytest.mark.parametrize("vocab_size", [300, 1 << 16, (1 << 16) + 1])
def test_rows_of_all_parts_are_one_array(tmp_path, vocab_size):
    whole, parts, expected = lay(tmp_path, [5, 1, 4], vocab_size)
    rows, everything = Rows(whole, parts), np.concatenate(expected)
    assert len(rows) == 10
    assert (rows.num_tokens, rows.num_bytes) == (80, 30)
    np.testing.assert_array_equal(rows[:], everything)
    np.testing.assert_array_equal(rows[2:8:2], everything[2:8:2])
    np.testing.assert_array_equal(rows[[9, 0, 5, 5]], everything[[9, 0, 5, 5]])
    np.testing.assert_array_equal(rows[np.array([], int)], everything[:0])
    np.testing.assert_array_equal(rows[5], everything[5])
    assert rows[5].dtype == np.int64


def test_part_zero_is_for_validation_and_the_others_for_training(tmp_path):
    whole, parts, expected = lay(tmp_path, [2, 3, 4])
    place = StageContext({"tokenize": whole}, {"tokenize": tuple(parts)}, tmp_path, tmp_path, Metrics(None))
    np.testing.assert_array_equal(Rows(place["tokenize"], place.parts("tokenize")[:1])[:], expected[0])
    np.testing.assert_array_equal(Rows(place["tokenize"], place.parts("tokenize")[1:])[:], np.concatenate(expected[1:]))


@pytest.mark.parametrize("index", [3, -1, [0, 3]])
def test_a_row_that_does_not_exist_is_refused(tmp_path, index):
    whole, parts, _ = lay(tmp_path, [3])
    with pytest.raises(IndexError, match="of 3"):
        Rows(whole, parts)[index]


def test_a_damaged_file_is_refused_with_both_sizes(tmp_path):
    whole, parts, _ = lay(tmp_path, [3])
    path = parts[0] / "rows.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ValueError, match=r"46 bytes, but 3 rows of 8 tokens as uint16 take 48"):
        Rows(whole, parts)


@given(num_rows=st.integers(1, 50), seed=st.integers(0, 1 << 40), start=st.integers(0, 200), count=st.integers(0, 200))
def test_any_slice_of_the_order_is_that_slice_of_the_epochs_laid_end_to_end(num_rows, seed, start, count):
    order = EpochOrder(num_rows, seed)
    epochs = [order.epoch(number).copy() for number in range(400 // num_rows + 1)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(num_rows))
    expected = np.concatenate(epochs)[start : start + count]
    np.testing.assert_array_equal(EpochOrder(num_rows, seed)[start : start + count], expected)


def test_epochs_and_seeds_have_different_orders():
    orders = [tuple(EpochOrder(100, seed).epoch(number)) for seed in range(3) for number in range(3)]
    assert len(set(orders)) == 9


def test_the_order_never_changes_between_versions():
    assert EpochOrder(8, 1)[0:10].tolist() == [2, 4, 7, 5, 0, 6, 3, 1, 5, 6]


def test_no_rows_to_train_on_are_refused():
    with pytest.raises(ValueError, match="num_shards"):
        EpochOrder(0, 1)
