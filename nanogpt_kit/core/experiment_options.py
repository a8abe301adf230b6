"""The options of an experiment: its components and sections, and how they depend on each other."""

from __future__ import annotations

from typing import Any, ClassVar, Self, cast

from pydantic import Field, PrivateAttr, model_validator

from nanogpt_kit.core.kinds import (
    Callback,
    Dataset,
    Evaluator,
    Init,
    Model,
    Optimizer,
    Order,
    Parallel,
    Sampler,
    Schedule,
    Tokenizer,
)
from nanogpt_kit.core.layered_slots import OneOrList, listed
from nanogpt_kit.core.made_with import Unresolved
from nanogpt_kit.core.options import MAY_CHANGE, Options, PathStr, components_in, slot
from nanogpt_kit.core.relations import (
    check_batch_tokens,
    check_inner_groups,
    check_keep_every_steps,
    check_max_tokens,
    check_multipliers,
    check_on_overflow,
    check_step_plan,
)
from nanogpt_kit.core.sections import Ablate, Checkpoint, Evaluate, Sample, Sweep, Train
from nanogpt_kit.core.step_plan import StepPlan
from nanogpt_kit.core.targets import BATCH_SHAPING, Target, check_targets, targets_of


class ExperimentOptions(Options):
    """The tables of an experiment file. `Experiment` reads and writes it, and says where each value was written."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=100,
        description="name of the experiment and of its folder below runs/",
    )
    note: str = Field(
        "",
        max_length=10_000,
        description="reason for the experiment, for people",
        json_schema_extra=MAY_CHANGE,
    )
    components: tuple[PathStr, ...] = Field(
        (),
        description="local component files, relative to the file that names them",
        json_schema_extra=MAY_CHANGE,
    )
    dataset: Dataset = Field(description="source of the text, and its splits")
    tokenizer: Tokenizer = Field(description="tokens that the text is written in")
    order: Order = slot("shuffled", description="choice of the windows of each step")
    model: Model = Field(description="network that is trained")
    init: Init = slot("gpt2", description="initial weights, and factors of parameters and learning rates")
    optimizer: Optimizer = Field(description="rule that updates the parameters from their gradients")
    schedule: OneOrList[Schedule] = Field(
        description="how options change during the run: one schedule, of the learning rate, or a list with targets"
    )
    train: Train
    parallel: Parallel = slot(
        "single", description="distribution of the model over processes", json_schema_extra=MAY_CHANGE
    )
    parallel_of_several: ClassVar[str] = "ddp"  # the default of `parallel` where a run has several processes
    evaluate: Evaluate = Field(Evaluate(), json_schema_extra=MAY_CHANGE)
    evaluator: tuple[Evaluator, ...] = slot(
        ("loss", "bits_per_byte"),
        description="measurements of the model, at each evaluation",
        json_schema_extra=MAY_CHANGE,
    )
    checkpoint: Checkpoint = Field(Checkpoint(), json_schema_extra=MAY_CHANGE)
    callback: tuple[Callback, ...] = slot(
        ("console", "tensorboard", "divergence"),
        description="objects that watch the run or take part in it, called in this order",
        json_schema_extra=MAY_CHANGE,
    )
    sample: Sample = Field(Sample(), json_schema_extra=MAY_CHANGE)
    sampler: tuple[Sampler, ...] = slot(
        ("temperature", "top_k"),
        description="transforms of the logits before a token is drawn, applied in this order",
        json_schema_extra=MAY_CHANGE,
    )
    sweep: Sweep | None = None
    ablate: Ablate | None = None

    _step_plan: tuple[Any, ...] = PrivateAttr((None, None, None, None))  # what it was made of, and the plan

    @model_validator(mode="after")
    def _check_relations(self) -> Self:
        check_batch_tokens(self.train, self.model)
        check_keep_every_steps(self.checkpoint)
        check_on_overflow(self.sample, self.model)
        if not isinstance(self.init, Unresolved):
            check_multipliers(self.init, self.model)
        missing = {part.kind for _, part in components_in(self) if isinstance(part, Unresolved)}
        if not missing & {"optimizer", "schedule"}:
            check_targets(self.schedule, self.targets, self.model)
            check_inner_groups(self.optimizer)
            check_step_plan(self.train, self.step_plan, self.schedule_key)
            check_max_tokens(self.train, self.step_plan)
        return self

    @property
    def schedules(self) -> tuple[Schedule, ...]:
        """All schedules, each with its target."""
        return listed(self.schedule)

    @property
    def targets(self) -> dict[str, Target]:
        """The options that a schedule may drive, by their keys."""
        return targets_of(self.optimizer, self.train, self.model)

    def schedule_of(self, target: str) -> Schedule | None:
        """The schedule that drives an option; None where the option is constant."""
        return next((schedule for schedule in self.schedules if schedule.target == target), None)

    def schedule_key(self, target: str) -> str:
        """The key of the schedule that drives an option: "schedule", or "schedule.1" of a list."""
        index = [schedule.target for schedule in self.schedules].index(target)
        return f"schedule.{index}" if isinstance(self.schedule, tuple) else "schedule"

    @property
    def step_plan(self) -> StepPlan:
        """The batch of each step. It is kept, since schedules may make it compute every step of the run."""
        train, model, schedule, plan = self._step_plan
        if train is not self.train or model is not self.model or schedule is not self.schedule:  # that of another copy
            train, model, schedules = self.train, self.model, map(self.schedule_of, BATCH_SHAPING)
            plan = StepPlan(train.batch_tokens, model.block_size, train.steps, train.max_tokens, *schedules)
            self._step_plan = train, model, self.schedule, plan
        return cast(StepPlan, plan)

    @property
    def total_steps(self) -> int:
        """Steps within both `train.steps` and `train.max_tokens`."""
        return self.step_plan.total_steps

    @property
    def total_tokens(self) -> int:
        """Of these steps."""
        return self.step_plan.total_tokens

    def tokens(self, n_steps: int) -> int:
        """The number of tokens in the windows of the first `n_steps` steps."""
        return self.step_plan.tokens(n_steps)
