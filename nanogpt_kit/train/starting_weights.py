"""Weights that training starts from, and those that they lack: of a loss, or of a model that adds some to another."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nanogpt_kit.checkpoint.fit import load_matching_weights
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.inner_models import inner_model, with_inner_model
from nanogpt_kit.core.kinds import Model, ModelContext
from nanogpt_kit.nn.uninitialized import build_on_meta
from nanogpt_kit.train.other_loss import with_loss_weights


def load_starting_weights(module: nn.Module, weights: Mapping[str, Tensor], model: Model) -> None:
    """Loads weights into what `model` has built; those that `completed_weights` adds stay as they are there.

    Raises KitError where others are missing or do not fit.
    """
    load_matching_weights(module, completed_weights(weights, module, model), str(model.init_from))


def completed_weights(weights: Mapping[str, Tensor], module: nn.Module, model: Model) -> dict[str, Tensor]:
    """The weights; those of the module's loss where they have none; and where they are those of the model in
    `Model.inner_slot` alone, those that `model` adds to it."""
    complete, inner = with_loss_weights(weights, module), inner_model(model)
    if inner is None:
        return complete
    added = module.state_dict().keys() - names_of_weights(inner)
    if added & complete.keys():
        return complete
    return {**complete, **{name: value for name, value in module.state_dict().items() if name in added}}


def names_of_weights(model: Model) -> set[str]:
    module = build_on_meta(model)
    if module is None:  # a part needs real numbers while it is built
        with torch.random.fork_rng(devices=[]):
            module = model.build(ModelContext(vocab_size=1))
    return set(module.state_dict())


def comparable_experiments(experiment: Experiment, before: Experiment) -> tuple[Experiment, Experiment]:
    """Both, without what one of their models adds to the model in its slot and the other one does not have."""
    if inner_model(experiment.model) is None or inner_model(before.model) is None:
        return with_inner_model(experiment), with_inner_model(before)
    return experiment, before
