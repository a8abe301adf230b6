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

from nanogpt_kit.nn.training_loss import TrainingLoss

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
    x, targets = counted_tokens(x, targets)
    if needs_chunks(x, weight):
        loss: Tensor = chunked_loss(x, weight, targets, vocab_size, softcap, 0.0, 0.0)
        return loss
    logits = whole_logits(x, weight, vocab_size, softcap)  # (N, V)
    return F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")


def whole_logits(x: Tensor, weight: Tensor, vocab_size: int, softcap: float | None) -> Tensor:
    """(N, V) fp32: the logits of features x (N, C), without the padding of the vocabulary."""
    return apply_softcap(F.linear(x, weight)[:, :vocab_size].float(), softcap)


def regularized_cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    vocab_size: int,
    softcap: float | None = None,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> TrainingLoss:
    """What `linear_cross_entropy` computes, and penalties that are added to it in training, of the same logits.

    `label_smoothing` is the probability that the target distribution spreads evenly over the vocabulary (Szegedy et
    al. 2015, arXiv:1512.00567), `z_loss` the coefficient of the squared log of the softmax's denominator (Chowdhery et
    al. 2022, arXiv:2204.02311). The extras have these names; there is none where the number is 0.
    """
    if not (label_smoothing or z_loss):
        return TrainingLoss.of(linear_cross_entropy(x, weight, targets, vocab_size, softcap))
    x, targets = counted_tokens(x, targets)
    if needs_chunks(x, weight):
        objective, loss, *terms = chunked_loss(x, weight, targets, vocab_size, softcap, label_smoothing, z_loss)
    else:
        logits = whole_logits(x, weight, vocab_size, softcap)  # (N, V)
        log_probs = logits.log_softmax(dim=1)  # (N, V)
        loss = F.nll_loss(log_probs, targets, ignore_index=IGNORED, reduction="sum")  # bit for bit F.cross_entropy
        index, counted = index_and_mask(targets)
        target_logits = logits.gather(1, index)  # (N, 1)
        log_partition = target_logits - log_probs.gather(1, index)  # (N, 1)
        terms = penalties(logits, target_logits, log_partition, counted, label_smoothing, z_loss)
        objective = loss + sum(terms)
    names = [name for name, number in (("label_smoothing", label_smoothing), ("z_loss", z_loss)) if number]
    extras = {name: term.detach() for name, term in zip(names, terms, strict=True)}
    return TrainingLoss(objective, loss.detach(), extras)


def counted_tokens(x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Features (N, C) and targets (N,), without gradients those of counted tokens only."""
    x, targets = x.flatten(0, -2), targets.flatten()
    if not torch.is_grad_enabled() and not torch.compiler.is_compiling() and not x.is_meta:
        counted = targets != IGNORED  # saves the logits of the others, as in windows that overlap
        x, targets = x[counted], targets[counted]
    return x, targets


def needs_chunks(x: Tensor, weight: Tensor) -> bool:
    """Whether all logits at once would take much memory, which they do not on the meta device."""
    return x.size(0) * weight.size(0) > CHUNK_LOGITS and not x.is_meta


def index_and_mask(targets: Tensor) -> tuple[Tensor, Tensor]:
    """(n, 1) each: the targets, 0 where ignored, and whether they are counted."""
    return targets.masked_fill(targets == IGNORED, 0)[:, None], (targets != IGNORED)[:, None]


def penalties(
    logits: Tensor, target_logits: Tensor, log_partition: Tensor, counted: Tensor, label_smoothing: float, z_loss: float
) -> list[Tensor]:
    """What label smoothing and z-loss add to the loss, of those that are not 0.

    Logits (n, V) are without padding; the other tensors are (n, 1).
    """
    terms = []
    if label_smoothing:  # cross-entropy with the smoothed target, less that with the target
        terms.append(label_smoothing * ((target_logits - logits.mean(dim=1, keepdim=True)) * counted).sum())
    if z_loss:
        terms.append(z_loss * (log_partition.square() * counted).sum())
    return terms


def chunked_loss(x: Tensor, weight: Tensor, *arguments: Any) -> Any:
    """The result of ChunkedLoss, which has gradients where they are enabled."""
    if not torch.is_grad_enabled():
        x, weight = x.detach(), weight.detach()  # so that ChunkedLoss computes no gradients
    return ChunkedLoss.apply(x, weight, *arguments)  # type: ignore[no-untyped-call]


class ChunkedLoss(torch.autograd.Function):
    """The loss; with penalties (objective, loss, penalty, ...), of which the objective alone has gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        targets: Tensor,
        vocab_size: int,
        softcap: float | None,
        label_smoothing: float,
        z_loss: float,
    ) -> Tensor | tuple[Tensor, ...]:
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        short = weight.to(dtype)  # (rows, C)
        loss = torch.zeros((), dtype=torch.float32, device=x.device)
        terms = [torch.zeros_like(loss) for number in (label_smoothing, z_loss) if number]
        x_grad = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        weight_grad = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        size = max(1, CHUNK_LOGITS // weight.size(0))
        for start in range(0, x.size(0), size):
            part = slice(start, start + size)
            features = x[part].to(dtype)  # (n, C)
            logits = apply_softcap((features @ short.T).float(), softcap)  # (n, rows)
            logits[:, vocab_size:] = -torch.inf
            words = logits[:, :vocab_size]
            index, counted = index_and_mask(targets[part])
            target_logits = words.gather(1, index)  # (n, 1); torch refuses targets out of range
            log_partition = torch.logsumexp(logits, dim=1, keepdim=True)  # (n, 1)
            loss += ((log_partition - target_logits) * counted).sum()
            added = penalties(words, target_logits, log_partition, counted, label_smoothing, z_loss)
            terms = [term + value for term, value in zip(terms, added, strict=True)]
            if x_grad is None and weight_grad is None:
                continue
            cap_slope = 1.0 if softcap is None else 1 - (logits / softcap).square()  # the cap's derivative
            logit_grad = logits.softmax(dim=1)  # (n, rows)
            if z_loss:
                logit_grad *= 1 + 2 * z_loss * log_partition
            if label_smoothing:
                logit_grad -= label_smoothing / vocab_size
            logit_grad.scatter_add_(1, index, torch.full_like(log_partition, label_smoothing - 1.0))
            logit_grad = logit_grad * cap_slope * counted
            logit_grad[:, vocab_size:] = 0.0  # with a cap it would be 0 times infinity
            logit_grad = logit_grad.to(dtype)
            if x_grad is not None:
                x_grad[part] = logit_grad @ short
            if weight_grad is not None:
                weight_grad += logit_grad.T @ features
        ctx.save_for_backward(x_grad, weight_grad)
        ctx.weight_dtype = weight.dtype
        if not terms:
            return loss
        ctx.mark_non_differentiable(loss, *terms)
        return loss + sum(terms), loss, *terms

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x_grad, weight_grad = ctx.saved_tensors
        if x_grad is not None:
            x_grad = x_grad * scale
        if weight_grad is not None:
            weight_grad = (weight_grad * scale).to(ctx.weight_dtype)
        return x_grad, weight_grad, None, None, None, None, None
