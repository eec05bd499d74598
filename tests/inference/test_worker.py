"""Many threads ask one engine: everyone gets the answer that is theirs, the queue is bounded, nothing is left behind."""

import threading
from collections import defaultdict

import pytest
import torch

from nanochat.inference.engine import Engine
from nanochat.inference.requests import Delta
from nanochat.inference.sampling import Sampling
from nanochat.inference.worker import QueueFull, Worker
from tests.inference.test_engine import BOS, START, TOKENIZER, chain, random_model, table_model

FOREVER = chain(START, ord("a"), ord("b"), ord("a"))


class Listener:
    """Collects what is delivered, and says when it is over."""

    def __init__(self, samples: int = 1) -> None:
        self.deltas: dict[int, list[Delta]] = defaultdict(list)
        self.open, self.over, self.begun = samples, threading.Event(), threading.Event()

    def __call__(self, delta: Delta) -> None:
        self.deltas[delta.sample].append(delta)
        self.begun.set()
        self.open -= delta.finish is not None
        if not self.open:
            self.over.set()

    def tokens(self, sample: int = 0) -> list[int]:
        return [delta.token for delta in self.deltas[sample]]


@pytest.fixture(name="worker")
def a_worker():
    worker = Worker(Engine(random_model(), TOKENIZER, False, max_rows=4), max_waiting=50)
    yield worker
    worker.close()


def long_worker(max_rows: int = 4, max_waiting: int = 50) -> Worker:
    model = table_model(FOREVER, sequence_len=20_000)
    return Worker(Engine(model, TOKENIZER, False, max_rows=max_rows), max_waiting)


def test_threads_that_ask_at_once_get_their_own_answers(worker):
    prompts = [[BOS, number] for number in range(24)]
    expected = [completion.tokens for completion in Engine(random_model(), TOKENIZER, False).generate(prompts, 12)]
    listeners = [Listener() for _ in prompts]

    def ask(number):
        worker.submit(prompts[number], Sampling(12), 1, listeners[number])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(listener.over.wait(60) for listener in listeners)
    assert [listener.tokens() for listener in listeners] == expected
    assert worker.statistics()["generated"] == sum(map(len, expected))


def test_several_samples_are_told_apart(worker):
    listener = Listener(3)
    worker.submit([BOS, 65], Sampling(8, 1.0, seed=4), 3, listener)
    assert listener.over.wait(60)
    expected = Engine(random_model(), TOKENIZER, False).generate([[BOS, 65]], 8, 1.0, seed=[4], num_samples=3)
    assert [listener.tokens(sample) for sample in range(3)] == [completion.tokens for completion in expected]


def test_a_cancelled_answer_frees_its_row_for_who_waits():
    worker = long_worker()
    running = [Listener() for _ in range(4)]
    handles = [worker.submit([BOS, START], Sampling(19_000), 1, listener) for listener in running]
    assert all(listener.begun.wait(60) for listener in running)
    waiting = Listener()
    worker.submit([BOS, START], Sampling(3), 1, waiting)
    assert not waiting.begun.wait(0.2)
    handles[1].cancel()
    assert waiting.over.wait(60)
    assert running[1].over.wait(60)
    assert running[1].deltas[0][-1].finish == "cancelled"
    assert not running[0].over.is_set()
    worker.close()
    assert all(listener.deltas[0][-1].finish == "cancelled" for listener in running)


def test_a_full_queue_says_when_to_come_back():
    worker = long_worker(max_waiting=2)
    for listener in (Listener() for _ in range(4)):
        worker.submit([BOS, START], Sampling(19_000), 1, listener)
        assert listener.begun.wait(60)
    for _ in range(2):
        worker.submit([BOS, START], Sampling(3), 1, Listener())
    with pytest.raises(QueueFull) as caught:
        worker.submit([BOS, START], Sampling(3), 1, Listener())
    assert caught.value.retry_after >= 1
    worker.close()


def test_what_cannot_be_answered_is_refused_before_it_is_queued(worker):
    with pytest.raises(ValueError, match="a prompt of 0 tokens"):
        worker.submit([], Sampling(3), 1, Listener())
    with pytest.raises(ValueError, match="num_samples=0"):
        worker.submit([BOS], Sampling(3), 0, Listener())


def test_an_error_in_a_step_ends_the_answers_under_way_and_nothing_else(worker):
    def fail(*_):
        raise RuntimeError("out of memory")

    hook = worker.engine.model.register_forward_pre_hook(fail)
    broken = Listener()
    worker.submit([BOS, 1], Sampling(5), 1, broken)
    assert broken.over.wait(60)
    assert broken.deltas[0][-1].finish == "error"
    hook.remove()
    again = Listener()
    worker.submit([BOS, 1], Sampling(5), 1, again)
    assert again.over.wait(60)
    assert again.tokens() == Engine(random_model(), TOKENIZER, False).generate([[BOS, 1]], 5)[0].tokens


def test_closing_lets_end_what_is_under_way_as_long_as_it_may(worker):
    listener = Listener()
    worker.submit([BOS, 1], Sampling(30), 1, listener)
    worker.close(drain=60)
    assert listener.deltas[0][-1].finish in ("stop", "length")
    assert not worker.alive
    with pytest.raises(RuntimeError, match="shutting down"):
        worker.submit([BOS, 1], Sampling(5), 1, Listener())


def test_an_idle_worker_uses_no_processor(worker):
    listener = Listener()
    worker.submit([BOS, 1], Sampling(3), 1, listener)
    assert listener.over.wait(60)
    steps = worker.statistics()["steps"]
    torch.zeros(1)
    assert not threading.Event().wait(0.3)
    assert worker.statistics()["steps"] == steps
