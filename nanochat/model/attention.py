"""Causal attention, whole or in a sliding window, by whichever form is fastest where it runs.

One function for training and for prompts (`attention`); what queries behind a cache see is masked in kv_cache.py. Three
forms compute the same thing and are tested equal to an obvious one: torch's fused kernel, flex attention (windows on
CUDA, compiled), and blocks of queries against the keys that they can see, which needs no T x T mask and is the fastest
on a CPU under torch.compile (benchmarks/model_cpu.py). Grouped queries never copy keys. Not here: projections, RoPE,
the cache itself, masks at document borders.

Shapes: B rows, T queries, S keys, H query heads, K key heads, G = H / K, D channels of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

QUERY_BLOCK = 128
KEY_BLOCK = (
    64  # of `in_blocks`; on one core 10 % faster than 128, where a block of prompts is in the cache nearest to it
)


def attention(q: Tensor, k: Tensor, v: Tensor, window: int | None = None) -> Tensor:
    """Attention of q (B, T, H, D) over k and v (B, T, K, D), causal; returns (B, T, H, D).

    A query sees the `window` newest positions, its own included; None means all of them. The softmax is in fp32.
    """
    if window is not None and window >= q.size(1):
        window = None
    if q.device.type == "cpu" and torch.compiler.is_compiling():
        return by_blocks(q, k, v, window)
    if window is None:
        return fused(q, k, v)
    if torch.compiler.is_compiling():
        return flex(q, k, v, window)
    return by_blocks(q, k, v, window)


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
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention  # half a second, most need it not

    def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (query - key < window)

    length = q.size(1)
    mask = create_block_mask(visible, B=None, H=None, Q_LEN=length, KV_LEN=length, device=q.device.type)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return flex_attention(q, k, v, block_mask=mask, enable_gqa=q.size(1) != k.size(1)).transpose(1, 2)


def by_blocks(q: Tensor, k: Tensor, v: Tensor, window: int | None = None, block: int = QUERY_BLOCK) -> Tensor:
    """Each block of queries as two batched products over the keys that it can see; T * (window + block) of work."""
    length, window = q.size(1), q.size(1) if window is None else window
    q, k, v = grouped(q, k.size(2)), k.transpose(1, 2).contiguous(), v.transpose(1, 2).contiguous()
    blocks = []
    for start in range(0, length, block):
        stop, low = min(start + block, length), max(0, start - window + 1)
        age = torch.arange(start, stop, device=q.device)[:, None] - torch.arange(low, stop, device=q.device)  # (t, s)
        visible = (age >= 0) & (age < window)
        blocks.append(products(q[:, :, :, start:stop], k[:, :, low:stop], v[:, :, low:stop], visible))
    return ungrouped(torch.cat(blocks, dim=3))


def in_blocks(q: Tensor, k: Tensor, v: Tensor, visible: Tensor, past: int = 0, window: int | None = None) -> Tensor:
    """As `by_blocks`, of q (B, T, H, D) behind `past` of the keys k and v (B, past + T, K, D), where the queries of
    each row see other keys: `visible` (B, T, past + T), none after itself.

    Blocks of keys begin at multiples of KEY_BLOCK and are whole, so that sums are made in the same order whatever is
    read beside a row.
    """
    window, missing = k.size(1) if window is None else window, -k.size(1) % KEY_BLOCK
    k, v = (F.pad(x, (0, 0, 0, 0, 0, missing)).transpose(1, 2).contiguous() for x in (k, v))
    q, visible = grouped(q, k.size(1)), F.pad(visible, (0, missing))
    blocks = []
    for start in range(0, q.size(3), KEY_BLOCK):
        stop = start + KEY_BLOCK
        low, high = max(0, (past + start - window + 1) // KEY_BLOCK * KEY_BLOCK), past + stop
        seen = visible[:, None, None, start:stop, low:high]
        blocks.append(products(q[:, :, :, start:stop], k[:, :, low:high], v[:, :, low:high], seen))
    return ungrouped(torch.cat(blocks, dim=3))


def products(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """Attention of q (B, K, G, T, D) over k and v (B, K, S, D) as two batched products; `visible` ends in (T, S)."""
    *heads, length, dim = q.shape
    pairs = len(k.flatten(0, 1))  # B K
    scores = torch.bmm(q.reshape(pairs, -1, dim), k.flatten(0, 1).mT).view(*heads, length, k.size(2))
    scores = (scores.float() * dim**-0.5).masked_fill(~visible, float("-inf"))
    weights = scores.softmax(-1).to(v.dtype)
    return torch.bmm(weights.view(pairs, -1, k.size(2)), v.flatten(0, 1)).view(*heads, length, dim)


def grouped(q: Tensor, n_kv_head: int) -> Tensor:
    """(B, T, H, D) as (B, K, G, T, D): the queries beside the key that they share."""
    return q.unflatten(2, (n_kv_head, -1)).permute(0, 2, 3, 1, 4)


def ungrouped(y: Tensor) -> Tensor:
    """The inverse of `grouped`."""
    return y.permute(0, 3, 1, 2, 4).flatten(2, 3)
