"""Kinds that use a model or watch a run: sampler, evaluator, callback."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, final

from nanogpt_kit.core.kinds.text import Encoder
from nanogpt_kit.core.options import Component, RunContext
from nanogpt_kit.core.sections import Checkpoint, Evaluate, Sample, Train

if TYPE_CHECKING:
    import torch
    from torch import nn


class Sampler(Component):
    """A pure transform of logits. The samplers of a list are applied in order; then a token is drawn."""

    kind: ClassVar[str] = "sampler"

    @abstractmethod
    def transform(self, logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """(B, V) float32 to (B, V), given the tokens so far (B, T) int64. Minus infinity forbids a token.

        Rows are independent. Texts of different lengths are padded on the left with the token -1. At least one token
        that was possible stays possible.
        """


class MemorySampler(Sampler):
    """A sampler that also depends on how likely the tokens were that were drawn so far, such as mirostat.

    It stays a pure function: what it remembers is computed from all of them each time.
    """

    @abstractmethod
    def transform_with_memory(self, logits: torch.Tensor, tokens: torch.Tensor, logprobs: torch.Tensor) -> torch.Tensor:
        """As `transform`, given also the log-probabilities (B, N) of the newest N tokens, in nats, float32.

        N counts the tokens drawn since the prompt, 0 at first, and is the same for all texts of a batch. The
        log-probabilities are those by the model's logits, before any sampler.
        """

    @final
    def transform(self, logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Without memory: as for the first token after a prompt."""
        return self.transform_with_memory(logits, tokens, logits.new_empty(len(logits), 0))


@dataclass(frozen=True)
class SplitLoss:
    """The loss over a whole split: every token that counts, except the first, each once and with equal weight."""

    nats: float
    tokens: int
    text_bytes: int  # of those tokens


class EvaluateContext(Protocol):
    """What an evaluator may use. The pass over a split is made once for all evaluators."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def encoder(self) -> Encoder: ...

    @property
    def device(self) -> str:
        """The device of the model: "cpu", "cuda", "mps"."""

    @property
    def block_size(self) -> int:
        """The model's context length in tokens."""

    @property
    def batch_size(self) -> int:
        """Windows of block_size tokens in a batch."""

    def autocast(self) -> AbstractContextManager[object]:
        """Inside, the model computes in the run's precision; outside, in fp32."""

    def split_loss(self, split: str) -> SplitLoss:
        """The loss over a split, computed once for all evaluators. Raises KitError for a test split that is closed."""

    def generate(
        self, prompts: Sequence[str], max_new_tokens: int, seed: int, samplers: Sequence[Sampler] | None = None
    ) -> list[str]:
        """The prompts with their continuations; text i is drawn with seed + i. Default samplers: those of the run."""

    def show(self, texts: Sequence[str]) -> None:
        """Writes texts to samples.txt and passes them to the callbacks' `sampled`."""

    def check_stop(self) -> None:
        """Ends the evaluation where the user has asked the run to stop. Call it between batches."""


class Evaluator(Component):
    """Measures a model. Called on all ranks, in eval mode, without gradients, with separate random numbers."""

    kind: ClassVar[str] = "evaluator"
    requires_finite: ClassVar[bool] = True  # a run fails where one of its metrics is infinite or NaN
    # Where the dataset consists of sources, it also measures each of them: as val/loss/NAME besides val/loss. It must
    # declare `metric_names`, and measure by `EvaluateContext.split_loss` alone.
    measures_sources: ClassVar[bool] = False

    def check(self, encoder: Encoder, block_size: int) -> None:
        """Raises KitError where the vocabulary or the context is unfit for its texts. Called before training."""

    def metric_names(self) -> tuple[str, ...] | None:
        """The keys of what `evaluate` returns; None where they are not known before the run.

        Options that name a metric are checked against them before training.
        """
        return None

    def splits_read(self) -> tuple[str, ...]:
        """The splits of the dataset that it measures on; empty where it reads another text."""
        return ("val",)

    def text_metrics(self) -> tuple[str, ...]:
        """Those of `metric_names` that can be compared between tokenizers, as bits per byte and accuracies can."""
        return ()

    def refusal_reason(self, ctx: RunContext) -> str | None:
        """Why it cannot run in `ctx`: by default, that it reads a split that is missing or closed."""
        return next(filter(None, map(ctx.split_refusal_reason, self.splits_read())), None)

    @abstractmethod
    def evaluate(self, ctx: EvaluateContext) -> dict[str, float]:
        """{"val/loss": 1.9, ...}"""


