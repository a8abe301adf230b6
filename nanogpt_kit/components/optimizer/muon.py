"""Muon: momentum made nearly orthogonal, for the matrices; another optimizer, AdamW by default, for everything else.

With `match_rms_adamw` its updates have the usual size of AdamW's, so one learning rate suits both.

Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; Liu et al. 2025 (Moonlight), arXiv:2502.16982,
for match_rms_adamw. Options and state are those of torch's Muon, which updates one matrix after another; here the
matrices of one shape are updated in a batch, and those for queries, keys and values apart though they are rows of one
matrix, as in Jordan's https://github.com/KellerJordan/modded-nanogpt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import repeat, starmap
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from nanogpt_kit.api import CombinedOptimizer, Field, Optimizer, ParameterShape, multiplies_bf16, slot

Matrix = tuple[Tensor, Tensor, Tensor]  # a part of a parameter, with the same of its gradient and its momentum
Shape = tuple[int, int, torch.device]

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
        calls: list[tuple[int, Callable[[], None]]] = []
        for group in self.param_groups:
            sharded: dict[Any, list[Matrix]] = {}
            equal: dict[Shape, list[Matrix]] = {}
            for parameter, rows in zip(group["params"], group.get("rows") or repeat(None)):  # noqa: B905 (endless)
                if parameter.grad is None:
                    continue
                state, rows = self.state[parameter], rows or (len(parameter),)
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter.grad)
                matrix: Matrix = parameter.detach(), parameter.grad, state["momentum_buffer"]
                if hasattr(parameter, "device_mesh"):
                    sharded.setdefault((parameter.shape, rows), []).append(matrix)
                    continue
                # Equal parts need no copies: together they are more matrices
                parts = (
                    [matrix] if len(set(rows)) == 1 else zip(*(tensor.split(rows) for tensor in matrix), strict=True)
                )
                for count, part in zip(rows, parts, strict=False):
                    equal.setdefault((count, parameter.shape[1], parameter.device), []).append(part)
            for (shape, rows), matrices in sharded.items():
                count = max(1, BATCH_ELEMENTS // shape.numel()) * matrices[0][0].device_mesh.size()  # type: ignore[attr-defined]
                for first in range(0, len(matrices), count):
                    calls.append((0, partial(self.update_sharded, matrices[first : first + count], rows, group)))
            for shape, batch in batches(equal, threads):
                calls.append((work_of(shape, batch), partial(self.update, batch, shape[0], group)))
        return [call for _, call in sorted(calls, key=lambda pair: -pair[0])]

    def update(self, matrices: list[Matrix], A: int, group: dict[str, Any]) -> None:
        """One step of matrices (A, B), and of such that are several of these in one."""
        parameters, gradients, momenta = map(list, zip(*matrices, strict=True))
        mixed = mixed_momentum(gradients, momenta, group)
        rows, B = [len(parameter) for parameter in parameters], parameters[0].shape[1]
        dtype = product_dtype(parameters[0].device.type)
        stack = torch.cat(mixed, out=torch.empty(sum(rows), B, dtype=dtype, device=parameters[0].device))
        directions = orthogonalize(stack.view(-1, A, B), group).to(parameters[0].dtype).view(-1, B).split(rows)
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        scale = update_scale(A, B, group["adjust_lr_fn"])
        torch._foreach_add_(parameters, directions, alpha=-group["lr"] * scale)

    def update_sharded(self, matrices: list[Matrix], rows: tuple[int, ...], group: dict[str, Any]) -> None:
        """One step of sharded matrices (A, B) of one shape, each made of parts with these numbers of rows."""
        from torch.distributed.tensor import DTensor, Shard

        parameters, gradients, momenta = map(list, zip(*matrices, strict=True))
        stack: Any = torch.stack(mixed_momentum(gradients, momenta, group))
        # Exchanged once, so that each rank has some matrices whole, instead of once for every product
        whole = [Shard(0) if placement.is_shard() else placement for placement in stack.placements]
        local = orthogonalize_parts(stack.redistribute(placements=whole).to_local(), rows, group)
        layout = {"shape": stack.shape, "stride": stack.stride(), "run_check": False}
        update = DTensor.from_local(local, stack.device_mesh, whole, **layout).redistribute(placements=stack.placements)
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        scale = update_scale(rows[0], stack.shape[2], group["adjust_lr_fn"])
        torch._foreach_add_(parameters, update.unbind(), alpha=-group["lr"] * scale)


def batches(equal: dict[Shape, list[Matrix]], threads: int) -> Iterator[tuple[Shape, list[Matrix]]]:
    """The matrices of each shape in batches, as few as give each thread equally much work, and none too large."""
    share = sum(starmap(work_of, equal.items())) / threads
    loads = [0] * threads
    for shape, matrices in sorted(equal.items(), key=lambda item: -item[0][0] * item[0][1] * min(item[0][:2])):
        taken: list[list[Matrix]] = [[] for _ in loads]
        fits = min(loads) + work_of(shape, matrices) <= share
        for some in [matrices] if fits else [[one] for one in sorted(matrices, key=lambda one: -len(one[0]))]:
            thread = loads.index(min(loads))
            taken[thread] += some
            loads[thread] += work_of(shape, some)
        count = max(1, BATCH_ELEMENTS // threads // max(parameter.numel() for parameter, *_ in matrices))
        for batch in taken:
            yield from ((shape, batch[first : first + count]) for first in range(0, len(batch), count))


def work_of(shape: Shape, matrices: list[Matrix]) -> int:
    """In proportion to the multiplications of a step of Newton and Schulz."""
    return sum(parameter.numel() for parameter, *_ in matrices) * min(shape[:2])


def mixed_momentum(gradients: list[Any], momenta: list[Any], group: dict[str, Any]) -> list[Any]:
    """Updates the momenta. Returns what is to be made orthogonal."""
    torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
    return list(torch._foreach_lerp(gradients, momenta, group["momentum"])) if group["nesterov"] else momenta


def update_scale(A: int, B: int, adjust: str) -> float:
    """The factor on an orthogonal update of a matrix (A, B)."""
    return 0.2 * math.sqrt(max(A, B)) if adjust == "match_rms_adamw" else math.sqrt(max(1, A / B))


def orthogonalize_parts(stack: Tensor, rows: tuple[int, ...], group: dict[str, Any]) -> Tensor:
    """(N, A, B) with each part, of these rows, orthogonal by itself, at its scale divided by that of the first."""
    parts = list(stack.split(rows, dim=1))
    adjust = group["adjust_lr_fn"]
    for size in dict.fromkeys(rows):  # those of one size in a batch
        places = [place for place, count in enumerate(rows) if count == size]
        together = torch.cat([parts[place] for place in places]).to(product_dtype(stack.device.type))
        directions = orthogonalize(together, group).to(stack.dtype)
        ratio = update_scale(size, stack.shape[2], adjust) / update_scale(rows[0], stack.shape[2], adjust)
        for place, part in zip(places, directions.unflatten(0, (len(places), len(stack))), strict=True):
            parts[place] = part if ratio == 1 else part * ratio
    return torch.cat(parts, dim=1)


def orthogonalize(x: Tensor, group: dict[str, Any]) -> Tensor:
    """(N, A, B) with singular values close to 1: a quintic polynomial of Newton and Schulz, applied `ns_steps` times.

    x becomes (a + b S + c S^2) x, where S is x x^T; or x (a + b S + c S^2) with S = x^T x, where that is smaller.
    """
    a, b, c = group["ns_coefficients"]
    A, B = x.shape[1:]
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_(min=group["eps"])  # no singular value is above 1
    for _ in range(group["ns_steps"]):
        S = x @ x.mT if A <= B else x.mT @ x
        P = torch.baddbmm(S, S, S, beta=b, alpha=c)
        x = torch.baddbmm(x, P, x, beta=a) if A <= B else torch.baddbmm(x, x, P, beta=a)
    return x


@cache
def product_dtype(device: str) -> torch.dtype:
    """The type of the iterations' products: bf16 is precise enough."""
    return torch.bfloat16 if multiplies_bf16(device) else torch.float32
