"""One choice of precision for everything: on a processor without bf16 units nothing multiplies bf16, with them the products
of every trained stage, of evaluation and of chat are bf16; what a process used is noted."""

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nanochat.artifacts.metrics import Metrics
from nanochat.data.conversation_packing import pack
from nanochat.data.tokenizer import Tokenizer
from nanochat.inference.chat import Chatbot
from nanochat.inference.pyfunc import _load_pyfunc
from nanochat.model.config import GPTConfig
from nanochat.model.device import arithmetic, bf16_units, compute_dtype, device_of, has_kernels
from nanochat.model.gpt import GPT
from nanochat.model.weights import save_model
from nanochat.pipeline import BaseEval, ChatEvalRl, Midtrain, Pretrain, Rl, Sft
from nanochat.stages.base_eval import run as base_eval
from nanochat.stages.chat_eval import run as chat_eval
from nanochat.stages.midtrain import run as midtrain
from nanochat.stages.pretrain import run as pretrain
from nanochat.stages.process import run_spec
from nanochat.stages.rl import run as rl
from nanochat.stages.sft import run as sft
from nanochat.training.optim import OptimSettings
from nanochat.workflow.stage import StageContext
from tests import published_core

CPU = torch.device("cpu")
BYTES = Tokenizer(tuple(bytes([byte]) for byte in range(256)))
CONTEXT = 128
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "linear", "matmul", "dot", "mv", "scaled_dot_product", "convolution")
EXECUTION = {"device": "cpu", "compile": False, "device_batch_size": 2}
CHAT = {**EXECUTION, "total_batch_size": 256, "num_steps": 2}
ASKED = {"tasks": "arithmetic", "max_problems": 2, "max_new_tokens": 3, "device": "cpu"}


class Products(TorchDispatchMode):
    """Counts matrix products by the type of what is multiplied."""

    def __init__(self):
        super().__init__()
        self.of: Counter[torch.dtype] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().split("::")[1].split(".")[0].lstrip("_")
        if name.startswith(PRODUCTS):
            self.of.update({arg.dtype for arg in args if isinstance(arg, torch.Tensor) and arg.is_floating_point()})
        return function(*args, **kwargs or {})


@pytest.fixture
def place(tmp_path):
    """A model, rows and a folder of data that serve as the input of every stage."""
    model_dir, rows = tmp_path / "model", tmp_path / "tokenize"
    model = GPT(GPTConfig(CONTEXT, BYTES.vocab_size, 1, 2, 1, 32))
    model.init_weights(0)
    save_model(
        model,
        model_dir,
        optimizer=dataclasses.asdict(OptimSettings()),
        architecture="classic",
        total_batch_size=2 * CONTEXT,
    )
    BYTES.save(model_dir / "tokenizer.json")
    for folder in (model_dir, rows):
        folder.mkdir(exist_ok=True)
        np.save(folder / "token_bytes.npy", BYTES.token_bytes())
    (rows / "index.json").write_text(
        json.dumps({"sequence_len": CONTEXT, "vocab_size": BYTES.vocab_size}), encoding="utf-8"
    )
    parts = []
    for name in ("validation", "train"):
        parts.append(tmp_path / name)
        parts[-1].mkdir()
        np.random.default_rng(0).integers(0, 256, (9, CONTEXT + 1)).astype("<u2").tofile(parts[-1] / "rows.bin")
        (parts[-1] / "stats.json").write_text(json.dumps({"rows": 9, "bytes": 9 * CONTEXT}), encoding="utf-8")
    (tmp_path / "out").mkdir()
    inputs = dict.fromkeys(("tokenizer", "pretrain", "midtrain", "sft", "rl"), model_dir)
    inputs |= {"tokenize": rows, "task_data": tmp_path, "core_data": published_core.artifact(tmp_path / "core")}
    pack([([BYTES.bos, 65, 66], [0, 1, 1])] * 200, CONTEXT, BYTES.vocab_size, BYTES.bos).save(tmp_path)
    data = {"tokenize": tuple(parts), "midtrain_data": (tmp_path, tmp_path), "sft_data": (tmp_path, tmp_path)}
    return StageContext(inputs, data, tmp_path / "out", tmp_path / "work", Metrics(tmp_path / "metrics"))


def pretraining(place):
    small = {"depth": 1, "aspect_ratio": 32, "head_dim": 16, "total_batch_size": 2 * CONTEXT, "num_steps": 2}
    pretrain(Pretrain(**small, **EXECUTION), place)


def only(place, *names):
    return dataclasses.replace(place, inputs={name: place[name] for name in names})


def reinforcement(place):
    small = {"task": "arithmetic", "prompts_per_step": 2, "samples_per_prompt": 2, "max_new_tokens": 3, "num_steps": 2}
    rl(Rl(**small, **EXECUTION), place)


