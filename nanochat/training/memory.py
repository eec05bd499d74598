"""The memory of a training step, counted: the real model and optimizer run on fake tensors, shapes without data.

The loss is traced and split into forward and backward as torch.compile splits it (minimal cut with recomputation,
arXiv:1604.06174 in spirit), and what the forward pass hands to the backward pass is added up; the optimizer's step is
run while all living storages are counted. Promises: no memory is taken and no GPU needed; seconds a model. The
closed formula of nanochat/model/memory.py is held against it. Not here: kernels' workspaces, the allocator's losses.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Node
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from nanochat.model.attention import fused
from nanochat.model.config import GPTConfig
from nanochat.model.gpt import GPT, Attention
from nanochat.training.distributed import World
from nanochat.training.optim import OptimSettings, build_optimizer


def kept_for_backward(config: GPTConfig, rows: int, checkpoint_activations: bool = False, loss_chunk: int = 0) -> int:
    """Bytes that the compiled bf16 loss of `rows` rows keeps for its backward pass, bf16 copies of weights included."""
    from torch._dynamo.backends.common import aot_autograd  # the compiler's, which set up loggers and threads
    from torch._functorch.partitioners import min_cut_rematerialization_partition
    from torch._inductor.decomposition import select_decomp_table

    kept: list[int] = []

    def forward(gm: GraphModule, example_inputs: Any) -> Any:
        kept.append(_handed_over(gm))
        return gm.forward

    def backward(gm: GraphModule, example_inputs: Any) -> Any:
        return gm.forward

    backend = aot_autograd(
        fw_compiler=forward,
        bw_compiler=backward,
        partition_fn=min_cut_rematerialization_partition,
        decompositions=select_decomp_table(),
    )
    torch.compiler.reset()
    with FakeTensorMode():
        model = _model(config)
        model.checkpoint_activations, model.loss_chunk = checkpoint_activations, loss_chunk
        tokens = torch.empty(rows, config.sequence_len, dtype=torch.int64)
        torch.compile(model.loss, backend=backend, dynamic=False, fullgraph=True)(tokens, tokens)
    torch.compiler.reset()  # else it would keep the model
    (total,) = kept
    return total


def _model(config: GPTConfig) -> GPT:
    """A model of fakes, with the attention that keeps what all kernels keep: output and log of the sum."""
    model = GPT(config)
    model.compute_dtype = torch.bfloat16
    for module in model.modules():
        if isinstance(module, Attention):
            module.attend = _attend
    return model


def _attend(q: Tensor, k: Tensor, v: Tensor, window: int | None = None) -> Tensor:
    return fused(q, k, v)


def _handed_over(graph: GraphModule) -> int:
    """Bytes of the outputs of a forward graph behind the first, the loss, that are no inputs; views count once."""
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    given = {_storage(node) for node in graph.graph.nodes if node.op == "placeholder"}
    sizes = {}
    for node in output.args[0][1:]:
        if isinstance(node, Node) and (storage := _storage(node)) and storage not in given:
            sizes[storage] = node.meta["val"].untyped_storage().nbytes()
    return sum(sizes.values())


def _storage(node: Node) -> int:
    value = node.meta.get("val")
    return value.untyped_storage()._cdata if isinstance(value, Tensor) else 0


def peak_of_optimizer(config: GPTConfig, settings: OptimSettings, num_ranks: int = 1) -> int:
    """Most bytes alive on a rank during an optimizer step: weights, gradients, state, rows and all that is made."""
    with FakeTensorMode(), _ranks(num_ranks), Living() as living:
        model = _model(config)
        optimizer = build_optimizer(model, settings, World(0, num_ranks))
        for _ in range(2):
            for parameter in model.parameters():
                parameter.grad = torch.empty_like(parameter)
            optimizer.step()
        del model, optimizer
        gc.collect()
    return living.peak


def state_bytes(config: GPTConfig, settings: OptimSettings, num_ranks: int = 1) -> int:
    """Bytes of a rank's share of the optimizer's state."""
    with FakeTensorMode():
        buckets = build_optimizer(_model(config), settings, World(0, num_ranks)).buckets
        return sum(share.nbytes for bucket in buckets for share in bucket.state.values())


class Living(TorchDispatchMode):
    """Adds up the storages that live: `peak` is the most bytes at once of what was made while it was on."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes, self.peak = WeakIdKeyDictionary(), 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **kwargs or {})
        for each in torch.utils._pytree.tree_leaves(made):
            if isinstance(each, Tensor):
                storage = each.untyped_storage()
                self.sizes[storage] = storage.nbytes()
        self.peak = max(self.peak, sum(self.sizes.values()))
        return made


@contextmanager
def _ranks(count: int) -> Iterator[None]:
    """A process group of that many ranks in which nobody answers and nobody waits; only for fakes."""
    if count == 1:
        yield
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=count, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()
