"""Models that add weights to those of another model, which is in one of their slots: see `Model.inner_slot`."""

from __future__ import annotations

from typing import TypeVar, cast

from nanogpt_kit.core.errors import Key
from nanogpt_kit.core.kinds import Model
from nanogpt_kit.core.options import Options

Chosen = TypeVar("Chosen", bound=Options)


def inner_model(model: Model) -> Model | None:
    """The model whose weights `model` has, besides those that it adds; None where it adds none."""
    return None if model.inner_slot is None else cast(Model, getattr(model, model.inner_slot))


def with_inner_model(experiment: Chosen) -> Chosen:
    """The experiment of the inner model alone; the same experiment where there is none."""
    inner = inner_model(getattr(experiment, "model"))  # noqa: B009
    return experiment if inner is None else experiment.model_copy(update={"model": inner})


def key_of_inner(model: Model) -> Key:
    """The key of the table with the options of the inner model, or of the model itself where there is none."""
    return ("model",) if model.inner_slot is None else ("model", model.inner_slot)
