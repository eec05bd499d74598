"""The kit for GPUs runs through where there is none: its checks see what is wrong, its report is whole, and what crashes,
hangs or lacks time costs only itself. On a GPU (`-m gpu`) its checks are tests of the kernels, the engine, the optimizer.
"""

import argparse
import json
import subprocess
import sys

import pytest
import torch

from benchmarks.gpu import __main__ as kit
from benchmarks.gpu import checks, table
from benchmarks.gpu.measure import run_of
from benchmarks.gpu.processes import run
from nanochat.model import attention
from nanochat.model.gpus import peak_flops
from tests.paths import ROOT

CPU = checks.Place(torch.device("cpu"), tiny=True)
PEER = """
from dataclasses import dataclass
import torch
from torch import nn


@dataclass
class GPTConfig:
    sequence_len: int = 1024
    vocab_size: int = 50304
    n_embd: int = 768


class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embed, self.head = nn.Embedding(config.vocab_size, config.n_embd), nn.Linear(config.n_embd, config.vocab_size)

    def init_weights(self):
        nn.init.zeros_(self.head.weight)

    def forward(self, idx, targets=None):
        return nn.functional.cross_entropy(self.head(self.embed(idx)).flatten(0, 1), targets.flatten())

    def setup_optimizer(self, matrix_lr=0.02):
        return torch.optim.SGD(self.parameters(), lr=0.01)
"""


@pytest.fixture(name="peer")
def a_peer(tmp_path):
    package = tmp_path / "peer" / "nanochat"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "gpt.py").write_text(PEER, encoding="utf-8")
    return tmp_path / "peer"


def test_the_whole_kit_runs_on_a_cpu_and_every_check_passes(tmp_path, peer):
    out = tmp_path / "gpu.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu",
        "--device",
        "cpu",
        "--tiny",
        "--peer",
        str(peer),
        "--out",
        str(out),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(out.read_text(encoding="utf-8"))
    assert set(report) == {"machine", "torch", "checks", "depths", "skipped", "rates"}
    assert report["torch"] == torch.__version__
    assert report["machine"]["matmul_flops"] > 0
    on_cpu = [name for name, check in checks.CHECKS.items() if not check.cuda_only]
    assert [check["name"] for check in report["checks"]] == on_cpu
    assert all(check["verdict"] == "passed" and check["figure"] <= check["tolerance"] for check in report["checks"])
    modern, classic = report["depths"]
    assert (modern["architecture"], classic["architecture"]) == ("modern", "classic")
    assert all(not row["errors"] and row["tok_per_s"] > 0 for row in (modern, classic))
    assert {"copy", "forward", "backward", "optimizer", "other"} == set(modern["parts"])
    assert sum(modern["parts"].values()) == pytest.approx(modern["step_seconds"])
    assert min(modern[name] for name in ("decode_1", "decode_16", "save_seconds", "save_bytes")) > 0
    assert modern["peer"]["ours_over_theirs"] == pytest.approx(modern["tok_per_s"] / modern["peer"]["tok_per_s"])
    assert report["skipped"] == []
    (rates,) = report["rates"].values()
    assert rates["decode_tok_per_s"] == {"d2": {"1": modern["decode_1"], "16": modern["decode_16"]}}
    assert "d2 modern" in done.stdout


def test_a_kernel_that_forgets_the_window_fails_its_check(monkeypatch):
    monkeypatch.setattr(attention, "attention", lambda q, k, v, window=None: attention.fused(q, k, v))
    for name in ("attention, fp32", "attention, bf16"):
        found = checks.CHECKS[name].run(CPU)
        assert found["verdict"] == "failed", found
        assert found["figure"] > 0.1


def test_a_figure_that_is_no_number_fails():
    assert checks.worst([0.0, float("nan"), 0.1]) == float("inf")
    assert checks.worst([]) == float("inf")
    assert checks.Check("nothing", 1.0, lambda place: float("nan")).run(CPU)["verdict"] == "failed"


def started(tmp_path, **changes):
    options = {
        "budget": 420.0,
        "device": "cpu",
        "tiny": True,
        "depths": [2],
        "peer": None,
        "out": tmp_path / "gpu.json",
    }
    begun = kit.Kit(argparse.Namespace(**options | changes), str(tmp_path))
    begun.report["machine"] = {"device": "cpu", "name": "this"}
    return begun


