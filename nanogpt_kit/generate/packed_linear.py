"""Linear layers for decoding: a copy of the weights in the order and type that this CPU reads fastest.

Each new token goes through every weight once, so that decoding waits for memory. Which product reads it fastest depends
on the chip, the size of the layer and the number of vectors: `nanogpt_kit.generate.products` has the candidates.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt_kit.generate.products import Way


class LinearSubstitute(nn.Module):
    """Takes the place of a linear layer, whose weight and sizes other modules may read."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.in_features, self.out_features = layer.in_features, layer.out_features


class CastLinear(LinearSubstitute):
    """Computes with a copy of the weight in `dtype`, and returns that type or the input's."""

    def __init__(self, layer: nn.Linear, dtype: torch.dtype, returns_input_dtype: bool) -> None:
        super().__init__(layer)
        self.cast_weight = layer.weight.detach().to(dtype)
        self.cast_bias = None if layer.bias is None else layer.bias.detach().to(dtype)
        self.returns_input_dtype = returns_input_dtype

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x.to(self.cast_weight.dtype), self.cast_weight, self.cast_bias)
        return y.to(x.dtype) if self.returns_input_dtype else y


class PackedLinear(LinearSubstitute):
    """A linear layer on a CPU, from fp32 to fp32, by packed weights.

    Prompts take the model's own weights, except in bf16: they wait for arithmetic and not for memory, and fp16 saves no
    arithmetic.
    """

    def __init__(self, layer: nn.Linear, way: Way, rows: int) -> None:
        super().__init__(layer)
        bias = None if layer.bias is None else layer.bias.detach()
        self.way = way
        self.product = way.product(layer.weight.detach(), bias, rows)
        self.packs_prompts = way.dtype == torch.bfloat16

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x) if x.size(-2) == 1 or self.packs_prompts else F.linear(x, self.weight, self.bias)
