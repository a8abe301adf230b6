"""Rotary positions of Llama 3.1 and later: pairs that rotate slowly are slowed down further, for longer contexts.

Source: Grattafiori et al. 2024, arXiv:2407.21783; the interpolation is that of the rope type "llama3" of transformers.
"""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor

from nanogpt_kit.api import Field, KitError, LayerContext, Position, Positional, model_validator, option_error


class Llama3RoPE(Position):
    relative = True
    acts_in_mixers = True
    base: float = Field(500_000.0, gt=1, description="base of the wavelengths")
    factor: float = Field(8.0, gt=0, description="factor by which the slowest pairs rotate more slowly")
    low_freq_factor: float = Field(1.0, gt=0, description="rotations in original_context below which a pair is slowed")
    high_freq_factor: float = Field(4.0, gt=0, description="rotations in original_context above which a pair is not")
    original_context: int = Field(8_192, ge=1, description="context length of the training without the factor, tokens")

    @model_validator(mode="after")
    def _low_is_below_high(self) -> Self:
        if self.low_freq_factor >= self.high_freq_factor:
            message = f"low_freq_factor ({self.low_freq_factor}) should be below high_freq_factor"
            raise option_error("low_freq_factor", f"{message} ({self.high_freq_factor})", "high_freq_factor")
        return self

    def build(self, ctx: LayerContext) -> Positional:
        if ctx.head_dim % 2:
            raise KitError(f"llama3_rope rotates pairs of features, and a head has {ctx.head_dim} (n_embd / n_head)")
        return SlowedRotary(self, ctx.head_dim)


class SlowedRotary(Positional):
    speeds: Tensor  # (D / 2,) radians a token

    def __init__(self, options: Llama3RoPE, head_dim: int) -> None:
        super().__init__()
        self.options, self.head_dim = options, head_dim
        self.register_buffer("speeds", self.exact_speeds(), persistent=False)

    def exact_speeds(self) -> Tensor:
        """In fp32 and on the CPU, as they were in training."""
        options, features = self.options, torch.arange(0, self.head_dim, 2, dtype=torch.float32, device="cpu")
        speeds = options.base ** -(features / self.head_dim)
        rotations = options.original_context * speeds / (2 * math.pi)  # within the original context
        low, high = options.low_freq_factor, options.high_freq_factor
        kept = ((rotations - low) / (high - low)).clamp(0, 1)  # 0: slowed by the factor, 1: as it was
        return (speeds * (kept + (1 - kept) / options.factor)).to(torch.get_default_device())

    def _apply(self, *args: Any, **kwargs: Any) -> SlowedRotary:
        """Keeps the speeds exact in a model that is cast to bf16."""
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.speeds = self.exact_speeds().to(self.speeds.device)
        return self

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        angles = positions[:, None, :, None] * self.speeds  # (1 or B, 1, T, D / 2)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)  # (B, H, T, D)