def test_a_check_that_ends_its_process_is_failed_and_the_others_go_on(tmp_path, monkeypatch):
    known = "weights saved and loaded"
    broken = checks.Check("one that the child does not know", 1.0, checks.saved_error)
    monkeypatch.setattr(checks, "CHECKS", {broken.name: broken, known: checks.CHECKS[known]})
    here = started(tmp_path)
    kit.checks(here)
    assert [check["verdict"] for check in here.report["checks"]] == ["failed", "passed"]
    assert "KeyError" in here.report["checks"][0]["error"]
    assert "1 passed, 1 failed" in table.text(here.report)
    assert json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["checks"] == here.report["checks"]


def test_what_no_longer_fits_into_the_budget_is_skipped_and_named(tmp_path):
    here = started(tmp_path, budget=5.0)
    kit.checks(here)
    kit.measure(here, "train", 2, "modern")
    assert len(here.report["skipped"]) == len(checks.CHECKS) - 1 + 1  # without the one for GPUs, and the measurement
    assert here.report["skipped"][-1]["item"] == "train d2 modern"
    assert here.report["depths"] == []


def test_a_job_is_cut_at_its_limit_and_what_it_said_is_kept():
    cut = run({"kind": "machine", "device": "cpu", "tiny": True}, limit=0.5)
    assert (cut.said, cut.error) == ([], "cut after 0 s")
    job = {"kind": "decode", "device": "nowhere", "tiny": True, "depth": 2, "architecture": "modern"}
    assert "device='nowhere'" in run(job, limit=60).merged()["error"]


def test_without_the_device_asked_for_nothing_else_is_tried(tmp_path, monkeypatch, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path / "gpu.json")])
    assert kit.main() == 1
    assert "take device='cpu'" in capsys.readouterr().out
    assert json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["depths"] == []


def test_a_peer_that_does_not_work_costs_only_its_line(tmp_path, peer, monkeypatch):
    (tmp_path / "empty").mkdir()
    here = started(tmp_path, peer=tmp_path / "empty")
    kit.row_of(here, 2, "modern").update(tok_per_s=1.0, flops_per_token=1, rows=2)
    kit.measure(here, "peer", 2, "modern")
    monkeypatch.setenv("PYTHONPATH", str(peer))  # a nanochat.gpt that is found elsewhere is not the peer asked for
    monkeypatch.setattr("benchmarks.gpu.processes.ROOT", peer.parent)
    (peer / "benchmarks").symlink_to(ROOT / "benchmarks")
    kit.measure(here, "peer", 2, "modern")
    first, second = here.report["depths"][0]["errors"]
    assert "peer failed" in first
    assert "nanochat.gpt" in first
    assert "give the root of a checkout" in second


def test_a_run_has_the_rows_and_passes_of_its_recipe():
    found = {depth: run_of(depth, "modern", 0, tiny=False) for depth in (4, 12, 20, 26)}
    assert {depth: (each.rows, each.passes) for depth, each in found.items()} == {
        4: (64, 2),
        12: (43, 6),
        20: (22, 24),
        26: (13, 5),
    }
    assert run_of(20, "modern", 11, tiny=False).passes == 47  # half the rows, the same step


def test_utilization_is_told_of_the_peak_and_of_what_the_card_reaches():
    row = {"depth": 12, "architecture": "modern", "tok_per_s": 500.0, "flops_per_token": 2e9, "errors": []}
    machine = {"name": "NVIDIA H100 80GB HBM3", "peak_flops": 4e12, "matmul_flops": 2e12}
    table.finish(row, machine)
    assert (row["mfu"], row["of_matmul"]) == (0.25, 0.5)
    report = {"machine": machine, "torch": "2.11.0", "checks": [], "depths": [row], "skipped": []}
    assert table.rates(report) == {machine["name"]: {"mfu": {"d12": 0.25}, "decode_tok_per_s": {}}}
    assert "25.0%" in table.text(report)


def test_cards_of_one_name_and_another_form_have_another_peak():
    names = ("NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe", "NVIDIA H100 NVL", "NVIDIA H200", "Tesla T4")
    assert [peak_flops(name) for name in names] == [989e12, 756e12, 835e12, 989e12, None]


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")  # the compiler's advice depends on the card
@pytest.mark.parametrize("name", list(checks.CHECKS))
def test_on_cuda_every_check_passes(name):
    found = checks.CHECKS[name].run(checks.Place(torch.device("cuda", 0)))
    assert found["verdict"] == "passed", found
