"""The transformer: RoPE, QK norm, grouped queries, ReLU² MLP, parameter-free RMSNorm, untied embeddings, soft-cap.

With every feature of the config off it is the classic model, to the parameter; value embeddings, residual scalars,
smear and backout are added only where the config says so. Parameters are fp32 masters, matrix products run in
`compute_dtype` (explicit casts, no autocast); RoPE, softmax and logits are in fp32. `init_weights` writes every
parameter from the seed alone: the device, the number of processes and the other features change no value. Logits with a
cache equal those without. Not here: shapes and their cost (config.py), kernels (attention.py), training.

Shapes: B rows, T tokens, C = n_embd, H query heads, K key heads, D channels of a head, V = vocab_size.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nanochat.model.attention import attention
from nanochat.model.config import SMEAR_GATE_CHANNELS, VALUE_GATE_CHANNELS, GPTConfig

__all__ = ["GPT", "GPTConfig", "InitScales"]


class Past(Protocol):
    """What tokens (B, T) see beside each other: kv_cache's `Reading` and `DecodeStep` are such."""

    positions: Tensor  # (B, T)
    before: Tensor  # (B,) the token before the first; -1: none

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        """The attention of that layer: q (B, T, H, D), k and v (B, T, K, D)."""


Cached = Past | None
NORM_EPS = 1e-6  # torch's default is the epsilon of the input's dtype: 0.8 % in bf16


def norm(x: Tensor) -> Tensor:
    """RMSNorm over the last dimension without parameters (arXiv:1910.07467)."""
    return F.rms_norm(x, (x.size(-1),), eps=NORM_EPS)


def rotary(positions: Tensor, head_dim: int, base: float) -> tuple[Tensor, Tensor]:
    """cos and sin (..., T, 1, D / 2) in fp32 of the angles by which RoPE turns each pair (arXiv:2104.09864)."""
    channel = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    angle = positions[..., None, None].float() * base ** (-channel / head_dim)
    return angle.cos(), angle.sin()


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + D / 2) of x (B, T, H, D); fp32."""
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos + b * sin, b * cos - a * sin), dim=-1)


class Linear(nn.Module):
    """y = x Wᵀ without bias, in the dtype of x; the fp32 master is cast at each use, a no-op where it is not needed."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = _unset(out_features, in_features)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class Embedding(nn.Module):
    """One row of `width` numbers per token."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.weight = _unset(vocab_size, width)

    def forward(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        return F.embedding(tokens, self.weight).to(dtype)


class Attention(nn.Module):
    """Causal self-attention with RoPE, QK norm (arXiv:2302.05442) and, in some layers, a value embedding per token."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.n_head, self.n_kv_head, self.head_dim = config.n_head, config.n_kv_head, config.head_dim
        self.layer, self.window = layer, config.window(layer)
        self.attend = attention  # an attribute, so that the benchmark can compare the forms side by side
        self.score_scale = config.qk_scale**2  # queries and keys are scaled alike; the product is put on the queries
        self.q_proj = Linear(config.n_embd, config.n_embd)
        self.k_proj = Linear(config.n_embd, config.kv_dim)
        self.v_proj = Linear(config.n_embd, config.kv_dim)
        self.o_proj = Linear(config.n_embd, config.n_embd)
        self.value_gate = None
        if config.has_value_embedding(layer):
            self.value_gate = Linear(min(VALUE_GATE_CHANNELS, config.n_embd), config.n_kv_head)

    def forward(
        self,
        x: Tensor,  # (B, T, C)
        cos_sin: tuple[Tensor, Tensor],
        value_embedding: Tensor | None,  # (B, T, K D)
        cache: Cached,
    ) -> Tensor:
        rows, length, _ = x.shape
        q = self.q_proj(x).view(rows, length, self.n_head, self.head_dim)
        k = self.k_proj(x).view(rows, length, self.n_kv_head, self.head_dim)
        v = self.v_proj(x).view(rows, length, self.n_kv_head, self.head_dim)
        if self.value_gate is not None:
            assert value_embedding is not None, "the model gives it to every layer that has the gate"
            gate = 3 * torch.sigmoid(self.value_gate(x[..., :VALUE_GATE_CHANNELS]))  # (B, T, K)
            v = v + gate[..., None] * value_embedding.view_as(v)
        # a norm without weights commutes with a rotation; before it, it keeps for the backward pass no fp32 tensor
        q = (apply_rotary(norm(q), *cos_sin) * self.score_scale).to(x.dtype)
        k = apply_rotary(norm(k), *cos_sin).to(x.dtype)
        y = self.attend(q, k, v, self.window) if cache is None else cache.attend(self.layer, q, k, v, self.window)
        return self.o_proj(y.reshape(rows, length, -1))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); the MLP is ReLU² (arXiv:2109.08668), four times as wide."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.attn = Attention(config, layer)
        self.up_proj = Linear(config.n_embd, 4 * config.n_embd)
        self.down_proj = Linear(4 * config.n_embd, config.n_embd)

    def forward(
        self,
        x: Tensor,
        cos_sin: tuple[Tensor, Tensor],
        value_embedding: Tensor | None,
        cache: Cached,
    ) -> Tensor:
        x = x + self.attn(norm(x), cos_sin, value_embedding, cache)
        return x + self.down_proj(self.up_proj(norm(x)).relu().square())


