"""What follows from depth: the numbers of the write-ups, each with a reason, and always those of the model that is built."""

import dataclasses

import pytest
import torch

from nanochat.model.gpt import GPT
from nanochat.pipeline import Pretrain
from nanochat.scaling import Rates, derive, lr_scale, rows_per_step


def test_the_classic_d20_is_that_of_the_write_ups() -> None:
    derived = derive(Pretrain(depth=20, architecture="classic"), vocab_size=65536)
    assert derived.num_parameters == 560_988_160
    assert (derived.config.n_embd, derived.config.n_head, derived.config.n_kv_head) == (1280, 10, 10)
    assert (derived.total_batch_size, derived.num_steps, derived.tokens) == (524_288, 21_400, 11_219_763_200)
    assert (derived.lr_scale, derived.weight_decay) == (1.0, 0.0)
    assert derived.rates == Rates(0.02, 0.2, 0.004, 0.5, 0, 0.2, 0.0)
    assert derived.flops == pytest.approx(3.92e19, rel=0.01)


@pytest.mark.parametrize(
    ("depth", "millions", "batch", "steps", "decay"),  # the table of the July 2026 reference, vocabulary 32,768
    [
        (4, 36.7, 2**18, 528, 1.89),
        (8, 125.8, 2**18, 1920, 0.52),
        (12, 286.3, 2**19, 2520, 0.28),
        (20, 896.5, 2**20, 4980, 0.10),
        (26, 1682, 2**20, 10510, 0.047),
        (32, 2819, 2**21, 9600, 0.037),
    ],
)
def test_modern_sizes_are_those_of_the_reference(
    depth: int, millions: float, batch: int, steps: int, decay: float
) -> None:
    derived = derive(Pretrain(depth=depth), vocab_size=32768)
    assert derived.num_parameters / 1e6 == pytest.approx(millions, rel=2e-3)
    assert derived.total_batch_size == batch
    assert derived.num_steps == pytest.approx(steps, abs=1)
    assert derived.weight_decay == pytest.approx(decay, rel=0.05)
    assert derived.lr_scale == (batch / 2**19) ** 0.5


@pytest.mark.parametrize("knobs", [{"architecture": "classic"}, {"architecture": "modern"}, {"kv_heads": 2}])
@pytest.mark.parametrize("depth", [1, 4, 7])
def test_the_price_is_that_of_the_model(knobs: dict[str, str], depth: int) -> None:
    derived = derive(Pretrain(depth=depth, aspect_ratio=64, head_dim=32, **knobs), 1000, 128)
    with torch.device("meta"):
        model = GPT(derived.config)
    assert derived.num_parameters == model.num_parameters()
    assert derived.flops == derived.num_steps * derived.total_batch_size * model.flops_per_token()


def test_every_derived_number_has_a_reason_and_a_set_knob_is_one() -> None:
    names = {"n_embd", "n_head", "tokens", "total_batch_size", "num_steps", "rates", "lr_scale", "weight_decay"}
    assert derive(Pretrain(), 32768).reasons.keys() == names
    knobs = {"num_steps": 7, "total_batch_size": 4096, "weight_decay": 0.5, "tokens_per_parameter": 3.0}
    derived = derive(Pretrain(**knobs, window_pattern="L", kv_heads=5), 32768)
    assert (derived.num_steps, derived.total_batch_size, derived.weight_decay) == (7, 4096, 0.5)
    assert (derived.config.window_pattern, derived.config.n_kv_head) == ("L", 5)
    for name in ("num_steps", "total_batch_size", "weight_decay"):
        assert derived.reasons[name] == f"the knob {name}"
    assert "the knob tokens_per_parameter" in derived.reasons["tokens"]


def test_the_rule_of_the_learning_rates_is_not_stretched_beyond_its_fit() -> None:
    small, smaller = (derive(Pretrain(total_batch_size=size), 32768) for size in (2**18, 2**12))
    assert small.lr_scale == smaller.lr_scale == 0.5**0.5
    assert "nearest for which that was fitted" in smaller.reasons["lr_scale"]


def test_rates_are_the_architectures_unless_a_knob_says_otherwise() -> None:
    modern = derive(Pretrain(), 32768).rates
    assert modern == Rates(0.02, 0.3, 0.008, 0.5, 40, 0.65, 0.05)
    given = derive(Pretrain(embedding_lr=0.1, warmup_steps=0, final_lr_frac=0.0), 32768)
    assert given.rates == dataclasses.replace(modern, embedding_lr=0.1, warmup_steps=0, final_lr_frac=0.0)
    assert given.reasons["rates"].endswith("by knob embedding_lr, warmup_steps, final_lr_frac")
    assert derive(Pretrain(num_steps=95), 32768).rates.warmup_steps == 10


def test_every_stage_scales_its_rates_by_its_own_batch() -> None:
    assert [lr_scale("modern", 2**power) for power in (10, 18, 20, 25)] == pytest.approx(
        [0.5**0.5, 0.5**0.5, 2**0.5, 2]
    )
    assert lr_scale("classic", 2**10) == 1.0


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        (
            {"architecture": "classic", "depth": 3, "aspect_ratio": 63},
            r"pretrain.depth = 3: width 63 \* 3 = 189 .*head_dim",
        ),
        ({"total_batch_size": 5000}, r"pretrain.total_batch_size = 5000: .*4096 is"),
        ({"total_batch_size": 2048, "num_ranks": 2}, r"num_ranks = 2048 \* 2 = 4096; 4096 is"),
        ({"kv_heads": 3}, "n_kv_head=3"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_name(knobs: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        derive(Pretrain(**knobs), 32768)


def test_a_batch_that_is_no_whole_rows_is_refused() -> None:
    assert rows_per_step(4096, 256, 2, "sft") == 16
    with pytest.raises(ValueError, match=r"sft.total_batch_size = 5000: .*= 512; 5120 is"):
        rows_per_step(5000, 256, 2, "sft")
