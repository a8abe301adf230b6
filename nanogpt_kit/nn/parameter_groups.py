"""The groups of parameters that an optimizer is built from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from nanogpt_kit.core.kinds import Init, ParameterShape, Role


def parameter_groups(init: Init, model: nn.Module, shapes: Mapping[str, ParameterShape]) -> list[dict[str, Any]]:
    """The trainable parameters, one group for each role and multiplier of the learning rate.

    The groups of a role follow each other; `shapes` are those of the parameters by name.
    """
    groups: dict[Role, dict[float, list[nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            shape = shapes[name]
            of_role = groups.setdefault(shape.role, {})
            of_role.setdefault(init.lr_multiplier(shape), []).append(parameter)
    return [
        {"params": parameters, "role": role, "lr_multiplier": multiplier}
        for role, of_role in groups.items()
        for multiplier, parameters in of_role.items()
    ]
