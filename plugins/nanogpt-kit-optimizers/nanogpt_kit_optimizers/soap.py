"""SOAP: Adam in the eigenbasis of Shampoo's preconditioners, for all parameters of at least two dimensions.

For a matrix W with gradient G, running means of G G^T and G^T G are kept, and Adam runs on Q_L^T G Q_R, where Q_L and
Q_R are their eigenvectors. They are computed in the first step, which updates nothing, and refreshed later by one power
iteration and a QR decomposition. Dimensions above `max_dim` keep their axes, as do vectors; if all do, it is Adam.

The state of a matrix (A, B) is 2 A B + 2 A^2 + 2 B^2 numbers; under fsdp each process has the squares whole.

Source: Vyas et al. 2024, arXiv:2409.11321, algorithms 3 and 4; the authors' https://github.com/nikhilvyas/SOAP, from
which it takes the defaults, the first step, and the order of the eigenvectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor

from nanogpt_kit.api import CombinedOptimizer, Field, Optimizer

Decay = Annotated[float, Field(ge=0, lt=1)]
Bases = list[Tensor | None]  # of each axis the eigenvectors, in columns; None where it keeps its own


class SOAP(Optimizer):
    lr: float = Field(3e-3, gt=0, description="peak learning rate")
    betas: tuple[Decay, Decay] = Field(
        (0.95, 0.95), description="decay rates of the running mean, and of the mean square and the preconditioners"
    )
    eps: float = Field(1e-8, gt=0, description="constant added to the root of the mean square")
    weight_decay: float = Field(0.01, ge=0, description="decoupled weight decay of all parameters except vectors")
    basis_every_steps: int = Field(10, ge=1, description="steps between two updates of the eigenbases")
    max_dim: int = Field(10_000, ge=0, description="largest dimension that has a preconditioner, such as a vocabulary")
    split_rows: bool = Field(True, description="queries, keys and values apart, though they are rows of one matrix")

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        names = ("lr", "betas", "eps", "basis_every_steps", "max_dim", "split_rows")
        defaults = {name: getattr(self, name) for name in names}
        return CombinedOptimizer([EigenbasisAdam(self.with_weight_decay(groups, self.weight_decay), defaults)])

    def state_copies(self) -> int:
        return 2  # and the preconditioners, where dimensions are not above max_dim


class EigenbasisAdam(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = torch.enable_grad()(closure)() if closure else None
        for update in self.updates():
            update()
        return loss

    def updates(self, threads: int = 1) -> list[Callable[[], None]]:
        """The calls that together are a step, the longest first: see `CombinedOptimizer`."""
        calls = []
        for group in self.param_groups:
            all_rows = group.get("rows") or [None] * len(group["params"])
            for parameter, rows in zip(group["params"], all_rows, strict=True):
                if parameter.grad is not None:
                    of_parts = (group["split_rows"] and rows) or parameter.shape[:1]
                    calls.append((parameter.numel(), partial(self.update, parameter, of_parts, group)))
        return [call for _, call in sorted(calls, key=lambda pair: -pair[0])]

    def update(self, parameter: Tensor, rows: Sequence[int], group: dict[str, Any]) -> None:
        """One step of a parameter that consists of parts with these numbers of rows."""
        state, gradient = self.state[parameter], full(parameter.grad)
        if not state:
            state |= {"step": 0, "mean": torch.zeros_like(parameter), "square": torch.zeros_like(parameter)}
            for index, part in enumerate(split(gradient, rows)):
                add_preconditioners(state, index, part, group)
            round_state(state, parameter.dtype)
            return
        state["step"] += 1
        mean, square, update = full(state["mean"]), full(state["square"]), torch.empty_like(gradient)
        parts = zip(*(split(whole, rows) for whole in (gradient, mean, square, update)), strict=True)
        for index, (g, m, v, u) in enumerate(parts):
            bases = bases_of(state, index, g)
            rotated = rotate(g, bases)
            m.lerp_(rotated, 1 - group["betas"][0])
            v.lerp_(rotated.square(), 1 - group["betas"][1])
            u.copy_(rotate_back(m / (v.sqrt() + group["eps"]), bases))
            update_outer_products(state, index, g, 1 - group["betas"][1])
            if state["step"] % group["basis_every_steps"] == 0:
                refresh_bases(state, index, m, v)
        state |= {"mean": stored(mean, parameter), "square": stored(square, parameter)}
        round_state(state, parameter.dtype)
        parameter.sub_(stored(update.mul_(step_size(state["step"], group)), parameter))
        parameter.mul_(1 - group["lr"] * group["weight_decay"])


def round_state(state: dict[str, Any], dtype: torch.dtype) -> None:
    """To the type of the parameter, which torch converts the state to when it loads it."""
    state |= {name: value.to(dtype) for name, value in state.items() if isinstance(value, Tensor)}


def step_size(step: int, group: dict[str, Any]) -> float:
    """The learning rate, corrected for means that began at zero."""
    mean_decay, square_decay = group["betas"]
    return float(group["lr"] * math.sqrt(1 - square_decay**step) / (1 - mean_decay**step))


def add_preconditioners(state: dict[str, Any], index: int, gradient: Tensor, group: dict[str, Any]) -> None:
    """Begins the preconditioners of a part and their eigenvectors, those of the largest eigenvalues first."""
    for axis, size in enumerate(gradient.shape):
        if gradient.ndim > 1 and size <= group["max_dim"]:
            outer = outer_product(gradient, axis) * (1 - group["betas"][1])
            state[f"outer_{index}_{axis}"] = outer
            state[f"basis_{index}_{axis}"] = eigenvectors(outer).flip(1)


def eigenvectors(outer: Tensor) -> Tensor:
    """In fp64 where fp32 does not converge; NaN where a gradient is not finite, which the run then reports."""
    for dtype in (outer.dtype, torch.float64):
        try:
            vectors: Tensor = torch.linalg.eigh(outer.to(dtype)).eigenvectors
            return vectors.to(outer.dtype)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            continue
    return torch.full_like(outer, math.nan)


def update_outer_products(state: dict[str, Any], index: int, gradient: Tensor, weight: float) -> None:
    for axis in range(gradient.ndim):
        if f"outer_{index}_{axis}" in state:
            outer = full(state[f"outer_{index}_{axis}"]).lerp_(outer_product(gradient, axis), weight)
            state[f"outer_{index}_{axis}"] = outer


def refresh_bases(state: dict[str, Any], index: int, mean: Tensor, square: Tensor) -> None:
    """One power iteration of each basis, largest eigenvalues first; moves `mean` and `square` to the new ones."""
    before = bases_of(state, index, mean)
    for axis, basis in enumerate(before):
        if basis is not None:
            powers = full(state[f"outer_{index}_{axis}"]) @ basis
            order = (basis * powers).sum(dim=0).argsort(descending=True)  # by estimates of the eigenvalues
            square.copy_(square.index_select(axis, order))
            state[f"basis_{index}_{axis}"] = torch.linalg.qr(powers[:, order]).Q
    mean.copy_(rotate(rotate_back(mean, before), bases_of(state, index, mean)))


def bases_of(state: dict[str, Any], index: int, part: Tensor) -> Bases:
    names = [f"basis_{index}_{axis}" for axis in range(part.ndim)]
    return [full(state[name]) if name in state else None for name in names]


def outer_product(gradient: Tensor, axis: int) -> Tensor:
    """(A, A), the products of the slices along an axis of size A."""
    rows = gradient.movedim(axis, 0).flatten(1)
    return rows @ rows.T


def rotate(x: Tensor, bases: Bases) -> Tensor:
    for basis in bases:  # each turn takes the first axis, and makes it the last
        x = x.movedim(0, -1) if basis is None else torch.tensordot(x, basis, dims=([0], [0]))
    return x


def rotate_back(x: Tensor, bases: Bases) -> Tensor:
    return rotate(x, [None if basis is None else basis.T for basis in bases])


def split(whole: Tensor, rows: Sequence[int]) -> tuple[Tensor, ...]:
    return torch.split(whole, list(rows)) if whole.ndim else (whole,)


def full(value: Any) -> Tensor:
    """A tensor in fp32 at least, whole where it is sharded over processes; the same tensor if that changes nothing."""
    whole: Tensor = value.full_tensor() if hasattr(value, "device_mesh") else value
    return whole.to(torch.promote_types(whole.dtype, torch.float32))


def stored(value: Tensor, like: Any) -> Tensor:
    """The inverse of `full`: in the type of a parameter, and sharded as it is."""
    value = value.to(like.dtype)
    if not hasattr(like, "device_mesh"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
