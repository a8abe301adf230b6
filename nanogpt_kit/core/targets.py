"""Targets of schedules: the options of an experiment that may change while its run trains, by their keys."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from nanogpt_kit.core.errors import Key, did_you_mean
from nanogpt_kit.core.kinds import Model, Optimizer, Schedule
from nanogpt_kit.core.option_schema import JsonSchema, option_schemas
from nanogpt_kit.core.options import Component, Options
from nanogpt_kit.core.part_options import missing_base, part_options
from nanogpt_kit.core.sections import Train
from nanogpt_kit.core.step_plan import BATCH_TOKENS, BLOCK_SIZE, MAX_BATCH_TOKENS, StepPlan

LEARNING_RATE = "optimizer.lr"
GRAD_CLIP = "train.grad_clip"
GROUP = "optimizer.group."
BATCH_SHAPING = (BATCH_TOKENS, BLOCK_SIZE)  # driven by steps or tokens only, never by seconds


@dataclass(frozen=True)
class Target:
    """An option that a schedule may multiply."""

    value: float  # in the experiment
    at_most: float = math.inf  # what the option allows
    below: float = math.inf  # likewise

    def allows(self, value: float) -> bool:
        return value <= self.at_most and value < self.below


def targets_of(optimizer: Optimizer, train: Train, model: Model) -> dict[str, Target]:
    """Every target of an experiment with these parts."""
    of_train = {GRAD_CLIP: Target(train.grad_clip), BATCH_TOKENS: Target(train.batch_tokens, MAX_BATCH_TOKENS)}
    block_size = {BLOCK_SIZE: Target(model.block_size, model.block_size)}
    return {**optimizer_targets(optimizer), **of_train, **block_size, **model_targets(model)}


def optimizer_targets(optimizer: Component) -> dict[str, Target]:
    """`optimizer.lr`, of an optimizer within it `optimizer.others.lr`, of its groups `optimizer.group.0.lr`."""
    if not isinstance(optimizer, Optimizer):  # a run may be read whose optimizer is not installed
        return {}
    found = dict(number_options(optimizer, "optimizer"))
    by_option = {key.removeprefix("optimizer."): target for key, target in found.items()}
    for prefix, inner in inner_optimizers(optimizer, "optimizer"):
        of_inner = dict(number_options(inner, prefix))
        found |= of_inner
        by_option = {key.removeprefix(f"{prefix}."): target for key, target in of_inner.items()} | by_option
    for index, group in enumerate(optimizer.group):
        if group.freeze:
            continue
        own = {key.removeprefix("group."): target for key, target in number_options(group, "group")}
        found |= {f"{GROUP}{index}.{key}": target for key, target in (by_option | own).items()}
    return found


def inner_optimizers(optimizer: Optimizer, prefix: str) -> Iterator[tuple[str, Optimizer]]:
    """The optimizers in slots of an optimizer with their keys."""
    for name, value in optimizer:
        if isinstance(value, Optimizer):
            yield f"{prefix}.{name}", value
            yield from inner_optimizers(value, f"{prefix}.{name}")


def number_options(options: Options, prefix: str) -> Iterator[tuple[str, Target]]:
    """The real numbers among the options, and in their lists, as `betas.0`."""
    schemas = option_schemas(type(options))
    for name, value in options:
        several = value if isinstance(value, tuple) else (value,)
        if not several or not all(isinstance(one, float) for one in several):
            continue
        for index, one in enumerate(several):
            key = f"{prefix}.{name}.{index}" if isinstance(value, tuple) else f"{prefix}.{name}"
            yield key, bounded_target(one, element_schema(schemas[name], index))


def element_schema(schema: JsonSchema, index: int) -> JsonSchema:
    """The schema of an element of a list; of another option its own."""
    elements: Sequence[JsonSchema] = schema.get("prefixItems", ())
    return elements[index] if index < len(elements) else schema.get("items") or schema


def bounded_target(value: float, schema: JsonSchema) -> Target:
    return Target(value, float(schema.get("maximum", math.inf)), float(schema.get("exclusiveMaximum", math.inf)))


def model_targets(model: Model) -> dict[str, Target]:
    """`model.attention.window`, and of one element of a layered list `model.attention.1.window`."""
    found: dict[str, Target] = {}
    for option in part_options(model):
        if option.base is not None:
            schema = option_schemas(type(option.component))[option.name]
            of_number = next((one for one in schema.get("anyOf", ()) if one.get("type") != "null"), schema)
            for target in option.targets:
                found.setdefault(target, bounded_target(float(option.base), of_number))
    return found


def check_targets(schedule: Schedule | tuple[Schedule, ...], targets: Mapping[str, Target], model: Model) -> None:
    """Raises ValidationError with every schedule whose target does not exist, or is that of an earlier schedule."""
    details: list[InitErrorDetails] = []
    first: dict[str, str] = {}
    keys: list[Key] = [("schedule", index) for index in range(len(schedule))] if isinstance(schedule, tuple) else []
    for key, one in zip(keys or [("schedule",)], schedule if isinstance(schedule, tuple) else (schedule,), strict=True):
        written = ".".join(map(str, key))
        if one.target not in targets:
            unknown = f"{one.target!r} is not an option that a schedule can change{nearest_target(one.target, targets)}"
            reason = missing_base(model, one.target) or unknown
            details.append(target_error(key, reason))
        elif one.target in first:
            reason = f"{first[one.target]} has the target {one.target!r}, too; give one of them another target"
            details.append(target_error(key, f"{reason}, or remove it"))
        first.setdefault(one.target, written)
    if details:
        raise ValidationError.from_exception_data("schedule", details)


def schedule_notes(
    schedules: Sequence[tuple[str, Component]], targets: Mapping[str, Target], plan: StepPlan
) -> Iterator[str]:
    """What in the schedules of a run does not suit it, as sentences with their keys."""
    known = [(key, one) for key, one in schedules if isinstance(one, Schedule)]
    for key, one in known:
        length_note = plan.length_note if one.target == BLOCK_SIZE else None
        notes = one.note(plan.total_steps), zero_note(one.target, targets), length_note
        yield from (f"{key}: {note}" for note in notes if note)
    if len(known) == len(schedules) and not any(is_of_rate(one) for _, one in known):
        yield f"schedule: no schedule has the target {LEARNING_RATE}, so the learning rate is constant"


def optimizer_notes(
    optimizer: Component, schedules: Sequence[tuple[str, Component]], total_steps: float
) -> Iterator[str]:
    """What in the schedule of the learning rate does not suit the optimizer, as sentences with the schedule's key."""
    for key, one in schedules:
        if isinstance(optimizer, Optimizer) and isinstance(one, Schedule) and one.target == LEARNING_RATE:
            note = optimizer.note(one, total_steps)
            yield from (f"{key}: {note}",) if note else ()


