"""Kinds that make the network: model, init, attention, position, norm, mlp."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from nanogpt_kit.core.options import Component, PathStr

if TYPE_CHECKING:
    from torch import nn

Role = Literal["matrix", "vector", "embedding", "head"]


@dataclass(frozen=True, kw_only=True)
class ModelContext:
    vocab_size: int


@dataclass(frozen=True, kw_only=True)
class LayerContext:
    """What a part of the network may know of the whole."""

    n_embd: int
    n_head: int
    n_kv_head: int  # heads of keys and values; a divisor of n_head
    head_dim: int
    n_layer: int
    block_size: int
    dropout: float
    bias: bool


class Model(Component):
    """A network from token ids to logits.

    The module's `forward(ids, targets=None, cache=None)` takes ids (B, T) and returns logits (B, T, vocab_size), or,
    given targets (B, T) with -1 where none is wanted, the fp32 *sum* of the token losses in nats. With a KVCache, ids
    go on where its tokens end. Where its weights depend on block_size it has a `crop(block_size)`. One that can keep
    documents apart takes `segments` (B, T), too; it is given them where document_mask is set.
    """

    kind: ClassVar[str] = "model"
    relative: ClassVar[bool] = False  # whether positions may go on beyond block_size, as only distances matter
    block_size: int = Field(1024, ge=1, le=2**27, description="context length in tokens")
    document_mask: bool = Field(False, description="whether a token sees those of its own document only")
    init_from: PathStr | None = Field(
        None,
        min_length=1,
        description="a run whose weights training starts from, or gpt2, gpt2-medium, gpt2-large, gpt2-xl",
    )

    @abstractmethod
    def build(self, ctx: ModelContext) -> nn.Module: ...


class Init(Component):
    """Initial weights, and how the peak learning rate differs by role."""

    kind: ClassVar[str] = "init"

    @abstractmethod
    def apply(self, model: nn.Module) -> None:
        """Draws every parameter in place, from torch's global generator."""

    def lr_multiplier(self, role: Role) -> float:
        return 1.0


class Attention(Component):
    """Mixes values over positions.

    The module's `forward(q, k, v, view)` takes q (B, H, T, D) and k, v (B, Hkv, S, D), H a multiple of Hkv, and
    returns (B, H, T, D). The view says who may see whom; a row that sees nothing is zero, never NaN.
    """

    kind: ClassVar[str] = "attention"

    @abstractmethod
    def build(self, ctx: LayerContext) -> nn.Module: ...


class Position(Component):
    """Tells tokens where they are: what it builds may add to features, turn queries and keys, or slope the scores."""

    kind: ClassVar[str] = "position"
    relative: ClassVar[bool] = False  # whether only distances matter, so that positions may go on beyond block_size

    @abstractmethod
    def build(self, ctx: LayerContext) -> nn.Module:
        """An `api.Positional`."""


class Norm(Component):
    """Normalises the last dimension, n_embd long: the module maps (..., C) to (..., C), of heads as well."""

    kind: ClassVar[str] = "norm"

    @abstractmethod
    def build(self, ctx: LayerContext) -> nn.Module: ...


class MLP(Component):
    """Mixes the features of each position: the module maps (B, T, C) to (B, T, C)."""

    kind: ClassVar[str] = "mlp"

    @abstractmethod
    def build(self, ctx: LayerContext) -> nn.Module: ...
