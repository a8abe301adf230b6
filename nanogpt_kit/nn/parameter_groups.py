"""The groups of parameters that an optimizer is built from, and their peak learning rates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.kinds import Init, ParameterShape, Role

NO_GROUPS: Mapping[str, int | None] = MappingProxyType({})
# Keys of a torch optimizer's groups that are not the optimizer's own, but say what its parameters are
OUR_KEYS = ("names", "rows", "role", "lr_multiplier", "group", "total_steps", "slot")


def parameter_groups(
    init: Init,
    model: nn.Module,
    shapes: Mapping[str, ParameterShape],
    group_of: Mapping[str, int | None] = NO_GROUPS,
    total_steps: int = 0,
) -> list[dict[str, Any]]:
    """The trainable parameters, one group for each role, multiplier of the learning rate, and group of the user's.

    The groups of a role follow each other. By the names of parameters, `shapes` are theirs, and `group_of` gives the
    index in `Optimizer.group` of those that one matches. Raises KitError where a multiplier is not one.
    """
    groups: dict[Role, dict[tuple[float, int | None], dict[str, nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            shape = shapes[name]
            multiplier = init.lr_multiplier(shape)
            if not isinstance(multiplier, int | float) or not 0 <= multiplier < math.inf:
                wanted = "it should be a finite number that is not negative"
                raise KitError(f"lr_multiplier of {name} is {multiplier!r}: {wanted}")
            of_role = groups.setdefault(shape.role, {})
            of_role.setdefault((multiplier, group_of.get(name)), {})[name] = parameter
    return [
        {
            "params": [*parameters.values()],
            "names": [*parameters],
            "rows": [shapes[name].rows for name in parameters],
            "role": role,
            "lr_multiplier": multiplier,
            "group": group,
            "total_steps": total_steps,
        }
        for role, of_role in groups.items()
        for (multiplier, group), parameters in of_role.items()
    ]


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Loads a state dict, except what its groups say of their parameters, which the optimizer here knows."""
    ours = [{key: group[key] for key in OUR_KEYS if key in group} for group in optimizer.param_groups]
    optimizer.load_state_dict(dict(state))
    for group, keys in zip(optimizer.param_groups, ours, strict=True):
        group.update(keys)


def peak_rates(optimizer: torch.optim.Optimizer) -> list[float]:
    """The peak learning rate of each group of an optimizer that has just been built."""
    return [group["lr"] * group["lr_multiplier"] for group in optimizer.param_groups]


def rates_by_role(optimizer: torch.optim.Optimizer, peaks: list[float]) -> dict[Role, tuple[float, float]]:
    """The lowest and the highest peak learning rate of the parameters of each role."""
    by_role: dict[Role, list[float]] = {}
    for group, peak in zip(optimizer.param_groups, peaks, strict=True):
        by_role.setdefault(group["role"], []).append(peak)
    return {role: (min(rates), max(rates)) for role, rates in by_role.items()}


def describe_rates(by_role: Mapping[Role, tuple[float, float]]) -> str:
    """Such as "embedding 0.003, vector 0.003, matrix 0.00075 to 0.0015"; empty where all are the same."""
    if len({rate for rates in by_role.values() for rate in rates}) < 2:
        return ""
    texts = {role: f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}" for role, (low, high) in by_role.items()}
    return ", ".join(f"{role} {text}" for role, text in texts.items())
