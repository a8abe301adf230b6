"""minGRU: a recurrence whose gate and candidate depend on the input alone, so that all steps are computed at once.

    h_t = (1 - z_t) h_{t-1} + z_t c_t,  z_t = sigmoid(W_z x_t),  c_t = g(W_c x_t)
    g(x) = x + 0.5 where x >= 0, else sigmoid(x)

Shapes: B batch, T tokens, C n_embd, W = expansion * C the width of the state.

Source: Feng et al. 2024, arXiv:2410.01201, with g of its appendix B. The scan doubles its reach in each round: Hillis &
Steele 1986, "Data parallel algorithms".
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt_kit.api import Field, KVCache, Mixer, MixerContext, Positional, ResidualLinear, View


class MinGRU(Mixer):
    uses = ("document_mask",)
    expansion: int = Field(1, ge=1, le=64, description="width of the state, in multiples of n_embd")

    def build(self, ctx: MixerContext) -> nn.Module:
        return Recurrence(ctx, self.expansion * ctx.n_embd)


class Recurrence(nn.Module):
    def __init__(self, ctx: MixerContext, width: int) -> None:
        super().__init__()
        self.layer = ctx.layer
        self.c_in = nn.Linear(ctx.n_embd, 2 * width, bias=ctx.bias)
        self.c_proj = ResidualLinear(width, ctx.n_embd, bias=ctx.bias)
        self.drop = nn.Dropout(ctx.dropout)

    def forward(self, x: Tensor, position: Positional, view: View, cache: KVCache | None) -> Tensor:
        gate, candidate = self.c_in(x).chunk(2, dim=-1)  # (B, T, W)
        if gate.dtype in (torch.bfloat16, torch.float16):
            gate, candidate = gate.float(), candidate.float()  # sums over many tokens
        keep = torch.sigmoid(-gate)  # 1 - z
        added = torch.sigmoid(gate) * torch.where(candidate >= 0, candidate + 0.5, torch.sigmoid(candidate))
        if view.query_segments is not None:  # the first token of a document takes nothing from the one before
            begins = view.query_segments.diff(dim=1, prepend=view.query_segments[:, :1]) != 0  # (B, T)
            keep = keep.masked_fill(begins[..., None], 0.0)
        if view.padding is not None:  # which leaves the state as it is
            keep = keep.masked_fill(view.padding[..., None], 1.0)
            added = added.masked_fill(view.padding[..., None], 0.0)
        if cache is not None:
            before = cache.state(self.layer, torch.zeros_like(added[:, 0]))  # (B, W)
            added = torch.cat([added[:, :1] + keep[:, :1] * before[:, None], added[:, 1:]], dim=1)
        states = linear_recurrence(keep, added)  # (B, T, W)
        if cache is not None:
            cache.set_state(self.layer, states[:, -1])
        y: Tensor = self.drop(self.c_proj(states.type_as(x)))  # (B, T, C)
        return y


def linear_recurrence(keep: Tensor, added: Tensor) -> Tensor:
    """h_t = keep_t h_{t-1} + added_t of (B, T, W) from h = 0, in log2(T) rounds."""
    reach, T = 1, added.size(1)
    while reach < T:
        added = added + keep * F.pad(added, (0, 0, reach, 0))[:, :T]
        keep = keep * F.pad(keep, (0, 0, reach, 0))[:, :T]
        reach *= 2
    return added
