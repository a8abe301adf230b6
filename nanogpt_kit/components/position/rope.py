"""Rotary positions: pairs of features of queries and keys are rotated by an angle proportional to the position.

Source: Su et al. 2021, arXiv:2104.09864; halves rather than neighbours are paired, as in GPT-NeoX (arXiv:2204.06745),
which is also where only some of the features are rotated.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nanogpt_kit.api import Field, KitError, LayerContext, Position, Positional


class RoPE(Position):
    relative = True
    acts_in_mixers = True
    base: float = Field(
        10_000.0,
        gt=1,
        description="base of the wavelengths: the slowest pair rotates once in about 2 pi times this many tokens",
    )
    partial: float = Field(1.0, gt=0, le=1, description="fraction of each head's features that is rotated")

    def build(self, ctx: LayerContext) -> Positional:
        rotated = round(self.partial * ctx.head_dim)
        if rotated < 2 or rotated % 2:
            count = f"{rotated} of {ctx.head_dim} features of a head (n_embd / n_head * partial)"
            raise KitError(f"rope rotates pairs of features, and {count} cannot be paired; change one of these options")
        return Rotary(rotated, self.base)


class Rotary(Positional):
    speeds: Tensor  # (rotated / 2,) radians a token

    def __init__(self, rotated: int, base: float) -> None:
        super().__init__()
        self.rotated, self.base = rotated, base
        self.register_buffer("speeds", self.exact_speeds(), persistent=False)

    def exact_speeds(self) -> Tensor:
        """Computed on the CPU: the meta device would import dynamo for it, which takes a second of every check."""
        features = torch.arange(0, self.rotated, 2, dtype=torch.float32, device="cpu")
        return (self.base ** -(features / self.rotated)).to(torch.get_default_device())

    def _apply(self, *args: Any, **kwargs: Any) -> Rotary:
        """Keeps speeds exact in a model that is cast to bf16: rounded, they are off by radians after 1,000 tokens."""
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.speeds = self.exact_speeds().to(self.speeds.device)
        return self

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        angles = positions[:, None, :, None] * self.speeds  # (1 or B, 1, T, rotated / 2)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        half = self.rotated // 2
        a, b, rest = x.split([half, half, x.size(-1) - self.rotated], dim=-1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], dim=-1)  # (B, H, T, D)