@dataclass(frozen=True)
class InitScales:
    """Where the families' initial weights differ; defaults are those of the classic model."""

    embedding_std: float = 1.0
    head_std: float = 0.0
    up_proj: float = 1.0  # times the standard deviation of the other matrices
    gate_max: float = 0.0  # gates are uniform from 0 to it


class GPT(nn.Module):
    """The language model of `config`. Its weights are NaN until `init_weights` or a checkpoint sets them.

    `compute_dtype` (fp32 unless set) is the precision of activations and matrix products. Two switches trade time for
    memory and change no result: `checkpoint_activations` keeps only the input of each layer for the backward pass
    (arXiv:1604.06174), and the losses of `loss_chunk` tokens at a time (0: all at once) are computed again in it, so
    that never all logits are there.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config, self.compute_dtype = config, torch.float32
        self.checkpoint_activations, self.loss_chunk = False, 0
        layers = range(config.n_layer)
        self.wte = Embedding(config.vocab_size, config.n_embd)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in layers)
        self.lm_head = Linear(config.n_embd, config.vocab_size)
        self.value_embeddings = nn.ModuleDict(
            {str(i): Embedding(config.vocab_size, config.kv_dim) for i in layers if config.has_value_embedding(i)}
        )
        if config.residual_scalars:
            self.residual_lambdas = _unset(config.n_layer)
            self.x0_lambdas = _unset(config.n_layer)
        if config.smear:
            self.smear_gate = Linear(min(SMEAR_GATE_CHANNELS, config.n_embd), 1)
            self.smear_lambda = _unset(1)
        if config.backout:
            self.backout_lambda = _unset(1)
        self._build_rotary(torch.device("cpu"))

    def forward(self, tokens: Tensor, cache: Cached = None, last: Tensor | None = None) -> Tensor:
        """Soft-capped logits (B, T, V) in fp32 of `tokens` (B, T) int.

        With a cache the tokens follow what its rows have read. With `last` (B,) int only the logits of that index of
        each row are computed: (B, V). Raises ValueError for more tokens than fit.
        """
        x = self.features(tokens, cache)
        if last is not None:
            x = x[torch.arange(len(x), device=x.device), last.to(x.device)]
        return self.logits(x)

    def token_losses(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Negative log-likelihood (B, T) in nats, fp32, of `targets` (B, T) after `tokens` (B, T); 0 for target -1."""
        x, wanted = self.features(tokens).flatten(0, 1), targets.flatten().long()  # (B T, C), (B T)
        chunk = self.loss_chunk or len(x)
        if chunk >= len(x):
            return self._losses(x, wanted).view_as(targets)
        pieces = zip(x.split(chunk), wanted.split(chunk), strict=True)
        return torch.cat([_recomputed(self._losses, *piece) for piece in pieces]).view_as(targets)

    def _losses(self, x: Tensor, targets: Tensor) -> Tensor:
        """Losses (N,) of features x (N, C) and targets (N,)."""
        return F.cross_entropy(self.logits(x), targets, ignore_index=-1, reduction="none")

    def loss(self, tokens: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """The SUM over tokens of weight * negative log-likelihood, fp32; the caller divides by its normalizer."""
        losses = self.token_losses(tokens, targets)
        return losses.sum() if weights is None else (losses * weights).sum()

    def features(self, tokens: Tensor, cache: Cached = None) -> Tensor:
        """What the head reads: (B, T, C) in `compute_dtype`, normed."""
        config = self.config
        cos_sin = self._cos_sin(tokens, cache)
        x = norm(self.wte(tokens, self.compute_dtype))
        if config.smear:
            x = self._smear(x, cache)
        x0 = middle = x
        for layer, block in enumerate(self.blocks):
            if config.residual_scalars:
                x = self.residual_lambdas[layer].to(x.dtype) * x + self.x0_lambdas[layer].to(x.dtype) * x0
            has_value = config.has_value_embedding(layer)
            value = self.value_embeddings[str(layer)](tokens, x.dtype) if has_value else None
            call = partial(_recomputed, block) if self.checkpoint_activations and cache is None else block
            x = call(x, cos_sin, value, cache)
            if layer == config.n_layer // 2:
                middle = x
        if config.backout:
            x = x - self.backout_lambda.to(x.dtype) * middle
        return norm(x)

    @torch.no_grad()
    def init_weights(self, seed: int, scales: "InitScales | None" = None) -> None:
        """Write every parameter. Each is drawn on the CPU by a generator of its own, seeded by `seed` and its name.

        Matrices: normal, std = min(1, sqrt(fan_out / fan_in)) / sqrt(fan_in) (arXiv:2310.17813); the projections into
        the residual stream: zero. Value embeddings: uniform, std 1 / sqrt(n_embd). The rest as `scales` says.
        """
        scales = scales or InitScales()
        for name, parameter in self.named_parameters():
            digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
            parameter.copy_(_initial(name, tuple(parameter.shape), self.config, scales, generator))

    def inference_copy(self, dtype: torch.dtype | None = None) -> "GPT":
        """A copy of the model as it is now: weights cast once to `dtype` (default `compute_dtype`), without gradients.

        For decoding, where casting the fp32 masters again at each token would be most of the memory traffic.
        """
        dtype = dtype or self.compute_dtype
        with torch.device("meta"):
            copy = GPT(self.config)
        state = {name: weight.detach().to(dtype, copy=True) for name, weight in self.state_dict().items()}
        copy.load_state_dict(state, assign=True)
        copy.compute_dtype = dtype
        return copy.requires_grad_(False).to(self.wte.weight.device)

    def num_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters())

    def flops_per_token(self) -> int:
        """Training FLOPs of one token; see `GPTConfig.flops_per_token`."""
        return self.config.flops_per_token()

    def _cos_sin(self, tokens: Tensor, cache: Cached) -> tuple[Tensor, Tensor]:
        if cache is not None:
            return self.cos[cache.positions], self.sin[cache.positions]
        length = tokens.size(1)
        if length > self.config.sequence_len:
            raise ValueError(f"{length} tokens exceed sequence_len={self.config.sequence_len}: cut the rows")
        return self.cos[:length], self.sin[:length]

    def _smear(self, x: Tensor, cache: Cached) -> Tensor:
        if cache is None:
            previous = F.pad(x[:, :-1], (0, 0, 1, 0))
        else:  # the token before these ones; the first of all has none
            before = norm(self.wte(cache.before.clamp(min=0), x.dtype)) * (cache.before >= 0)[:, None].to(x.dtype)
            previous = torch.cat((before[:, None], x[:, :-1]), dim=1)
        gate = torch.sigmoid(self.smear_gate(x[..., :SMEAR_GATE_CHANNELS]))  # (B, T, 1)
        return x + self.smear_lambda.to(x.dtype) * gate * previous

    def logits(self, x: Tensor) -> Tensor:
        """Soft-capped logits (..., V) in fp32 of features (..., C)."""
        cap = self.config.logit_softcap  # arXiv:2408.00118
        return cap * torch.tanh(self.lm_head(x).float() / cap)

    def _build_rotary(self, device: torch.device) -> None:
        positions = torch.arange(self.config.sequence_len, device=device)
        self.cos, self.sin = rotary(positions, self.config.head_dim, self.config.rope_base)  # (T, 1, D / 2)

    def _apply(self, *args: object, **kwargs: object) -> "GPT":
        # The RoPE table is derived: rebuilt wherever the weights move, it is never in half precision or left on meta.
        module = super()._apply(*args, **kwargs)
        self._build_rotary(self.wte.weight.device)
        return module


