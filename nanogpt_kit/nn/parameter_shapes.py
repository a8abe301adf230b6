"""What is known of each parameter of a model besides its values: its role, its layer, and its fans, here and at base.

Source: fans as in Yang et al. 2022, arXiv:2203.03466, table 8: the numbers of inputs and outputs that may grow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from torch import nn
from torch.nn.modules.conv import _ConvNd

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.kinds import Optimizer, ParameterShape
from nanogpt_kit.nn.parts import FusedLinear, transformer_blocks
from nanogpt_kit.nn.roles import role_by_parameter


def parameter_shapes(
    module: nn.Module, base: nn.Module | None = None, optimizer: Optimizer | None = None
) -> dict[str, ParameterShape]:
    """Every parameter by its name in `named_parameters()`; `base` is the module of `Init.base_model`.

    Raises KitError where the base model has other parameters.
    """
    shapes = own_shapes(module)
    if base is None:
        return shapes
    bases = own_shapes(base)
    check_same_names(shapes, bases)
    return {name: with_base(shape, bases[name], optimizer) for name, shape in shapes.items()}


def own_shapes(module: nn.Module) -> dict[str, ParameterShape]:
    """The parameters of a module that is its own base model."""
    roles, kernels = role_by_parameter(module), {id(p) for m in module.modules() for p in kernels_of(m)}
    blocks = list(enumerate(transformer_blocks(module)))
    layers = {id(p): index for index, block in reversed(blocks) for p in block.parameters()}  # the first that has it
    rows = {id(m.weight): m.rows for m in module.modules() if isinstance(m, FusedLinear)}
    shapes = {}
    for name, parameter in module.named_parameters():
        size, role = tuple(parameter.shape), roles[parameter]
        if role in ("embedding", "vector"):
            fan_in, fan_out = 1, size[-1] if size else 1
        elif id(parameter) in kernels:  # (out, in, *kernel)
            kernel = math.prod(size[2:])
            fan_in, fan_out = size[1] * kernel, size[0] * kernel
        else:
            fan_out, fan_in = size[-2:]
        shapes[name] = ParameterShape(
            name=name,
            role=role,
            shape=size,
            layer=layers.get(id(parameter)),
            fan_in=fan_in,
            fan_out=fan_out,
            rows=rows.get(id(parameter)),
            base_fan_in=fan_in,
            base_fan_out=fan_out,
        )
    return shapes


def kernels_of(module: nn.Module) -> Iterable[nn.Parameter]:
    return module.parameters(recurse=False) if isinstance(module, _ConvNd) else ()


def with_base(shape: ParameterShape, base: ParameterShape, optimizer: Optimizer | None) -> ParameterShape:
    """A parameter with the fans of its counterpart in the base model."""
    norm, base_norm = (None if optimizer is None else optimizer.step_norm(one) for one in (shape, base))
    growth = None if norm is None or base_norm is None else norm / base_norm
    return replace(shape, base_fan_in=base.fan_in, base_fan_out=base.fan_out, step_growth=growth)


def check_same_names(shapes: Iterable[str], bases: Iterable[str]) -> None:
    different = sorted(set(shapes) ^ set(bases))
    if different:
        names = ", ".join(different[:3]) + (f" and {len(different) - 3:,} more" if len(different) > 3 else "")
        remedy = "its base_model should change widths only"
        raise KitError(f"the model and its base model do not both have the parameters {names}; {remedy}")
