"""LoRA: the weights of a trained model stay as they are, and beside its matrices products of two thin ones are learnt.

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685; the scale of high ranks:
Kalajdzievski 2023, arXiv:2312.03732.
"""

from __future__ import annotations

import copy
import difflib
import math
import re
from collections import Counter
from contextlib import suppress
from typing import Any, ClassVar, Self

import torch
from torch import nn

from nanogpt_kit.api import (
    Field,
    HeadLinear,
    KitError,
    Model,
    ModelContext,
    model_validator,
    option_error,
    slot,
)
from nanogpt_kit_lora.adapted_linear import AdaptedLinear, add_adapters, merge_adapters, parts_of

SHARED = ("block_size", "document_mask")  # options of every model, which have one value for both
MAX_NAMES = 4  # in a message


class LoRA(Model):
    inner_slot: ClassVar[str | None] = "base"
    base: Model = slot("gpt", description="model whose weights are frozen, with the options of its own run")
    rank: int = Field(8, ge=1, le=2**16, description="rank r of the product that is added to each matrix")
    alpha: float = Field(16.0, gt=0, description="scale of the product, before the division by the rank")
    rank_stabilized: bool = Field(
        False, description="division by the square root of the rank, for high ranks; false: by the rank"
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="fraction of the features that adapters do not see, in training"
    )
    match: str = Field(
        ".", min_length=1, description="regular expression, searched in the names of the linear layers to adapt"
    )
    also_train: str | None = Field(
        None,
        min_length=1,
        description="regular expression, searched in the names of parameters to train as well; omitted: none",
    )

    @model_validator(mode="before")
    @classmethod
    def _share_options(cls, values: Any) -> Any:
        """What is written of an option that both models have holds for both."""
        if not isinstance(values, dict):
            return values
        base = values.get("base", cls.model_fields["base"].default)
        tables = {"use": base} if isinstance(base, str) else base
        values = dict(values)
        for name in SHARED:
            if isinstance(tables, Model):
                values.setdefault(name, getattr(tables, name))
            elif isinstance(tables, dict) and name in values:
                tables = {name: values[name], **tables}
            elif isinstance(tables, dict) and name in tables:
                values[name] = tables[name]
        return {**values, "base": tables}

    @model_validator(mode="after")
    def _fits_its_base(self) -> Self:
        for name in SHARED:
            ours, theirs = getattr(self, name), getattr(self.base, name)
            if ours != theirs:
                message = f"{name} ({ours}) should be that of the base ({theirs})"
                raise option_error(name, message, f"base.{name}")
        if self.base.init_from is not None:
            raise option_error("base.init_from", "belongs to [model]: init_from there names the run of the base")
        if self.base.inner_slot is not None:
            raise option_error(
                "base", f"{type(self.base).__name__} adds weights to another model itself; merge it first"
            )
        for name in ("match", "also_train"):
            try:
                re.compile(getattr(self, name) or "")
            except re.error as error:
                message = f"{getattr(self, name)!r} is not a regular expression: {error}"
                raise option_error(name, message) from None
        return self

    @property
    def relative(self) -> bool:  # type: ignore[override]
        return self.base.relative

    @property
    def applies_multipliers(self) -> bool:  # type: ignore[override]
        return self.base.applies_multipliers

    @property
    def scale(self) -> float:
        """The factor of each product B A."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)

    def build(self, ctx: ModelContext) -> nn.Module:
        """The module of the base, whose matched layers have adapters; its weights are frozen."""
        module = self.base.model_copy(update={name: getattr(self, name) for name in SHARED}).build(ctx)
        called = called_modules(self.base, ctx)
        layers = {name: parts for name, parts in adaptable_layers(module).items() if called is None or name in called}
        chosen = {
            name: [part for part in parts if re.search(self.match, parts[part])] for name, parts in layers.items()
        }
        if not any(chosen.values()):
            found = nearest(self.match, [name for parts in layers.values() for name in parts.values()])
            raise KitError(f"model.match = {self.match!r} is found in no name of a linear layer; the nearest: {found}")
        freeze(module, self.also_train)
        for name, parts in chosen.items():
            if parts:
                layer = module.get_submodule(name)
                assert isinstance(layer, nn.Linear)
                add_adapters(layer, parts, self.rank, self.scale, self.dropout)
        return module

    def merge(self, module: nn.Module) -> nn.Module:
        merged = copy.deepcopy(module)
        for layer in merged.modules():
            if isinstance(layer, AdaptedLinear):
                merge_adapters(layer)
        return merged.requires_grad_(True)


def adaptable_layers(module: nn.Module) -> dict[str, dict[int, str]]:
    """The linear layers that can be adapted by name, and of each the names of its parts, which `match` is searched in.

    Not the output head, whose weight the loss uses without the layer, and no layer that shares its weight with another.
    """
    owners = Counter(id(parameter) for _, parameter in module.named_parameters(remove_duplicate=False))
    found = {}
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and not isinstance(layer, HeadLinear) and owners[id(layer.weight)] == 1:
            count = len(parts_of(layer))
            found[name] = {part: f"{name}.{part}" if count > 1 else name for part in range(count)}
    return found


def called_modules(model: Model, ctx: ModelContext) -> set[str] | None:
    """The names of the modules that a pass calls; None where none can be made on the meta device.

    The weight of another linear layer is used without the layer, so what is added to the layer would be ignored.
    """
    called: set[str] = set()
    with suppress(Exception), torch.device("meta"), torch.no_grad():
        module = model.build(ctx).eval()
        for name, each in module.named_modules():
            each.register_forward_pre_hook(lambda *_, name=name: called.add(name))
        module(torch.zeros(1, 1, dtype=torch.long))
        return called
    return None


def freeze(module: nn.Module, also_train: str | None) -> None:
    """Freezes all parameters except those whose name the pattern is found in. Raises KitError where there are none."""
    names = [name for name, _ in module.named_parameters()]
    trained = [name for name in names if also_train and re.search(also_train, name)]
    if also_train and not trained:
        found = nearest(also_train, names)
        raise KitError(f"model.also_train = {also_train!r} is found in no parameter name; the nearest: {found}")
    module.requires_grad_(False)
    for name in trained:
        module.get_parameter(name).requires_grad_(True)


def nearest(pattern: str, names: list[str]) -> str:
    """The names that are most like a pattern; of those that differ in digits only, the first."""
    distinct = {re.sub(r"\d+", "#", name): name for name in reversed(names)}
    word = re.sub(r"\\.|[^\w.]", "", pattern)
    return ", ".join(sorted(distinct.values(), key=lambda name: -likeness(word, name))[:MAX_NAMES])


def likeness(word: str, name: str) -> float:
    return max(difflib.SequenceMatcher(None, word, part).ratio() for part in (name, *name.split(".")))
