"""Whatever joins and leaves the batch, each answer is the one that it would have been alone.

Oracle: a slow twin that reads everything again for each token with the same random numbers. Random loads come from
hypothesis; rows are few, so that they are taken, moved and shared all the time.
"""

import dataclasses
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanochat.inference import decode
from nanochat.inference.engine import Engine
from nanochat.inference.requests import Delta, Request
from nanochat.inference.sampling import Sampling, choose, draws, penalised
from nanochat.inference.text_stream import TextStream
from nanochat.model.config import GPTConfig
from nanochat.model.gpt import GPT
from nanochat.model.kv_cache import Reading
from tests.inference.test_engine import (
    BOS,
    CALL,
    CALLED,
    END,
    RESULT,
    RESULTED,
    START,
    TOKENIZER,
    chain,
    random_model,
    table_model,
)

CONTEXT = 300


def windowed_model(**features: object) -> GPT:
    """Windows of 128 in a context of 300, so that rings go round."""
    return random_model(
        lambda *shape, **more: GPTConfig.from_dict(GPTConfig.modern(*shape, **more).as_dict() | features), CONTEXT
    )


def twin(model: GPT, prompt: list[int], sampling: Sampling, sample: int = 0) -> tuple[list[int], list[float]]:
    """Tokens and log-probabilities of one answer without the calculator, everything read again for each token."""
    ids, log_probs = list(prompt), []
    limit = min(len(prompt) + sampling.max_new_tokens, model.config.sequence_len)
    uniform = draws(sampling.seed, sample, limit - len(prompt))
    with torch.no_grad():
        while len(ids) < limit:
            logits = model(torch.tensor([ids]))[0, -1]
            if sampling.repetition_penalty != 1:
                logits = penalised(logits, torch.tensor(ids), sampling.repetition_penalty)
            drawn = torch.from_numpy(uniform[len(ids) - len(prompt)][None])
            token, log_prob = choose(logits[None], drawn, *sampling.cut)
            ids.append(int(token))
            log_probs.append(float(log_prob))
            if ids[-1] in (END, BOS):
                break
    return ids[len(prompt) :], log_probs


