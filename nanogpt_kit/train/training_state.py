"""The training state in a checkpoint: everything that the next step depends on, except the weights.

Hashes in a checkpoint protect against accidents only. A state that is not checked here could end in an unclear error of
a library, or make a kernel access memory outside a tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanogpt_kit.checkpoint.manifest import is_option, step_of
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.runs.status import Best
from nanogpt_kit.train.progress import Progress

FORMAT = 1  # grows when a key changes its meaning
PROGRESS_TYPES: dict[str, type | tuple[type, ...]] = {
    "step": int,
    "seconds": (int, float),
    "evaluated_at": int,
    "micro_batch_size": int,
    "stop_reason": str,
    "best": (dict, type(None)),
    "steps_since_log": int,
    "clipped_since_log": int,
    "options": dict,
}
TYPES = {**PROGRESS_TYPES, "optimizer": dict, "scaler": dict, "rng": list, "callbacks": dict}


@dataclass(frozen=True)
class TrainingState:
    """The training state; on the disk a dictionary of tensors and plain values, which loads without unpickling code."""

    progress: Progress
    optimizer: Mapping[str, Any]
    scaler: Mapping[str, Any]
    rng: Sequence[Mapping[str, Any]]  # of each rank
    callbacks: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        best = self.progress.best
        progress = {**vars(self.progress), "best": best.model_dump() if best else None}
        parts = {"optimizer": self.optimizer, "scaler": self.scaler, "rng": self.rng, "callbacks": self.callbacks}
        return {"format": FORMAT, **progress, **parts}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any], file: Path) -> TrainingState:
        """Raises KitError for another format, KeyError or ValueError where it is not a training state of this step."""
        if type(saved["format"]) is int and saved["format"] != FORMAT:
            raise KitError(
                f"{file} is of format {saved['format']}, and this version of nanogpt-kit reads format {FORMAT}"
            )
        for key, kind in {"format": int, **TYPES}.items():
            if not isinstance(saved[key], kind) or isinstance(saved[key], bool):
                raise ValueError(f"{key} is a {type(saved[key]).__name__}")
        if (
            saved["step"] != step_of(file.parent)
            or saved["micro_batch_size"] < 1
            or not 0 <= saved["seconds"] < float("inf")
        ):
            raise ValueError("its step, seconds or micro_batch_size is impossible")
        if not all(map(is_option, saved["options"].items())):
            raise ValueError("its options are not numbers by key")
        best = saved["best"] and Best(step=saved["best"]["step"], value=saved["best"]["value"])
        progress = Progress(**{**{key: saved[key] for key in PROGRESS_TYPES}, "best": best})
        return cls(progress, saved["optimizer"], saved["scaler"], saved["rng"], saved["callbacks"])


def check_groups(saved: Sequence[Mapping[str, Any]], fresh: Sequence[Mapping[str, Any]]) -> None:
    """Raises KeyError or ValueError where parameter groups lack a key of the fresh optimizer's, or differ in types.

    Raises KitError where they have other parameters, or the same ones in another order.
    """
    if len(saved) != len(fresh):
        raise ValueError(f"the optimizer has {len(saved)} groups there and {len(fresh)} in the experiment")
    for there, here in zip(saved, fresh, strict=True):
        for key, value in here.items():
            if value is not None and there[key] is not None and not have_same_type(there[key], value):
                raise ValueError(f"the optimizer's {key} is a {type(there[key]).__name__}")
        for then, now in zip_longest(there.get("names") or (), here.get("names") or ()):
            if then != now:  # their state is restored by place, and may fit in shape
                reason = f"the optimizer has {now} where it had {then} when the checkpoint was saved"
                remedy = "use the version of its plugin that the run was made with"
                raise KitError(f"{reason}, so that one would get the state of the other; {remedy}")


def check_tensors(state: Mapping[str, Any], fresh: Sequence[Mapping[str, Any]]) -> None:
    """Raises ValueError where a fused kernel, which does not look at shapes, would read or write beyond a tensor.

    The state of other optimizers may have any shape; torch's operations check it in the first step.
    """
    for there, here in zip(state["param_groups"], fresh, strict=True):
        if len(there["params"]) != len(here["params"]):
            raise ValueError("the optimizer's groups have other parameters")
        for index, parameter in zip(there["params"], here["params"], strict=True):
            for name, value in state["state"].get(index, {}).items() if here.get("fused") else ():
                if not isinstance(value, Tensor) or value.is_meta or value.layout != torch.strided:
                    raise ValueError(f"the optimizer's {name} of parameter {index} is not a tensor")
                layouts = [(value.shape, value.stride()), (parameter.shape, parameter.stride())]
                if value.ndim and layouts[0] != layouts[1]:
                    raise ValueError(
                        f"the optimizer's {name} of parameter {index} is {list(value.shape)}, and the parameter "
                        f"{list(parameter.shape)}"
                    )


def have_same_type(one: Any, other: Any) -> bool:
    """Whether two values are of one type; numbers and tensors count as one type, lists and tuples as another."""
    numbers = (int, float, Tensor)
    both_numbers = all(isinstance(value, numbers) and not isinstance(value, bool) for value in (one, other))
    return both_numbers or isinstance(one, type(other)) or {type(one), type(other)} <= {list, tuple}
