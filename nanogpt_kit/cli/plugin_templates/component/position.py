"""Fixed sinusoids, added to the token embeddings.

Change `embed`, or implement `rotate` or `slopes` of `Positional` instead. Source: Vaswani et al. 2017,
arXiv:1706.03762, section 3.5.
"""

import torch
from torch import Tensor

from nanogpt_kit.api import Field, LayerContext, Position, Positional


class FixedSinusoids(Position):
    longest: float = Field(10_000.0, gt=1, description="longest wavelength in positions, divided by 2 pi")

    def build(self, ctx: LayerContext) -> Positional:
        return FixedSinusoidsModule(self.longest)


class FixedSinusoidsModule(Positional):
    def __init__(self, longest: float) -> None:
        super().__init__()
        self.longest = longest

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        rates = self.longest ** -torch.linspace(0, 1, x.size(-1) // 2, device=x.device)
        angles = positions[..., None] * rates  # (1 or B, T, C / 2)
        return x + torch.cat([angles.sin(), angles.cos()], dim=-1).type_as(x)
