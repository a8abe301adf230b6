"""Every block starts as the identity: layers that add to the residual stream are zero, the others N(0, 0.02).

Source: Goyal et al. 2017, arXiv:1706.02677 (the last gain of each residual block zero); Zhang et al. 2019,
arXiv:1901.09321 (the last layer of each branch zero).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from nanogpt_kit.api import Field, Init, ParameterShape, ResidualLinear


class ZeroResidual(Init):
    std: float = Field(0.02, gt=0, description="standard deviation of embeddings and of the other matrices")

    def apply(self, model: nn.Module, _shapes: Mapping[str, ParameterShape]) -> None:
        for module in model.modules():
            if isinstance(module, ResidualLinear):
                nn.init.zeros_(module.weight)
            elif isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, mean=0.0, std=self.std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
