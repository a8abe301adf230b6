"""torch's optimizers without torch's compiler: their methods import it before they do anything, and that takes as long
as importing torch itself, for a run that may compile nothing.
"""

from __future__ import annotations

import inspect
from typing import TypeVar

import torch

SELDOM = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")  # torch marks them as not to be compiled

Kind = TypeVar("Kind", bound=type[torch.optim.Optimizer])


def without_dynamo(kind: Kind) -> Kind:
    """A subclass of an optimizer of torch's whose methods are the functions that torch has wrapped."""
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in SELDOM}
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), methods)  # type: ignore[return-value]
