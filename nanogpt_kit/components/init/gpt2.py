"""GPT-2's initial weights: N(0, 0.02), scaled down for layers that add to the residual stream; biases zero.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from nanogpt_kit.api import Field, Init, ParameterShape, ResidualLinear


class GPT2(Init):
    std: float = Field(0.02, gt=0, description="standard deviation of embeddings and matrices")

    def apply(self, model: nn.Module, shapes: Mapping[str, ParameterShape]) -> None:
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        writers = sum(isinstance(module, ResidualLinear) for module in model.modules())  # 2 * n_layer in a GPT
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                scale = writers**-0.5 if isinstance(module, ResidualLinear) else 1.0
                std = self.std * self.std_multiplier(shapes[names[id(module.weight)]])
                nn.init.normal_(module.weight, mean=0.0, std=std * scale)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def std_multiplier(self, shape: ParameterShape) -> float:
        """The factor on the standard deviation of a weight."""
        return 1.0
