"""A mixture of experts: a router chooses the MLPs that compute each token, and auxiliary losses keep their loads even.

No token is dropped: tokens are sorted by expert, and each expert computes its own. The experts' weights are rows of two
matrices, which inits see as one layer each, and optimizers such as muon as one matrix for each expert.

Shapes: N tokens, E experts, k of them for each token, W inner features of one.

Source: Shazeer et al. 2017, arXiv:1701.06538; Fedus et al. 2021, arXiv:2101.03961, equation 4, for the balance loss;
Zoph et al. 2022, arXiv:2202.08906, equation 5, for the z-loss; Dai et al. 2024, arXiv:2401.06066, for the shared
expert; DeepSeek-AI 2024, arXiv:2412.19437, for sigmoids in place of the softmax, normalized for the balance loss.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt_kit.api import MLP, Field, FusedLinear, LayerContext, ResidualLinear, model_validator, option_error
from nanogpt_kit_moe.grouped import grouped_linear

# Without autocast: a CPU compiles a 16-bit product for each number of rows, which differs in every step. On an AMD EPYC
# (Zen 5) 60 steps of a layer, 64 wide, took 9.8 ms each and 262 MiB in bf16, and 4.8 ms each and 25 MiB in fp32
PLAIN_DEVICES = ("cpu", "meta")

Activation = Literal["gelu", "relu2", "swiglu"]


class MoE(MLP):
    experts: int = Field(8, ge=2, le=1024, description="number of experts among which the router chooses")
    top_k: int = Field(2, ge=1, description="experts that compute each token")
    width: float = Field(2.0, gt=0, description="inner features of an expert, as a multiple of n_embd")
    activation: Activation = Field("gelu", description="function of the inner features of all experts")
    scores: Literal["softmax", "sigmoid"] = Field("softmax", description="function from the router's logits to scores")
    normalize: bool = Field(True, description="gates of the chosen experts that add up to 1, in place of their scores")
    shared_width: float = Field(
        0.0, ge=0, description="inner features of an expert that computes every token, as a multiple of n_embd; 0: none"
    )
    balance: float = Field(0.01, ge=0, description="weight of the loss that balances the experts' loads")
    z_loss: float = Field(0.001, ge=0, description="weight of the loss that keeps the router's logits small")
    log_loads: bool = Field(True, description="metrics of each expert's fraction of the choices of experts by tokens")

    @model_validator(mode="after")
    def _routing_can_be_learned(self) -> Self:
        if self.top_k > self.experts:
            raise option_error("top_k", f"top_k ({self.top_k}) exceeds experts ({self.experts})", "experts")
        if self.top_k == 1 and self.normalize:
            message = "normalize = true makes the gate of a single expert 1, so that the router would learn nothing"
            raise option_error("normalize", f"{message}; set it to false, or top_k (1) to 2 or more", "top_k")
        return self

    def build(self, ctx: LayerContext) -> nn.Module:
        return MixtureOfExperts(self, ctx)


class MixtureOfExperts(nn.Module):
    def __init__(self, options: MoE, ctx: LayerContext) -> None:
        super().__init__()
        self.options, self.layer = options, ctx.layer
        self.router = nn.Linear(ctx.n_embd, options.experts, bias=False)
        self.experts = Experts(ctx, options.experts, inner_width(options.width, ctx), options.activation)
        shared = options.shared_width > 0
        self.shared = Experts(ctx, 1, inner_width(options.shared_width, ctx), options.activation) if shared else None
        self.drop = nn.Dropout(ctx.dropout)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        tokens = x.flatten(0, -2)  # (N, C)
        logits = self.router_logits(tokens)  # (N, E)
        scores = logits.softmax(dim=-1) if self.options.scores == "softmax" else logits.sigmoid()
        gates, chosen = scores.topk(self.options.top_k, dim=-1)  # (N, k)
        if self.options.normalize:
            gates = normalized(gates)
        loads = (chosen[..., None] == torch.arange(self.options.experts, device=x.device)).sum(dim=(0, 1))  # (E,)
        y = self.routed(tokens, chosen, gates, loads)
        if self.shared is not None:
            y = y + self.shared(tokens, torch.full_like(loads[:1], len(tokens)))
        y = self.drop(y.view(x.shape))
        return (y, self.extras(logits, scores, loads)) if self.training else y

    def router_logits(self, tokens: Tensor) -> Tensor:
        """In fp32 at least, also under autocast: rounded logits would change the choice."""
        dtype = torch.promote_types(tokens.dtype, torch.float32)
        with nullcontext() if tokens.is_meta else torch.autocast(tokens.device.type, enabled=False):
            return F.linear(tokens.to(dtype), self.router.weight.to(dtype))

    def routed(self, tokens: Tensor, chosen: Tensor, gates: Tensor, loads: Tensor) -> Tensor:
        """The sum over the chosen experts of gate times result: (N, C)."""
        N, k = chosen.shape
        order = chosen.flatten().argsort(stable=True)  # of the N k pairs of token and expert, by expert
        inputs = tokens[:, None].expand(N, k, -1).flatten(0, 1)
        y: Tensor = self.experts(inputs.index_select(0, order), loads.cumsum(dim=0))  # (N k, C)
        y = y.index_select(0, order.argsort()).view(N, k, -1)  # by token again
        return (y * gates[..., None].type_as(y)).sum(dim=1)

    def extras(self, logits: Tensor, scores: Tensor, loads: Tensor) -> dict[str, Tensor]:
        """Sums over the tokens. The balance loss is a product of two means, so it depends on who shares a micro-batch.

        The loads have no gradient, so they change nothing: they are there to be logged, each token counted once.
        """
        N, E = logits.shape
        fractions = loads.to(scores.dtype) / (N * self.options.top_k)
        probabilities = scores if self.options.scores == "softmax" else normalized(scores)
        extras = {}
        if self.options.balance:
            balance = E * (fractions * probabilities.mean(dim=0)).sum()
            extras["load_balance"] = (self.options.balance * N * balance).float()
        if self.options.z_loss:
            extras["router_z"] = (self.options.z_loss * logits.logsumexp(dim=-1).square().sum()).float()
        if self.options.log_loads:
            names = [f"load_{self.layer}_{expert}" for expert in range(E)]
            extras |= dict(zip(names, (N * fractions).float().unbind(), strict=True))
        return extras


def normalized(scores: Tensor) -> Tensor:
    """Divided by their sum; sigmoids may all be zero."""
    return scores / scores.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(scores.dtype).tiny)


class Experts(nn.Module):
    """Two-layer MLPs of equal size, each for its own group of consecutive tokens."""

    def __init__(self, ctx: LayerContext, count: int, width: int, activation: Activation) -> None:
        super().__init__()
        self.count, self.activation = count, activation
        parts = 2 if activation == "swiglu" else 1
        self.c_fc = FusedLinear(ctx.n_embd, [width] * (count * parts), bias=ctx.bias)
        self.c_proj = ExpertOutputs(width, [ctx.n_embd] * count, bias=ctx.bias)

    def forward(self, x: Tensor, ends: Tensor) -> Tensor:
        """Tokens (M, C), sorted by expert, and where those of each expert end, (E,), to (M, C)."""
        inner = self.product(self.c_fc, x, ends)  # (M, W), or (M, 2 W)
        if self.activation == "swiglu":
            gate, inner = inner.chunk(2, dim=-1)
            inner = F.silu(gate) * inner
        else:
            inner = F.gelu(inner) if self.activation == "gelu" else inner.relu().square()
        return self.product(self.c_proj, inner, ends)

    def product(self, layer: nn.Linear, x: Tensor, ends: Tensor) -> Tensor:
        device, dtype = x.device.type, layer.weight.dtype
        if device not in PLAIN_DEVICES and torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        weight = layer.weight.unflatten(0, (self.count, -1)).to(dtype)  # (E, W, C), or (E, C, W)
        bias = None if layer.bias is None else layer.bias.unflatten(0, (self.count, -1)).to(dtype)
        return grouped_linear(x.to(dtype), weight, bias, ends)


class ExpertOutputs(FusedLinear, ResidualLinear):
    """The last layers of all experts: one writer into the residual stream, as a token gets one sum of them."""


def inner_width(multiple: float, ctx: LayerContext) -> int:
    return max(1, round(multiple * ctx.n_embd))
