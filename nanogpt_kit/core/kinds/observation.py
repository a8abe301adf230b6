"""Kinds that look at a run: sampler, evaluator, callback."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from nanogpt_kit.core.kinds.text import Encoder
from nanogpt_kit.core.options import Component

if TYPE_CHECKING:
    import torch
    from torch import nn

    from nanogpt_kit.core.experiment import Experiment


class Sampler(Component):
    """A pure transform of logits; the samplers of a list are applied in order, then the core draws."""

    kind: ClassVar[str] = "sampler"

    @abstractmethod
    def transform(self, logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """(B, V) float32 to (B, V), given the tokens so far (B, T) int64. Minus infinity forbids a token.

        Rows never influence each other. Texts of different lengths are padded on the left: a token is -1 where its
        row's text has not begun yet. Some token that was possible remains so.
        """


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

    @property
    def device(self) -> str:
        """Where the model is: "cpu", "cuda", "mps"."""

    @property
    def block_size(self) -> int:
        """The model's context length in tokens."""

    @property
    def batch_size(self) -> int:
        """How many windows of block_size tokens fit a pass."""

    def autocast(self) -> AbstractContextManager[object]:
        """While entered, the model computes in the run's precision; a pass outside of it is in fp32."""

    def split_loss(self, split: str) -> SplitLoss: ...

    def generate(
        self, prompts: Sequence[str], max_new_tokens: int, seed: int, samplers: Sequence[Sampler] | None = None
    ) -> list[str]:
        """A text for each prompt, which it begins with; number i draws with seed + i. Samplers left out: the run's."""

    def show(self, texts: Sequence[str]) -> None:
        """Texts for people: into samples.txt, and to the callbacks' `sampled`."""

    def check_stop(self) -> None:
        """To be called between passes: ends the evaluation where the user has asked for the run's end."""


class Evaluator(Component):
    """Measures a model: called on all ranks, in eval mode, without gradients, with its own random numbers."""

    kind: ClassVar[str] = "evaluator"
    finite: ClassVar[bool] = True  # its metrics must be: a run fails where one is infinite or NaN

    def check(self, encoder: Encoder, block_size: int) -> None:
        """Raises KitError where this vocabulary or context cannot hold its texts; asked before anything is trained."""

    def metric_names(self) -> tuple[str, ...] | None:
        """Exactly the keys of what `evaluate` returns, known before the run; None where they are not.

        Options that name a metric are then checked before anything is trained.
        """
        return None

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
    `load_state_dict` (tensors and plain values) enter the checkpoint. Tensors in there must be finite, else the run
    fails; a bound that is infinite at first is a Python float.
    """

    kind: ClassVar[str] = "callback"
    tracker: ClassVar[bool] = False  # only reports: where it fails it is dropped and the run goes on

    def metrics_read(self) -> dict[str, str]:
        """The options that name a metric of the evaluators, and which: {"metric": "val/loss"}."""
        return {}

    @abstractmethod
    def build(self, run: LiveRun) -> object: ...
