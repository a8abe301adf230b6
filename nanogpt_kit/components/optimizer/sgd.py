"""Stochastic gradient descent, with momentum if asked for.

Weight decay is added to the gradient, as torch has it, and so takes part in the momentum.

Source: Robbins & Monro 1951; Sutskever et al. 2013, "On the importance of initialization and momentum".
"""

from __future__ import annotations

from typing import Annotated, Any

import torch

from nanogpt_kit.api import Field, Optimizer, with_weight_decay, without_dynamo


class SGD(Optimizer):
    lr: float = Field(0.1, gt=0, description="peak learning rate")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="share of the last update in this one")
    nesterov: bool = Field(False, description="whether to look ahead along the momentum")
    weight_decay: float = Field(0.0, ge=0, description="pull towards zero, on all but vectors")

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return without_dynamo(torch.optim.SGD)(
            with_weight_decay(groups, self.weight_decay),
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov and self.momentum > 0,
        )
