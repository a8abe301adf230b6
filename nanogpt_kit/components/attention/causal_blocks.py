"""Softmax attention written out, in blocks of queries that leave out the keys after them.

`sdpa` computes it on a CPU where that is faster than torch's fused kernel, and in training with dropout, whose masks
have to be those of an `nn.Dropout`: the fused kernel draws its own.

Measured on an AMD EPYC (Zen 4), uncompiled, ms of a forward and backward pass in blocks and by the fused kernel, whose
backward pass is slow in bf16: 0.9 and 3.6 (6 windows of 64 tokens, 4 heads of 32), 11.2 and 24.0 (4 windows of 256,
6 heads of 64), 75 and 100 (one of 1024, 12 heads). The fused kernel is faster in fp32: 24.7 and 21.2 at 256 tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt_kit.api import View

# Queries that are computed together, with the keys up to the last of them: of the square that the mask of causal
# attention halves, 5 of 8 parts at 256 tokens. Blocks of 64 take 15.6 ms at 256 tokens, of 256 70 at 1024.
BLOCK = 128
TIMED_QUERIES = 1024  # in a measurement of a few ms, or those of one window that is longer
TIMED_HEADS, TIMED_HEAD_DIM = 6, 64  # GPT-2's heads are 64 wide


def attend_in_blocks(q: Tensor, k: Tensor, v: Tensor, view: View, window: int | None, drop: nn.Module) -> Tensor:
    """(B, H, T, D). A view that is not the plain causal square is one block, since keys may be in any order."""
    groups = q.size(1) // k.size(1)
    k, v = (x.repeat_interleave(groups, dim=1) if groups > 1 else x.contiguous() for x in (k, v))  # (B, H, S, D)
    q = (q * (1 / math.sqrt(q.size(-1)))).contiguous()
    added = added_to_scores(view, window, q.dtype)  # (1 or B, 1 or H, T, S)
    if not view.causal_square:
        return weights_of(q @ k.mT + added, drop, view.mask(window)).to(v.dtype) @ v
    rows = []
    for start in range(0, q.size(2), BLOCK):
        end = min(start + BLOCK, q.size(2))
        # Not `max`: of a window that a schedule changes, the compiler would make a graph for each block it ends in
        first = 0 if window is None else torch.sym_max(0, start - window + 1)
        # Dense: torch's products in bf16 copy other operands each time, and in the backward pass again
        queries, keys, values = (x[:, :, a:end].contiguous() for x, a in ((q, start), (k, first), (v, first)))
        scores = queries @ keys.mT + added[:, :, start:end, first:end]
        rows.append(weights_of(scores, drop).to(v.dtype) @ values)
    return torch.cat(rows, dim=2)


def added_to_scores(view: View, window: int | None, dtype: torch.dtype) -> Tensor:
    """(1 or B, 1 or H, T, S): the least number where a query does not attend to a key, else ALiBi's penalty or 0.

    Unlike a mask, a sum has no backward pass; and unlike -inf, the least number gives a query without keys no NaN.
    """

    def make() -> Tensor:
        mask = view.mask(window)
        penalty = torch.zeros_like(mask, dtype=dtype) if view.slopes is None else view.penalty()
        return penalty.masked_fill(~mask, torch.finfo(penalty.dtype).min)

    added: Tensor = view.cached(("added", window, dtype), make)
    return added


def weights_of(scores: Tensor, drop: nn.Module, mask: Tensor | None = None) -> Tensor:
    """Computed in fp32, after dropout; `mask` where a query may have no key, whose weights are 0."""
    weights = scores.softmax(dim=-1, dtype=torch.float32)
    dropped: Tensor = drop(weights if mask is None else weights.masked_fill(~mask, 0.0))
    return dropped


def timed_attention(name: str, dtype: torch.dtype, tokens: int) -> Callable[[], object]:
    """The forward and backward pass of causal attention as one thread computes it: "blocks", or "fused"."""
    shape = (max(1, TIMED_QUERIES // tokens), TIMED_HEADS, tokens, TIMED_HEAD_DIM)
    q, k, v = (torch.ones(shape, dtype=dtype, requires_grad=True) for _ in range(3))
    view = View.causal(torch.arange(tokens)[None])

    def call() -> object:
        if name == "blocks":
            y = attend_in_blocks(q, k, v, view, None, nn.Identity())
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return torch.autograd.grad(y, (q, k, v), y.detach())

    return call
