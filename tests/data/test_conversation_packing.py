"""Packing loses no conversation, cuts none, waits for none for ever and never makes a row without anything to learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.data.conversation_packing import (
    ASSISTANT,
    BUFFER,
    CONTEXT,
    PADDING,
    ConversationRows,
    PackedRows,
    best_fit,
    pack,
)

PAD = 9
conversations = st.lists(
    st.lists(st.tuples(st.integers(10, 500), st.integers(0, 1)), min_size=1, max_size=40).map(
        lambda pairs: ([1, *(i for i, _ in pairs)], [0, *(m for _, m in pairs)])
    ),
    max_size=40,
)


def whole(rows: PackedRows) -> list[tuple[list[int], list[int]]]:
    """The conversations of all rows: 1 opens one and occurs nowhere else."""
    found = []
    for tokens, labels in zip(rows.tokens.tolist(), rows.labels.tolist(), strict=True):
        for token, label in zip(tokens, labels, strict=True):
            if label == PADDING:
                assert token == PAD
                continue
            if token == 1:
                found.append(([], []))
            found[-1][0].append(token)
            found[-1][1].append(int(label == ASSISTANT))
    return found


@given(conversations, st.integers(1, 30))
def test_every_conversation_that_says_something_is_in_the_rows_once(given_ones, sequence_len):
    capacity = sequence_len + 1
    expected = [(ids[:capacity], mask[:capacity]) for ids, mask in given_ones if any(mask[:capacity])]
    if not expected:
        with pytest.raises(ValueError, match="says anything within sequence_len"):
            pack(given_ones, sequence_len, 512, PAD)
        return
    rows = pack(given_ones, sequence_len, 512, PAD)
    assert sorted(whole(rows)) == sorted(expected)
    assert rows.tokens.shape == rows.labels.shape
    assert rows.tokens.shape[1] == capacity
    assert (rows.tokens[:, 0] == 1).all()
    assert ((rows.labels[:, 1:] == ASSISTANT).sum(axis=1) > 0).all()
    assert rows.counts.conversations == len(expected)
    assert rows.counts.dropped == len(given_ones) - len(expected)
    assert rows.counts.truncated == sum(len(ids) > capacity for ids, mask in given_ones if any(mask[:capacity]))
    assert rows.counts.tokens == sum(len(ids) for ids, _ in expected)
    assert rows.counts.supervised_tokens == sum(sum(mask) for _, mask in expected)


def slow_best_fit(lengths, capacity, buffer):
    """The same by looking at everything, every time."""
    rows, waiting, coming = [], [], list(range(len(lengths)))
    while True:
        waiting, coming = waiting + coming[: buffer - len(waiting)], coming[buffer - len(waiting) :]
        if not waiting:
            return rows
        row, room = [], capacity
        while fitting := [index for index in waiting if lengths[index] <= room]:
            taken = waiting[0] if not row else max(fitting, key=lambda index: (lengths[index], -index))
            row.append(taken)
            room -= lengths[taken]
            waiting.remove(taken)
            waiting, coming = waiting + coming[: buffer - len(waiting)], coming[buffer - len(waiting) :]
        rows.append(row)


@settings(max_examples=200)
@given(st.lists(st.integers(1, 30), max_size=60), st.integers(1, 12))
def test_best_fit_equals_its_slow_twin(lengths, buffer):
    rows = best_fit(lengths, 30, buffer)
    assert rows == slow_best_fit(lengths, 30, buffer)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in row) <= 30 for row in rows)


def test_no_conversation_waits_longer_than_the_buffer_is_large():
    lengths = [17] + [16, 14] * 3000  # the first fits badly with all others
    rows = best_fit(lengths, 30)
    assert rows[0][0] == 0
    assert max(row_number - min(row) for row_number, row in enumerate(rows)) < BUFFER


def test_rows_are_nearly_full():
    lengths = np.random.default_rng(0).integers(10, 60, 5000).tolist()
    assert sum(lengths) / (len(best_fit(lengths, 257)) * 257) > 0.99


def test_only_too_long_conversations_is_an_error_not_a_batch_of_nothing():
    question = ([1] + [20] * 50, [0] * 51)
    long_prompt = ([1] + [20] * 50, [0] * 50 + [1])
    with pytest.raises(ValueError, match=r"none of 2 conversations .* sequence_len = 32 .* longer sequence_len"):
        pack([question, long_prompt], 32, 512, PAD)


def test_large_vocabularies_get_wider_rows():
    one = ([1, 70_000], [0, 1])
    assert pack([one], 4, 70_001, PAD).tokens.tolist() == [[1, 70_000, PAD, PAD, PAD]]
    assert pack([([1, 65_535], [0, 1])], 1, 65_536, PAD).tokens.dtype == np.uint16


def test_the_rows_of_several_parts_come_back_as_one_sequence(tmp_path):
    rows = pack([([1, 5, 6], [0, 0, 1]), ([1, 7], [0, 1])], 3, 512, PAD)
    more = pack([([1, 8, 9, 9, 9], [0, 1, 1, 1, 1]), ([1], [0])], 3, 512, PAD)
    for name, part in (("a", rows), ("b", more)):
        (tmp_path / name).mkdir()
        part.save(tmp_path / name)
    again = ConversationRows([tmp_path / "a", tmp_path / "b"], 3)
    assert len(again) == 3
    assert again.tokens[:].tolist() == [[1, 5, 6, PAD], [1, 7, PAD, PAD], [1, 8, 9, 9]]
    assert again.tokens[[2, 0]].tolist() == [[1, 8, 9, 9], [1, 5, 6, PAD]]
    assert again.labels[:2].tolist() == [
        [CONTEXT, CONTEXT, ASSISTANT, PADDING],
        [CONTEXT, ASSISTANT, PADDING, PADDING],
    ]
    expected = {"rows": 3, "conversations": 3, "truncated": 1, "dropped": 1, "supervised_share": 5 / 9}
    assert again.facts() == {**expected, "padding_share": pytest.approx(1 - 9 / 12)}


def test_rows_of_another_length_than_the_context_are_refused(tmp_path):
    pack([([1, 7], [0, 1])], 3, 512, PAD).save(tmp_path)
    with pytest.raises(ValueError, match="rows of 3 tokens, the model a context of 4"):
        ConversationRows([tmp_path], 4)
