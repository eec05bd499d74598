"""MuonAdamW: Muon for the matrices inside the blocks, AdamW for every table, head, gate and scalar, on 1..N processes.

One code path: gradients are SUMMED over ranks (the loss is already divided by the global normalizer), each rank keeps
the state of its share of every bucket and updates that share, and the shares are gathered back (ZeRO-2,
arXiv:1910.02054); in a world of one the collectives are skipped and nothing else differs. A matrix is never cut, so
that Newton-Schulz sees whole summed gradients. State is named by parameter, so that any number of ranks can go on from
what another number saved. Not here: schedules (schedule.py), gradient clipping (none is needed), the formulas of Muon
(muon.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod, sqrt
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nanochat.model.gpt import GPT
from nanochat.training.distributed import World
from nanochat.training.muon import CLASSIC, POLAR_EXPRESS, equal_norm, equal_rows, normuon_scale, orthogonalize

LEARNING_RATES = ("matrix_lr", "embedding_lr", "unembedding_lr", "scalar_lr", "gate_lr")
DECAYS = ("weight_decay", "embedding_decay", "value_embedding_decay", "unembedding_decay", "residual_decay")


@dataclass(frozen=True)
class OptimSettings:
    """Learning rates of each kind of parameter and the options of the update; defaults are those of the classic model.

    The rates of embedding, value embeddings and head are for width 768 and are scaled by (width / 768)^-0.5. What the
    two families take, beside the reference and with the reasons: docs/hyperparameters.md.
    """

    matrix_lr: float = 0.02
    embedding_lr: float = 0.2  # the value embeddings' is half of it
    unembedding_lr: float = 0.004
    scalar_lr: float = 0.5
    gate_lr: float = 0.2  # of the gates that AdamW trains
    weight_decay: float = 0.0  # Muon's, of the matrices
    embedding_decay: float = 0.0  # AdamW's, of this and the next three
    value_embedding_decay: float = 0.0
    unembedding_decay: float = 0.0
    residual_decay: float = 0.0  # of residual_lambdas, towards 0
    cautious: bool = False  # Muon decays only where that does not oppose the update (arXiv:2411.16085, of decay)
    beta1: float = 0.8
    beta2: float = 0.95
    embedding_beta2: float = 0.95  # of both kinds of embeddings
    unembedding_beta2: float = 0.95
    eps: float = 1e-10
    polar_express: bool = False
    equal_rows: bool = False  # MuonEq
    equal_norm: bool = False  # Muon+
    normuon_beta2: float = 0.0  # 0: no NorMuon; 0.9 is usual
    muon_value_gates: bool = False  # else AdamW trains them

    def __post_init__(self) -> None:
        """Refuse what cannot train."""
        for name in (*LEARNING_RATES, *DECAYS):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)}: take a finite number, 0 or more")
        for name in ("beta1", "beta2", "embedding_beta2", "unembedding_beta2", "normuon_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: take 0 or more and less than 1")
        if not self.eps > 0:
            raise ValueError(f"eps={self.eps}: must be above 0")

    def scaled(self, factor: float) -> "OptimSettings":
        """All learning rates times `factor`."""
        return replace(self, **{name: getattr(self, name) * factor for name in LEARNING_RATES})

    def for_finetuning(self, factor: float) -> "OptimSettings":
        """`scaled`, and without decay: what a trained model knows is not to be shrunk away."""
        none: dict[str, Any] = dict.fromkeys(DECAYS, 0.0)
        return replace(self.scaled(factor), **none)


class Bucket(ABC):
    """Parameters that are updated together, as a row of `units` of equal size; this rank owns `share` of them.

    A unit is a whole matrix for Muon and a single number for AdamW. The row is padded with zeros to `world.size` equal
    shares. All tensors here are flat.
    """

    state: dict[str, Tensor]  # by slot: what this rank remembers of its share

    def __init__(self, named: list[tuple[str, nn.Parameter]], unit: int, world: World) -> None:
        self.names, self.parameters = [name for name, _ in named], [parameter for _, parameter in named]
        self.world = world
        self.sizes = [parameter.numel() for parameter in self.parameters]
        units = -(-sum(self.sizes) // (unit * world.size))  # rounded up
        self.share = units * unit
        self.padding = self.share * world.size - sum(self.sizes)

    @property
    def is_its_own_row(self) -> bool:
        """Whether the row is the memory of its one parameter, so that nothing has to be copied back."""
        return self.world.size == 1 and len(self.parameters) == 1

    @abstractmethod
    def update(
        self, weights: Tensor, gradient: Tensor, step: int, lr_scale: float, momentum: float, decay_scale: float
    ) -> None:
        """One step, in place on this rank's share of the weights; the gradient may be overwritten."""

    def flatten(self, tensors: Iterable[Tensor]) -> Tensor:
        """One tensor per parameter as one row, padded."""
        pieces = [tensor.reshape(-1) for tensor in tensors]
        if self.padding:
            pieces.append(pieces[0].new_zeros(self.padding))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def split(self, row: Tensor) -> list[Tensor]:
        """The inverse of `flatten`: views of the row, in the parameters' shapes."""
        pieces = row.split([*self.sizes, self.padding])
        return [piece.view_as(parameter) for piece, parameter in zip(pieces, self.parameters, strict=False)]

    def pieces(self, share: Tensor) -> dict[str, Tensor]:
        """What of each parameter's numbers lies in this rank's share of a slot: flat views, none of them empty."""
        pieces, at = {}, -self.world.rank * len(share)
        for name, length in zip(self.names, self.lengths(share), strict=True):
            if len(piece := share[max(at, 0) : max(at + length, 0)]):
                pieces[name] = piece
            at += length
        return pieces

    def lengths(self, share: Tensor) -> list[int]:
        """How many numbers each parameter has in a slot of which every rank has a `share`: fewer than it has itself
        where the slot keeps one a row.
        """
        return [size * len(share) // self.share for size in self.sizes]

    def row_of(self, tensors: list[Tensor], share: Tensor) -> Tensor:
        """One flat tensor per parameter as a row of as many shares as there are ranks; ValueError where one misfits."""
        for name, tensor, length in zip(self.names, tensors, self.lengths(share), strict=True):
            if len(tensor) != length:
                raise ValueError(f"optimizer state of {name} has {len(tensor)} numbers, not {length}: of another model")
        row = torch.cat(tensors)
        return torch.cat((row, row.new_zeros(len(share) * self.world.size - len(row))))

    def mine(self, row: Tensor) -> Tensor:
        """This rank's share of a row: a view."""
        return row.chunk(self.world.size)[self.world.rank]

    def reduce_gradients(self) -> "Pending":
        """Start summing the gradients over ranks into this rank's share; a missing gradient counts as zero.

        The parameters have none afterwards: laid end to end they would take the memory of the model once more.
        """
        row = self.flatten(torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters)
        for parameter in self.parameters:
            parameter.grad = None
        if self.world.size == 1:
            return Pending(row, row, None)
        share = torch.empty_like(self.mine(row))
        return Pending(row, share, dist.reduce_scatter_tensor(share, row, async_op=True))

    def gather(self, share: Tensor) -> "Pending":
        """Start gathering every rank's share into a whole row."""
        if self.world.size == 1:
            return Pending(share, share, None)
        row = share.new_empty(share.numel() * self.world.size)
        return Pending(share, row, dist.all_gather_into_tensor(row, share, async_op=True))


@dataclass
class Pending:
    """A collective under way. It holds `source` to the end: memory freed before the wait is reused under its feet."""

    source: Tensor
    result: Tensor
    work: dist.Work | None

    def wait(self) -> Tensor:
        """The result, once it is there."""
        if self.work is not None:
            self.work.wait()
        return self.result


class AdamWBucket(Bucket):
    """AdamW (arXiv:1711.05101), number by number, for parameters of one rule. The decay is not scheduled by itself."""

    def __init__(self, named: list[tuple[str, nn.Parameter]], rule: "Rule", eps: float, world: World) -> None:
        super().__init__(named, 1, world)
        self.lr, self.betas, self.decay, self.eps = rule.lr, rule.betas, rule.decay, eps
        zeros = torch.zeros(self.share, device=self.parameters[0].device)
        self.state = {"exp_avg": zeros, "exp_avg_sq": zeros.clone()}

    def update(self, weights: Tensor, gradient: Tensor, step: int, lr_scale: float, *_: float) -> None:
        """One step, in place on this rank's share of the weights."""
        beta1, beta2 = self.betas
        mean = self.state["exp_avg"].lerp_(gradient, 1 - beta1)
        square = self.state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        scale = (square / (1 - beta2**step)).sqrt_().add_(self.eps)
        if self.decay:
            weights.mul_(1 - self.lr * lr_scale * self.decay)
        weights.addcdiv_(mean, scale, value=-self.lr * lr_scale / (1 - beta1**step))


class MuonBucket(Bucket):
    """Muon for matrices of one shape: Nesterov momentum, orthogonalised, times sqrt(max(1, rows / cols))."""

    def __init__(
        self, named: list[tuple[str, nn.Parameter]], settings: OptimSettings, world: World, dtype: torch.dtype
    ) -> None:
        self.shape, self.dtype = tuple(named[0][1].shape), dtype  # (rows, cols); of the matrix products
        super().__init__(named, prod(self.shape), world)
        self.settings = settings
        rows, cols = self.shape
        self.lr = settings.matrix_lr * sqrt(max(1, rows / cols))
        self.steps = POLAR_EXPRESS if settings.polar_express else CLASSIC
        device = self.parameters[0].device
        self.state = {"momentum": torch.zeros(self.share, device=device)}
        if settings.normuon_beta2:
            per_matrix = rows if rows >= cols else cols
            self.state["variance"] = torch.zeros(self.share // prod(self.shape) * per_matrix, device=device)

    def update(
        self, weights: Tensor, gradient: Tensor, step: int, lr_scale: float, momentum: float, decay_scale: float
    ) -> None:
        """One step, in place on this rank's share of the weights."""
        average = self.state["momentum"].lerp_(gradient, 1 - momentum)
        ahead = gradient.lerp_(average, momentum).view(-1, *self.shape)  # (N, rows, cols)
        if self.settings.equal_rows:
            ahead = equal_rows(ahead)
        change = orthogonalize(ahead, self.steps, self.dtype).float()
        if self.settings.equal_norm:
            change = equal_norm(change)
        if self.settings.normuon_beta2:
            rows, cols = self.shape
            per_neuron = (-1, rows, 1) if rows >= cols else (-1, 1, cols)
            change = normuon_scale(change, self.state["variance"].view(per_neuron), self.settings.normuon_beta2)
        weights, lr = weights.view(-1, *self.shape), self.lr * lr_scale
        if decay := lr * self.settings.weight_decay * decay_scale:
            kept = weights * (change * weights >= 0) if self.settings.cautious else weights
            weights.sub_(kept, alpha=decay)
        weights.sub_(change, alpha=lr)


class MuonAdamW:
    """The optimizer of a model: `step` sums gradients over ranks, updates, and leaves all ranks with equal weights."""

    def __init__(self, buckets: list[Bucket]) -> None:
        self.buckets, self.num_steps = buckets, 0

    @torch.no_grad()
    def step(self, lr_scale: float = 1.0, momentum: float = 0.95, weight_decay_scale: float = 1.0) -> None:
        """One update from the gradients, which are consumed: they are None afterwards.

        `lr_scale` and `weight_decay_scale` multiply the settings; `momentum` is Muon's own.
        """
        self.num_steps += 1
        reducing = [bucket.reduce_gradients() for bucket in self.buckets]
        gathering = []
        for bucket, gradient in zip(self.buckets, reducing, strict=True):
            share = bucket.mine(bucket.flatten(p.detach() for p in bucket.parameters))
            bucket.update(share, gradient.wait(), self.num_steps, lr_scale, momentum, weight_decay_scale)
            gathering.append(bucket.gather(share))
        for bucket, weights in zip(self.buckets, gathering, strict=True):
            for parameter, updated in zip(bucket.parameters, bucket.split(weights.wait()), strict=True):
                if not bucket.is_its_own_row:
                    parameter.copy_(updated)
        self.zero_grad()

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for bucket in self.buckets:
            for parameter in bucket.parameters:
                parameter.grad = None

    def state_share(self) -> dict[str, Tensor]:
        """This rank's part of the state by `parameter.slot`: flat views of what goes on changing.

        The pieces of one name, in the order of the ranks, are the state of the parameter.
        """
        return {
            f"{name}.{slot}": piece
            for bucket in self.buckets
            for slot, share in bucket.state.items()
            for name, piece in bucket.pieces(share).items()
        }

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor], num_steps: int) -> None:
        """Continue after `num_steps` from the joined pieces of any number of ranks; ValueError: another model's."""
        expected = {f"{name}.{slot}" for bucket in self.buckets for slot in bucket.state for name in bucket.names}
        if differing := sorted(expected ^ set(state)):
            raise ValueError(
                f"optimizer state differs in {', '.join(differing[:5])} ({len(differing)} names): "
                "it was saved with another model or other optimizer settings"
            )
        for bucket in self.buckets:
            for slot, share in bucket.state.items():
                share.copy_(bucket.mine(bucket.row_of([state[f"{name}.{slot}"] for name in bucket.names], share)))
        self.num_steps = num_steps


