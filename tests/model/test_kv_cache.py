"""Reading through the cache, in whatever pieces and beside whatever other rows, gives the logits of reading at once."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.inference.decode import Decoder
from nanochat.model.config import GPTConfig
from nanochat.model.kv_cache import SPARE, STEP, KVCache, held_positions, room_of, row_bytes
from tests.model.test_model import CLASSIC, MODERN, shaken, some_tokens

WINDOWED = dataclasses.replace(MODERN, sequence_len=400, n_layer=4)  # S = 128: the rows below reach beyond their rings
CONFIGS = {
    "classic": dataclasses.replace(CLASSIC, sequence_len=400),
    "grouped": dataclasses.replace(CLASSIC, sequence_len=400, n_kv_head=1),
    "modern": WINDOWED,
    **{
        name: dataclasses.replace(CLASSIC, sequence_len=400, **{name: value})
        for name, value in {"smear": True, "value_embeddings": True, "window_pattern": "S", "backout": True}.items()
    },
}
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(params=CONFIGS, name="model")
def a_model(request):
    return shaken(CONFIGS[request.param]).requires_grad_(False)


def read(model, rows, chunks, cache, where=None):
    """Feed `rows` (lists of different lengths) in right-padded chunks; returns each row's logits (len(row), V)."""
    pieces, at = [[] for _ in rows], 0
    where = list(range(len(rows))) if where is None else where
    for width in chunks:
        counts = [max(0, min(len(row) - at, width)) for row in rows]
        padded = torch.stack(
            [
                torch.cat((row[at : at + width], row.new_full((width - n,), 7)))
                for row, n in zip(rows, counts, strict=True)
            ]
        )
        reading = cache.reading(padded, where, counts)
        logits = model(padded, reading)
        reading.finish()
        for piece, logit, count in zip(pieces, logits, counts, strict=True):
            piece.append(logit[:count])
        at += width
    return [torch.cat(piece) for piece in pieces]


def decode(model, cache, tokens):
    """Logits (B, V) after one token more in each of the first rows."""
    lengths, before = (torch.from_numpy(x[: len(tokens)].copy()) for x in (cache.lengths, cache.latest))
    logits, likeliest, log_probs = Decoder(model, cache, compile=False)(tokens, lengths, before, int(lengths.max()) + 1)
    assert torch.equal(likeliest, logits.argmax(-1))
    torch.testing.assert_close(log_probs, logits.log_softmax(-1).amax(-1))
    cache.advance(range(len(tokens)), 1, tokens.numpy())
    return logits


@pytest.mark.parametrize(
    "chunks",
    [[380], [60, 320], [300, 80], [1] * 5 + [100, 275], [129] * 3],
    ids=["at once", "two", "a long one first", "ones, then chunks", "thirds"],
)
def test_prompts_of_different_lengths_read_in_chunks_give_the_logits_of_each_alone(model, chunks):
    rows = [some_tokens(model.config, 1, length, seed=length)[0] for length in (380, 3, 270)]
    cache = KVCache(model.config, 3)
    for row, logits in zip(rows, read(model, rows, chunks, cache), strict=True):
        torch.testing.assert_close(logits, model(row[None])[0], **TOLERANCE)
    assert cache.lengths.tolist() == [380, 3, 270]


def test_rows_of_different_lengths_decode_token_by_token_to_the_same_logits(model):
    rows = [some_tokens(model.config, 1, length, seed=length)[0] for length in (380, 2, 255)]
    cache = KVCache(model.config, 3)
    logits = [[piece[-1]] for piece in read(model, rows, [380], cache)]
    for _ in range(6):
        chosen = torch.stack([row[-1].argmax() for row in logits])
        rows = [torch.cat((row, token[None])) for row, token in zip(rows, chosen, strict=True)]
        for row, logit in zip(logits, decode(model, cache, chosen), strict=True):
            row.append(logit)
    for row, steps in zip(rows, logits, strict=True):
        torch.testing.assert_close(torch.stack(steps), model(row[None])[0, -7:], **TOLERANCE)


def test_samples_that_share_their_prompts_reading_go_on_as_if_each_had_read_it(model):
    prompts = [some_tokens(model.config, 1, length, seed=length)[0] for length in (340, 9)]
    tails = some_tokens(model.config, 4, 5, seed=1)
    owners = [0, 1, 1, 0]
    cache = KVCache(model.config, 4)
    read(model, prompts, [340], cache)
    cache.copy([0, 1], [3, 2], [340, 9], [int(prompts[0][-1]), int(prompts[1][-1])])
    for owner, tail, logits in zip(owners, tails, read(model, list(tails), [5], cache), strict=True):
        whole = torch.cat((prompts[owner], tail))
        torch.testing.assert_close(logits, model(whole[None])[0, -5:], **TOLERANCE)


def test_a_beginning_is_shared_as_long_as_the_rings_hold_it(model):
    tokens = some_tokens(model.config, 1, 390)[0]
    for read_on in (0, 1, 60, 120, 200):
        cache, length = KVCache(model.config, 2), 150
        read(model, [tokens[: length + read_on]], [length + read_on], cache)
        ringed = any(room < 400 for room in cache.rooms)
        assert cache.can_share(0, length) == (read_on <= 120 or not ringed)
        if cache.can_share(0, length):
            cache.copy([0], [1], [length], [int(tokens[length - 1])])
            tail = some_tokens(model.config, 1, 7, seed=5)[0]
            (logits,) = read(model, [tail], [7], cache, [1])
            torch.testing.assert_close(logits, model(torch.cat((tokens[:length], tail))[None])[0, -7:], **TOLERANCE)
    assert not cache.can_share(0, 351)


