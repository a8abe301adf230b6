"""Each feature is a decaying mean of the past, with a rate that is learnt.

Change how `mean` follows from the state and the new features, and keep in the state what later tokens need. Source: the
input-independent case of minGRU, Feng et al. 2024, arXiv:2410.01201.
"""

import torch
from torch import Tensor, nn

from nanogpt_kit.api import Field, KVCache, Mixer, MixerContext, Positional, ResidualLinear, View


class DecayingMean(Mixer):
    slowest: float = Field(3.0, description="logit of the initial decay of the slowest feature; the fastest has -1")

    def build(self, ctx: MixerContext) -> nn.Module:
        return DecayingMeanModule(ctx, self.slowest)


class DecayingMeanModule(nn.Module):
    def __init__(self, ctx: MixerContext, slowest: float) -> None:
        super().__init__()
        self.layer = ctx.layer
        self.rate = nn.Parameter(torch.linspace(-1.0, slowest, ctx.n_embd))
        self.c_proj = ResidualLinear(ctx.n_embd, ctx.n_embd, bias=ctx.bias)
        self.drop = nn.Dropout(ctx.dropout)

    def forward(self, x: Tensor, position: Positional, view: View, cache: KVCache | None) -> Tensor:
        keep = torch.sigmoid(self.rate)
        state, states = torch.zeros_like(x[:, 0]), []  # (B, C)
        if cache is not None:
            state = cache.state(self.layer, state)
        for t in range(x.size(1)):
            mean = keep * state + (1 - keep) * x[:, t]
            state = mean if view.padding is None else torch.where(view.padding[:, t, None], state, mean)
            states.append(state)
        if cache is not None:
            cache.set_state(self.layer, state)
        y: Tensor = self.drop(self.c_proj(torch.stack(states, dim=1)))  # (B, T, C)
        return y
