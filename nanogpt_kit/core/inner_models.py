"""Models that add weights to those of another model, which is in one of their slots: see `Model.inner_slot`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar, cast

from nanogpt_kit.core.errors import Key, dotted
from nanogpt_kit.core.experiment_options import ExperimentOptions
from nanogpt_kit.core.kinds import Model, Schedule

Chosen = TypeVar("Chosen", bound=ExperimentOptions)


def inner_model(model: Model) -> Model | None:
    """The model whose weights `model` has, besides those that it adds; None where it adds none."""
    return None if model.inner_slot is None else cast(Model, getattr(model, model.inner_slot))


def with_inner_model(experiment: Chosen) -> Chosen:
    """The experiment of the inner model alone; the same experiment where there is none.

    Schedules of its options have the targets of those; schedules of options that it does not have are left out.
    """
    inner = inner_model(experiment.model)
    if inner is None:
        return experiment
    alone = experiment.model_copy(update={"model": inner})
    outer, schedules = f"{dotted(key_of_inner(experiment.model))}.", []
    for one in experiment.schedules:
        if isinstance(one, Schedule) and one.target.startswith(outer):
            one = one.model_copy(update={"target": f"model.{one.target.removeprefix(outer)}"})
        elif isinstance(one, Schedule) and one.target.startswith("model.") and one.target not in alone.targets:
            continue
        schedules.append(one)
    single = not isinstance(experiment.schedule, tuple) and schedules
    return alone.model_copy(update={"schedule": schedules[0] if single else tuple(schedules)})


def key_of_inner(model: Model) -> Key:
    """The key of the table with the options of the inner model, or of the model itself where there is none."""
    return ("model",) if model.inner_slot is None else ("model", model.inner_slot)


def inner_model_notes(model: Model) -> Iterator[str]:
    """That the weights of the inner model are not trained ones, as a sentence."""
    if model.inner_slot is not None and model.init_from is None:
        key = dotted(key_of_inner(model))
        yield f"model.init_from is omitted, so the weights of {key} are random at the start, not trained ones"