def test_a_shortened_row_remembers_what_its_rings_lost(model):
    tokens = some_tokens(model.config, 2, 390)
    cache = KVCache(model.config, 2)
    read(model, [tokens[0, :280]], [280], cache)  # the rings of 256 have lost the first 24
    cache.shorten(0, 192, int(tokens[0, 191]))
    (logits,) = read(model, [tokens[1, :20]], [20], cache)
    whole = torch.cat((tokens[0, :192], tokens[1, :20]))
    torch.testing.assert_close(logits, model(whole[None])[0, -20:], **TOLERANCE)
    ringed = any(room < 400 for room in cache.rooms)
    assert cache.can_share(0, 64) == (not ringed)
    assert cache.can_share(0, 192)
    cache.copy([0], [1], [192], [int(tokens[0, 191])])
    assert cache.can_share(1, 64) == (not ringed)
    cache.forget([0])
    read(model, [tokens[0, :100]], [100], cache)
    assert cache.can_share(0, 64)


def test_an_idle_row_between_those_that_decode_keeps_every_bit(model):
    tokens = some_tokens(model.config, 2, 390)
    cache = KVCache(model.config, 2)
    read(model, [tokens[0, :256], tokens[1, :20]], [256], cache)  # 256 fills a ring to the last index
    held = [each[0].clone() for each in (*cache.keys, *cache.values)]
    for at in range(20, 24):
        lengths, before = torch.tensor([-1, at]), torch.from_numpy(cache.latest.copy())
        logits, _, _ = Decoder(model, cache, compile=False)(
            torch.tensor([5, int(tokens[1, at])]), lengths, before, at + 1
        )
        cache.advance([1], 1, tokens[1:, at].numpy())
        torch.testing.assert_close(logits[1], model(tokens[1:, : at + 1])[0, -1], **TOLERANCE)
    assert all(map(torch.equal, held, [each[0] for each in (*cache.keys, *cache.values)]))


def test_a_row_that_reads_nothing_stays_where_it_is(model):
    rows = some_tokens(model.config, 2, 6)
    cache = KVCache(model.config, 2)
    read(model, [rows[0], rows[1, :3]], [3, 3], cache)
    assert cache.lengths.tolist() == [6, 3]
    step = decode(model, cache, rows[:, 3])
    torch.testing.assert_close(step[1], model(rows[1:, :4])[0, 3], **TOLERANCE)


def test_a_cache_in_bf16_serves_a_model_in_bf16():
    model = shaken(WINDOWED).requires_grad_(False)
    exact = model(rows := some_tokens(WINDOWED, 2, 20))
    model.compute_dtype = torch.bfloat16
    cache = KVCache(WINDOWED, 2, dtype=torch.bfloat16)
    logits = torch.cat(read(model, list(rows), [10] + [1] * 10, cache))
    assert (logits - exact.flatten(0, 1)).abs().mean() < 0.05 * exact.abs().mean()


def test_memory_is_what_was_said_and_grows_with_what_is_used():
    cache = KVCache(WINDOWED, 4)
    assert [room_of(WINDOWED, layer, 400) for layer in range(4)] == [256, 400, 256, 400]
    read(shaken(WINDOWED).requires_grad_(False), [some_tokens(WINDOWED, 1, 3)[0]], [3], cache)
    assert [tuple(each.shape[::2]) for each in cache.keys] == [(1, STEP + SPARE)] * 4
    cache.reading(torch.zeros(4, 400, dtype=torch.int64), range(4), [390] * 4)
    assert [tuple(each.shape[::2]) for each in cache.keys] == [(4, 256 + SPARE), (4, 400 + SPARE)] * 2
    held = sum(each.nbytes for each in (*cache.keys, *cache.values))
    assert held == 4 * row_bytes(WINDOWED, torch.float32)


@given(newest=st.integers(-1, 50), room=st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_an_index_holds_the_newest_position_that_was_written_there(newest, room):
    written = np.full(room, -1)
    for position in range(newest + 1):
        written[position % room] = position
    found = held_positions(torch.tensor([newest]), room, room)[0]
    assert torch.where(found < 0, -1, found).tolist() == written.tolist()


def test_a_cache_refuses_what_does_not_fit():
    cache = KVCache(CLASSIC, 2, 10)
    tokens = some_tokens(CLASSIC, 2, 6)
    for counts in ([7, 1], [-1, 1]):
        with pytest.raises(ValueError, match="take rows below 2 and no more tokens than there are"):
            cache.reading(tokens, [0, 1], counts)
    cache.reading(tokens, [0, 1], [6, 1]).finish()
    with pytest.raises(ValueError, match="max_len=10 positions, 11 are needed"):
        cache.reading(tokens, [0, 1], [5, 5])
    for rows in ([2], [-1]):
        with pytest.raises((ValueError, IndexError)):
            cache.reading(tokens[:1], rows, [1])
    for rows, length in ((0, 10), (1, 0), (1, CLASSIC.sequence_len + 1)):
        with pytest.raises(ValueError, match="take at least 1 row"):
            KVCache(CLASSIC, rows, length)


def test_positions_end_with_the_context():
    config = GPTConfig.classic(1, 300, 8, width=32, head_dim=8)
    with pytest.raises(ValueError, match="max_len=20"):
        KVCache(config, 1, 20)


def test_an_interrupted_copy_leaves_a_row_that_has_read_nothing():
    cache = KVCache(CLASSIC, 2)
    for row in (0, 1):
        cache.reading(torch.zeros(1, 8, dtype=torch.int64), [row], [8]).finish()
    cache.values[0] = None
    with pytest.raises(TypeError):
        cache.copy([0], [1], [8], [0])
    assert cache.lengths.tolist() == [8, 0]
