"""torch's optimizers without torch's compiler.

Their methods import it before they do anything else, which takes as long as importing torch itself.
"""

from __future__ import annotations

import inspect
from typing import TypeVar

import torch

WRAPPED_METHODS = (
    "add_param_group",
    "zero_grad",
    "state_dict",
    "load_state_dict",
)  # torch wraps them so that they are never compiled

Kind = TypeVar("Kind", bound=type[torch.optim.Optimizer])


def without_dynamo(kind: Kind) -> Kind:
    """A subclass of a torch optimizer with the plain functions that torch has wrapped as its methods."""
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in WRAPPED_METHODS}
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), methods)  # type: ignore[return-value]
