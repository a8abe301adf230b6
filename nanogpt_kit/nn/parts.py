"""Modules that say what they are, so that inits and optimizers need no names of models."""

from __future__ import annotations

from torch import Tensor, nn


class ResidualLinear(nn.Linear):
    """Writes into the residual stream; inits scale it down with the number of such writers (Radford et al. 2019)."""


class HeadLinear(nn.Linear):
    """From features to logits; its weight has the role `head`, unless it is tied to an embedding."""


class Positional(nn.Module):
    """Base of what a Position component builds. Each method is optional; these defaults do nothing."""

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        """Adds to token embeddings x (B, T, C) at positions (1 or B, T)."""
        return x

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """Turns queries or keys x (B, H, T, D) at positions (1 or B, T)."""
        return x
