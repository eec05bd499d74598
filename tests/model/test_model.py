"""The model computes what it says: against an obvious twin in float64, at the sizes of the write-ups, initialised from the
seed alone, compiled or not. Attention and the cache have their own files; nothing here is timed.
"""

import dataclasses
from math import ceil, log

import pytest
import torch

from nanochat.model.config import GPTConfig
from nanochat.model.gpt import GPT
from nanochat.stages.pretrain import INITIAL

CLASSIC = GPTConfig(32, 300, 3, 4, 4, 32)
FEATURES = {
    "window_pattern": "SL",
    "value_embeddings": True,
    "residual_scalars": True,
    "smear": True,
    "backout": True,
    "qk_scale": 1.2,
    "rope_base": 1e5,
}
MODERN = dataclasses.replace(CLASSIC, n_kv_head=2, **FEATURES)


def shaken(config, seed=0):
    """A model in which no parameter is at a special value such as zero."""
    model = GPT(config)
    model.init_weights(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def some_tokens(config, rows, length, seed=0):
    return torch.randint(config.vocab_size, (rows, length), generator=torch.Generator().manual_seed(seed))


# --- sizes


def test_classic_d20_has_560_988_160_parameters_as_in_the_write_ups():
    with torch.device("meta"):
        model = GPT(GPTConfig.classic(20, vocab_size=65_536))
    assert model.num_parameters() == model.config.num_parameters() == 560_988_160
    assert model.flops_per_token() == pytest.approx(3.49e9, rel=0.002)


@pytest.mark.parametrize(
    ("depth", "parameters", "flops"),
    [(4, 36.7e6, 8.0e7), (12, 286.3e6, 7.60e8), (20, 896.5e6, 2.89e9), (24, 1384e6, 4.78e9)],
)
def test_modern_sizes_and_flops_are_those_of_the_reference_table(depth, parameters, flops):
    config = GPTConfig.modern(depth, vocab_size=32_768)
    assert config.num_parameters() == pytest.approx(parameters, rel=2e-3)
    assert config.flops_per_token() == pytest.approx(flops, rel=5e-3)


@pytest.mark.parametrize("features", [{}, *({name: value} for name, value in FEATURES.items()), FEATURES])
def test_the_parameter_arithmetic_is_that_of_the_built_model(features):
    config = dataclasses.replace(CLASSIC, n_kv_head=1, **features)
    with torch.device("meta"):
        assert GPT(config).num_parameters() == config.num_parameters()


def test_depth_is_the_one_dial_and_width_and_head_size_can_be_said():
    config = GPTConfig.classic(12, 65_536)
    assert (config.n_embd, config.n_head, config.n_kv_head, config.head_dim) == (768, 6, 6, 128)
    config = GPTConfig.classic(4, 2048, 256, width=256, head_dim=64)
    assert (config.n_embd, config.n_head, config.sequence_len) == (256, 4, 256)
    assert GPTConfig.modern(5, 2048).n_embd == 384  # 320 rounded up to whole heads of 128
    assert GPTConfig.from_dict(config.as_dict() | {"stage": "sft"}) == config


def test_windows_are_a_quarter_of_the_context_in_whole_tiles_and_the_last_layer_sees_all():
    config = GPTConfig.modern(8, 2048, sequence_len=2048)
    assert [config.window(layer) for layer in range(8)] == [512, 512, 512, 2048] * 2
    config = dataclasses.replace(config, sequence_len=600, window_pattern="S")
    assert [config.window(layer) for layer in range(8)] == [256] * 7 + [600]
    assert dataclasses.replace(config, sequence_len=100).window(0) == 100


@pytest.mark.parametrize(
    ("change", "knob"),
    [
        ({"n_layer": 0}, "n_layer=0"),
        ({"sequence_len": 0}, "sequence_len=0"),
        ({"vocab_size": 264}, "vocab_size=264.*265"),
        ({"n_embd": 34}, "n_embd=34.*multiple"),
        ({"n_embd": 12}, "head_dim=3 is odd"),
        ({"n_kv_head": 3}, "n_kv_head=3.*divisor"),
        ({"window_pattern": "SXL"}, "window_pattern='SXL'"),
        ({"window_pattern": ""}, "window_pattern=''"),
        ({"logit_softcap": 0.0}, "logit_softcap=0.0"),
    ],
)
def test_a_shape_that_cannot_be_built_is_refused_by_knob(change, knob):
    with pytest.raises(ValueError, match=knob):
        dataclasses.replace(CLASSIC, **change)


def test_the_constructors_refuse_what_they_cannot_derive_from():
    with pytest.raises(ValueError, match="depth=0"):
        GPTConfig.classic(0, 2048)
    with pytest.raises(ValueError, match="head_dim=0"):
        GPTConfig.modern(4, 2048, head_dim=0)
    with pytest.raises(ValueError, match="lacks n_embd"):
        GPTConfig.from_dict({name: value for name, value in CLASSIC.as_dict().items() if name != "n_embd"})


# --- initialisation


@pytest.mark.parametrize("config", [CLASSIC, MODERN])
def test_init_weights_writes_every_parameter(config):
    model = GPT(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    model.init_weights(3)
    assert not [name for name, parameter in model.named_parameters() if parameter.isnan().any()]


def test_initial_weights_follow_from_the_seed_alone():
    def weights(config, seed):
        model = GPT(config)
        torch.manual_seed(seed * 7 + 1)  # the global generator has no say
        model.init_weights(seed)
        return model.state_dict()

    first, again, other, modern = weights(CLASSIC, 1), weights(CLASSIC, 1), weights(CLASSIC, 2), weights(MODERN, 1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["wte.weight"], other["wte.weight"])
    assert not torch.equal(first["blocks.0.attn.q_proj.weight"], first["blocks.1.attn.q_proj.weight"])
    same_shape = [name for name in first if first[name].shape == modern[name].shape]
    assert len(same_shape) > 10
    assert all(torch.equal(first[name], modern[name]) for name in same_shape)


@pytest.mark.parametrize("config", [CLASSIC, MODERN])
def test_a_fresh_model_says_that_every_token_is_equally_likely(config):
    model = GPT(config)
    model.init_weights(0)
    tokens = some_tokens(config, 2, 20)
    torch.testing.assert_close(model.token_losses(tokens, tokens), torch.full((2, 20), log(config.vocab_size)))


@pytest.mark.parametrize("architecture", ["classic", "modern"])
def test_initial_scales_are_those_of_the_reference(architecture):
    modern = architecture == "modern"
    model = GPT(GPTConfig.modern(4, 2048, width=256, head_dim=64))
    model.init_weights(0, INITIAL[architecture])
    state = model.state_dict()
    for name, std in {
        "wte.weight": 0.8 if modern else 1.0,
        "blocks.0.attn.q_proj.weight": 1 / 16,
        "blocks.0.up_proj.weight": 0.4 / 16 if modern else 1 / 16,
        "value_embeddings.3.weight": 1 / 16,
        "blocks.0.down_proj.weight": 0.0,
        "blocks.2.attn.o_proj.weight": 0.0,
        "lm_head.weight": 0.001 if modern else 0.0,
    }.items():
        assert state[name].std().item() == pytest.approx(std, rel=0.02), name
    gates = torch.cat([state[name].flatten() for name in state if name.endswith("gate.weight")])
    assert (gates.min() >= 0, gates.max() <= 0.02) == (True, True)
    assert gates.mean().item() == pytest.approx(0.01 if modern else 0.0, rel=0.1)
    assert state["residual_lambdas"][[0, -1]].tolist() == pytest.approx([1.15, 1.05])
    assert state["x0_lambdas"][[0, -1]].tolist() == pytest.approx([0.20, 0.05])


# --- the function


def obvious(model, tokens):
    """Logits of one row (T,) in float64, position by position and head by head, from the formulas."""
    c, w = model.config, {name: value.detach().double() for name, value in model.state_dict().items()}

    def norm(x):
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()

    def rope(x, p):
        half = len(x) // 2
        angle = p / c.rope_base ** (torch.arange(half) * 2.0 / len(x)).double()
        pairs = torch.complex(x[:half], x[half:]) * torch.polar(torch.ones_like(angle), -angle)
        return torch.cat((pairs.real, pairs.imag))

    embedded = norm(w["wte.weight"][tokens])
    x = embedded.clone()
    if c.smear:
        for t in range(1, len(tokens)):
            gate = torch.sigmoid(embedded[t, :24] @ w["smear_gate.weight"][0])
            x[t] += w["smear_lambda"] * gate * embedded[t - 1]
    x0 = x
    for i in range(c.n_layer):
        if c.residual_scalars:
            x = w["residual_lambdas"][i] * x + w["x0_lambdas"][i] * x0
        window = 128 * ceil(c.sequence_len / 512) if (c.window_pattern * 9)[i] == "S" and i < c.n_layer - 1 else 10**9
        h, block = norm(x), f"blocks.{i}."
        q, k, v = (h @ w[f"{block}attn.{name}_proj.weight"].T for name in "qkv")
        q, k, v = (y.view(len(tokens), -1, c.n_embd // c.n_head) for y in (q, k, v))
        if f"value_embeddings.{i}.weight" in w:
            gate = 3 * torch.sigmoid(h[:, :12] @ w[f"{block}attn.value_gate.weight"].T)
            v = v + gate[..., None] * w[f"value_embeddings.{i}.weight"][tokens].view_as(v)
        y = torch.zeros(len(tokens), c.n_embd).double().view(len(tokens), c.n_head, -1)
        for head in range(c.n_head):
            shared = head // (c.n_head // c.n_kv_head)
            keys = torch.stack([c.qk_scale * norm(rope(k[t, shared], t)) for t in range(len(tokens))])
            for t in range(len(tokens)):
                seen = slice(max(0, t - window + 1), t + 1)
                query = c.qk_scale * norm(rope(q[t, head], t))
                y[t, head] = torch.softmax(keys[seen] @ query / len(query) ** 0.5, 0) @ v[seen, shared]
        x = x + y.flatten(1) @ w[f"{block}attn.o_proj.weight"].T
        x = x + (norm(x) @ w[f"{block}up_proj.weight"].T).clamp(min=0) ** 2 @ w[f"{block}down_proj.weight"].T
        if i == c.n_layer // 2:
            middle = x
    if c.backout:
        x = x - w["backout_lambda"] * middle
    return c.logit_softcap * torch.tanh(norm(x) @ w["lm_head.weight"].T / c.logit_softcap)


@pytest.mark.parametrize(
    "config",
    [CLASSIC, MODERN, dataclasses.replace(MODERN, n_layer=2, sequence_len=140, n_head=2, n_embd=16)],
    ids=["classic", "modern", "inside a window"],
)
def test_logits_equal_those_of_the_obvious_model(config):
    model, length = shaken(config), 135 if config.sequence_len > 128 else 12
    tokens = some_tokens(config, 2, length)
    expected = torch.stack([obvious(model, row) for row in tokens])
    torch.testing.assert_close(model(tokens).double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", [CLASSIC, MODERN])
def test_no_logit_depends_on_a_later_token(config):
    model, tokens = shaken(config), some_tokens(config, 1, 20)
    changed = tokens.clone()
    changed[0, 11:] = (changed[0, 11:] + 1) % config.vocab_size
    before, after = model(tokens), model(changed)
    assert torch.equal(before[0, :11], after[0, :11])
    assert not torch.equal(before[0, 11], after[0, 11])


def test_loss_is_the_weighted_sum_over_the_targets_that_count():
    model, tokens = shaken(CLASSIC), some_tokens(CLASSIC, 2, 9)
    targets, weights = some_tokens(CLASSIC, 2, 9, seed=1), torch.randn(2, 9, generator=torch.Generator().manual_seed(2))
    targets[0, 3:] = -1
    chosen = model(tokens).log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    expected = torch.where(targets >= 0, -chosen, 0)
    torch.testing.assert_close(model.token_losses(tokens, targets), expected)
    torch.testing.assert_close(model.loss(tokens, targets), expected.sum())
    torch.testing.assert_close(model.loss(tokens, targets, weights), (expected * weights).sum())


def test_a_row_longer_than_the_context_is_refused():
    with pytest.raises(ValueError, match="33 tokens exceed sequence_len=32"):
        shaken(CLASSIC)(some_tokens(CLASSIC, 1, 33))


def test_logits_of_chosen_positions_are_those_among_all():
    model, tokens = shaken(MODERN), some_tokens(MODERN, 3, 10)
    last = torch.tensor([9, 0, 4])
    torch.testing.assert_close(model(tokens, last=last), model(tokens)[torch.arange(3), last])


# --- precision and placement


def test_bf16_stays_near_fp32_and_keeps_fp32_weights_gradients_and_logits():
    model, tokens = shaken(MODERN), some_tokens(MODERN, 2, 30)
    exact = model(tokens)
    model.compute_dtype = torch.bfloat16
    logits = model(tokens)
    assert logits.dtype == torch.float32
    assert (logits - exact).abs().mean() < 0.05 * exact.abs().mean()
    model.loss(tokens, tokens).backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())


def test_an_inference_copy_computes_the_same_with_weights_cast_once():
    model, tokens = shaken(MODERN), some_tokens(MODERN, 2, 30)
    model.compute_dtype = torch.bfloat16
    copy = model.inference_copy()
    assert {p.dtype for p in copy.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in copy.parameters())
    before = model(tokens)
    assert torch.equal(copy(tokens), before)
    model.init_weights(9)
    assert torch.equal(copy(tokens), before)  # a copy, in fp32 too:
    assert model.inference_copy(torch.float32).wte.weight.data_ptr() != model.wte.weight.data_ptr()


def test_the_rope_table_survives_a_stay_on_the_meta_device():
    model, tokens = shaken(CLASSIC), some_tokens(CLASSIC, 1, 8)
    with torch.device("meta"):
        built = GPT(CLASSIC)
    empty = built.to_empty(device="cpu")
    empty.load_state_dict(model.state_dict())
    assert torch.equal(empty(tokens), model(tokens))


@pytest.mark.parametrize(
    ("backend", "config"),
    [
        ("aot_eager", dataclasses.replace(MODERN, sequence_len=160)),
        ("inductor", dataclasses.replace(CLASSIC, n_layer=1, n_kv_head=2)),
    ],
)
def test_the_compiled_loss_is_the_eager_one_without_graph_breaks(backend, config):
    torch.compiler.reset()
    model, tokens = shaken(config), some_tokens(config, 2, config.sequence_len)
    targets, weights = tokens.roll(-1, dims=1), torch.linspace(-1, 2, tokens.numel()).view_as(tokens)
    expected = model.loss(tokens, targets, weights)
    expected.backward()
    gradients = [p.grad for p in model.parameters()]
    model.zero_grad()
    actual = torch.compile(model.loss, fullgraph=True, dynamic=False, backend=backend)(tokens, targets, weights)
    actual.backward()
    torch.testing.assert_close(actual, expected)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-3 * gradient.abs().max().item())


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")  # the compiler's advice depends on the card
def test_on_cuda_the_compiled_loss_has_the_gradients_of_the_cpu():
    config = GPTConfig.modern(3, 512, sequence_len=1024, width=128, head_dim=64, n_kv_head=1)
    model, tokens = shaken(config), some_tokens(config, 2, 1024)
    model.loss(tokens, tokens).backward()
    expected = [p.grad for p in model.parameters()]
    model.zero_grad()
    model.cuda()
    torch.compile(model.loss, fullgraph=True, dynamic=False)(tokens.cuda(), tokens.cuda()).backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        error = (parameter.grad.cpu() - gradient).norm() / gradient.norm()
        assert error < 0.01, error
