"""The engine says what the model says: with a cache or without, alone or in a batch, streamed or not; tools are answered.

Oracles: a slow twin that reads everything again for each token, and models whose weights are a table of what follows
what, so that every answer is known. Not covered: speed (benchmarks), GPUs.
"""

import itertools
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nanochat.data.tokenizer import Tokenizer
from nanochat.inference import scheduler
from nanochat.inference.engine import Completion, Engine, rows_that_fit
from nanochat.inference.sampling import choose, draws
from nanochat.model.config import GPTConfig
from nanochat.model.gpt import GPT
from nanochat.model.kv_cache import row_bytes

TOKENIZER = Tokenizer(tuple(bytes([byte]) for byte in range(256)))
BOS, END = TOKENIZER.bos, TOKENIZER.special("<|assistant_end|>")
START = TOKENIZER.special("<|assistant_start|>")
CALL, CALLED = TOKENIZER.special("<|python_start|>"), TOKENIZER.special("<|python_end|>")
RESULT, RESULTED = TOKENIZER.special("<|output_start|>"), TOKENIZER.special("<|output_end|>")
PROMPTS = [[BOS, *b"hello"], [BOS], [BOS, *b"a much longer prompt"]]
FAMILIES = pytest.mark.parametrize("family", [GPTConfig.classic, GPTConfig.modern], ids=["classic", "modern"])


def random_model(family: object = GPTConfig.modern, sequence_len: int = 48) -> GPT:
    model = GPT(family(3, TOKENIZER.vocab_size, sequence_len, width=32, head_dim=8))
    model.init_weights(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def table_model(follows: dict[int, int], sequence_len: int = 64) -> GPT:
    """After token t comes follows[t], all but surely; blocks add nothing, so that only the last token counts."""
    model = GPT(GPTConfig.classic(1, TOKENIZER.vocab_size, sequence_len, width=272, head_dim=16))
    model.init_weights(0)
    with torch.no_grad():
        model.wte.weight.copy_(torch.eye(TOKENIZER.vocab_size, 272))
        for token, following in follows.items():
            model.lm_head.weight[following, token] = 5.0
    return model


def chain(*tokens: int) -> dict[int, int]:
    assert len(set(tokens[:-1])) == len(tokens) - 1, tokens
    return dict(itertools.pairwise(tokens))


def answer(follows: dict[int, int], max_new_tokens: int = 30, **options: object) -> Completion:
    (completion,) = Engine(table_model(follows), TOKENIZER, **options).generate([[BOS, START]], max_new_tokens)
    return completion


def without_cache(model: GPT, prompt: list[int], completion: Completion) -> Tensor:
    """Logits (N, V) before each token of the answer, everything read again each time."""
    ids = [*prompt, *completion.tokens]
    with torch.no_grad():
        return torch.stack([model(torch.tensor([ids[:at]]))[0, -1] for at in range(len(prompt), len(ids))])


@FAMILIES
def test_greedy_answers_and_log_probabilities_are_those_without_a_cache(family: object) -> None:
    model = random_model(family)
    for prompt, completion in zip(PROMPTS, Engine(model, TOKENIZER, False).generate(PROMPTS, 40), strict=True):
        logits = without_cache(model, prompt, completion)
        assert completion.tokens == logits.argmax(-1).tolist()
        expected = logits.log_softmax(-1).max(-1).values
        torch.testing.assert_close(torch.tensor(completion.log_probs), expected, rtol=1e-4, atol=1e-4)


@FAMILIES
def test_sampled_log_probabilities_are_those_without_a_cache(family: object) -> None:
    model = random_model(family)
    completions = Engine(model, TOKENIZER, False).generate(PROMPTS, 20, temperature=0.7, num_samples=2)
    for prompt, completion in zip(np.repeat(np.array(PROMPTS, dtype=object), 2), completions, strict=True):
        expected = (without_cache(model, prompt, completion) / 0.7).log_softmax(-1)
        expected = expected.gather(1, torch.tensor(completion.tokens)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(completion.log_probs), expected, rtol=1e-3, atol=1e-3)


@FAMILIES
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_does_not_depend_on_the_rest_of_the_batch(family: object, temperature: float) -> None:
    engine, seeds = Engine(random_model(family), TOKENIZER), [11, 22, 33]
    together = engine.generate(PROMPTS, 40, temperature, seed=seeds, num_samples=3)
    alone = [
        completion
        for prompt, seed in zip(PROMPTS, seeds, strict=True)
        for completion in engine.generate([prompt], 40, temperature, seed=[seed], num_samples=3)
    ]
    assert [c.tokens for c in together] == [c.tokens for c in alone]
    assert [c.finished for c in together] == [c.finished for c in alone]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_not_a_bit_of_an_answer_depends_on_what_is_beside_it_or_was_before(dtype: torch.dtype) -> None:
    """Prompts padded or not, read at once or behind a shared beginning, decoded by many or a few; of the library that
    multiplies fp32 it holds but for the last digits.
    """
    model = random_model(sequence_len=400)
    model.compute_dtype = dtype
    rng = np.random.default_rng(0)
    beginning = [BOS, *rng.integers(0, 256, 150).tolist()]
    own = [rng.integers(0, 256, int(length)).tolist() for length in rng.integers(1, 130, 14)]
    prompts = [[*beginning * (index % 2), *some] for index, some in enumerate(own)]
    engine = Engine(model, TOKENIZER)
    together = engine.generate(prompts, 40, 1.0, seed=list(range(14)), num_samples=2)
    assert engine.scheduler.counts.shared > 0
    for index, prompt in enumerate(prompts):
        engine.scheduler.forget()
        alone = engine.generate([prompt], 40, 1.0, seed=[index], num_samples=2)
        beside = together[2 * index : 2 * index + 2]
        if dtype == torch.bfloat16:
            assert alone == beside
        assert [one.tokens for one in alone] == [one.tokens for one in beside]
        for one, other in zip(alone, beside, strict=True):
            np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-5)