def is_of_rate(schedule: Schedule) -> bool:
    """Whether it drives a learning rate, perhaps of some parameters only."""
    return schedule.target.startswith("optimizer.") and schedule.target.endswith(".lr")


def zero_note(target: str, targets: Mapping[str, Target]) -> str | None:
    """That a schedule has no effect, since all that it multiplies is 0, as a sentence; None where it has one."""
    where, name = split_target(target)
    within = (f"{where}.",) if where.startswith(GROUP) else (f"{where}.", GROUP)
    values = (one.value for key, one in targets.items() if key.startswith(within) and key.endswith(f".{name}"))
    return None if target not in targets or any(values) else f"{target} is 0, which no multiplier changes"


def split_target(target: str) -> tuple[str, str]:
    """Such as ("optimizer.others", "betas.0")."""
    *where, name = target.split(".")
    if name.isdecimal() and where:
        name = f"{where.pop()}.{name}"
    return ".".join(where), name


def nearest_target(target: str, targets: Mapping[str, Any]) -> str:
    """The end of a message about an unknown target; "lr" means `optimizer.lr`."""
    same_end = next((known for known in targets if known.endswith(f".{target}")), target)
    return did_you_mean(same_end, targets)


def target_error(key: Key, message: str) -> InitErrorDetails:
    problem = PydanticCustomError("kit", "{message}", {"message": message})
    return InitErrorDetails(type=problem, loc=(*key, "target"), input=None)
