"""A model with the weights that its experiment's init draws, and the checks of that init before training."""

from __future__ import annotations

import torch
from torch import nn

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Init, Model, ModelContext, Optimizer, ParameterShape, Role
from nanogpt_kit.nn.group_matches import freeze_parameters
from nanogpt_kit.nn.hashed_dropout import hash_dropouts
from nanogpt_kit.nn.optimizers import build_optimizer
from nanogpt_kit.nn.parameter_groups import parameter_groups, peak_rates, rates_by_role
from nanogpt_kit.nn.parameter_shapes import parameter_shapes
from nanogpt_kit.nn.uninitialized import build_on_meta


def build_initialized(experiment: Experiment, vocab_size: int) -> tuple[nn.Module, dict[str, ParameterShape]]:
    """The model of an experiment with its initial weights, drawn from torch's generator, and its parameters.

    Those of groups with `freeze` are frozen, and its dropout is hashed. Raises KitError where a group does not suit the
    model.
    """
    model = experiment.model.build(experiment.model_context(vocab_size))
    shapes = shapes_of_module(experiment, model, vocab_size)
    experiment.init.apply(model, shapes)
    freeze_parameters(experiment, model)
    hash_dropouts(model)
    return model, shapes


def shapes_of_module(experiment: Experiment, module: nn.Module, vocab_size: int) -> dict[str, ParameterShape]:
    """The parameters of the model of an experiment, compared with those of its base model."""
    return shapes_with_base(experiment.init, experiment.model, experiment.optimizer, module, vocab_size)


def shapes_with_base(
    init: Init, model: Model, optimizer: Optimizer, module: nn.Module, vocab_size: int
) -> dict[str, ParameterShape]:
    """The parameters of what `model` has built, compared with those of the init's base model, which takes no memory."""
    base_model = init.base_model(model)
    if base_model is None:
        return parameter_shapes(module)
    try:
        base = build_on_meta(base_model, vocab_size)
    except KitError as error:
        raise KitError(*(f"its base model cannot be built: {fault.message}" for fault in error.faults)) from None
    if base is None:  # a part needs real numbers while it is built, which the init's draws do not depend on
        with torch.random.fork_rng(devices=[]):
            base = base_model.build(ModelContext(vocab_size=vocab_size))
    return parameter_shapes(module, base, optimizer)


def check_init(experiment: Experiment, module: nn.Module, vocab_size: int) -> None:
    """Raises KitError where the init does not suit the model or the optimizer. `module` may be on the meta device."""
    try:
        parameter_groups(experiment.init, module, shapes_of_module(experiment, module, vocab_size))
    except KitError as error:
        location = experiment.location(("init", "use"))
        raise KitError(*(Fault(one.message, "init", location) for one in error.faults)) from None


def planned_rates(experiment: Experiment, module: nn.Module, vocab_size: int) -> dict[Role, tuple[float, float]] | None:
    """The peak learning rates by role, of a module on the meta device; None as in `planned_optimizer`."""
    optimizer = planned_optimizer(experiment, module, vocab_size)
    return None if optimizer is None else rates_by_role(optimizer, peak_rates(optimizer))


def planned_optimizer(experiment: Experiment, module: nn.Module, vocab_size: int) -> torch.optim.Optimizer | None:
    """The optimizer of a module on the meta device.

    None where it requires parameters with values, as those of plugins may. Raises KitError as `build_optimizer` does.
    """
    shapes = shapes_of_module(experiment, module, vocab_size)
    try:
        return build_optimizer(experiment, module, shapes)
    except KitError:
        raise
    except Exception:  # from a component's code, which may work on a real device
        return None
