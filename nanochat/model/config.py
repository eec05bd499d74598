"""The shape of a model: `GPTConfig`, its two families built from depth, and what it costs in parameters and FLOPs.

Standard library only, so that a plan can be priced without torch; `nanochat/model/gpt.py` builds the network and a test
holds its parameter count to the arithmetic here. Every shape that cannot be built is refused with the knob, the value
and the remedy. Not here: initialisation, kernels, precision, the optimizer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import ceil
from typing import Any

WINDOW_MULTIPLE = 128  # attention kernels work on tiles of 128 keys; a window that cuts a tile saves nothing
VALUE_GATE_CHANNELS = 12
SMEAR_GATE_CHANNELS = 24
MIN_VOCAB = 256 + 9  # every byte and the nine special tokens


@dataclass(frozen=True)
class GPTConfig:
    """Everything that fixes the function a model computes, as plain values; `as_dict` goes into `model.json`.

    `window_pattern` is tiled over the layers, one letter each: L sees the whole context, S a quarter of it; the last
    layer is always L. The features after it are those of the modern family; each is off by default.
    """

    sequence_len: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_kv_head: int
    n_embd: int
    window_pattern: str = "L"
    value_embeddings: bool = False
    residual_scalars: bool = False
    smear: bool = False
    backout: bool = False
    qk_scale: float = 1.0
    rope_base: float = 10_000.0
    logit_softcap: float = 15.0

    def __post_init__(self) -> None:
        """Refuse what cannot be built, before anything is."""
        for name in ("sequence_len", "n_layer", "n_head", "n_kv_head", "n_embd"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.vocab_size < MIN_VOCAB:
            raise ValueError(
                f"vocab_size={self.vocab_size}: take at least {MIN_VOCAB} (256 bytes and 9 special tokens)"
            )
        if self.n_embd % self.n_head:
            raise ValueError(
                f"n_embd={self.n_embd} is not divisible by n_head={self.n_head}: "
                "take a width that is a multiple of the head size"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} is odd: RoPE turns pairs; take n_embd / n_head even")
        if self.n_head % self.n_kv_head:
            raise ValueError(
                f"n_kv_head={self.n_kv_head} does not divide n_head={self.n_head}: take a divisor of n_head"
            )
        if not self.window_pattern or set(self.window_pattern) - set("SL"):
            raise ValueError(f"window_pattern={self.window_pattern!r}: use the letters S and L, such as 'SSSL'")
        for name in ("qk_scale", "rope_base", "logit_softcap"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be above 0")

    @classmethod
    def classic(
        cls,
        depth: int,
        vocab_size: int,
        sequence_len: int = 2048,
        *,
        aspect_ratio: int = 64,
        width: int | None = None,
        head_dim: int = 128,
        n_kv_head: int | None = None,
    ) -> "GPTConfig":
        """The architecture of the November 2025 write-ups: width = 64 * depth, heads of 128, no modern feature."""
        if depth < 1:
            raise ValueError(f"depth={depth}: must be at least 1")
        if head_dim < 1:
            raise ValueError(f"head_dim={head_dim}: must be at least 1")
        n_embd = aspect_ratio * depth if width is None else width
        n_head = ceil(n_embd / head_dim)
        return cls(sequence_len, vocab_size, depth, n_head, n_head if n_kv_head is None else n_kv_head, n_embd)

    @classmethod
    def modern(
        cls,
        depth: int,
        vocab_size: int,
        sequence_len: int = 2048,
        *,
        aspect_ratio: int = 64,
        width: int | None = None,
        head_dim: int = 128,
        n_kv_head: int | None = None,
    ) -> "GPTConfig":
        """Classic plus what was learned until July 2026; a width taken from depth is rounded up to whole heads."""
        if width is None and head_dim > 0:
            width = ceil(aspect_ratio * depth / head_dim) * head_dim
        shape = cls.classic(
            depth, vocab_size, sequence_len, width=width, head_dim=head_dim, n_kv_head=n_kv_head
        ).as_dict()
        features = dict.fromkeys(("value_embeddings", "residual_scalars", "smear", "backout"), True)
        return cls.from_dict(shape | features | {"window_pattern": "SSSL", "qk_scale": 1.2, "rope_base": 100_000.0})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "GPTConfig":
        """The config among `values` (a `model.json` holds more than that); ValueError where a field is missing."""
        names = [field.name for field in fields(cls)]
        if missing := [name for name in names if name not in values]:
            raise ValueError(f"model config lacks {', '.join(missing)}: the file is not from this architecture")
        return cls(**{name: values[name] for name in names})

    def as_dict(self) -> dict[str, int | float | bool | str]:
        """All fields by name, ready for JSON."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.n_embd // self.n_head

    @property
    def kv_dim(self) -> int:
        """Channels of all key (or value) heads together."""
        return self.n_kv_head * self.head_dim

    def window(self, layer: int) -> int:
        """How many positions, its own included, a query of that layer sees."""
        short = layer < self.n_layer - 1 and self.window_pattern[layer % len(self.window_pattern)] == "S"
        quarter = ceil(self.sequence_len / 4 / WINDOW_MULTIPLE) * WINDOW_MULTIPLE
        return min(quarter, self.sequence_len) if short else self.sequence_len

    def has_value_embedding(self, layer: int) -> bool:
        """Alternate layers, counted so that the last one has a table."""
        return self.value_embeddings and (self.n_layer - 1 - layer) % 2 == 0

    def num_matrix_parameters(self) -> int:
        """The matrices inside the blocks: those that Muon trains."""
        attention = 2 * self.n_embd * self.n_embd + 2 * self.n_embd * self.kv_dim
        return self.n_layer * (attention + 8 * self.n_embd * self.n_embd)

    def num_parameters(self) -> int:
        """Every trained number: tables, blocks, head, gates and scalars."""
        tables = sum(self.has_value_embedding(layer) for layer in range(self.n_layer))
        value = tables * (self.vocab_size * self.kv_dim + min(VALUE_GATE_CHANNELS, self.n_embd) * self.n_kv_head)
        smear = (1 + min(SMEAR_GATE_CHANNELS, self.n_embd)) * self.smear
        scalars = 2 * self.n_layer * self.residual_scalars + self.backout + smear
        return 2 * self.vocab_size * self.n_embd + self.num_matrix_parameters() + value + scalars

    def flops_per_token(self) -> int:
        """Training FLOPs (forward and backward) of one token: 6 per matrix parameter (arXiv:2001.08361), 12 per channel
        and visible position of attention (arXiv:2204.02311, appendix B); table look-ups and elementwise work are free.
        """
        matrices = self.num_matrix_parameters() + self.vocab_size * self.n_embd
        return 6 * matrices + 12 * self.n_embd * sum(self.window(layer) for layer in range(self.n_layer))
