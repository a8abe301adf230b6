"""A linear layer, frozen, with the product of two thin matrices beside it: y = W x + scale * B A x.

Shapes: r rank, in and out the features of the layer, or of one part of a `FusedLinear`.

Source: Hu et al. 2021, arXiv:2106.09685, section 4.1; the initial values are those of its code.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt_kit.api import FusedLinear


class Adapter(nn.Module):
    """A and B of one layer. B begins at zero, so at first the layer computes what it did."""

    def __init__(self, in_features: int, out_features: int, rank: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.scale = scale
        self.drop = nn.Dropout(dropout)  # a module, so that its masks do not depend on how a batch is divided
        self.a = nn.Parameter(torch.empty(rank, in_features))  # (r, in)
        self.b = nn.Parameter(torch.zeros(out_features, rank))  # (out, r)
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))  # as nn.Linear: U(-1, 1) / sqrt(in)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = F.linear(F.linear(self.drop(x), self.a), self.b) * self.scale  # (..., out)
        return y

    def product(self) -> Tensor:
        """What it adds to the weight: (out, in)."""
        product: Tensor = self.scale * (self.b @ self.a)
        return product


class AdaptedLinear(nn.Linear):
    """Mixed into the class of a layer, so that inits, optimizers and formats still see a layer of that class."""

    adapters: tuple[tuple[str, slice], ...]  # the name of each adapter, and the outputs of the layer that it adds to

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = super().forward(x)  # (..., all outputs)
        if len(self.adapters) == 1 and self.adapters[0][1] == slice(0, self.out_features):
            y = y + self.adapter(self.adapters[0][0])(x)
            return y
        pieces, end = [], 0
        for name, rows in self.adapters:
            pieces += [y[..., end : rows.start], y[..., rows] + self.adapter(name)(x)]
            end = rows.stop
        return torch.cat([*pieces, y[..., end:]], dim=-1)

    def adapter(self, name: str) -> Adapter:
        found = getattr(self, name)
        assert isinstance(found, Adapter), f"{name} is a {type(found).__name__}"
        return found


@functools.cache
def adapted_class(layer: type[nn.Linear]) -> type[nn.Linear]:
    """One class for each class of layers, so that a compiler sees the same code in all of them."""
    return type(f"Adapted{layer.__name__}", (AdaptedLinear, layer), {})


def parts_of(layer: nn.Linear) -> list[slice]:
    """The outputs of each layer that a `FusedLinear` consists of; of another layer all of its outputs."""
    sizes = layer.rows if isinstance(layer, FusedLinear) else (layer.out_features,)
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def add_adapters(layer: nn.Linear, parts: Collection[int], rank: int, scale: float, dropout: float) -> None:
    """Adapts, in place, the parts of a layer with these indices. Its weight and bias keep their names."""
    slices = parts_of(layer)
    adapters = []
    for index in sorted(parts):
        rows = slices[index]
        name = f"lora_{index}" if len(slices) > 1 else "lora"
        layer.add_module(name, Adapter(layer.in_features, rows.stop - rows.start, rank, scale, dropout))
        adapters.append((name, rows))
    layer.__class__ = adapted_class(type(layer))  # type: ignore[arg-type]
    assert isinstance(layer, AdaptedLinear)
    layer.adapters = tuple(adapters)


@torch.no_grad()
def merge_adapters(layer: AdaptedLinear) -> None:
    """Adds the adapters' products to the weight, in place, and makes it the layer that it was before."""
    for name, rows in layer.adapters:
        adapter = layer.adapter(name)
        layer.weight[rows] += adapter.product().to(layer.weight)
        delattr(layer, name)
    del layer.adapters
    layer.__class__ = next(kind for kind in type(layer).__mro__[1:] if kind is not AdaptedLinear)