SAMPLINGS = st.builds(
    Sampling,
    max_new_tokens=st.integers(1, 30),
    temperature=st.sampled_from([0.0, 0.7, 1.0]),
    top_k=st.sampled_from([None, 5, 50]),
    top_p=st.sampled_from([1.0, 0.9]),
    min_p=st.sampled_from([0.0, 0.05]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    seed=st.integers(0, 2**31),
)
PROMPTS = st.builds(
    lambda shared, length, own, seed: [
        BOS,
        *np.random.default_rng(shared).integers(0, 256, length).tolist(),
        *np.random.default_rng(seed).integers(0, 256, own).tolist(),
    ],
    shared=st.integers(0, 2),
    length=st.sampled_from([0, 9, 100, 200]),
    own=st.integers(0, 60),
    seed=st.integers(0, 10**6),
)
MODELS = {name: windowed_model(**features) for name, features in {"modern": {}, "grouped": {"n_kv_head": 1}}.items()}
ENGINES = {name: Engine(model, TOKENIZER, False, max_rows=5) for name, model in MODELS.items()}  # rows remember


@pytest.mark.parametrize("name", MODELS)
@given(
    load=st.lists(st.tuples(PROMPTS, SAMPLINGS, st.integers(1, 3), st.integers(0, 12)), min_size=1, max_size=9),
    cancelled=st.sets(st.integers(0, 8), max_size=2),
)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_under_any_load_each_answer_is_the_one_it_would_be_alone(name: str, load: list, cancelled: set[int]) -> None:
    scheduler, requests = ENGINES[name].scheduler, {}
    for number, (prompt, sampling, samples, steps) in enumerate(load):
        (requests[number],) = scheduler.submit(prompt, sampling, samples)
        for _ in range(steps):
            scheduler.step()
        if number - 1 in cancelled:
            requests[number - 1].cancel()
    while scheduler.step():
        pass
    assert not scheduler.rows.state.any()
    for number, (prompt, sampling, samples, _) in enumerate(load):
        for sample, completion in requests[number].completions.items():
            tokens, log_probs = twin(MODELS[name], prompt, sampling, sample)
            assert completion.tokens == tokens
            np.testing.assert_allclose(completion.log_probs, log_probs, rtol=1e-2, atol=1e-2)
        if not requests[number].cancelled:
            assert sorted(requests[number].completions) == list(range(samples))


def test_a_shared_beginning_is_read_once() -> None:
    engine = Engine(MODELS["modern"], TOKENIZER, False, max_rows=8)
    counts, beginning = engine.scheduler.counts, [BOS, *range(130)]  # shared in steps of 64 tokens
    engine.generate([[*beginning, 7, 8, 9], [*beginning, 1], [*beginning, 2, 3]], 4, num_samples=2)
    assert (counts.read, counts.shared) == (134 + 4 + 5, 2 * 128)
    (answer,) = engine.generate([[*beginning, 2, 3]], 4)
    assert counts.read == 143 + 5
    turns = [*beginning, 2, 3, *answer.tokens, *range(70)]
    assert engine.generate([turns], 4)[0].tokens == twin(MODELS["modern"], turns, Sampling(4))[0]
    assert counts.read == 148 + len(turns) - 128


def test_what_rows_have_read_is_forgotten_when_the_weights_change() -> None:
    model, other = windowed_model(), windowed_model()
    with torch.no_grad():
        other.wte.weight.mul_(-1)
    engine, prompt = Engine(model, TOKENIZER, False), [BOS, *range(50)]
    before = engine.generate([prompt], 20)[0].tokens
    engine.update(other)
    assert engine.generate([prompt], 20)[0].tokens == twin(other, prompt, Sampling(20))[0] != before


def test_a_compiled_step_gives_the_same_answers_and_is_compiled_once_for_all_sizes() -> None:
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    compiled, plain = (Engine(MODELS["modern"], TOKENIZER, max_rows=16, compile=compile) for compile in (True, False))
    rng = np.random.default_rng(0)
    for count, length, new in ((1, 3, 5), (2, 60, 70), (5, 10, 200), (13, 250, 40), (1, 280, 30)):
        prompts = [[BOS, *rng.integers(0, 256, length).tolist()] for _ in range(count)]
        for temperature in (0.0, 1.0):
            expected = plain.generate(prompts, new, temperature)
            assert [one.tokens for one in compiled.generate(prompts, new, temperature)] == [c.tokens for c in expected]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    torch.compiler.reset()


class Shape:
    """Stands in for a captured graph, which there is no GPU for: it always looks at the memory that it was made with."""

    def __init__(self, model, rooms, tokens, step, views):
        self.model, self.rooms, self.rows, self.views = model, rooms, len(tokens), views

    def __call__(self, tokens, step):
        assert len(tokens) == self.rows
        return decode.decode(self.model, self.rooms, tokens, step, *self.views)


def test_a_graph_is_replayed_only_where_every_layer_looks_as_far(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Engine(windowed_model(), TOKENIZER, False, max_rows=4).generate([[BOS] * 5], CONTEXT)
    monkeypatch.setattr(decode, "CudaGraph", Shape)
    monkeypatch.setattr(decode.Decoder, "on_gpu", True)
    engine = Engine(windowed_model(), TOKENIZER, False, max_rows=4, compile=True)
    engine.scheduler.cache._hold(4, CONTEXT)  # as on a GPU, where it never moves
    assert engine.generate([[BOS] * 5], CONTEXT)[0].tokens == expected[0].tokens  # through 64, 128, 256, 300 positions


def test_a_graph_that_cannot_be_captured_costs_speed_and_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    expected = Engine(random_model(), TOKENIZER, False).generate([[BOS, 1]], 20)
    monkeypatch.setattr(decode, "CudaGraph", fail)
    monkeypatch.setattr(decode.Decoder, "on_gpu", True)
    engine = Engine(random_model(), TOKENIZER, False, compile=True)
    with pytest.warns(UserWarning, match=r"no CUDA graph of \(.*not permitted.*goes on without") as warned:
        found = engine.generate([[BOS, 1]], 20)
    assert found[0].tokens == expected[0].tokens
    assert len(warned) == 1


def test_more_samples_than_rows_are_all_answered() -> None:
    engine = Engine(MODELS["modern"], TOKENIZER, False, max_rows=4)
    many = engine.generate([[BOS, 1, 2], [BOS]], 6, 1.0, seed=[3, 4], num_samples=11)
    for number, (prompt, seed) in enumerate((([BOS, 1, 2], 3), ([BOS], 4))):
        for sample in range(11):
            expected = twin(MODELS["modern"], prompt, Sampling(6, 1.0, seed=seed), sample)[0]
            assert many[11 * number + sample].tokens == expected


def test_a_stream_goes_on_while_others_generate_and_a_closed_one_frees_its_row() -> None:
    engine = Engine(random_model(), TOKENIZER, False)
    alone = [list(engine.stream_tokens(prompt, 12)) for prompt in ([BOS, 1], [BOS, 2])]
    first, second = (engine.stream_tokens(prompt, 12) for prompt in ([BOS, 1], [BOS, 2]))
    begun = [next(first), next(second)]
    third = engine.generate([[BOS, 3]], 5)[0].tokens
    assert [begun[0], *first] == alone[0]
    second.close()
    assert engine.generate([[BOS, 3]], 5)[0].tokens == third
    assert not engine.scheduler.rows.state.any()
    assert begun[1] == alone[1][0]


def test_an_interrupted_generation_leaves_nothing_behind() -> None:
    engine = Engine(random_model(), TOKENIZER, False)
    calls = []

    def interrupt(*_: object) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    handle = engine.model.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        engine.generate([[BOS, 1], [BOS, 2]], 20)
    handle.remove()
    assert len(engine.generate([[BOS, 1]], 5)[0].tokens) == 5
    assert not engine.scheduler.busy


@pytest.mark.parametrize("looks", range(4))
def test_who_cancels_while_rows_are_given_up_is_heard_whole_or_not_yet(looks: int) -> None:
    class Changing(Request):
        """As another thread does it: cancelled after so many looks."""

        seen = 0

        @property
        def cancelled(self) -> bool:
            self.seen += 1
            return self.seen > looks

    engine = Engine(random_model(), TOKENIZER, False, max_rows=4)
    expected = [each.tokens for each in engine.generate([[BOS, 9]], 8, 1.0, num_samples=2)]
    engine.scheduler.forget()
    heard: list[Delta] = []
    (request,) = engine.scheduler.submit([BOS, 1, 2], Sampling(30), 2, heard.append)
    if looks:
        engine.scheduler._admit()
    del request.cancelled
    request.__class__ = Changing
    assert [each.tokens for each in engine.generate([[BOS, 9]], 8, 1.0, num_samples=2)] == expected
    assert sorted(delta.sample for delta in heard if delta.finish == "cancelled") == [0, 1]
    assert not engine.scheduler.busy


def test_what_an_interrupted_reading_has_overwritten_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    model = windowed_model(sequence_len=1000)
    ids = np.random.default_rng(0).integers(0, 250, 900).tolist()
    expected = Engine(model, TOKENIZER, False, max_rows=4).generate([[BOS, *ids[:400], 7]], 20)
    engine = Engine(model, TOKENIZER, False, max_rows=4)
    engine.generate([[BOS, *ids[:400]]], 1)
    with monkeypatch.context() as patched:
        patched.setattr(Reading, "finish", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            engine.generate([[BOS, *ids]], 1)
    assert engine.generate([[BOS, *ids[:400], 7]], 20)[0].tokens == expected[0].tokens


def test_who_is_told_of_a_cancelled_answer_may_cancel_another_and_hears_of_that_too() -> None:
    scheduler = Engine(random_model(), TOKENIZER, False, max_rows=4).scheduler
    heard: list[Delta] = []
    (second,) = scheduler.submit([BOS, 1, 2], Sampling(5), 1, heard.append)
    (first,) = scheduler.submit([BOS, 3], Sampling(5), 1, lambda delta: second.cancel())
    first.cancel()
    while scheduler.step():
        pass
    assert [delta.finish for delta in heard][-1:] == ["cancelled"]


def test_weights_may_change_after_a_stream_was_closed() -> None:
    model = random_model()
    engine = Engine(model, TOKENIZER, False)
    stream = engine.stream_tokens([BOS, 1], 20)
    next(stream)
    stream.close()
    engine.update(model)
    assert not engine.scheduler.busy


def test_stop_strings_end_an_answer_and_are_not_part_of_it() -> None:
    engine = Engine(table_model(chain(START, *b"abcdefgh", END)), TOKENIZER, False)
    for stop, text, tokens in (("def", "abc", 6), ("zz", "abcdefgh", 9), ("a", "", 1), ("hh", "abcdefgh", 9)):
        deltas: list[Delta] = []
        (request,) = engine.scheduler.submit([BOS, START], Sampling(30, stop=("xyz", stop)), 1, deltas.append)
        while engine.scheduler.step():
            pass
        completion = request.completions[0]
        assert (completion.text, len(completion.tokens), completion.finished) == (text, tokens, True)
        assert "".join(delta.text for delta in deltas) == text
        assert [delta.finish for delta in deltas] == [None] * (tokens - 1) + ["stop"]
    half = Engine(table_model(chain(START, ord("a"), 0xC3, ord("a"))), TOKENIZER, False)
    last = list(half.stream_deltas([BOS, START], Sampling(2, stop=("\ufffd",))))[-1]
    assert (last.text, last.finish) == ("", "stop")  # half a character is one only at the end
    texts = [delta.text for delta in deltas]
    assert texts == [*"abcdefg", "", "h"]  # what may begin a stop string is held back until it is known


@given(st.text(alphabet="abé→", max_size=12), st.lists(st.text(alphabet="abé→", min_size=1, max_size=3), max_size=3))
def test_a_text_stream_is_the_text_up_to_the_first_stop_string(text: str, stops: list[str]) -> None:
    stream = TextStream(TOKENIZER, stops)
    pieces = []
    for token in text.encode():
        pieces.append(stream.push(token))
        if stream.stopped:
            break
    pieces.append(stream.flush())
    read = next((text[:n] for n in range(len(text) + 1) if any(text[:n].endswith(stop) for stop in stops)), None)
    found = [at for stop in stops if read is not None and (at := read.find(stop)) >= 0]
    assert "".join(pieces) == (text if read is None else text[: min(found)])


def test_deltas_say_what_the_completion_says() -> None:
    engine = Engine(random_model(sequence_len=120), TOKENIZER)
    for seed in range(4):
        deltas: list[Delta] = []
        sampling = Sampling(40, 1.0, seed=seed, top_log_probs=3)
        (request,) = engine.scheduler.submit([BOS, 65], sampling, 1, deltas.append)
        while engine.scheduler.step():
            pass
        completion = request.completions[0]
        assert [delta.token for delta in deltas] == completion.tokens
        assert "".join(delta.text for delta in deltas) == completion.text
        assert [delta.finish for delta in deltas][:-1] == [None] * (len(deltas) - 1)
        for delta in deltas:
            if not delta.forced:
                assert len(delta.top) == 3
                assert delta.log_prob <= delta.top[0][1] + 1e-6


def test_tool_calls_of_moved_rows_are_answered() -> None:
    """Short answers end first, so that the rows with calls are moved while these are open."""
    follows = chain(START, CALL, *b"1+2", CALLED) | chain(RESULTED, *b"xy", END) | {ord("a"): END}
    engine = Engine(table_model(follows), TOKENIZER, max_rows=32)
    completions = engine.generate([[BOS, ord("a")]] * 20 + [[BOS, START]] * 3, 20)
    assert all(completion.tokens == [END] for completion in completions[:20])
    for completion in completions[20:]:
        assert completion.tokens == [CALL, *b"1+2", CALLED, RESULT, ord("3"), RESULTED, *b"xy", END]


def test_settings_name_what_is_wrong_with_them() -> None:
    for name, value in {
        "top_p": 0,
        "min_p": 1.5,
        "repetition_penalty": 0,
        "stop": "x",
        "seed": -1,
        "top_log_probs": 21,
        "temperature": float("nan"),
        "max_new_tokens": True,
    }.items():
        with pytest.raises(ValueError, match=f"{name}="):
            dataclasses.replace(Sampling(), **{name: value})
    with pytest.raises(ValueError, match="stop="):
        Sampling(stop=("",))
