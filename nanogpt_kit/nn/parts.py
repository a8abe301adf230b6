"""Modules that inits and optimizers recognize by class, so that names of parameters do not matter."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from nanogpt_kit.core.kinds import LayerContext


class ResidualLinear(nn.Linear):
    """Writes into the residual stream; inits scale it down by the number of such layers (Radford et al. 2019)."""


class FusedLinear(nn.Linear):
    """Several layers of the same input in one: its outputs are those of each, in order, such as q, k and v."""

    def __init__(self, in_features: int, rows: Sequence[int], bias: bool = True) -> None:
        super().__init__(in_features, sum(rows), bias=bias)
        self.rows = tuple(rows)  # outputs of each


def transformer_blocks(model: nn.Module) -> list[nn.Module]:
    """A model's blocks in order: the members of its outermost lists of modules."""
    blocks: list[nn.Module] = []
    for part in model.children():
        blocks += list(part) if isinstance(part, nn.ModuleList) else transformer_blocks(part)
    return blocks


class HeadLinear(nn.Linear):
    """The layer from features to logits; its weight has the role `head`, unless it is tied to an embedding."""


class TwoLayerMLP(nn.Module):
    """(B, T, C) -> `width` features -> activation -> (B, T, C), with dropout where GPT-2 has it."""

    def __init__(self, ctx: LayerContext, activation: nn.Module, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(ctx.n_embd, width, bias=ctx.bias)
        self.activation = activation
        self.c_proj = ResidualLinear(width, ctx.n_embd, bias=ctx.bias)
        self.drop = nn.Dropout(ctx.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.c_fc(x))  # (B, T, width)
        x = self.drop(self.c_proj(x))  # (B, T, C)
        return x


class Positional(nn.Module):
    """Base of what a Position component builds. Each method is optional; these defaults do nothing."""

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        """Adds to token embeddings x (B, T, C) at positions (1 or B, T)."""
        return x

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """Rotates queries or keys x (B, H, T, D) at positions (1 or B, T)."""
        return x

    def slopes(self) -> Tensor | None:
        """(H,) fp32: what each head's scores lose with each position of distance; None for nothing."""
        return None

    def crop(self, block_size: int) -> None:
        """Drops, in place, the parameters of positions from `block_size` on."""
