"""Cross-entropy from features, without ever holding all logits.

Logits of 8 x 1024 tokens over 50,304 words are 1.65 GB in fp32, and the plain way keeps several such tensors until the
backward pass. Here a chunk of tokens at a time gets its logits, its loss and at once its gradients, since the gradient
of a sum of losses needs nothing that comes later.

Source: the idea is that of Liger's fused linear cross-entropy (Hsu et al. 2024, arXiv:2410.10989); soft-capped logits
are Gemma 2's (arXiv:2408.00118).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_LOGITS = 2**25  # of one chunk: 128 MiB in fp32, some hundred tokens of GPT-2's vocabulary, all of a small one
IGNORED = -1  # the target of a token that counts for nothing


def softcapped(logits: Tensor, cap: float | None) -> Tensor:
    """Bends logits into (-cap, cap)."""
    return logits if cap is None else cap * torch.tanh(logits / cap)


def linear_cross_entropy(
    x: Tensor, weight: Tensor, targets: Tensor, vocab_size: int, softcap: float | None = None
) -> Tensor:
    """The fp32 sum of the losses in nats of features x (..., C) for targets (...), -1 where none is wanted.

    The logits are x @ weight.T, weight (at least vocab_size, C); rows from `vocab_size` on are padding and get no
    probability. `softcap` bends the logits into (-softcap, softcap).
    """
    x, targets = x.flatten(0, -2), targets.flatten()  # (N, C), (N,)
    if not torch.is_grad_enabled() and not torch.compiler.is_compiling():
        wanted = targets != IGNORED  # the logits of others would be computed for nothing, as in windows that overlap
        x, targets = x[wanted], targets[wanted]
    if x.size(0) * weight.size(0) > CHUNK_LOGITS:
        if not torch.is_grad_enabled():
            x, weight = x.detach(), weight.detach()  # says that no gradients are needed
        loss: Tensor = ChunkedLoss.apply(x, weight, targets, vocab_size, softcap)  # type: ignore[no-untyped-call]
        return loss
    logits = softcapped(F.linear(x, weight)[:, :vocab_size].float(), softcap)  # (N, V)
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
            features, wanted = x[part].to(dtype), targets[part]  # (n, C), (n,)
            logits = softcapped((features @ short.T).float(), softcap)  # (n, rows)
            logits[:, vocab_size:] = -torch.inf
            known = (wanted != IGNORED)[:, None]  # (n, 1)
            index = wanted.masked_fill(wanted == IGNORED, 0)[:, None]  # (n, 1)
            own = logits[:, :vocab_size].gather(1, index)  # (n, 1); torch refuses a target outside the vocabulary
            surprise = torch.logsumexp(logits, dim=1, keepdim=True) - own
            loss += (surprise * known).sum()
            if x_grad is None and weight_grad is None:
                continue
            bend = 1.0 if softcap is None else 1 - (logits / softcap).square()  # the derivative of the cap
            pull = logits.softmax(dim=1)  # (n, rows): of each logit on the loss
            pull.scatter_add_(1, index, torch.full_like(surprise, -1.0))
            pull = pull * bend * known
            pull[:, vocab_size:] = 0.0  # else 0 times infinity, where there is a cap
            pull = pull.to(dtype)
            if x_grad is not None:
                x_grad[part] = pull @ short
            if weight_grad is not None:
                weight_grad += pull.T @ features
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
