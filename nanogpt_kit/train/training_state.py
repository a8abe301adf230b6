"""Whether a training state that was read is one that this run could have saved: its types, and its optimizer's tensors.

Hashes in a checkpoint protect against accidents only, and what is not checked here would end in a library's own error,
or in memory that a kernel should not touch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

TYPES: dict[str, type | tuple[type, ...]] = {  # of the training state, as `Saving.save` writes it
    "step": int,
    "evaluated_at": int,
    "seconds": (int, float),
    "micro_batch_size": int,
    "best": dict,
    "stop_reason": str,
    "optimizer": dict,
    "scaler": dict,
    "rng": list,
    "callbacks": dict,
    "clipping": (list, tuple),
}


def check_types(saved: Mapping[str, Any], step: int) -> None:
    """Raises KeyError or ValueError where a training state is not one of this step."""
    for key, kind in TYPES.items():
        if not isinstance(saved[key], kind) or isinstance(saved[key], bool):
            raise ValueError(f"{key} is a {type(saved[key]).__name__}")
    if saved["step"] != step or saved["micro_batch_size"] < 1 or not 0 <= saved["seconds"] < float("inf"):
        raise ValueError("its step, seconds or micro_batch_size cannot be")
    if [type(count) for count in saved["clipping"]] != [int, int]:
        raise ValueError("clipping is not two counts")
    best = saved["best"]
    if best and not (isinstance(best["step"], int) and isinstance(best["value"], int | float)):
        raise ValueError("best names no step and value")


def check_groups(saved: Sequence[Mapping[str, Any]], fresh: Sequence[Mapping[str, Any]]) -> None:
    """Raises KeyError or ValueError where groups do not have what an optimizer's new ones have, or in other types."""
    if len(saved) != len(fresh):
        raise ValueError(f"the optimizer has {len(saved)} groups there and {len(fresh)} in the experiment")
    for there, here in zip(saved, fresh, strict=True):
        for key, value in here.items():
            if value is not None and there[key] is not None and not alike(there[key], value):
                raise ValueError(f"the optimizer's {key} is a {type(there[key]).__name__}")


def check_tensors(state: Mapping[str, Any], fresh: Sequence[Mapping[str, Any]]) -> None:
    """Raises ValueError where a fused kernel would read or write beyond a tensor: it does not look at shapes.

    What other optimizers keep may have any shape; torch's operations check it in the first step.
    """
    for there, here in zip(state["param_groups"], fresh, strict=True):
        if len(there["params"]) != len(here["params"]):
            raise ValueError("the optimizer's groups have other parameters")
        for number, parameter in zip(there["params"], here["params"], strict=True):
            for name, value in state["state"].get(number, {}).items() if here.get("fused") else ():
                if not isinstance(value, Tensor) or value.is_meta or value.layout != torch.strided:
                    raise ValueError(f"the optimizer's {name} of parameter {number} is not a tensor")
                layouts = [(value.shape, value.stride()), (parameter.shape, parameter.stride())]
                if value.ndim and layouts[0] != layouts[1]:
                    raise ValueError(
                        f"the optimizer's {name} of parameter {number} is {list(value.shape)}, and the parameter "
                        f"{list(parameter.shape)}"
                    )


def alike(one: Any, other: Any) -> bool:
    """Of one type; all numbers are of one, with tensors of one element."""
    number = (int, float, Tensor)
    both_numbers = all(isinstance(value, number) and not isinstance(value, bool) for value in (one, other))
    return both_numbers or isinstance(one, type(other)) or {type(one), type(other)} <= {list, tuple}