def test_memory_that_was_never_written_is_never_read() -> None:
    engine = Engine(random_model(), TOKENIZER)
    expected = [c.tokens for c in engine.generate(PROMPTS, 40)]
    torch.use_deterministic_algorithms(True)  # fills fresh memory with NaN
    try:
        assert [c.tokens for c in engine.generate(PROMPTS, 40)] == expected
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_long_prefill_in_pieces_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(random_model(sequence_len=300), TOKENIZER)
    prompts = [[*prompt, *range(100), *range(100)] for prompt in PROMPTS]
    whole = engine.generate(prompts, 20)
    monkeypatch.setattr(scheduler, "READ_ALONE", 64 * len(PROMPTS))
    engine.scheduler.forget()
    assert engine.generate(prompts, 20) == whole


def test_every_sample_draws_its_own_first_token() -> None:
    completions = Engine(random_model(), TOKENIZER).generate([[BOS]], 1, temperature=1.0, num_samples=16)
    assert len({c.tokens[0] for c in completions}) > 4


def test_one_seed_repeats_and_prompts_draw_differently() -> None:
    engine = Engine(random_model(), TOKENIZER)
    first, second = engine.generate([[BOS], [BOS]], 20, 1.0, seed=5)
    assert first.tokens != second.tokens
    assert engine.generate([[BOS], [BOS]], 20, 1.0, seed=5) == [first, second]
    assert engine.generate([[BOS], [BOS]], 20, 1.0, seed=6)[0].tokens != first.tokens


def test_a_prompt_is_read_once_and_finished_rows_leave_the_batch() -> None:
    engine = Engine(table_model(chain(*range(40, 60), END)), TOKENIZER)
    shapes = []
    features = engine.model.features
    engine.model.features = lambda tokens, cache: (shapes.append(tuple(tokens.shape)), features(tokens, cache))[1]
    prompts = [[BOS, 58], [BOS, 59], [BOS, 7, 50]]
    completions = engine.generate(prompts, 30, num_samples=4)
    assert [len(c.tokens) for c in completions] == [2] * 4 + [1] * 4 + [10] * 4
    assert shapes == [(3, 4), (8, 1)] + [(4, 1)] * 8


