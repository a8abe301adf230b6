"""Cross-entropy from features, without ever holding all logits.

Logits of 8 x 1024 tokens over 50,304 words are 1.65 GB in fp32, and the plain way keeps several such tensors until the
backward pass. Here logits, loss and gradients are computed in chunks of tokens, all in the forward pass, since the
gradient of a sum of losses does not depend on later operations.

Source: the idea is that of Liger's fused linear cross-entropy (Hsu et al. 2024, arXiv:2410.10989); soft-capped logits
are Gemma 2's (arXiv:2408.00118).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_LOGITS = 2**25  # logits of one chunk: 128 MiB in fp32, some hundred tokens of GPT-2's vocabulary
IGNORED = -1  # the target of a token that is left out of the loss


def apply_softcap(logits: Tensor, cap: float | None) -> Tensor:
    """Squashes logits into (-cap, cap); None leaves them."""
    return logits if cap is None else cap * torch.tanh(logits / cap)


def linear_cross_entropy(
    x: Tensor, weight: Tensor, targets: Tensor, vocab_size: int, softcap: float | None = None
) -> Tensor:
    """The fp32 sum of the losses in nats of features x (..., C) for targets (...), which are -1 where there is none.

    The logits are x @ weight.T, weight (at least vocab_size, C); rows from `vocab_size` on are padding and get no
    probability. `softcap` squashes the logits into (-softcap, softcap).
    """
    x, targets = x.flatten(0, -2), targets.flatten()  # (N, C), (N,)
    if not torch.is_grad_enabled() and not torch.compiler.is_compiling():
        counted = targets != IGNORED  # saves the logits of the others, as in windows that overlap
        x, targets = x[counted], targets[counted]
    if x.size(0) * weight.size(0) > CHUNK_LOGITS:
        if not torch.is_grad_enabled():
            x, weight = x.detach(), weight.detach()  # so that ChunkedLoss computes no gradients
        loss: Tensor = ChunkedLoss.apply(x, weight, targets, vocab_size, softcap)  # type: ignore[no-untyped-call]
        return loss
    logits = apply_softcap(F.linear(x, weight)[:, :vocab_size].float(), softcap)  # (N, V)
    return F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")


class ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, vocab_size: int, softcap: float | None) -> Tensor:
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        short = weight.to(dtype)  # (rows, C)
        loss = torch.zeros((), dtype=torch.float32, device=x.device)
        x_grad = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        weight_grad = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        size = max(1, CHUNK_LOGITS // weight.size(0))
        for start in range(0, x.size(0), size):
            part = slice(start, start + size)
            features, chunk_targets = x[part].to(dtype), targets[part]  # (n, C), (n,)
            logits = apply_softcap((features @ short.T).float(), softcap)  # (n, rows)
            logits[:, vocab_size:] = -torch.inf
            counted = (chunk_targets != IGNORED)[:, None]  # (n, 1)
            index = chunk_targets.masked_fill(chunk_targets == IGNORED, 0)[:, None]  # (n, 1)
            target_logits = logits[:, :vocab_size].gather(1, index)  # (n, 1); torch refuses targets out of range
            losses = torch.logsumexp(logits, dim=1, keepdim=True) - target_logits
            loss += (losses * counted).sum()
            if x_grad is None and weight_grad is None:
                continue
            cap_slope = 1.0 if softcap is None else 1 - (logits / softcap).square()  # the cap's derivative
            logit_grad = logits.softmax(dim=1)  # (n, rows)
            logit_grad.scatter_add_(1, index, torch.full_like(losses, -1.0))
            logit_grad = logit_grad * cap_slope * counted
            logit_grad[:, vocab_size:] = 0.0  # with a cap it would be 0 times infinity
            logit_grad = logit_grad.to(dtype)
            if x_grad is not None:
                x_grad[part] = logit_grad @ short
            if weight_grad is not None:
                weight_grad += logit_grad.T @ features
        ctx.save_for_backward(x_grad, weight_grad)
        ctx.weight_dtype = weight.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x_grad, weight_grad = ctx.saved_tensors
        if x_grad is not None:
            x_grad = x_grad * scale
        if weight_grad is not None:
            weight_grad = (weight_grad * scale).to(ctx.weight_dtype)
        return x_grad, weight_grad, None, None, None
