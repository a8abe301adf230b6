"""The role of each parameter, by which optimizers group and learning rates differ."""

from __future__ import annotations

from torch import nn

from nanogpt_kit.core.kinds import Role
from nanogpt_kit.nn.parts import HeadLinear


def parameters_by_role(model: nn.Module) -> dict[Role, list[nn.Parameter]]:
    """The trainable parameters, each once: embedding (also where it is tied to the head), head, matrix, vector."""
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    heads = {id(p) for m in model.modules() if isinstance(m, HeadLinear) for p in m.parameters()}
    roles: dict[Role, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        role: Role = (
            "embedding"
            if id(parameter) in embeddings
            else "vector"
            if parameter.ndim < 2
            else "head"
            if id(parameter) in heads
            else "matrix"
        )
        if parameter.requires_grad:
            roles.setdefault(role, []).append(parameter)
    return roles