def test_the_token_that_ends_the_turn_belongs_to_the_answer_but_not_to_its_text() -> None:
    assert answer(chain(START, ord("H"), ord("i"), END)) == Completion(
        [ord("H"), ord("i"), END], [1, 1, 1], pytest.approx([0] * 3, abs=1e-3), "Hi", True
    )
    assert answer(chain(START, ord("H"), BOS)).finished


def test_an_answer_that_is_cut_is_not_finished() -> None:
    forever = chain(START, ord("a"), ord("b"), ord("a"))
    cut = answer(forever, max_new_tokens=7)
    assert (cut.text, cut.finished) == ("abababa", False)
    at_the_end_of_the_context = answer(forever, max_new_tokens=1000)
    assert (len(at_the_end_of_the_context.tokens), at_the_end_of_the_context.finished) == (62, False)


def test_a_tool_call_is_answered_and_its_answer_is_not_the_models() -> None:
    completion = answer(chain(START, CALL, *b"12*34", CALLED) | chain(RESULTED, *b"So", END))
    assert completion.tokens == [CALL, *b"12*34", CALLED, RESULT, *b"408", RESULTED, *b"So", END]
    assert completion.mask == [1] * 7 + [0] * 5 + [1] * 3
    assert completion.text == "<|python_start|>12*34<|python_end|><|output_start|>408<|output_end|>So"
    assert completion.log_probs[7:12] == [0.0] * 5


@pytest.mark.parametrize("call", [b"", b"what?", b"1/0"])
def test_a_call_that_cannot_be_answered_is_answered_with_error(call: bytes) -> None:
    completion = answer(chain(START, CALL, *call, CALLED) | chain(RESULTED, END))
    assert completion.tokens == [CALL, *call, CALLED, RESULT, *b"error", RESULTED, END]


def test_calls_that_never_end_or_never_began_do_not_hang() -> None:
    assert not answer(chain(START, CALL, ord("1"), ord("2"), ord("1"))).finished
    assert answer(chain(START, CALLED, END)).tokens == [CALLED, END]
    twice = answer(chain(START, ord("7"), CALL, ord("3"), CALLED) | chain(RESULTED, CALL))
    assert twice.tokens[1:] == ([CALL, ord("3"), CALLED, RESULT, ord("3"), RESULTED] * 5)[:29]


def test_an_answer_of_a_tool_is_cut_like_any_other() -> None:
    completion = answer(chain(START, CALL, *b"12*34", CALLED), max_new_tokens=9)
    assert completion.tokens == [CALL, *b"12*34", CALLED, RESULT, ord("4")]
    assert not completion.finished


def test_without_the_calculator_nothing_is_forced() -> None:
    assert answer(chain(START, CALL, ord("1"), CALLED, END), calculator=False).mask == [1] * 4


def test_only_rows_in_a_call_are_answered() -> None:
    follows = chain(START, CALL, *b"1+2", CALLED) | chain(RESULTED, *b"xy", END)
    engine = Engine(table_model(follows), TOKENIZER)
    called, other = engine.generate([[BOS, START], [BOS, ord("x")]], 20)
    assert called.text.endswith("<|output_start|>3<|output_end|>xy")
    assert other.tokens == [ord("y"), END]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_stream_is_the_text(temperature: float) -> None:
    engine = Engine(random_model(), TOKENIZER)
    for prompt in PROMPTS:
        (completion,) = engine.generate([prompt], 40, temperature, seed=3)
        pieces = list(engine.stream(prompt, 40, temperature, seed=3))
        assert "".join(pieces) == completion.text
        assert all(pieces)


def test_streamed_characters_are_whole() -> None:
    text = "aé→😀"
    assert len(set(text.encode())) == len(text.encode())
    engine = Engine(table_model(chain(START, *text.encode(), END)), TOKENIZER)
    assert list(engine.stream([BOS, START], 30)) == list(text)
    assert list(engine.stream([BOS, START], 6)) == ["a", "é", "→"]
    assert list(engine.stream([BOS, START], 7)) == ["a", "é", "→", "\ufffd"]


