"""Weights that add to the residual stream begin smaller the deeper they are, and norms learn more slowly.

Source: Zhang et al. 2019, "Improving Deep Transformer with Depth-Scaled Initialization and Merged Attention",
arXiv:1908.11365, equation 5: the standard deviation of layer l, counted from 1, is divided by sqrt(l).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from nanogpt_kit.api import Field, Init, ParameterShape, ResidualLinear


class DepthScaled(Init):
    std: float = Field(0.02, gt=0, description="standard deviation of embeddings, and of matrices in the first layer")
    slow: str = Field("norm", min_length=1, description="part of the names of the parameters that learn more slowly")
    factor: float = Field(0.1, ge=0, description="factor on the learning rate of those parameters")

    def apply(self, model: nn.Module, shapes: Mapping[str, ParameterShape]) -> None:
        names = {id(parameter): name for name, parameter in model.named_parameters()}  # a tied weight has one
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                layer = shapes[names[id(module.weight)]].layer
                depth = layer + 1 if isinstance(module, ResidualLinear) and layer is not None else 1
                nn.init.normal_(module.weight, std=self.std * depth**-0.5)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def lr_multiplier(self, shape: ParameterShape) -> float:
        return self.factor if self.slow in shape.name else 1.0
