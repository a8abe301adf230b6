"""One base class per kind of component. A component *is* its options; its methods are the behaviour.

Kinds know no torch: tensors and modules appear in signatures only. Contexts are frozen and may gain
fields; the methods of a component never gain required arguments.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from pydantic import Field

from nanogpt_kit.core.options import Component, RunContext

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from nanogpt_kit.core.experiment import Experiment
    from nanogpt_kit.nn.parts import Positional

Role = Literal["matrix", "vector", "embedding", "head"]


# --- text to tokens ---------------------------------------------------------------------------------------------


class Dataset(Component):
    """Yields documents; the core tokenizes and writes them.

    `splits` names what it has: `train` and `val`, and perhaps `test`, which nothing looks at unless asked.
    """

    kind: ClassVar[str] = "dataset"
    splits: ClassVar[tuple[str, ...]] = ("train", "val")

    @abstractmethod
    def documents(self, split: str) -> Iterator[str]:
        """The documents of a split, in an order that never changes. Raises KitError for text it cannot read."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash over everything that decides the documents: contents, not paths."""


@dataclass(frozen=True, kw_only=True)
class TextContext:
    """What a tokenizer may learn from."""

    splits: tuple[str, ...]
    documents: Callable[[str], Iterator[str]]


class Encoder(ABC):
    """A tokenizer at work. `state` and `Tokenizer.restore` carry it through data folders and checkpoints."""

    vocab_size: int
    eot_id: int | None  # written after each document, where there is one

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """One array of ids, all in [0, vocab_size), for each text. Raises KitError for text it cannot encode."""

    @abstractmethod
    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of `ids`; special tokens have none."""

    def decode(self, ids: Iterable[int]) -> str:
        """Text; bytes that are no UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def state(self) -> dict[str, Any]:
        """What was learnt from the text, as JSON values; empty where the options say it all."""
        return {}


class Tokenizer(Component):
    """Makes an encoder, by learning from the text or from its options alone."""

    kind: ClassVar[str] = "tokenizer"

    @abstractmethod
    def build(self, ctx: TextContext) -> Encoder: ...

    def known_vocab_size(self) -> int | None:
        """How many tokens there are, where the options alone decide it; None where the text does."""
        return None

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> Encoder:
        """The encoder whose `state()` this is."""


@dataclass(frozen=True, kw_only=True)
class OrderContext:
    n_tokens: int  # in the split
    block_size: int
    batch_windows: int  # windows of one optimizer step, over all ranks
    seed: int


class Order(Component):
    """Which windows each step sees: a pure function, so that resuming is arithmetic."""

    kind: ClassVar[str] = "order"

    @abstractmethod
    def starts(self, step: int, ctx: OrderContext) -> np.ndarray:
        """(batch_windows,) int64: where each window starts, at most n_tokens - block_size - 1."""


# --- the network ------------------------------------------------------------------------------------------------


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
    go on where its tokens end. Where its weights depend on block_size it has a `crop(block_size)`.
    """

    kind: ClassVar[str] = "model"
    block_size: int = Field(1024, ge=1, description="context length in tokens")
    init_from: str | None = Field(
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

    @abstractmethod
    def build(self, ctx: LayerContext) -> Positional: ...


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


# --- optimization -----------------------------------------------------------------------------------------------


class Optimizer(Component):
    """Updates parameters.

    `build` takes groups as torch does, one a role: dicts with `params`, `role` and `lr_multiplier`. It may
    split them and add options, and sets each group's `lr` to its own peak: the loop multiplies it by the schedule
    and the group's `lr_multiplier`.
    """

    kind: ClassVar[str] = "optimizer"

    @abstractmethod
    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer: ...


class Schedule(Component):
    """How the learning rate moves: a pure function of the step."""

    kind: ClassVar[str] = "schedule"

    @abstractmethod
    def multiplier(self, step: int, total_steps: int) -> float:
        """Of the peak lr, for the update that is number `step`, counted from 0."""


class Spread(Protocol):
    """A model laid out over processes: call it like the model."""

    def __call__(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor: ...

    def sync(self, last: bool) -> AbstractContextManager[None]:
        """Around each micro-step: gradients travel on the last one only."""

    def clip(self, max_norm: float) -> torch.Tensor:
        """Scales the gradients down to `max_norm` (0 leaves them); returns the norm that they had."""


class Parallel(Component):
    """Lays a model out over processes."""

    kind: ClassVar[str] = "parallel"

    @abstractmethod
    def spread(self, model: nn.Module, ctx: RunContext) -> Spread: ...


# --- looking at a run -------------------------------------------------------------------------------------------


class Sampler(Component):
    """A pure transform of logits; the samplers of a list are applied in order, then the core draws."""

    kind: ClassVar[str] = "sampler"

    @abstractmethod
    def transform(self, logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """(B, V) to (B, V), given the tokens so far (B, T). Minus infinity forbids a token."""


@dataclass(frozen=True)
class SplitLoss:
    """The loss over a whole split: every token but the first, each once and with equal weight."""

    nats: float
    tokens: int
    text_bytes: int  # of those tokens


class EvaluateContext(Protocol):
    """What an evaluator may use. Several evaluators share one pass over a split."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def encoder(self) -> Encoder: ...

    def split_loss(self, split: str) -> SplitLoss: ...


class Evaluator(Component):
    """Measures a model: called on all ranks, in eval mode, without gradients, with its own random numbers."""

    kind: ClassVar[str] = "evaluator"

    @abstractmethod
    def evaluate(self, ctx: EvaluateContext) -> dict[str, float]:
        """{"val/loss": 1.9, ...}"""


class LiveRun(Protocol):
    """A run as its callbacks see it."""

    path: Path
    experiment: Experiment
    model: nn.Module
    step: int  # optimizer updates done
    first_step: int  # where this process began: 0, or the step that was resumed from
    total_steps: int
    rank: int
    references: Mapping[str, float]  # known results on the same validation text: {"gzip -9": bits per byte, ...}

    def request_stop(self, reason: str) -> None:
        """Ends the run in order after this step: checkpoint, evaluation, samples."""


class Callback(Component):
    """Watches a run, or takes part in it.

    `build` returns a fresh object whose methods are marked `@hookimpl`; its optional `state_dict` and
    `load_state_dict` (tensors and plain values) enter the checkpoint.
    """

    kind: ClassVar[str] = "callback"
    tracker: ClassVar[bool] = False  # only reports: where it fails it is dropped and the run goes on

    @abstractmethod
    def build(self, run: LiveRun) -> object: ...


KINDS: dict[str, type[Component]] = {
    base.kind: base
    for base in (
        *(Dataset, Tokenizer, Order),
        *(Model, Init, Attention, Position, Norm, MLP),
        *(Optimizer, Schedule, Parallel),
        *(Sampler, Evaluator, Callback),
    )
}
