"""Every form of attention equals the plain one, gradients included; windows and grouped queries cost what they should."""

from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nanochat.model.attention import attention, by_blocks, flex, fused


def plain_attention(q, k, v, visible):
    """Every score, then the mask; keys copied per query head."""
    group = q.size(2) // k.size(2)
    k, v = (x.repeat_interleave(group, dim=2) for x in (k, v))
    scores = torch.einsum("bthd,bshd->bhts", q, k) / q.size(-1) ** 0.5
    return torch.einsum("bhts,bshd->bthd", scores.masked_fill(~visible, float("-inf")).softmax(-1), v)


def heads(n_head, n_kv_head, length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(2, length, n, 8, generator=generator, requires_grad=True) for n in (n_head, n_kv_head, n_kv_head)
    ]


@pytest.mark.parametrize(
    "form", [attention, by_blocks, partial(by_blocks, block=16)], ids=["auto", "blocks", "blocks of 16"]
)
@pytest.mark.parametrize("n_kv_head", [4, 2, 1])
@pytest.mark.parametrize("window", [None, 200, 130, 40, 1])
def test_every_form_of_attention_equals_the_plain_one_with_its_gradients(form, n_kv_head, window):
    length = 150  # neither a multiple of a block nor of a window
    window_or_all = length if window is None else window
    age = torch.arange(length)[:, None] - torch.arange(length)
    expected_from, actual_from = heads(4, n_kv_head, length), heads(4, n_kv_head, length)
    expected = plain_attention(*expected_from, (age >= 0) & (age < window_or_all))
    actual = form(*actual_from, window)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    expected.square().sum().backward()
    actual.square().sum().backward()
    for one, other in zip(actual_from, expected_from, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("n_kv_head", [4, 1])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_sees_the_same_window(n_kv_head):
    q, k, v = (x.detach() for x in heads(4, n_kv_head, 150))  # without gradients: torch has those on CUDA only
    age = torch.arange(150)[:, None] - torch.arange(150)
    torch.testing.assert_close(flex(q, k, v, 40), plain_attention(q, k, v, (age >= 0) & (age < 40)))


def test_the_fused_kernel_shares_keys_among_grouped_queries():
    q, k, v = heads(4, 2, 20)
    torch.testing.assert_close(fused(q, k, v), plain_attention(q, k, v, torch.ones(20, 20).tril().bool()))


def test_a_window_never_makes_a_matrix_of_all_queries_by_all_keys():
    largest = 0

    class Observer(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    length, window = 1024, 128
    q, k, v = heads(2, 2, length)
    with Observer():
        attention(q, k, v, window)
    assert largest < length * length