def _recomputed(function: Callable[..., Tensor], *args: Any) -> Tensor:
    """`function(*args)`, of which the backward pass finds nothing but the arguments."""
    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)


def _unset(*shape: int) -> nn.Parameter:
    """A parameter of NaN, so that one that nobody has set cannot pass for a number."""
    return nn.Parameter(torch.full(shape, float("nan")))


def _initial(
    name: str, shape: tuple[int, ...], config: GPTConfig, scales: InitScales, generator: torch.Generator
) -> Tensor:
    """The first value of the parameter of that name; raises where there is no rule for it."""
    depth = torch.linspace(0, 1, config.n_layer)
    fixed = {
        "residual_lambdas": 1.15 - 0.10 * depth,
        "x0_lambdas": 0.20 - 0.15 * depth,
        "smear_lambda": torch.zeros(1),
        "backout_lambda": torch.full((1,), 0.2),
    }
    if name in fixed:
        return fixed[name]
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        return torch.zeros(shape)
    if name.endswith("gate.weight"):
        return torch.rand(shape, generator=generator) * scales.gate_max
    if name == "lm_head.weight":
        return torch.randn(shape, generator=generator) * scales.head_std
    if name == "wte.weight":
        return torch.randn(shape, generator=generator) * scales.embedding_std
    if name.startswith("value_embeddings."):
        limit = (3 / config.n_embd) ** 0.5  # a uniform of ±sqrt(3) s has standard deviation s
        return torch.rand(shape, generator=generator) * 2 * limit - limit
    fan_out, fan_in = shape
    scale = scales.up_proj if name.endswith("up_proj.weight") else 1.0
    return torch.randn(shape, generator=generator) * (scale * min(1, (fan_out / fan_in) ** 0.5) / fan_in**0.5)