class RunExperiment(Protocol):
    """The experiment of a run, as far as its callbacks may use it; see `core.experiment.Experiment`."""

    @property
    def name(self) -> str: ...

    @property
    def train(self) -> Train: ...

    @property
    def evaluate(self) -> Evaluate: ...

    @property
    def checkpoint(self) -> Checkpoint: ...

    @property
    def sample(self) -> Sample: ...

    def tokens(self, n_steps: int) -> int:
        """The number of tokens in the windows of the first `n_steps` steps; schedules may give steps different ones."""

    def resolved(self) -> dict[str, Any]:
        """Every value, defaults included, as TOML values."""

    def to_toml(self) -> str:
        """The same as an experiment file."""


class StepScalars(Protocol):
    """The loss and the gradient norm of a step, on their way from the device."""

    def is_ready(self) -> bool:
        """Whether they can be read without waiting; on a CPU always."""

    def read(self) -> list[float]:
        """[mean loss over the batch of all ranks, norm of its gradient before clipping].

        Waits for the step on a GPU. Those of the step before are there already.
        """


class TrainingBatch(Protocol):
    """The windows of a step on this rank, on the CPU. Each tensor may be changed in place, not replaced."""

    @property
    def ids(self) -> torch.Tensor:
        """(W, T) int64"""

    @property
    def targets(self) -> torch.Tensor:
        """(W, T) int64: the token that each position predicts; -1 does not count. A window of these alone stays so."""

    @property
    def segments(self) -> torch.Tensor | None:
        """(W, T) int64: the document, within its window, of each token; None without `model.document_mask`."""


class LiveRun(Protocol):
    """A run in progress, as far as its callbacks may use it."""

    path: Path
    model: nn.Module
    optimizer: torch.optim.Optimizer  # schedules set its groups before each step
    first_step: int  # of this process: 0, or the step that was resumed from
    total_steps: int
    vocab_size: int  # tokens, without padding
    rank: int
    summary: Mapping[str, str]  # lines for people, by label: {"device": "cpu, 2 threads", "folder": "runs/...", ...}
    references: Mapping[str, float]  # bits per byte of compressors on the validation text: {"gzip -9": 2.1, ...}

    @property
    def experiment(self) -> RunExperiment: ...

    @property
    def config(self) -> Mapping[str, Any]:
        """Every value of the experiment, defaults included, as in experiment.toml."""

    @property
    def step(self) -> int:
        """Optimizer updates done."""

    @property
    def scalars(self) -> StepScalars:
        """Of the newest step, from its `step_finished` on."""

    def request_stop(self, reason: str) -> None:
        """Ends the run after this step, with its checkpoint, evaluation and samples."""


class Callback(Component):
    """Watches a run, or takes part in it.

    `build` returns a fresh object whose methods are marked `@hookimpl`. Its optional `state_dict` and
    `load_state_dict` (tensors and plain values) are part of the checkpoint. Those tensors must be finite, else the run
    fails; a bound that is infinite at first should be a Python float.
    """

    kind: ClassVar[str] = "callback"
    is_tracker: ClassVar[bool] = False  # only reports: where it fails it is dropped and the run continues

    def metrics_read(self) -> dict[str, str]:
        """The options that name a metric of the evaluators, with their values: {"metric": "val/loss"}."""
        return {}

    @abstractmethod
    def build(self, run: LiveRun) -> object: ...