def build_optimizer(model: GPT, settings: OptimSettings, world: World) -> MuonAdamW:
    """Sort the model's parameters into buckets by kind and shape, on the device where they are.

    Muon multiplies in the model's `compute_dtype`: set that first.
    """
    matrices: dict[tuple[int, ...], list[tuple[str, nn.Parameter]]] = {}
    numbers: dict[Rule, list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        gate = name.endswith("gate.weight")
        if name.startswith("blocks.") and (settings.muon_value_gates or not gate):
            matrices.setdefault(tuple(parameter.shape), []).append((name, parameter))
        else:
            numbers.setdefault(_rule(name, model.config.n_embd, settings), []).append((name, parameter))
    return MuonAdamW(
        [MuonBucket(named, settings, world, model.compute_dtype) for named in matrices.values()]
        + [AdamWBucket(named, rule, settings.eps, world) for rule, named in numbers.items()]
    )


@dataclass(frozen=True)
class Rule:
    """How AdamW trains the parameters of a bucket. Large tables have one of their own: joining them would copy them."""

    bucket: str
    lr: float
    betas: tuple[float, float]
    decay: float = 0.0


def _rule(name: str, width: int, settings: OptimSettings) -> Rule:
    """Of a parameter that AdamW trains; the factors between learning rates are those of nanochat, July 2026."""
    beta1, betas = settings.beta1, (settings.beta1, settings.beta2)
    by_width = (width / 768) ** -0.5
    if name == "wte.weight":
        return Rule(name, settings.embedding_lr * by_width, (beta1, settings.embedding_beta2), settings.embedding_decay)
    if name == "lm_head.weight":
        lr = settings.unembedding_lr * by_width
        return Rule(name, lr, (beta1, settings.unembedding_beta2), settings.unembedding_decay)
    if name.startswith("value_embeddings."):
        lr = settings.embedding_lr * 0.5 * by_width
        return Rule(name, lr, (beta1, settings.embedding_beta2), settings.value_embedding_decay)
    if name.endswith("gate.weight"):
        return Rule("gates", settings.gate_lr, betas)
    if name == "residual_lambdas":
        return Rule(name, settings.scalar_lr * 0.01, betas, settings.residual_decay)
    if name == "x0_lambdas":
        return Rule(name, settings.scalar_lr, (0.96, 0.95))
    assert name in ("smear_lambda", "backout_lambda"), f"no learning rate for parameter {name}"
    return Rule("lambdas", settings.scalar_lr * 0.4, betas)
