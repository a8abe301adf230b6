"""Puts weights into a model, or names each tensor that does not fit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nanogpt_kit.core.errors import KitError

SHOWN = 8  # of the tensors that do not fit; the rest is counted


def fit(model: nn.Module, weights: Mapping[str, Tensor], origin: str) -> None:
    """Puts weights into a model; tied ones stay tied. Raises KitError that names each tensor that does not fit."""
    check_fit(model, weights, origin)
    model.load_state_dict(dict(weights), strict=False)


def check_fit(model: nn.Module, weights: Mapping[str, Tensor], origin: str) -> None:
    """Whether they would fit; the model may lie on the meta device. Raises KitError."""
    own = model.state_dict(keep_vars=True)
    given = {id(own[name]) for name in weights if name in own}  # a tied tensor needs one of its names only
    faults = [f"{name} is missing" for name, value in own.items() if id(value) not in given]
    first: dict[int, str] = {}  # of the names that share a tensor in the model
    for name, value in weights.items():
        twin = first.setdefault(id(own.get(name, value)), name)
        if twin != name and not torch.equal(value, weights[twin]):
            faults.append(f"{twin} and {name} differ there, and are one tensor in the model")
        if name not in own:
            faults.append(f"{name} has no place in the model")
        elif own[name].shape != value.shape:
            faults.append(f"{name} is {list(value.shape)} there and {list(own[name].shape)} in the model")
        elif own[name].is_floating_point() != value.is_floating_point():
            faults.append(f"{name} is {value.dtype} there and {own[name].dtype} in the model")
    if faults:
        more = f", and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise KitError(f"the weights of {origin} do not fit the model: {'; '.join(faults[:SHOWN])}{more}")
