"""What rows share is read once, and yet every token's features are those of its row read alone."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import example, given, settings

from nanochat.evaluation import prefix_tree
from nanochat.evaluation.prefix_tree import Line, PrefixTree
from nanochat.model.config import GPTConfig
from nanochat.model.gpt import GPT

VOCAB = 300
TOKENS = st.lists(st.integers(0, VOCAB - 1), max_size=9)
GROUPS = st.lists(
    st.tuples(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=150), st.lists(TOKENS, min_size=1, max_size=4)),
    min_size=1,
    max_size=4,
)


def random_model(family) -> GPT:
    """Of 512 positions, where a window is 128; every parameter counts."""
    model = GPT(family(3, VOCAB, 512, width=32, head_dim=16, n_kv_head=1))
    model.init_weights(0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.requires_grad_(False)


MODELS = {"modern": random_model(GPTConfig.modern), "classic": random_model(GPTConfig.classic)}


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("in_blocks", [True, False], ids=["blocks", "one product"])
@given(groups=GROUPS)
@example(groups=[([5] * 130, [[1, 2], [3]]), ([6] * 140, [[4]])])  # longer than the window
@example(groups=[([6] * 140, [[4, 5]])])  # and one row alone
@settings(max_examples=15, deadline=None)
def test_every_token_has_the_features_of_its_row_read_alone(family, in_blocks, groups):
    model = MODELS[family]
    lines = [Line.of(shared, rests) for shared, rests in groups]
    tree = PrefixTree(lines, torch.device("cpu"))
    if not in_blocks:  # as on a GPU
        tree.attend = lambda layer, q, k, v, window: prefix_tree.fused(q, k, v, tree.visible(window)[:, None])
    found = model.features(tree.tokens, tree)
    assert found.isfinite().all()
    for index, (line, (shared, rests)) in enumerate(zip(lines, groups, strict=True)):
        for row, rest in enumerate(rests):
            alone = model.features(torch.tensor([[*shared, *rest]]))[0]
            places = [line.place(row, position) for position in range(len(alone))]
            torch.testing.assert_close(found[index, places], alone, rtol=1e-3, atol=1e-4)


def test_nothing_is_read_twice_but_the_token_before_a_rest():
    line = Line.of([7, 8, 9], [[1, 2], [], [3], [4, 5]])
    assert line.tokens == [7, 8, 9, 1, 2, 9, 3, 9, 4, 5]
    assert line.positions == [0, 1, 2, 3, 4, 2, 3, 2, 3, 4]
    assert [line.place(3, position) for position in range(5)] == [0, 1, 2, 8, 9]
    assert Line.of([7], [[], []]).tokens == [7]
