"""AdamW: Adam with decoupled weight decay, which spares the vectors (norm gains and biases).

Source: Loshchilov & Hutter 2017, arXiv:1711.05101.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch

from nanogpt_kit.api import Field, Optimizer

Decay = Annotated[float, Field(ge=0, lt=1)]


class AdamW(Optimizer):
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    betas: tuple[Decay, Decay] = Field((0.9, 0.95), description="decay of the running mean and mean square")
    eps: float = Field(1e-8, gt=0, description="added to the root of the mean square")
    weight_decay: float = Field(0.1, ge=0, description="pull towards zero, on all but vectors")

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        decayed = [
            {**group, "weight_decay": 0.0 if group["role"] == "vector" else self.weight_decay} for group in groups
        ]
        return torch.optim.AdamW(decayed, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)
