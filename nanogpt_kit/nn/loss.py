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

CHUNK_LOGITS = 2**25  # logits of a chunk on a CPU, about: 768 tokens of GPT-2's vocabulary, 74 MiB in bf16
GPU_FACTOR = 8  # times as many on a GPU: the gradient of the weight is added seldom, and each logit takes 2 bytes
TOKEN_MULTIPLE = 256  # tokens of a large chunk, since products of matrices are computed in tiles of up to 256 rows
BLOCKS = 8  # blocks of a chunk, whose logits are in fp32: 18 MiB on a CPU, which stay in its cache from use to use
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
        terms = weighted(terms, label_smoothing, z_loss)
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
    targets = targets[:, None]
    counted = targets != IGNORED
    return targets.where(counted, 0), counted


def penalties(
    logits: Tensor, target_logits: Tensor, log_partition: Tensor, counted: Tensor, label_smoothing: float, z_loss: float
) -> list[Tensor]:
    """What label smoothing and z-loss add to the loss, divided by their coefficients, of those that are not 0.

    Logits (n, V) are without padding; the other tensors are (n, 1).
    """
    terms = []
    if label_smoothing:  # cross-entropy with the smoothed target, less that with the target
        terms.append(((target_logits - logits.mean(dim=1, keepdim=True)) * counted).sum())
    if z_loss:
        terms.append((log_partition.square() * counted).sum())
    return terms


def weighted(penalties: list[Tensor], *coefficients: float) -> list[Tensor]:
    """The penalties times those of their coefficients that are not 0."""
    return [number * term for number, term in zip(filter(None, coefficients), penalties, strict=True)]


def chunked_loss(x: Tensor, weight: Tensor, *arguments: Any) -> Any:
    """The result of ChunkedLoss, which has gradients where they are enabled."""
    if not torch.is_grad_enabled():
        x, weight = x.detach(), weight.detach()  # so that ChunkedLoss computes no gradients
    return ChunkedLoss.apply(x, weight, *arguments)  # type: ignore[no-untyped-call]


def chunk_and_block(rows: int, device: str) -> tuple[int, int]:
    """The tokens of a chunk and of a block, for a weight with that many rows."""
    size = max(1, CHUNK_LOGITS * (GPU_FACTOR if device == "cuda" else 1) // rows)
    if size > TOKEN_MULTIPLE:
        size = round(size / TOKEN_MULTIPLE) * TOKEN_MULTIPLE
    return size, size if torch.compiler.is_compiling() else -(-size // BLOCKS)  # compiled, fp32 is in registers


def loss_and_gradient(
    raw: Tensor,
    targets: Tensor,
    vocab_size: int,
    softcap: float | None,
    label_smoothing: float,
    z_loss: float,
    needs_gradient: bool,
    columns: Tensor | None,
) -> tuple[list[Tensor], Tensor | None]:
    """The fp32 sums (loss, penalty, ...) of logits before the cap (n, rows), and their fp32 gradient (n, rows) if
    needed. The penalties are without their coefficients. Whole rows are computed, with the padding, so that compiled
    code has one loop over them.
    """
    index, counted = index_and_mask(targets)
    target_logits = raw[:, :vocab_size].gather(1, index)  # (n, 1); torch refuses targets out of range
    target_logits = apply_softcap(target_logits.float(), softcap)
    logits = apply_softcap(raw.float(), softcap)  # (n, rows)
    logits[:, vocab_size:] = -torch.inf
    words = logits[:, :vocab_size]
    largest = logits.amax(dim=1, keepdim=True)  # (n, 1)
    powers = (logits - largest).exp_()  # (n, rows), 0 for padding
    total = powers.sum(dim=1, keepdim=True)  # (n, 1)
    log_partition = total.log() + largest  # (n, 1)
    loss = ((log_partition - target_logits) * counted).sum()
    sums = [loss, *penalties(words, target_logits, log_partition, counted, label_smoothing, z_loss)]
    if not needs_gradient:
        return sums, None
    gradient = powers.mul_(counted * (1 + 2 * z_loss * log_partition) / total)  # (n, rows)
    gradient = add_at(gradient, index, (label_smoothing - 1.0) * counted, columns)
    of_words = gradient[:, :vocab_size]
    if label_smoothing:
        of_words -= label_smoothing / vocab_size * counted
    if softcap is not None:  # not of padding, where it would be 0 times infinity
        of_words *= 1 - (words / softcap).square()  # the derivative of the cap
    return sums, gradient


def add_at(values: Tensor, index: Tensor, added: Tensor, columns: Tensor | None) -> Tensor:
    """The values (n, rows) plus `added` (n, 1) at `index` (n, 1): in place, unless `columns` (rows,) are given."""
    if columns is None:
        return values.scatter_add_(1, index, added)
    return values + torch.where(columns == index, added, 0.0)


class ChunkedLoss(torch.autograd.Function):
    """The loss; with penalties (objective, loss, penalty, ...), of which the objective alone has gradients.

    The logits of a chunk are in memory in the type of the products, and are replaced by their gradient. In fp32 are the
    logits of one block. Compiled, a block is a whole chunk: a GPU has its fp32 logits in registers, a CPU keeps their
    exponentials.
    """

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
        x_grad = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        weight_grad = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        needs_gradient = x_grad is not None or weight_grad is not None
        sums = [torch.zeros((), dtype=torch.float32, device=x.device)] * (1 + bool(label_smoothing) + bool(z_loss))
        size, block_size = chunk_and_block(weight.size(0), device)
        # Compiled, a comparison with them is computed in registers, where a scatter needs the values in memory
        columns = torch.arange(weight.size(0), device=x.device) if torch.compiler.is_compiling() else None  # (rows,)
        for start in range(0, x.size(0), size):
            chunk = slice(start, start + size)
            features = x[chunk].to(dtype)  # (n, C)
            logits = features @ short.T  # (n, rows)
            for first in range(0, features.size(0), block_size):
                block = slice(first, first + block_size)
                raw, wanted = logits[block], targets[chunk][block]  # (b, rows), (b,)
                values, gradient = loss_and_gradient(
                    raw, wanted, vocab_size, softcap, label_smoothing, z_loss, needs_gradient, columns
                )
                sums = [total + value for total, value in zip(sums, values, strict=True)]
                if gradient is not None:
                    raw.copy_(gradient)
            if x_grad is not None:
                x_grad[chunk] = logits @ short  # the logits are their gradient now
            if weight_grad is not None:
                weight_grad += logits.T @ features
        ctx.save_for_backward(x_grad, weight_grad)
        ctx.weight_dtype = weight.dtype
        loss, *terms = sums[0], *weighted(sums[1:], label_smoothing, z_loss)
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
