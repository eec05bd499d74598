"""Reading through the cache, in whatever pieces and beside whatever other rows, gives the logits of reading at once."""

import dataclasses

import pytest
import torch

from nanochat.model.config import GPTConfig
from nanochat.model.kv_cache import KVCache
from tests.model.test_model import CLASSIC, MODERN, shaken, some_tokens

WINDOWED = dataclasses.replace(MODERN, sequence_len=200, n_layer=4)  # S = 128: the rows below reach beyond it
CONFIGS = {
    "classic": dataclasses.replace(CLASSIC, sequence_len=200),
    "grouped": dataclasses.replace(CLASSIC, sequence_len=200, n_kv_head=1),
    "modern": WINDOWED,
    **{
        name: dataclasses.replace(CLASSIC, sequence_len=200, **{name: value})
        for name, value in {"smear": True, "value_embeddings": True, "window_pattern": "S", "backout": True}.items()
    },
}
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(params=CONFIGS, name="model")
def a_model(request):
    return shaken(CONFIGS[request.param]).requires_grad_(False)


def read(model, rows, chunks, cache):
    """Feed `rows` (lists of different lengths) in right-padded chunks; returns each row's logits (len(row), V)."""
    pieces, at = [[] for _ in rows], 0
    for width in chunks:
        counts = [max(0, min(len(row) - at, width)) for row in rows]
        padded = torch.stack(
            [
                torch.cat((row[at : at + width], row.new_full((width - n,), 7)))
                for row, n in zip(rows, counts, strict=True)
            ]
        )
        logits = model(padded, cache)
        cache.advance(counts)
        for piece, logit, count in zip(pieces, logits, counts, strict=True):
            piece.append(logit[:count])
        at += width
    return [torch.cat(piece) for piece in pieces]


@pytest.mark.parametrize(
    "chunks", [[180], [60, 120], [1] * 5 + [100, 75]], ids=["at once", "two chunks", "ones, then chunks"]
)
def test_prompts_of_different_lengths_read_in_chunks_give_the_logits_of_each_alone(model, chunks):
    rows = [some_tokens(model.config, 1, length, seed=length)[0] for length in (180, 3, 150)]
    cache = KVCache(model.config, 3, 180)
    for row, logits in zip(rows, read(model, rows, chunks, cache), strict=True):
        torch.testing.assert_close(logits, model(row[None])[0], **TOLERANCE)
    assert cache.lengths.tolist() == [180, 3, 150]


def test_rows_of_different_lengths_decode_token_by_token_to_the_same_logits(model):
    rows = [some_tokens(model.config, 1, length, seed=length)[0] for length in (150, 2, 131)]
    cache = KVCache(model.config, 3, 160)
    logits = [[piece[-1]] for piece in read(model, rows, [150], cache)]
    for _ in range(4):
        chosen = torch.stack([row[-1].argmax() for row in logits])[:, None]
        rows = [torch.cat((row, token)) for row, token in zip(rows, chosen, strict=True)]
        step = model(chosen, cache)
        cache.advance()
        for row, logit in zip(logits, step[:, 0], strict=True):
            row.append(logit)
    for row, steps in zip(rows, logits, strict=True):
        torch.testing.assert_close(torch.stack(steps), model(row[None])[0, -5:], **TOLERANCE)


def test_samples_that_share_their_prompts_reading_go_on_as_if_each_had_read_it(model):
    prompts = [some_tokens(model.config, 1, length, seed=length)[0] for length in (140, 9)]
    tails = some_tokens(model.config, 4, 5, seed=1)
    cache = KVCache(model.config, 2, 150)
    read(model, prompts, [140], cache)
    shared = cache.repeat(2)
    logits = model(tails, shared)
    shared.advance()
    for i, tail in enumerate(tails):
        whole = torch.cat((prompts[i // 2], tail))
        torch.testing.assert_close(logits[i], model(whole[None])[0, -5:], **TOLERANCE)
    last = shared.select([3, 0])
    again = model(tails[[3, 0], :1], last)
    for logit, i in zip(again, (3, 0), strict=True):
        whole = torch.cat((prompts[i // 2], tails[i], tails[i, :1]))
        torch.testing.assert_close(logit[0], model(whole[None])[0, -1], **TOLERANCE)
    assert cache.lengths.tolist() == [140, 9]  # the original is untouched


def test_a_row_that_reads_nothing_stays_where_it_is(model):
    rows = some_tokens(model.config, 2, 6)
    cache = KVCache(model.config, 2, 12)
    model(rows[:, :3], cache)
    cache.advance()
    model(rows[:, 3:], cache)
    cache.advance([3, 0])
    step = model(rows[:, 3:4], cache)
    torch.testing.assert_close(step[1, 0], model(rows[1:, :4])[0, 3], **TOLERANCE)


def test_what_was_not_advanced_over_is_written_again():
    model = shaken(WINDOWED).requires_grad_(False)
    rows, cache = some_tokens(model.config, 1, 9), KVCache(WINDOWED, 1, 9)
    model(rows.flip(1), cache)  # looked at, not kept
    logits = model(rows, cache)
    torch.testing.assert_close(logits, model(rows), **TOLERANCE)


def test_a_cache_in_bf16_serves_a_model_in_bf16():
    model = shaken(WINDOWED).requires_grad_(False)
    exact = model(rows := some_tokens(WINDOWED, 2, 20))
    model.compute_dtype = torch.bfloat16
    cache = KVCache(WINDOWED, 2, 20, dtype=torch.bfloat16)
    logits = torch.cat(read(model, list(rows), [10] + [1] * 10, cache))
    assert (logits - exact.flatten(0, 1)).abs().mean() < 0.05 * exact.abs().mean()


def test_positions_may_pass_the_trained_context_as_far_as_the_cache_reaches():
    config = GPTConfig.classic(1, 300, 8, width=32, head_dim=8)
    cache = KVCache(config, 1, 20)
    logits = shaken(config)(some_tokens(config, 1, 20), cache)
    assert logits.isfinite().all()


def test_a_cache_refuses_what_does_not_fit():
    model, cache = shaken(CLASSIC), KVCache(CLASSIC, 2, 10)
    model(some_tokens(CLASSIC, 2, 6), cache)
    for counts in ([7, 1], [-1, 1], [1]):
        with pytest.raises(ValueError, match="2 counts between 0 and 6"):
            cache.advance(counts)
    cache.advance([6, 1])
    with pytest.raises(ValueError, match="max_len=10 positions, 11 are needed"):
        model(some_tokens(CLASSIC, 2, 5), cache)
    for rows in ([2], [-1], []):
        with pytest.raises(ValueError, match="between 0 and 1"):
            cache.select(rows)
    with pytest.raises(ValueError, match="repeat\\(0\\)"):
        cache.repeat(0)
    with pytest.raises(ValueError, match="batch_size=0"):
        KVCache(CLASSIC, 0, 10)
