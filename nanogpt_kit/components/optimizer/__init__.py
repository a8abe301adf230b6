"""Built-in components of kind optimizer, and how they start without torch's compiler.

The methods of torch's optimizers import the compiler before they do anything, which takes as long as importing torch
itself, also in a run that compiles nothing.
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
)  # excluded from compilation by torch

T = TypeVar("T", bound=type[torch.optim.Optimizer])


def without_dynamo(optimizer: T) -> T:
    """A subclass of a torch optimizer whose methods are the functions that torch has wrapped."""
    methods = {name: inspect.unwrap(getattr(optimizer, name)) for name in WRAPPED_METHODS}
    methods["step"] = torch.no_grad()(inspect.unwrap(optimizer.step))
    return type(optimizer.__name__, (optimizer,), methods)  # type: ignore[return-value]
