"""A mixture of experts: a router chooses the MLPs that compute each token, and auxiliary losses keep it balanced.

All experts compute all tokens and the gates select, so it costs as much as an MLP as wide as all of them together.

Shapes: N tokens, E experts.

Source: Shazeer et al. 2017, arXiv:1701.06538; the loss that balances the load is equation 4 of Fedus et al. 2021,
arXiv:2101.03961, the router's z-loss equation 5 of Zoph et al. 2022, arXiv:2202.08906.
"""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt_kit.api import MLP, Field, LayerContext, TwoLayerMLP, model_validator, option_error


class MoE(MLP):
    experts: int = Field(4, ge=2, description="number of MLPs among which the router chooses")
    top_k: int = Field(1, ge=1, description="experts that compute each token")
    width: float = Field(4.0, gt=0, description="inner features of an expert, as a multiple of n_embd")
    balance: float = Field(0.01, ge=0, description="weight of the loss that balances the experts' loads")
    z_loss: float = Field(0.001, ge=0, description="weight of the loss that keeps the router's logits small")

    @model_validator(mode="after")
    def _chooses_among_the_experts(self) -> Self:
        if self.top_k > self.experts:
            raise option_error("top_k", f"top_k ({self.top_k}) exceeds experts ({self.experts})", "experts")
        return self

    def build(self, ctx: LayerContext) -> nn.Module:
        return MixtureOfExperts(self, ctx)


class MixtureOfExperts(nn.Module):
    def __init__(self, options: MoE, ctx: LayerContext) -> None:
        super().__init__()
        self.options, self.layer = options, ctx.layer
        self.router = nn.Linear(ctx.n_embd, options.experts, bias=False)
        width = int(options.width * ctx.n_embd)
        self.experts = nn.ModuleList(TwoLayerMLP(ctx, nn.GELU(), width) for _ in range(options.experts))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        logits = self.router_logits(x)  # (B, T, E)
        probabilities = logits.softmax(dim=-1)
        # Not by scatter, which torch 2.13 compiles for a CPU into other gates beside the balance loss
        chosen = F.one_hot(logits.topk(self.options.top_k).indices, self.options.experts).sum(-2).type_as(probabilities)
        y = torch.zeros_like(x)
        for expert, gate in zip(self.experts, (probabilities * chosen).unbind(-1), strict=True):
            out = expert(x)
            y = y + gate[..., None].type_as(out) * out
        return (y, self.extras(logits, probabilities, chosen)) if self.training else y

    def router_logits(self, x: Tensor) -> Tensor:
        """In fp32 at least, also under autocast: rounded logits would change the choice."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.to(dtype), self.router.weight.to(dtype))

    def extras(self, logits: Tensor, probabilities: Tensor, chosen: Tensor) -> dict[str, Tensor]:
        """Sums over the tokens. The balance loss is a product of two means, so it depends on who shares a micro-batch.

        The loads have no gradient, so they change nothing: they are there to be logged, each token counted once.
        """
        E, k = self.options.experts, self.options.top_k
        loads = chosen.flatten(0, -2).sum(dim=0) / k  # (E,) tokens
        N = chosen.numel() / E
        balance = E * (loads / N * probabilities.flatten(0, -2).mean(dim=0)).sum()
        z_loss = logits.logsumexp(dim=-1).square().sum()
        extras = {
            "load_balance": (self.options.balance * N * balance).float(),
            "router_z": (self.options.z_loss * z_loss).float(),
        }
        names = [f"load_{self.layer}_{expert}" for expert in range(E)]
        return extras | dict(zip(names, loads.float().unbind(), strict=True))
