"""Rotary positions: pairs of features of queries and keys are turned by an angle that grows with the position.

Source: Su et al. 2021, arXiv:2104.09864; halves rather than neighbours are paired, as in GPT-NeoX (arXiv:2204.06745),
which is also where only a part of the features is turned.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nanogpt_kit.api import Field, KitError, LayerContext, Position, Positional


class RoPE(Position):
    relative = True
    base: float = Field(10_000.0, gt=1, description="the slowest pair turns once in about 2 pi times this many tokens")
    partial: float = Field(1.0, gt=0, le=1, description="share of each head's features that is turned")

    def build(self, ctx: LayerContext) -> Positional:
        turned = round(self.partial * ctx.head_dim)
        if turned < 2 or turned % 2:
            what = f"{turned} of {ctx.head_dim} features of a head"
            raise KitError(f"rope turns pairs of features, and {what} (n_embd / n_head * partial) make no pairs")
        return Rotary(turned, self.base)


class Rotary(Positional):
    speeds: Tensor  # (turned / 2,) radians a token

    def __init__(self, turned: int, base: float) -> None:
        super().__init__()
        self.turned, self.base = turned, base
        self.register_buffer("speeds", self.exact_speeds(), persistent=False)

    def exact_speeds(self) -> Tensor:
        return self.base ** -(torch.arange(0, self.turned, 2, dtype=torch.float32) / self.turned)

    def _apply(self, *args: Any, **kwargs: Any) -> Rotary:
        """A model that is cast to bf16 keeps them: rounded, they would be wrong by radians a thousand tokens on."""
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.speeds = self.exact_speeds().to(self.speeds.device)
        return self

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        angles = positions[:, None, :, None] * self.speeds  # (1 or B, 1, T, turned / 2)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        half = self.turned // 2
        a, b, rest = x.split([half, half, x.size(-1) - self.turned], dim=-1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], dim=-1)  # (B, H, T, D)
