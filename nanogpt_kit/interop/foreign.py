"""What a model from elsewhere becomes here: options of [model], weights by our names, and its vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanogpt_kit.core.errors import KitError

SOFTMAX = ("sdpa", "naive", "flex")  # attentions that compute the same
WIDE = "wte.weight", "lm_head.weight"  # one row a token
HEAD = "lm_head.weight"
POSITIONS = "position.wpe.weight"  # `wpe.weight` elsewhere


@dataclass(frozen=True)
class Foreign:
    """A GPT-2-shaped model as it was read."""

    path: Path  # the file or folder that it came from
    name: str  # for its run
    options: Mapping[str, Any]  # of [model]
    weights: Mapping[str, Tensor]  # by our names; as many rows for tokens as there were
    tokenizer: Mapping[str, Any] = field(default_factory=lambda: {"use": "gpt2"})  # of [tokenizer]
    state: Mapping[str, Any] | None = None  # what the tokenizer had learnt; None where its options say it all

    def __post_init__(self) -> None:
        """Raises KitError for what no model of this shape can hold, before anything is allocated."""
        for name, value in self.weights.items():
            if not isinstance(value, Tensor) or value.layout != torch.strided or not value.is_floating_point():
                raise KitError(f"{self.path}: {name} is no plain tensor of floating-point numbers")
        if "wte.weight" not in self.weights or self.weights["wte.weight"].ndim != 2:
            raise KitError(f"{self.path} holds no GPT-2: it has no matrix called wte.weight")
        layers = {name.split(".")[1] for name in self.weights if name.startswith("h.")}
        if self.options["n_layer"] != len(layers):
            raise KitError(f"{self.path} says n_layer = {self.options['n_layer']} and holds {len(layers)} layers")

    @property
    def vocab_size(self) -> int:
        return self.weights["wte.weight"].size(0)


def by_our_names(weights: Mapping[Any, Any], path: Path) -> dict[str, Any]:
    """Raises KitError where a name is none."""
    if not all(isinstance(name, str) for name in weights):
        raise KitError(f"{path} holds no GPT-2: its tensors have no names")
    return {our_name(name): value for name, value in weights.items()}


def our_name(name: str) -> str:
    """transformer.wpe.weight -> position.wpe.weight; published GPT-2 files leave `transformer.` out."""
    name = name.removeprefix("_orig_mod.").removeprefix("transformer.")
    return POSITIONS if name == "wpe.weight" else name


def their_name(name: str) -> str:
    if name == HEAD:
        return name
    return "transformer." + ("wpe.weight" if name == POSITIONS else name)


def check_shaped(resolved: Mapping[str, Any], allowed: Mapping[str, tuple[Any, ...]], what: str) -> None:
    """Raises KitError with each option of [model] that `what` cannot express; `allowed` is by dotted key."""
    faults = []
    for key, values in allowed.items():
        found: Any = resolved
        for part in key.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        if found not in values:
            expected = " or ".join("left out" if value is None else repr(value) for value in values)
            faults.append(f"{what} has no model.{key} = {found!r}; it would have to be {expected}")
    if faults:
        raise KitError(*faults)


def exported(weights: Mapping[str, Tensor], vocab_size: int) -> dict[str, Tensor]:
    """Weights without the padding of the vocabulary, by their names."""
    return {
        their_name(name): (value[:vocab_size] if name in WIDE else value).contiguous()
        for name, value in weights.items()
    }
