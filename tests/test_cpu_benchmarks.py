"""The benchmarks of decoding, CORE and chat problems run through, beside a peer that is given our weights."""

import sys

import numpy as np
import pytest
import torch

from benchmarks import chat_eval, core_eval, engine, poisson_load, small_model
from benchmarks.poisson_load import Load, Waited
from benchmarks.small_model import filled, random_weights
from nanochat.inference.engine import Engine
from nanochat.model.config import GPTConfig

GPT = """
from dataclasses import dataclass
import torch
from torch import nn


@dataclass
class GPTConfig:
    vocab_size: int = 50304
    n_embd: int = 768
    n_layer: int = 12


class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.transformer = nn.ModuleDict({"wte": nn.Embedding(config.vocab_size + 64, config.n_embd)})
        self.other = nn.Parameter(torch.zeros(1))
        self.resid_lambdas = nn.Parameter(torch.zeros(config.n_layer))

    def init_weights(self):
        nn.init.zeros_(self.transformer.wte.weight)
"""
ENGINE = """
class Engine:
    def __init__(self, model, tokenizer):
        self.model, self.tokenizer = model, tokenizer

    def generate(self, tokens, num_samples=1, max_tokens=None, temperature=1.0, top_k=None, seed=42):
        assert self.tokenizer.get_bos_token_id() == self.tokenizer.encode_special("<|assistant_end|>") == -1
        for step in range(max_tokens):
            yield [step] * num_samples, [1] * num_samples
"""
CORE_EVAL = """
def evaluate_example(idx, model, tokenizer, data, device, task_meta):
    (row,) = tokenizer(["a text"], prepend=tokenizer.get_bos_token_id())
    assert row[0] == tokenizer.bos and len(row) == 7, row
    return bool(model.transformer["wte"].weight.any() and model.resid_lambdas.all()), {"idx": idx, "shots": task_meta["num_fewshot"]}
"""
SHAPE = [
    "--depth",
    "2",
    "--width",
    "32",
    "--head-dim",
    "16",
    "--vocab",
    "300",
    "--threads",
    "1",
    "--dtype",
    "float32",
    "--rounds",
    "1",
]


@pytest.fixture(name="peer")
def a_peer(tmp_path):
    package = tmp_path / "peer" / "nanochat"
    package.mkdir(parents=True)
    for name, text in {"__init__": "", "gpt": GPT, "engine": ENGINE, "core_eval": CORE_EVAL}.items():
        (package / f"{name}.py").write_text(text, encoding="utf-8")
    return tmp_path / "peer"


@pytest.fixture(name="said")
def what_a_benchmark_says(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(small_model, "TEXTS", tmp_path / "none")
    threads = torch.get_num_threads()

    def run(module, *arguments) -> list[list[str]]:
        monkeypatch.setattr(sys, "argv", [module.__name__, *SHAPE, *map(str, arguments)])
        module.main()
        return [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]

    yield run
    torch.set_num_threads(threads)


def test_the_benchmark_of_core_says_the_same_as_its_twin_and_asks_the_peer_with_our_weights(said, peer, tmp_path):
    titles, *rows = said(core_eval, "--examples", 4, "--peer", peer, "--bundle", tmp_path / "none")
    assert titles[:5] == ["kind", "shots", "ours, examples/s", "plain, examples/s", "peer, examples/s"]
    assert [row[:2] for row in rows] == [[kind, str(shots)] for kind in core_eval.FILES for shots in core_eval.SHOTS]
    for row in rows:
        ours, plain, theirs, by_plain, by_peer = (float(cell.replace(",", "")) for cell in row[2:7])
        assert by_plain == pytest.approx(ours / plain, rel=0.05, abs=0.01)
        assert by_peer == pytest.approx(ours / theirs, rel=0.05, abs=0.01)
        assert row[7] == "yes"
    right = sum(int(row[8].split()[0]) if row[8] != "yes" else 4 for row in rows)
    model = random_weights(GPTConfig.modern(2, 300, 2048, width=32, head_dim=16))
    asked = core_eval.asked(tmp_path / "none", 4)
    assert right == sum(sum(one.ours(model, filled(300))) for one in asked)  # the peer says yes where it has our table


def test_the_benchmark_of_decoding_has_every_row(said, peer):
    asked = [
        "--eager",
        "--batches",
        "1",
        "4",
        "--tokens",
        "3",
        "--requests",
        "4",
        "--loads",
        "2",
        "--sequence-len",
        "128",
        "--peer",
    ]
    titles, *rows = said(engine, *asked, peer)
    assert titles == ["measured", "ours", "one by one", "peer", "limit", *(f"ours / {name}" for name in titles[2:5])]
    named = {row[0]: row[1:] for row in rows}
    assert {"1 prompt, tokens/s", "4 prompts, tokens/s", "8 answers to one prompt, tokens/s"} < named.keys()
    assert len(named) == 2 + 3 + 3
    assert all(float(row[0].replace(",", "")) >= 0 for row in named.values())


def test_the_benchmark_of_chat_problems_says_the_same_in_a_queue_as_one_at_a_time(said, peer, capsys):
    _, *rows = said(chat_eval, "--eager", "--problems", 3, "--tokens", 4, "--peer", peer)
    assert [row[0] for row in rows] == ["one queue", "one at a time", "peer"]
    assert rows[0][3] == "1.00"


def test_all_are_served_the_same_requests_and_get_all_their_tokens():
    load, again = (Load.drawn(12, 200.0, 300, 128) for _ in range(2))
    assert load == again
    assert all(len(prompt) + length < 128 for prompt, length in zip(load.prompts, load.lengths, strict=True))
    model = random_weights(GPTConfig.modern(2, 300, 128, width=32, head_dim=16))
    served = Engine(model, filled(300), calculator=False)
    served.scheduler.terminals = (-1, -1)
    before = served.scheduler.counts.generated
    waited = poisson_load.together(served.scheduler, load)
    assert served.scheduler.counts.generated - before == sum(load.lengths)
    alone = poisson_load.one_by_one(served.stream_tokens, load)
    for each in (waited, alone):
        assert all(a < b <= c for a, b, c in zip(load.arrivals, each.first, each.last, strict=True))
    assert sorted(alone.last) == alone.last


def test_waits_are_counted_from_the_arrival():
    load = Load([1.0, 2.0], [[1], [2]], [30, 10])
    summary = Waited([1.5, 4.0], [3.0, 6.0]).summary(load)
    assert summary == pytest.approx({"tokens/s": 8, "first token, median s": 1.25, "first token, p95 s": 1.925})


def test_a_step_reads_all_weights_but_the_tables():
    model = random_weights(GPTConfig.modern(2, 300, 128, width=32, head_dim=16))
    tables = 300 * 32 * (1 + len(model.value_embeddings))
    assert engine.weight_bytes(model) == 4 * (model.num_parameters() - tables)
    assert np.isfinite(engine.read_bytes_per_second(1 << 16))
