"""Metrics that the modules of a model offer: numbers that their method `logged_metrics` returns on logged steps."""

from __future__ import annotations

import numbers
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from nanogpt_kit.core.errors import RunFailed
from nanogpt_kit.nn.sharded import full_tensor

METHOD = "logged_metrics"
# How the names of a run's other metrics begin
TAKEN = frozenset({"train", "val", "test", "optim", "perf", "memory", "aux", "updates", "activations", "attention"})


@torch.no_grad()
def module_metrics(model: nn.Module) -> dict[str, float]:
    """The metrics of all modules, by the modules' names: {"h.0.mlp/temperature": 1.2}.

    Raises RunFailed where a method returns something else than a dict of numbers.
    """
    metrics: dict[str, float] = {}
    for path, module in model.named_modules():
        method = getattr(module, METHOD, None)
        if not callable(method):
            continue
        returned = method()
        where = f"{METHOD} of {path or 'the model'} ({type(module).__name__})"
        if not isinstance(returned, Mapping):
            raise RunFailed(f"{where} returned {returned!r}; it should return a dict of numbers by name")
        for name, value in returned.items():
            if not str(name):
                raise RunFailed(f"{where} returned a number without a name")
            key = f"{path}/{name}" if path else str(name)
            if key.partition("/")[0] in TAKEN:
                reason = f"would be logged as {key}, as if it were a metric of the run; give it another name"
                raise RunFailed(f"{where} returned {name!r}, which {reason}")
            metrics[key] = as_number(value, f"{where} returned {name!r}")
    return metrics


def as_number(value: object, what: str) -> float:
    """A number, or a tensor or array of one number, as a float. Raises RunFailed for anything else."""
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        return float(full_tensor(value))
    if isinstance(value, np.ndarray) and value.size == 1:
        return float(value.item())
    shown = f"a {type(value).__name__} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
    raise RunFailed(f"{what}: {shown}; it should be a number")
