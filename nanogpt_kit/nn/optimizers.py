"""Building the optimizer of an experiment, without importing torch's compiler.

Methods of torch's optimizers import it before they do anything, which takes as long as importing torch itself, also in
a run that compiles nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache, wraps
from typing import Any

import torch
from torch import nn

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.evaluation_weights import set_trained_weights
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import ParameterShape
from nanogpt_kit.core.kinds.parameter_group import VALUES
from nanogpt_kit.nn.group_matches import group_fault, match_groups
from nanogpt_kit.nn.parameter_groups import parameter_groups

NEVER_COMPILED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")  # torch excludes them from compiling


def build_optimizer(
    experiment: Experiment, model: nn.Module, shapes: Mapping[str, ParameterShape]
) -> torch.optim.Optimizer:
    """The optimizer of the parameters that are trained, with the options of their groups; `shapes` are by name.

    Raises KitError where multipliers are not numbers, and where groups do not suit the model or the optimizer.
    """
    group_of = match_groups(experiment, model)
    groups = parameter_groups(experiment.init, model, shapes, group_of, experiment.total_steps)
    unwrap_torch_optimizers()
    optimizer = experiment.optimizer.build(groups)
    set_group_values(experiment, optimizer)
    set_trained_weights(optimizer)
    return optimizer


def set_group_values(experiment: Experiment, optimizer: torch.optim.Optimizer) -> None:
    """Sets the values of the experiment's groups of parameters. Raises KitError where the optimizer has no such key."""
    options = [group.values() for group in experiment.optimizer.group]
    faults: dict[tuple[int, str], Fault] = {}
    for group in optimizer.param_groups:
        values = {} if group["group"] is None else options[group["group"]]
        for key, value in values.items():
            if key not in group:
                faults.setdefault((group["group"], key), lack_of(experiment, group, key))
            elif isinstance(value, tuple) and len(value) != len(group[key]):
                reason = f"should have {len(group[key])} values, as in {list(group[key])}, got {list(value)}"
                faults.setdefault((group["group"], key), group_fault(experiment, group["group"], key, reason))
        group.update(values)
    if faults:
        raise KitError(*faults.values())


def lack_of(experiment: Experiment, group: Mapping[str, Any], key: str) -> Fault:
    use, names = experiment.entry_of(experiment.optimizer).name, group["names"]
    shown = names[0] + (f" and {len(names) - 1:,} more" if len(names) > 1 else "")
    known = ", ".join(name for name in VALUES if name in group)
    remedy = f"it has {known}; leave {key} out, or let the group match only parameters that have it"
    return group_fault(experiment, group["group"], key, f"{use} has no {key} for {shown}: {remedy}")


@cache
def unwrap_torch_optimizers() -> None:
    """Replaces, in this process, methods of torch's optimizers by the functions that torch has wrapped."""
    classes = [cls for cls in vars(torch.optim).values() if inspect.isclass(cls)]
    for cls in classes:
        if not issubclass(cls, torch.optim.Optimizer):
            continue
        for name in NEVER_COMPILED:
            if name in vars(cls):
                setattr(cls, name, inspect.unwrap(vars(cls)[name]))
        if "step" in vars(cls) and cls is not torch.optim.Optimizer:
            cls.step = with_grad_mode(inspect.unwrap(cls.step))  # type: ignore[method-assign]


def with_grad_mode(step: Callable[..., Any]) -> Callable[..., Any]:
    """Records gradients in a step for differentiable optimizers only, as torch's wrapper does."""

    @wraps(step)
    def call(self: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
        with torch.set_grad_enabled(bool(self.defaults.get("differentiable"))):
            return step(self, *args, **kwargs)

    return call
