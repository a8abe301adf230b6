"""Kinds of the optimization: optimizer, schedule, parallel."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import compress
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic import Field

from nanogpt_kit.core.kinds.parameter_group import ParameterGroup
from nanogpt_kit.core.options import Component, RunContext

if TYPE_CHECKING:
    import torch
    from torch import nn

    from nanogpt_kit.core.kinds.init import ParameterShape


class Optimizer(Component):
    """Updates the parameters.

    `build` takes groups as torch does: dicts with `params` and, parallel to it, `names` and `rows` (as in
    `ParameterShape.rows`); with `role`, `lr_multiplier`, `group` (the index in the option `group`, or None) and
    `total_steps` (of the run). It may split them, with `part_of_group`, and add options, and sets each group's `lr` to
    its peak: the training loop multiplies that by the schedule and by the group's `lr_multiplier`. What the option
    `group` says is set on the groups of what it has built.

    What it builds may have other weights for evaluation than those that are trained, such as an average: its method
    `eval` gives the parameters these, and `train` restores the others.
    """

    kind: ClassVar[str] = "optimizer"
    uses_total_steps: ClassVar[bool] = False  # its updates depend on `total_steps`: a run cannot be extended exactly
    group: tuple[ParameterGroup, ...] = Field(
        (), description="groups of parameters that have their own options, or that are frozen"
    )

    @abstractmethod
    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer of all parameters in `groups`."""

    def state_copies(self) -> int:
        """The least number of values that its state holds for each parameter: to estimate the memory of a run."""
        return 0

    def step_norm(self, shape: ParameterShape) -> float | None:
        """The spectral norm of one step of a weight, at a learning rate of 1, up to a constant factor.

        Inits such as mup scale learning rates by it. sqrt(fan_out * fan_in) where every element moves by the learning
        rate, as in Adam. None where it depends on the size of the gradient, or is not known.
        """
        return None

    def note(self, schedule: Schedule, total_steps: float) -> str | None:
        """That the schedule of the learning rate does not suit this optimizer in a run of this length, as a sentence;
        None where it does."""
        return None

    @staticmethod
    def with_weight_decay(groups: list[dict[str, Any]], weight_decay: float) -> list[dict[str, Any]]:
        """The groups with their `weight_decay`: none for vectors (norm gains and biases)."""
        return [{**group, "weight_decay": 0.0 if group["role"] == "vector" else weight_decay} for group in groups]

    @staticmethod
    def part_of_group(group: dict[str, Any], keep: Sequence[bool]) -> dict[str, Any]:
        """The group with only the parameters that `keep` is true for, with their names and rows."""
        parallel = [key for key in ("params", "names", "rows") if key in group]
        return {**group, **{key: list(compress(group[key], keep)) for key in parallel}}

    @classmethod
    def matrices_apart(
        cls, groups: list[dict[str, Any]], slot: str
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The groups of matrices (A, B), and those of all other parameters, marked for the optimizer in the option
        `slot`; groups without parameters are left out."""
        matrices, others = [], []
        for group in groups:
            is_matrix = [group["role"] == "matrix" and p.ndim == 2 for p in group["params"]]  # neither kernel nor stack
            matrices.append(cls.part_of_group(group, is_matrix))
            others.append({**cls.part_of_group(group, [not one for one in is_matrix]), "slot": slot})
        return [one for one in matrices if one["params"]], [one for one in others if one["params"]]


class Schedule(Component):
    """How an option changes during a run, by default the learning rate: a pure function of the progress."""

    kind: ClassVar[str] = "schedule"
    target: str = Field(
        "optimizer.lr", min_length=1, description="key of the option that the schedule multiplies during the run"
    )

    @abstractmethod
    def multiplier(self, step: int, total_steps: float) -> float:
        """The factor on the target's value at step `step`, counted from 0; finite and not negative.

        `total_steps` is the length of the run. Where a budget of tokens or seconds ends the run sooner, it is the
        length at the pace so far, so that `step / total_steps` is the fraction of the budget that is used.
        """

    def note(self, total_steps: float) -> str | None:
        """Which options do not suit a run of this length, though it can be trained, as a sentence; else None."""
        return None


class WarmupSchedule(Schedule):
    """A schedule that first rises linearly to the peak."""

    warmup_steps: int = Field(0, ge=0, description="steps of linear warmup")

    def multiplier(self, step: int, total_steps: float) -> float:
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        return self.after_warmup(step, total_steps)

    def note(self, total_steps: float) -> str | None:
        if not 0 < total_steps <= self.warmup_steps:
            return None
        return (
            f"warmup_steps = {self.warmup_steps:,} is not less than the {total_steps:,} steps of the run: "
            f"{'the learning rate' if self.target == 'optimizer.lr' else self.target} does not reach its peak"
        )

    @abstractmethod
    def after_warmup(self, step: int, total_steps: float) -> float:
        """As `multiplier`, from step `warmup_steps` on."""


class WrappedModel(Protocol):
    """A model as the training loop calls it; `api.ParallelModel` is the class to derive from."""

    def __call__(self, ids: torch.Tensor, targets: torch.Tensor, segments: torch.Tensor | None = None) -> Any:
        """What the model returns: the fp32 sum of the losses, or an `api.TrainingLoss`."""

    def sync(self, last: bool) -> AbstractContextManager[None]: ...

    def clip(self, max_norm: float) -> torch.Tensor: ...


class Parallel(Component):
    """Distributes a model over processes."""

    kind: ClassVar[str] = "parallel"

    @abstractmethod
    def wrap(self, model: nn.Module, ctx: RunContext) -> WrappedModel:
        """An `api.ParallelModel`, which the training loop calls like the model."""
