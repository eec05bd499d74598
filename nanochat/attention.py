"""Causal attention, whole or in a sliding window, by whichever form is fastest where it runs.

One function for training and prefill (`attention`), one for queries that sit at their own positions behind a cache
(`attention_at`). Three forms compute the same thing and are tested equal to an obvious one: torch's fused kernel, flex
attention (windows on CUDA, compiled), and blocks of queries against the keys that they can see, which needs no T x T
mask and is the fastest on a CPU under torch.compile (benchmarks/model_cpu.py). Grouped queries never copy keys. Not
here: projections, RoPE, the cache itself, masks at document borders.

Shapes: B rows, T queries, S keys, H query heads, K key heads, G = H / K, D channels of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

QUERY_BLOCK = 128


def attention(q: Tensor, k: Tensor, v: Tensor, window: int | None = None) -> Tensor:
    """Attention of q (B, T, H, D) over k and v (B, T, K, D), causal; returns (B, T, H, D).

    A query sees the `window` newest positions, its own included; None means all of them. The softmax is in fp32.
    """
    whole = window is None or window >= q.size(1)
    if q.device.type == "cpu" and torch.compiler.is_compiling():
        return by_blocks(q, k, v, window)
    if whole:
        return fused(q, k, v)
    if torch.compiler.is_compiling():
        return flex(q, k, v, window)
    return by_blocks(q, k, v, window)


def attention_at(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, window: int | None = None) -> Tensor:
    """Attention of q (B, T, H, D) at `positions` (B, T) over a cache k, v (B, S, K, D) with key j at position j."""
    age = positions[:, :, None] - torch.arange(k.size(1), device=q.device)  # (B, T, S)
    visible = age >= 0 if window is None else (age >= 0) & (age < window)
    return fused(q, k, v, visible[:, None])


def fused(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> Tensor:
    """torch's own kernel (flash, cuDNN or CPU); causal, or with `visible` (B, 1, T, S) True where a key is seen."""
    y = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=visible,
        is_causal=visible is None,
        enable_gqa=q.size(2) != k.size(2),
    )
    return y.transpose(1, 2)


def flex(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """FlexAttention (arXiv:2412.05496): computes only the blocks inside the window; fast under torch.compile only."""

    def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (query - key < window)

    length = q.size(1)
    mask = create_block_mask(visible, B=None, H=None, Q_LEN=length, KV_LEN=length, device=q.device.type)
    heads = (x.transpose(1, 2) for x in (q, k, v))
    return flex_attention(*heads, block_mask=mask, enable_gqa=q.size(2) != k.size(2)).transpose(1, 2)


def by_blocks(q: Tensor, k: Tensor, v: Tensor, window: int | None = None, block: int = QUERY_BLOCK) -> Tensor:
    """Each block of queries as two batched products over the keys that it can see; T * (window + block) of work."""
    (rows, length, n_head, dim), n_kv_head = q.shape, k.size(2)
    group, window = n_head // n_kv_head, length if window is None else window
    q = q.view(rows, length, n_kv_head, group, dim).permute(0, 2, 3, 1, 4)  # (B, K, G, T, D)
    q = q.reshape(rows * n_kv_head, group, length, dim)
    k, v = (x.transpose(1, 2).reshape(rows * n_kv_head, length, dim) for x in (k, v))  # (B K, T, D)
    blocks = []
    for start in range(0, length, block):
        stop, low = min(start + block, length), max(0, start - window + 1)
        scores = torch.bmm(q[:, :, start:stop].reshape(len(q), -1, dim), k[:, low:stop].mT)  # (B K, G t, s)
        scores = scores.view(len(q), group, stop - start, stop - low).float() * dim**-0.5
        age = torch.arange(start, stop, device=q.device)[:, None] - torch.arange(low, stop, device=q.device)  # (t, s)
        scores = scores.masked_fill((age < 0) | (age >= window), float("-inf"))
        weights = scores.softmax(-1).to(v.dtype).flatten(1, 2)
        blocks.append(torch.bmm(weights, v[:, low:stop]).view(len(q), group, stop - start, dim))
    y = torch.cat(blocks, dim=2).view(rows, n_kv_head, group, length, dim)
    return y.permute(0, 3, 1, 2, 4).reshape(rows, length, n_head, dim)
