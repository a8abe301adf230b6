"""Options of an experiment that must fit each other: each function raises the error of those that do not."""

from __future__ import annotations

from collections.abc import Callable

from nanogpt_kit.core.errors import dotted, option_error
from nanogpt_kit.core.kinds import Init, Model, Multipliers, Optimizer
from nanogpt_kit.core.options import components_in
from nanogpt_kit.core.sections import Checkpoint, Sample, Train
from nanogpt_kit.core.step_plan import BATCH_TOKENS, BLOCK_SIZE, PlanError, StepPlan


def check_batch_tokens(train: Train, model: Model) -> None:
    if train.batch_tokens % model.block_size:
        nearest = max(1, round(train.batch_tokens / model.block_size)) * model.block_size
        raise option_error(
            "train.batch_tokens",
            f"train.batch_tokens ({train.batch_tokens}) should be a multiple of model.block_size "
            f"({model.block_size}); the nearest is {nearest}",
            "model.block_size",
        )


def check_keep_every_steps(checkpoint: Checkpoint) -> None:
    saved, kept = checkpoint.every_steps, checkpoint.keep_every_steps
    if kept is not None and kept % saved:
        raise option_error(
            "checkpoint.keep_every_steps",
            f"checkpoint.keep_every_steps ({kept}) should be a multiple of checkpoint.every_steps ({saved})",
            "checkpoint.every_steps",
        )


def check_on_overflow(sample: Sample, model: Model) -> None:
    if sample.on_overflow == "rolling" and not model.relative:
        raise option_error(
            "sample.on_overflow",
            "on_overflow = 'rolling' requires a model with relative positions; use auto, refill or exact",
            *("model.use", "model.position.use"),
        )


def check_max_tokens(train: Train, plan: StepPlan) -> None:
    """After `check_step_plan`."""
    if train.max_tokens is None or plan.tokens(1) <= train.max_tokens:
        return
    needed = f"train.batch_tokens ({train.batch_tokens})"
    if plan.batch_schedule is not None:
        needed = f"the {plan.tokens(1)} tokens of the first step"
    message = f"train.max_tokens ({train.max_tokens}) should be at least {needed}"
    raise option_error("train.max_tokens", message, "train.batch_tokens")


def check_step_plan(train: Train, plan: StepPlan, key_of: Callable[[str], str]) -> None:
    """`key_of` gives the key of the schedule with a target."""
    if plan.has_equal_steps:
        return
    target = BLOCK_SIZE if plan.batch_schedule is None else BATCH_TOKENS
    if train.max_seconds is not None and train.max_tokens is None:
        reason = f"a schedule of {target} follows steps and tokens, since no batch may depend on a clock"
        remedy = "set train.max_tokens, too, to the tokens at which the schedule ends, or remove train.max_seconds"
        message = f"{reason}, and train.max_seconds may end the run sooner; {remedy}"
        raise option_error(f"{key_of(target)}.target", message, "train.max_seconds")
    try:
        plan.check()
    except PlanError as error:
        raise option_error(f"{key_of(error.target)}.target", str(error)) from None


def check_multipliers(init: Init, model: Model) -> None:
    multipliers = init.multipliers(model)
    if multipliers != Multipliers() and not model.applies_multipliers:
        raise option_error(
            "init.use",
            f"the init has multipliers ({multipliers}), and the model applies none; choose another init, or a "
            "model that applies them (applies_multipliers = True)",
            "model.use",
        )


def check_inner_groups(optimizer: Optimizer) -> None:
    for key, part in components_in(optimizer):
        if isinstance(part, Optimizer) and part.group:
            reason = "an optimizer within another has no groups; those of [[optimizer.group]] are for all parameters"
            raise option_error(dotted(("optimizer", *key, "group")), reason)
