"""Loading weights into a model, or naming each tensor that does not fit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nanogpt_kit.core.errors import KitError

SHOWN = 8  # tensors in a message; the others are counted
SHOWN_WITH_REMEDY = 2  # where their names are not needed to find it


def load_matching_weights(model: nn.Module, weights: Mapping[str, Tensor], origin: str) -> None:
    """Loads weights into a model; tied ones stay tied. Raises KitError that names each tensor that does not fit."""
    check_weights_match(model, weights, origin)
    model.load_state_dict(dict(weights), strict=False)


def check_weights_match(model: nn.Module, weights: Mapping[str, Tensor], origin: str, remedy: str = "") -> None:
    """Raises KitError where the weights do not fit, with the remedy; the model may be on the meta device."""
    tensors = model.state_dict(keep_vars=True)
    given = {id(tensors[name]) for name in weights if name in tensors}  # a tied tensor needs only one of its names
    faults = [f"{name} is missing" for name, value in tensors.items() if id(value) not in given]
    first: dict[int, str] = {}  # name of each tensor of the model
    for name, value in weights.items():
        twin = first.setdefault(id(tensors.get(name, value)), name)
        if twin != name and not torch.equal(value, weights[twin]):
            faults.append(f"{twin} and {name} differ there, but are one tensor in the model")
        if name not in tensors:
            faults.append(f"{name} is not a tensor of the model")
        elif tensors[name].shape != value.shape:
            faults.append(f"{name} is {list(value.shape)} there and {list(tensors[name].shape)} in the model")
        elif tensors[name].is_floating_point() != value.is_floating_point():
            faults.append(f"{name} is {value.dtype} there and {tensors[name].dtype} in the model")
    if faults:
        shown = SHOWN_WITH_REMEDY if remedy else SHOWN
        more = f", and {len(faults) - shown} more" if len(faults) > shown else ""
        said = f"the weights of {origin} do not fit the model{f'; {remedy}' if remedy else ''}"
        raise KitError(f"{said}: {'; '.join(faults[:shown])}{more}")
