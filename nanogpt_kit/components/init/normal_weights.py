"""Normally distributed weights, scaled down for layers that add to the residual stream; biases zero.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from nanogpt_kit.api import ResidualLinear


def draw_normal_weights(model: nn.Module, std_of: Callable[[str], float]) -> None:
    """Draws the weights of embeddings and linear layers; `std_of` gives the standard deviation by a weight's name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}  # a tied weight has one
    writers = sum(isinstance(module, ResidualLinear) for module in model.modules())  # 2 * n_layer in a GPT
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            scale = writers**-0.5 if isinstance(module, ResidualLinear) else 1.0
            nn.init.normal_(module.weight, mean=0.0, std=std_of(names[id(module.weight)]) * scale)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