WORK = {
    "pretrain": pretraining,
    "midtrain": lambda place: midtrain(Midtrain(**CHAT), place),
    "sft": lambda place: sft(Sft(**CHAT), place),
    "rl": reinforcement,
    "base_eval": lambda place: base_eval(BaseEval(eval_rows=4, device="cpu"), place),
    "chat_eval": lambda place: chat_eval(ChatEvalRl(**ASKED), only(place, "rl", "task_data")),
    "chat": lambda place: Chatbot(place["sft"], "cpu").answers(["Hello"], max_new_tokens=3),
    "pyfunc": lambda place: _load_pyfunc(str(place["sft"])).predict(["Hello"], {"max_new_tokens": 3}),
}


def processor(monkeypatch, **has):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": "made up", "avx2": True, **has})
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("work", WORK)
def test_no_bf16_product_where_there_are_no_units_for_it(work, place, monkeypatch):
    processor(monkeypatch)
    with Products() as products:
        WORK[work](place)
    assert set(products.of) == {torch.float32}, products.of


@pytest.mark.parametrize("work", WORK)
def test_bf16_products_where_there_are_units_for_it(work, place, monkeypatch):
    processor(monkeypatch, avx512_bf16=True)
    with Products() as products:
        WORK[work](place)
    assert products.of[torch.bfloat16] > products.of[torch.float32], products.of


@pytest.mark.parametrize(
    ("has", "limit", "expected"),
    [
        ({}, "", torch.float32),
        ({"avx512_bf16": True}, "", torch.bfloat16),
        ({"amx_bf16": True}, "ALL", torch.bfloat16),
        ({"avx512_bf16": True}, "avx512_core_bf16", torch.bfloat16),
        ({"avx512_bf16": True}, "DEFAULT", torch.bfloat16),
        ({"avx512_bf16": True}, "AVX512_CORE_AMX", torch.bfloat16),
        ({"avx512_bf16": True}, "AVX2", torch.float32),
        ({"avx512_bf16": True}, "AVX512_CORE_VNNI", torch.float32),
        ({"avx512_bf16": False, "avx2": True}, "ALL", torch.float32),
    ],
)
def test_auto_is_what_the_processor_has_and_onednn_may_use(has, limit, expected, monkeypatch):
    processor(monkeypatch, **has)
    if limit:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert compute_dtype("auto", CPU) == expected
    assert bool(bf16_units(CPU)) == (expected == torch.bfloat16)


def test_a_knob_is_taken_at_its_word(monkeypatch):
    processor(monkeypatch)
    assert compute_dtype("bfloat16", CPU) == torch.bfloat16
    processor(monkeypatch, avx512_bf16=True)
    assert compute_dtype("float32", CPU) == torch.float32


def test_auto_is_the_cpu_where_there_is_no_gpu_and_a_missing_gpu_is_refused(monkeypatch):
    processor(monkeypatch)
    assert device_of("auto") == CPU
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="this machine has 0 GPUs"):
        device_of("cuda")
    with pytest.raises(ValueError, match="device='tpu'"):
        device_of("tpu")


def test_the_record_says_which_arithmetic_every_attempt_used(place, tmp_path, monkeypatch):
    place.work.mkdir()
    knobs = {"eval_rows": 2, "device": "cpu"}
    spec = {"stage": "base_eval", "knobs": knobs, "part": None, "gather": False, "addresses": {}}
    spec |= {"inputs": {name: str(path) for name, path in place.inputs.items()}, "work": str(place.work)}
    spec |= {"parts": {name: list(map(str, paths)) for name, paths in place.input_parts.items()}}
    (place.work / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    (place.work / "out").mkdir()
    for has in ({}, {}, {"avx512_bf16": True}):
        processor(monkeypatch, **has)
        assert run_spec(place.work / "spec.json") == 0
    assert json.loads((place.work / "result.json").read_text(encoding="utf-8"))["arithmetic"] == [
        "float32 on cpu (made up, avx2)",
        "bfloat16 on cpu (made up, avx512_bf16)",
    ]
    assert arithmetic(torch.float32, CPU) == "float32 on cpu (made up, avx512_bf16)"


@pytest.mark.parametrize(
    ("capability", "usable"),
    [((6, 1), False), ((7, 0), False), ((7, 5), True), ((8, 9), True), ((9, 0), True), ((11, 0), False)],
)
def test_a_gpu_without_kernels_in_this_torch_is_not_taken_by_itself_and_refused_by_name(
    monkeypatch, capability, usable
):
    built = ["sm_75", "sm_80", "sm_86", "sm_90"]
    assert has_kernels(capability, built) == usable
    assert has_kernels(capability, [*built, "compute_90"]) == (usable or capability > (9, 0))
    assert has_kernels(capability, ["sm_90a", "compute_90a"]) == (capability == (9, 0))
    assert has_kernels(capability, ["gfx90a"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *device: capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    assert device_of("auto").type == ("cuda" if usable else "cpu")
    if usable:
        assert device_of("cuda").type == "cuda"
        with pytest.raises(ValueError, match="device='auto' with LOCAL_RANK=1"):
            device_of("auto", 1)
    else:
        with pytest.raises(ValueError, match=f"capability {capability[0]}.{capability[1]}.*sm_75.*take device='cpu'"):
            device_of("cuda")
