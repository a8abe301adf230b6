"""The role of each parameter, by which optimizers group and learning rates differ."""

from __future__ import annotations

from torch import nn

from nanogpt_kit.core.kinds import Role
from nanogpt_kit.nn.parts import HeadLinear


def role_by_parameter(model: nn.Module) -> dict[nn.Parameter, Role]:
    """All parameters, each once: embedding (also where it is tied to the head), head, matrix, vector."""
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    heads = {id(p) for m in model.modules() if isinstance(m, HeadLinear) for p in m.parameters()}

    def role_of(parameter: nn.Parameter) -> Role:
        if id(parameter) in embeddings:
            return "embedding"
        if parameter.ndim < 2:
            return "vector"
        return "head" if id(parameter) in heads else "matrix"

    return {parameter: role_of(parameter) for parameter in model.parameters()}


def parameters_by_role(model: nn.Module) -> dict[Role, list[nn.Parameter]]:
    """The trainable parameters by their role."""
    roles: dict[Role, list[nn.Parameter]] = {}
    for parameter, role in role_by_parameter(model).items():
        if parameter.requires_grad:
            roles.setdefault(role, []).append(parameter)
    return roles