def test_half_precision_follows_the_model() -> None:
    model = random_model()
    model.compute_dtype = torch.bfloat16
    engine = Engine(model, TOKENIZER)
    assert engine.model.wte.weight.dtype == torch.bfloat16
    assert len(engine.generate(PROMPTS, 5, temperature=1.0, top_k=3)) == 3


def test_what_torch_keeps_of_a_gpu_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    config = GPTConfig.modern(2, TOKENIZER.vocab_size, 48)
    model: Any = SimpleNamespace(config=config, compute_dtype=torch.float32, wte=SimpleNamespace(weight=Mock()))
    model.wte.weight.device = torch.device("cuda", 0)
    one = row_bytes(config, torch.float32)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * one, 100 * one))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 81 * one)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 20 * one)
    assert rows_that_fit(model) == 42  # 0.6 of 10 + 61


def test_a_seed_of_numpy_is_a_seed() -> None:
    engine = Engine(random_model(), TOKENIZER, False)
    assert engine.generate([[BOS]], 9, 1.0, seed=np.int64(3)) == engine.generate([[BOS]], 9, 1.0, seed=3)


def test_no_prompts_no_answers() -> None:
    assert Engine(random_model(), TOKENIZER).generate([], 5) == []


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([[BOS] * 48], {}, "a prompt of 48 tokens: the context takes 1 to 47"),
        ([[BOS], []], {}, "a prompt of 0 tokens"),
        ([[BOS, 265]], {}, r"ids outside 0\.\.264"),
        ([[BOS]], {"max_new_tokens": 0}, "max_new_tokens=0: must be a whole number, at least 1"),
        ([[BOS]], {"num_samples": 0}, "num_samples=0: must be at least 1"),
        ([[BOS]], {"temperature": -1.0}, "temperature=-1.0"),
        ([[BOS]], {"top_k": 0}, "top_k=0"),
        ([[BOS]], {"seed": -1}, "seed=-1: must be a whole number, 0 or more"),
        ([[BOS]], {"seed": [1, 2]}, "2 seeds for 1 prompts"),
    ],
)
def test_what_cannot_be_decoded_is_refused(prompts: list[list[int]], options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Engine(random_model(), TOKENIZER).generate(prompts, **{"max_new_tokens": 4, **options})


@given(st.integers(0, 2**32), st.sampled_from([None, 1, 3, 50]), st.sampled_from([0.3, 1.0, 2.0]))
@settings(max_examples=60, deadline=None)
def test_choosing_is_inversion_of_the_distribution_function(seed: int, top_k: int | None, temperature: float) -> None:
    rng = np.random.default_rng(seed)
    logits, uniform = 4 * rng.standard_normal((5, 12)).astype(np.float32), rng.random(5)
    logits[:, rng.permutation(12)[:4]] = -np.inf
    tokens, log_probs = choose(torch.from_numpy(logits), torch.from_numpy(uniform), temperature, top_k)
    for row, token in enumerate(tokens.tolist()):
        order = range(12) if top_k in (None, 50) else np.argsort(-logits[row])[:top_k].tolist()
        weights = {t: np.exp(np.float64(logits[row, t]) / temperature) for t in order}
        total, reached = sum(weights.values()), 0.0
        for t in order:
            reached += weights[t] / total
            if reached > uniform[row]:
                break
        assert token == t
        assert log_probs[row].item() == pytest.approx(np.log(weights[t] / total), abs=1e-4)


def test_at_temperature_zero_the_likeliest_token_is_chosen() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    tokens, log_probs = choose(logits, torch.zeros(2), 0)
    assert tokens.tolist() == [1, 0]
    torch.testing.assert_close(log_probs, logits.log_softmax(-1).max(-1).values)


def test_even_the_largest_draw_gives_a_token() -> None:
    tokens, _ = choose(torch.full((1, 7), 0.1), torch.tensor([np.nextafter(1.0, 0.0)]), 1.0)
    assert tokens.tolist() == [6]


def test_draws_belong_to_seed_and_sample() -> None:
    table = np.stack([draws(seed, sample, 5) for seed in (3, 4) for sample in (0, 1)])
    assert len(np.unique(table)) == 20
    np.testing.assert_array_equal(table[:, :3], [draws(seed, sample, 3) for seed in (3, 4) for sample in (0, 1)])
