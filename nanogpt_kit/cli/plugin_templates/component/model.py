"""A bigram model: the logits of the next token depend on the current token only.

Change the network: `forward` maps ids (B, T) to logits (B, T, V), and with targets to the sum of the losses. Source:
Shannon 1948, "A Mathematical Theory of Communication", section 3.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt_kit.api import Field, KVCache, Model, ModelContext


class BigramModel(Model):
    smoothing: float = Field(1.0, gt=0, description="divisor of all logits; larger keeps probabilities more even")

    def build(self, ctx: ModelContext) -> nn.Module:
        return BigramModelModule(ctx.vocab_size, self.smoothing)


class BigramModelModule(nn.Module):
    def __init__(self, vocab_size: int, smoothing: float) -> None:
        super().__init__()
        self.logits = nn.Embedding(vocab_size, vocab_size)
        self.smoothing = smoothing

    def forward(self, ids: Tensor, targets: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        logits: Tensor = self.logits(ids) / self.smoothing  # (B, T, V)
        if cache is not None:
            cache.advance(ids.size(1))
        if targets is None:
            return logits
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-1, reduction="sum")
