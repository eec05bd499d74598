"""Midtraining and SFT learn from the right tokens, in an order that no number of ranks or device batch changes."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from nanochat.artifacts.metrics import Metrics, read
from nanochat.data.chat_template import render
from nanochat.data.conversation_packing import ASSISTANT, CONTEXT, PADDING, ConversationRows, pack
from nanochat.data.tokenizer import Tokenizer
from nanochat.model.config import GPTConfig
from nanochat.model.gpt import GPT
from nanochat.model.weights import load_model, save_model
from nanochat.pipeline import MODEL_FILES, Midtrain, Sft
from nanochat.stages import chat_training
from nanochat.stages.chat_training import ChatBatches, inputs_and_targets
from nanochat.stages.midtrain import run as midtrain
from nanochat.stages.sft import run as sft
from nanochat.tasks.mixture import Mixture
from nanochat.training.distributed import World
from nanochat.training.optim import OptimSettings
from nanochat.workflow.stage import StageContext

TOKENIZER = Tokenizer(tuple(bytes([byte]) for byte in range(256)))
CONFIG = GPTConfig(sequence_len=128, vocab_size=265, n_layer=1, n_head=2, n_kv_head=2, n_embd=16)
KNOBS = {
    "total_batch_size": 512,
    "device_batch_size": 4,
    "device": "cpu",
    "dtype": "float32",
    "compile": False,
    "log_every": 1,
}


def saved(folder, mixture, split="train", seed=3):
    """A part of packed rows, as the stage before makes it."""
    folder.mkdir(parents=True)
    some = Mixture(mixture, split, None, seed)
    pack((render(TOKENIZER, one["messages"]) for one in some), 128, 265, TOKENIZER.bos).save(folder)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    parts = [saved(folder / name, {"identity": 40, name: 40}) for name in ("arithmetic", "spelling")]
    return ConversationRows(parts, 128)


@pytest.fixture
def place(tmp_path):
    """A base model that knows nothing, as pretraining leaves it, and rows to train on."""
    base, out = tmp_path / "base", tmp_path / "out"
    out.mkdir()
    model = GPT(CONFIG)
    model.init_weights(0)
    save_model(
        model, base, optimizer=dataclasses.asdict(OptimSettings()), architecture="classic", total_batch_size=1024
    )
    TOKENIZER.save(base / "tokenizer.json")
    np.save(base / "token_bytes.npy", TOKENIZER.token_bytes())
    parts = (
        saved(tmp_path / "held_out", {"identity": 20, "arithmetic": 10}, "test"),
        saved(tmp_path / "part", {"identity": 40, "arithmetic": 20}),
    )
    inputs = {"pretrain": base, "midtrain": base}
    metrics = Metrics(tmp_path / "work" / "metrics.jsonl")
    data = {"midtrain_data": parts, "sft_data": parts}
    return StageContext(inputs, data, out, tmp_path / "work", metrics)


def source(rows, min_label=ASSISTANT, rows_per_step=6, device_batch_size=2, rank=0, size=1):
    return ChatBatches(rows, min_label, rows_per_step, device_batch_size, World(rank, size), seed=1)


def multiset(batches):
    """All rows of some batches that count for something, in no order."""
    found = (zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True) for batch in batches)
    return sorted(row for batch in found for row in batch if max(row[1]) >= 0)


@pytest.mark.parametrize(("size", "device_batch_size"), [(1, 1), (1, 4), (1, 100), (2, 2), (3, 1), (6, 5)])
def test_a_step_has_the_same_rows_on_any_ranks_and_device_batch(rows, size, device_batch_size):
    for step in (0, 1, 40):  # 40 lies some epochs later
        expected = source(rows).batch(step)
        parts = [
            batch
            for rank in range(size)
            for batch in source(rows, device_batch_size=device_batch_size, rank=rank, size=size).batch(step)
        ]
        assert multiset(parts) == multiset(expected)
        assert {batch.normalizer for batch in parts} == {expected[0].normalizer}
        assert expected[0].normalizer == sum(int((batch.targets >= 0).sum()) for batch in expected) > 0
        assert len({batch.inputs.shape for batch in parts}) == 1


def test_an_epoch_has_every_row_once(rows):
    steps = len(rows) // 2
    whole = [batch for step in range(steps) for batch in source(rows, rows_per_step=2).batch(step)]
    inputs, targets = inputs_and_targets(rows, np.arange(len(rows)), ASSISTANT)
    everything = sorted(zip(inputs.tolist(), targets.tolist(), strict=True))
    assert len(everything) - len(multiset(whole)) == len(rows) % 2
    assert all(row in everything for row in multiset(whole))


@pytest.mark.parametrize(("min_label", "learned"), [(CONTEXT, {CONTEXT, ASSISTANT}), (ASSISTANT, {ASSISTANT})])
def test_midtraining_learns_every_token_and_sft_what_the_assistant_says(rows, min_label, learned):
    indices = np.array([0, 5, 2])
    inputs, targets = inputs_and_targets(rows, indices, min_label)
    assert inputs.shape == targets.shape == (3, 128)
    for row, tokens, expected in zip(indices, inputs.tolist(), targets.tolist(), strict=True):
        assert tokens == rows.tokens[row][:-1].tolist()
        for at, target in enumerate(expected):
            label = int(rows.labels[row][at + 1])
            assert target == (int(rows.tokens[row][at + 1]) if label in learned else -1)
            assert label != PADDING or target == -1


def test_what_the_assistant_says_is_all_that_sft_learns(tmp_path):
    """The whole way from messages to targets: the text of the targets is the text of the answers and their ends."""
    messages = [
        {"role": "user", "content": "six times seven"},
        {"role": "assistant", "content": [{"type": "python", "text": "6*7"}, {"type": "python_output", "text": "42"}]},
        {"role": "user", "content": "thanks"},
        {"role": "assistant", "content": "You are welcome!"},
    ]
    pack([render(TOKENIZER, messages)], 128, 265, TOKENIZER.bos).save(tmp_path)
    rows = ConversationRows([tmp_path], 128)
    _, targets = inputs_and_targets(rows, np.array([0]), ASSISTANT)
    learned = TOKENIZER.decode([token for token in targets[0].tolist() if token >= 0])
    assert learned == "<|python_start|>6*7<|python_end|><|assistant_end|>You are welcome!<|assistant_end|>"


@pytest.mark.parametrize(("work", "stage"), [(midtrain, Midtrain), (sft, Sft)])
def test_a_stage_learns_and_leaves_a_whole_artifact(place, work, stage):
    numbers = work(stage(**KNOBS, num_steps=12, eval_every=6), place)
    assert {path.name for path in place.out.iterdir()} == set(MODEL_FILES)
    logged = list(read(place.metrics.path))
    validation = [row["validation_loss"] for row in logged if "validation_loss" in row]
    assert len(validation) == 3
    assert validation[0] == pytest.approx(np.log(265), rel=0.05)
    assert numbers["validation_loss"] == validation[-1] < 0.8 * validation[0]
    assert numbers["conversations"] == 60
    assert numbers["dropped"] == numbers["truncated"] == 0
    assert 0.2 < numbers["supervised_share"] < 0.8
    assert 0 < numbers["padding_share"] < 0.3
    assert numbers["epochs"] == pytest.approx(12 * 4 / numbers["rows"])
    model, facts = load_model(place.out)
    assert facts["stage"] == stage.name
    assert facts["total_batch_size"] == 512
    assert facts["optimizer"] == dataclasses.asdict(OptimSettings())
    assert not torch.equal(model.wte.weight, load_model(place["pretrain"])[0].wte.weight)
    assert (place.out / "tokenizer.json").read_text(encoding="utf-8") == (
        place["pretrain"] / "tokenizer.json"
    ).read_text(encoding="utf-8")


def test_an_epoch_of_a_few_steps_is_refused_with_the_remedy(place):
    with pytest.raises(
        ValueError, match=r"sft: one epoch .* is \d steps of 8 rows.*lower sft.total_batch_size.*num_steps"
    ):
        sft(Sft(**KNOBS | {"total_batch_size": 0}), place)


def test_batch_and_length_follow_from_the_stage_before_and_from_the_mixture(place, monkeypatch):
    monkeypatch.setattr(chat_training, "FEWEST_STEPS", 1)
    numbers = sft(Sft(**KNOBS | {"total_batch_size": 0}), place)
    facts = json.loads((place.out / "model.json").read_text(encoding="utf-8"))
    assert facts["total_batch_size"] == 1024
    assert facts["step"] == -(-numbers["rows"] // 8)  # one epoch of 1024 / 128 rows a step
    assert numbers["epochs"] >= 1


def test_the_same_run_twice_gives_the_same_weights(place):
    sft(Sft(**KNOBS, num_steps=4), place)
    first = (place.out / "model.safetensors").read_bytes()
    for checkpoint in (place.work / "checkpoints").glob("step-*/*"):
        checkpoint.unlink()
    sft(Sft(**KNOBS, num_steps=4), place)
    assert (place.out / "model.safetensors").read_bytes() == first
