"""GPT-2's initial weights: N(0, 0.02), scaled down for layers that add to the residual stream; biases zero.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from nanogpt_kit.api import Field, Init, ParameterShape
from nanogpt_kit.components.init.normal_weights import draw_normal_weights


class GPT2(Init):
    std: float = Field(0.02, gt=0, description="standard deviation of embeddings and matrices")

    def apply(self, model: nn.Module, _shapes: Mapping[str, ParameterShape]) -> None:
        draw_normal_weights(model, lambda name: self.std)
