"""Kinds of the network and its parts: model, mixer, attention, position, norm, mlp, loss."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from nanogpt_kit.core.kinds.mixer_options import check_uses
from nanogpt_kit.core.layered_slots import check_lengths
from nanogpt_kit.core.machine_choices import MachineChoices
from nanogpt_kit.core.options import Component, PathStr

if TYPE_CHECKING:
    from torch import nn

Role = Literal["matrix", "vector", "embedding", "head"]


@dataclass(frozen=True, kw_only=True)
class Multipliers:
    """Constant factors in the forward pass, which an init may choose; 1 changes nothing."""

    embeddings: float = 1.0  # on token embeddings
    queries: float = 1.0  # on the queries of attention, and so on its scores
    logits: float = 1.0  # on the features that the output head takes

    def __str__(self) -> str:
        """Those that differ from 1, such as "queries 0.5, logits 0.25"; or "all 1"."""
        return ", ".join(f"{name} {value:.4g}" for name, value in vars(self).items() if value != 1) or "all 1"


@dataclass(frozen=True, kw_only=True)
class ModelContext:
    """What a model depends on besides its options."""

    vocab_size: int
    multipliers: Multipliers = Multipliers()


@dataclass(frozen=True, kw_only=True)
class LayerContext:
    """The place and the sizes that a part of the network, such as an attention, depends on."""

    n_embd: int
    n_head: int
    n_kv_head: int  # heads of keys and values; a divisor of n_head
    head_dim: int
    n_layer: int
    block_size: int
    dropout: float
    bias: bool
    layer: int = 0  # the index of its block, counted from 0; of a position, that of its first block
    # What is fastest on this machine; see `Component.candidates`
    machine: MachineChoices = field(default_factory=MachineChoices.current, repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class MixerContext(LayerContext):
    """The context of a mixer: that of its layer, and the parts of the model that it may use.

    Of the attention, `n_kv_head` and `qk_norm`, a mixer may use those that it names in `Mixer.uses`.
    """

    norm: Norm
    attention: Attention | None = None
    qk_norm: bool = False
    query_multiplier: float = 1.0  # on queries; see Multipliers


class Model(Component):
    """A network from token ids to logits.

    The module's `forward(ids, targets=None, cache=None)` takes ids (B, T) and returns logits (B, T, vocab_size), or,
    given targets (B, T), the fp32 *sum* of the token losses in nats; a target of -1 is ignored. In training it may
    return an `api.TrainingLoss` instead of the sum. With a KVCache, ids continue after the cached tokens. A module
    whose weights depend on block_size has a method `crop(block_size)`. One that supports `document_mask` also takes
    `segments` (B, T), the document of each token.
    """

    kind: ClassVar[str] = "model"
    relative: ClassVar[bool] = False  # only distances matter, so positions may exceed block_size
    applies_multipliers: ClassVar[bool] = False  # the module applies `ModelContext.multipliers`
    # The slot of another model, to whose weights this one adds others, such as adapters. Its module has all weights of
    # that model, by the same names: `init_from` may name a run of it, and formats write what `merge` returns.
    inner_slot: ClassVar[str | None] = None
    block_size: int = Field(1024, ge=1, le=2**27, description="context length in tokens")
    document_mask: bool = Field(False, description="attend only to tokens of the same document")
    init_from: PathStr | None = Field(
        None,
        min_length=1,
        description="run or published model, such as gpt2, whose weights training starts from; omitted: random",
    )

    @model_validator(mode="after")
    def _lists_fit_the_layers(self) -> Self:
        check_lengths(self)
        return self

    @abstractmethod
    def build(self, ctx: ModelContext) -> nn.Module: ...

    def merge(self, module: nn.Module) -> nn.Module:
        """A module of the model in `inner_slot` that computes what `module` does in eval mode, which stays as it is."""
        raise NotImplementedError


class Mixer(Component):
    """Mixes the features of positions: what stands between norm and residual, such as attention or a recurrence.

    The module's `forward(x, position, view, cache)` takes x (B, T, C), an `api.Positional`, the View of the tokens and
    a KVCache or None, and returns (B, T, C), or (y, extra); see `api.take_extra`. What it remembers of earlier tokens
    is in the cache: keys and values (`cache.extend`), or a state (`cache.state`).
    """

    kind: ClassVar[str] = "mixer"
    # Options of the model that it uses: "attention", "n_kv_head", "qk_norm"; "position": it rotates queries and keys,
    # and adds slopes; "document_mask": it keeps the segments of a view apart. Others are refused where they are set.
    uses: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        check_uses(cls.__name__, cls.uses)

    @abstractmethod
    def build(self, ctx: MixerContext) -> nn.Module: ...


class Attention(Component):
    """Mixes values over positions.

    The module's `forward(q, k, v, view)` takes q (B, H, T, D) and k, v (B, Hkv, S, D), H a multiple of Hkv, and
    returns (B, H, T, D), or (y, extra); see `api.take_extra`. The view says which positions attend to which; a query
    that attends to none gives zero, never NaN.
    """

    kind: ClassVar[str] = "attention"
    # The function it computes, whatever the kernel, such as "softmax" for that of q k^T / sqrt(D). Weights that were
    # trained with one attention fit every other that computes the same. None: it computes what no other does.
    computed_function: ClassVar[str | None] = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "build" in vars(cls) and "computed_function" not in vars(cls):  # another module than its base class builds
            cls.computed_function = None

    @abstractmethod
    def build(self, ctx: LayerContext) -> nn.Module: ...


class Position(Component):
    """Encodes positions: adds to embeddings, rotates queries and keys, or adds a bias to the attention scores."""

    kind: ClassVar[str] = "position"
    relative: ClassVar[bool] = False  # only distances matter, so positions may exceed block_size
    acts_in_mixers: ClassVar[bool] = False  # rotates queries and keys, or adds to scores; some mixers do not use it

    @abstractmethod
    def build(self, ctx: LayerContext) -> nn.Module:
        """An `api.Positional`."""


class Norm(Component):
    """Normalises the last dimension, of size n_embd: the module maps (..., C) to (..., C). Also used on heads.

    In training it may return (y, extra), with an auxiliary loss; see `api.take_extra`.
    """

    kind: ClassVar[str] = "norm"

    @abstractmethod
    def build(self, ctx: LayerContext) -> nn.Module: ...


class MLP(Component):
    """Mixes the features of each position: the module maps (B, T, C) to (B, T, C).

    In training it may return (y, extra), with an auxiliary loss; see `api.take_extra`.
    """

    kind: ClassVar[str] = "mlp"

    @abstractmethod
    def build(self, ctx: LayerContext) -> nn.Module: ...


class Loss(Component):
    """What training minimizes. Evaluation always measures the cross-entropy, whatever the loss.

    The module's `forward(x, weight, targets, vocab_size, softcap)` takes what `api.linear_cross_entropy` takes:
    features (B, T, C), the weight of the output head (at least vocab_size, C) and targets (B, T), -1 where ignored. It
    returns what that returns, or an `api.TrainingLoss` whose `loss` is that. It is called in training only. Its
    parameters are part of the model, as `loss.*`.
    """

    kind: ClassVar[str] = "loss"

    @abstractmethod
    def build(self, ctx: LayerContext) -> nn.Module: ...
