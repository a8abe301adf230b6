"""Muon: momentum made nearly orthogonal, for the matrices; another optimizer, AdamW by default, for everything else.

With `match_rms_adamw` its updates have the usual size of AdamW's, so one learning rate suits both.

Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; Liu et al. 2025 (Moonlight), arXiv:2502.16982,
for match_rms_adamw. Options and state are those of torch's Muon, which updates one matrix after another; here the
matrices of one shape are updated in a batch, and those for queries, keys and values apart though they are rows of one
matrix, as in Jordan's https://github.com/KellerJordan/modded-nanogpt.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from itertools import repeat
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from nanogpt_kit.api import CombinedOptimizer, Field, Optimizer, ParameterShape, multiplies_bf16, slot

BATCH_ELEMENTS = 2**24  # in the stack of a process: 64 MiB in fp32, about 200 MiB with all that is computed from it


class Muon(Optimizer):
    lr: float = Field(2e-3, gt=0, description="peak learning rate of the matrices")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.95, description="decay rate of the running mean gradient")
    nesterov: bool = Field(True, description="Nesterov momentum in place of the classical one")
    weight_decay: float = Field(0.1, ge=0, description="decoupled weight decay of the matrices")
    ns_steps: int = Field(5, ge=1, le=20, description="Newton-Schulz iterations towards an orthogonal matrix")
    adjust: Literal["match_rms_adamw", "original"] = Field(
        "match_rms_adamw",
        description="scale of an (A, B) update: 0.2 sqrt(max(A, B)), or sqrt(max(1, A / B))",
    )
    others: Optimizer = slot("adamw", description="optimizer of all other parameters")

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        matrices, others = self.matrices_apart(groups, slot="others")
        parts: list[torch.optim.Optimizer] = [self.others.build(others)] if others else []
        if matrices:
            muon = BatchedMuon(
                self.with_weight_decay(matrices, self.weight_decay),
                lr=self.lr,
                momentum=self.momentum,
                nesterov=self.nesterov,
                ns_steps=self.ns_steps,
                adjust_lr_fn=self.adjust,
            )
            parts.insert(0, muon)
        return CombinedOptimizer(parts)

    def state_copies(self) -> int:
        return min(1, self.others.state_copies())

    def step_norm(self, shape: ParameterShape) -> float | None:
        if shape.role != "matrix" or len(shape.shape) != 2:
            return self.others.step_norm(shape)
        rows = shape.rows or (shape.fan_out,)  # singular values of the parts are 1; of all, where they add up, more
        return math.hypot(*(update_scale(count, shape.fan_in, self.adjust) for count in rows))


class BatchedMuon(torch.optim.Muon):
    """torch's Muon with one product for all matrices of a shape where torch has one for each matrix."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = torch.enable_grad()(closure)() if closure else None
        for update in self.updates():
            update()
        return loss

    def updates(self, threads: int = 1) -> list[Callable[[], None]]:
        """The calls that together are a step, for this many threads, the longest first."""
        batches = []
        for group in self.param_groups:
            shapes: dict[tuple[torch.Size, tuple[int, ...]], list[Tensor]] = {}
            for parameter, rows in zip(group["params"], group.get("rows") or repeat(None)):  # noqa: B905 (endless)
                if parameter.grad is not None:
                    shapes.setdefault((parameter.shape, rows or (len(parameter),)), []).append(parameter)
            for (shape, rows), matrices in shapes.items():
                is_sharded = hasattr(matrices[0], "device_mesh")
                ranks = matrices[0].device_mesh.size() if is_sharded else 1  # type: ignore[attr-defined]
                count = min(-(-len(matrices) // threads), max(1, BATCH_ELEMENTS // threads // shape.numel()) * ranks)
                for first in range(0, len(matrices), count):
                    batches.append((matrices[first : first + count], rows, group))
        batches.sort(key=lambda batch: -len(batch[0]) * batch[0][0].numel() * min(batch[0][0].shape))
        return [partial(self.update, *batch) for batch in batches]

    def update(self, matrices: list[Tensor], rows: tuple[int, ...], group: dict[str, Any]) -> None:
        """One step of matrices (A, B) of one shape, each made of parts with these numbers of rows."""
        gradients: list[Any] = [parameter.grad for parameter in matrices]
        for parameter, gradient in zip(matrices, gradients, strict=True):
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(gradient)
        momenta = [self.state[parameter]["momentum_buffer"] for parameter in matrices]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        update: Any = torch.stack(momenta)  # (N, A, B)
        if group["nesterov"]:
            update = torch.stack(gradients).lerp_(update, group["momentum"])

        update = orthogonal_update(update, rows, group)
        scale = update_scale(rows[0], matrices[0].shape[1], group["adjust_lr_fn"])
        torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(matrices, update.unbind(), alpha=-group["lr"] * scale)


def update_scale(A: int, B: int, adjust: str) -> float:
    """The factor on an orthogonal update of a matrix (A, B)."""
    return 0.2 * math.sqrt(max(A, B)) if adjust == "match_rms_adamw" else math.sqrt(max(1, A / B))


def orthogonal_update(stack: Any, rows: tuple[int, ...], group: dict[str, Any]) -> Any:
    """(N, A, B) as `orthogonalize_parts`, where it is sharded too: then each rank has a part of each matrix."""
    placements = getattr(stack, "placements", None)
    if not placements:
        update = orthogonalize_parts(stack, rows, group)
        return update.to(stack.dtype, memory_format=torch.contiguous_format)  # else foreach loops
    from torch.distributed.tensor import DTensor, Shard

    # Exchanged once, so that each rank has some matrices whole, instead of once for every product
    whole = [Shard(0) if placement.is_shard() else placement for placement in placements]
    update = orthogonal_update(stack.redistribute(placements=whole).to_local(), rows, group)
    layout = {"shape": stack.shape, "stride": stack.stride(), "run_check": False}
    return DTensor.from_local(update, stack.device_mesh, whole, **layout).redistribute(placements=placements)


def orthogonalize_parts(stack: Tensor, rows: tuple[int, ...], group: dict[str, Any]) -> Tensor:
    """(N, A, B) with each part, of these rows, orthogonal by itself, at its scale divided by that of the first."""
    N, A, B = stack.shape
    options = group["ns_steps"], group["ns_coefficients"], group["eps"]
    if len(set(rows)) == 1:  # one matrix, or equal parts, which need no copies
        return orthogonalize(stack.reshape(N * len(rows), rows[0], B), *options).reshape(N, A, B)
    parts = list(stack.split(rows, dim=1))
    for size in dict.fromkeys(rows):  # those of one size in a batch
        places = [place for place, count in enumerate(rows) if count == size]
        together = orthogonalize(torch.cat([parts[place] for place in places]), *options)
        adjust = group["adjust_lr_fn"]
        ratio = update_scale(size, B, adjust) / update_scale(rows[0], B, adjust)
        for place, part in zip(places, together.unflatten(0, (len(places), N)), strict=True):
            parts[place] = part if ratio == 1 else part * ratio
    return torch.cat(parts, dim=1)


def orthogonalize(stack: Tensor, steps: int, coefficients: tuple[float, float, float], eps: float) -> Tensor:
    """(N, A, B) with singular values close to 1: a quintic Newton-Schulz polynomial, applied `steps` times."""
    a, b, c = coefficients
    x = stack.to(product_dtype(stack.device.type))
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_(min=eps)  # no singular value is above 1
    is_tall = x.size(1) > x.size(2)
    x = x.mT if is_tall else x  # so that x @ x.mT is the smaller of the two products
    for _ in range(steps):
        square = x @ x.mT
        quartic = torch.baddbmm(square, square, square, beta=b, alpha=c)
        x = torch.baddbmm(x, quartic, x, beta=a)
    return x.mT if is_tall else x


@cache
def product_dtype(device: str) -> torch.dtype:
    """The type of the iterations' products: bf16 is precise enough."""
    return torch.bfloat16 if multiplies_bf16(device) else torch.float32
