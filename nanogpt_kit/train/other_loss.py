"""Weights of a loss, where training starts from a model that had another loss.

A loss changes training only, so that another one may follow. The names of its weights begin with `loss.`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from nanogpt_kit.core.experiment import Experiment

logger = logging.getLogger(__name__)

OF_LOSS = "loss."  # beginning of the names of a loss's weights


def without_other_loss(
    weights: Mapping[str, Tensor], experiment: Experiment, before: Experiment, module: nn.Module | None, origin: object
) -> dict[str, Tensor]:
    """The weights without those of a loss that is not the experiment's; logs what is left out or new.

    `before` had the weights; `module` is the model of `experiment`, None where it cannot be built on the meta device.
    """
    theirs, mine = loss_shapes(weights), loss_shapes(module.state_dict() if module else {})
    now, then = loss_options(experiment), loss_options(before)
    if now == then or (now.get("use") == then.get("use") and mine == theirs):
        return dict(weights)
    if theirs:
        logger.info("left out the weights of another loss in %s: %s", origin, ", ".join(theirs))
    if mine:
        logger.info("the weights of model.loss are initialized, not taken from %s: %s", origin, ", ".join(mine))
    return {name: value for name, value in weights.items() if name not in theirs}


def with_loss_weights(weights: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """The weights, and those of the module's loss where there are none among them."""
    if any(name.startswith(OF_LOSS) for name in weights):
        return dict(weights)
    return {**weights, **{name: value for name, value in module.state_dict().items() if name.startswith(OF_LOSS)}}


def loss_shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in weights.items() if name.startswith(OF_LOSS)}


def loss_options(experiment: Experiment) -> Mapping[str, Any]:
    """The table `model.loss`; empty where the model has no such slot."""
    options = experiment.resolved()["model"].get("loss")
    return options if isinstance(options, Mapping) else {}
