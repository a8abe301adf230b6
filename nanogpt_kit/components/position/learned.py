"""A learned vector for each position, added to the token's.

Source: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training".
"""

from __future__ import annotations

from torch import Tensor, nn

from nanogpt_kit.api import LayerContext, Position, Positional


class Learned(Position):
    def build(self, ctx: LayerContext) -> Positional:
        return PositionEmbedding(ctx.block_size, ctx.n_embd)


class PositionEmbedding(Positional):
    def __init__(self, block_size: int, n_embd: int) -> None:
        super().__init__()
        self.wpe = nn.Embedding(block_size, n_embd)

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        x = x + self.wpe(positions)  # (B, T, C)
        return x

    def crop(self, block_size: int) -> None:
        self.wpe.weight = nn.Parameter(self.wpe.weight[:block_size].detach().clone())
        self.wpe.num_embeddings = block_size
