"""GPT-2's initial weights: N(0, 0.02), scaled down for layers that add to the residual stream; biases zero.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3.
"""

from __future__ import annotations

from torch import nn

from nanogpt_kit.api import Field, Init, ResidualLinear


class GPT2(Init):
    std: float = Field(0.02, gt=0, description="standard deviation of embeddings and matrices")

    def apply(self, model: nn.Module) -> None:
        writers = sum(isinstance(module, ResidualLinear) for module in model.modules())  # 2 * n_layer in a GPT
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                scale = writers**-0.5 if isinstance(module, ResidualLinear) else 1.0
                nn.init.normal_(module.weight, mean=0.0, std=self.std * scale)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
