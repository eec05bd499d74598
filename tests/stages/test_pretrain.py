"""The hyperparameters of both families are those of docs/hyperparameters.md, every number of it."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from nanochat.artifacts import metrics
from nanochat.data.rows import Rows
from nanochat.data.tokenizer import Tokenizer
from nanochat.evaluation.bits_per_byte import bits_per_byte
from nanochat.evaluation.core_bundle import load as load_core
from nanochat.evaluation.core_metric import ask_task
from nanochat.evaluation.scores import mean_centered
from nanochat.inference.load import load
from nanochat.model.gpt import GPT, GPTConfig
from nanochat.model.weights import load_model
from nanochat.pipeline import Pretrain
from nanochat.scaling import RATES, derive
from nanochat.stages.pretrain import INITIAL, schedule, settings
from nanochat.training.distributed import World
from nanochat.training.optim import AdamWBucket, OptimSettings, build_optimizer
from tests import published_core
from tests.paths import ROOT
from tests.training import small_pretrain
from tests.training.small_pretrain import pretrained as small_pretrained

TABLE = (ROOT / "docs" / "hyperparameters.md").read_text(encoding="utf-8")
NOT_A_NUMBER_OF_OURS = {"moments", "form of the matrices", "clipping of gradients"}


def rows() -> Iterator[tuple[str, str, str]]:
    """Name, classic, modern of every row of the page's tables."""
    for line in TABLE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and cells[0]:
            yield cells[0], cells[1], cells[3]


def said(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(said, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def of_family(architecture: str) -> dict[str, object]:
    """The table's names with what the code does, the optimizer's as it is built for a model of width 768."""
    stage = Pretrain(depth=12, architecture=architecture)
    derived = derive(stage, 2048, 256)
    given: OptimSettings = settings(stage, derived)
    model = GPT(GPTConfig.modern(4, 265, 64, width=768))
    model.init_weights(0)
    built = {}
    for bucket in build_optimizer(model, given, World()).buckets:
        built |= dict.fromkeys(bucket.names, bucket)
    initial, rates, muon = INITIAL[architecture], RATES[architecture], schedule(stage, derived).muon

    def trainer(name: str) -> str:
        return "AdamW" if isinstance(built[name], AdamWBucket) else "Muon"

    same = ("beta1", "beta2", "embedding_beta2", "unembedding_beta2", "embedding_decay", "value_embedding_decay")
    same += ("unembedding_decay", "residual_decay", "eps", "polar_express", "normuon_beta2")
    return {name: getattr(given, name) for name in same} | {
        "matrix_lr": rates.matrix_lr,
        "embedding_lr": built["wte.weight"].lr,
        "value embeddings' rate": built["value_embeddings.3.weight"].lr,
        "unembedding_lr": built["lm_head.weight"].lr,
        "scalar_lr (x0_lambdas)": built["x0_lambdas"].lr,
        "residual_lambdas' rate": built["residual_lambdas"].lr,
        "rate of smear and backout": built["smear_lambda"].lr,
        "gate_lr": built["smear_gate.weight"].lr,
        "warmup_steps": rates.warmup_steps,
        "warmdown_ratio": rates.warmdown_ratio,
        "final_lr_frac": rates.final_lr_frac,
        "betas of x0_lambdas": built["x0_lambdas"].betas,
        "momentum at the start": muon.start,
        "momentum at its peak": muon.peak,
        "momentum at the end": muon.end,
        "steps to the peak": muon.steps,
        "equal_rows (MuonEq)": given.equal_rows,
        "equal_norm (Muon+)": given.equal_norm,
        "cautious decay": given.cautious,
        "weight_decay": "by depth" if derive(Pretrain(depth=20, architecture=architecture), 2048).weight_decay else 0,
        "value gates": trainer("blocks.3.attn.value_gate.weight"),
        "smear gate": trainer("smear_gate.weight"),
        "embedding_std": initial.embedding_std,
        "head_std": initial.head_std,
        "up_proj, times the other matrices'": initial.up_proj,
        "gate_max": initial.gate_max,
    }


def test_looks_at_core_are_logged_and_change_nothing_else(tmp_path: Path) -> None:
    core, byte_tokens = (
        published_core.artifact(tmp_path / "core"),
        Tokenizer(tuple(bytes([byte]) for byte in range(256))),
    )
    byte_tokens.save(small_pretrain.place(tmp_path, "without")["tokenizer"] / "tokenizer.json")
    without = small_pretrained(tmp_path, "without", num_steps=6, eval_every=4)
    looking = small_pretrained(tmp_path, "looking", num_steps=6, eval_every=4, core_every=2, core_source=str(core))
    lines = list(metrics.read(tmp_path / "looking" / "metrics.jsonl"))
    assert [line["step"] for line in lines if "core" in line] == [2, 4, 6]
    assert [line["step"] for line in lines if "val_bpb" in line] == [0, 4, 6]
    weights = [(tmp_path / name / "out" / "model.safetensors").read_bytes() for name in ("without", "looking")]
    assert weights[0] == weights[1]
    model, tokenizer = load(tmp_path / "looking" / "out", "cpu")
    scores = [ask_task(model, tokenizer, *each, 100, 1000)[0] for each in load_core(core, 100)]
    assert looking["core"] == mean_centered(scores)
    assert "core" not in without


def test_the_looks_take_the_rows_that_their_knobs_say(tmp_path: Path) -> None:
    """The model at the end is that of the artifact, which bits per byte of the first rows are measured of here."""
    numbers = {
        (looks, final): small_pretrained(
            tmp_path, f"{looks}-{final}", num_steps=4, eval_rows=looks, final_eval_rows=final
        )
        for looks, final in ((1, 3), (2, 3), (2, 24), (2, 512))
    }
    where = small_pretrain.place(tmp_path, "1-3")
    model, _ = load_model(where.out, torch.device("cpu"))
    rows, token_bytes = Rows(where["tokenize"], where.parts("tokenize")[:1]), np.ones(model.config.vocab_size, np.int32)
    for (_, final), said in numbers.items():
        assert said["val_bpb"] == pytest.approx(bits_per_byte(model, rows, token_bytes, 4, final), rel=1e-3)
    assert numbers[2, 24]["val_bpb"] == numbers[2, 512]["val_bpb"] != numbers[2, 3]["val_bpb"]
    first = {
        name: next(line["val_bpb"] for line in metrics.read(tmp_path / name / "metrics.jsonl") if "val_bpb" in line)
        for name in ("1-3", "2-3", "2-24")
    }
    assert first["1-3"] != first["2-3"] == first["2-24"]


@pytest.mark.parametrize("architecture", ["classic", "modern"])
def test_the_page_of_hyperparameters_says_what_the_code_does(architecture: str) -> None:
    column = 1 if architecture == "classic" else 2
    page = {row[0]: row[column] for row in rows() if row[0] not in NOT_A_NUMBER_OF_OURS}
    assert len(page) > 30
    assert page == {name: said(value) for name, value in of_family(architecture).items()}


@pytest.mark.parametrize("architecture", ["classic", "modern"])
def test_the_form_and_the_knobs_say_the_same_defaults(architecture: str) -> None:
    """`nanochat knobs pretrain` tells what -1 stands for, classic first."""
    position = 0 if architecture == "classic" else -1
    for name, knob in Pretrain.knobs().items():
        if told := re.search(r"-1: ([0-9.]+)(?: / ([0-9.]+))?", knob.help):
            family = [number for number in told.groups() if number]
            if name != "weight_decay":
                assert float(family[position]) == getattr(RATES[architecture], name), name
