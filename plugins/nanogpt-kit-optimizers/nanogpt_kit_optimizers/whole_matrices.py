"""Updates of matrices that may be sharded over processes: each process computes those of some matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

BATCH_ELEMENTS = 2**24  # in the stack of a process: 64 MiB in fp32, several times that with all computed from it


def equal_matrices(group: dict[str, Any], threads: int = 1) -> Iterator[tuple[list[Tensor], tuple[int, ...]]]:
    """The matrices of a parameter group that have gradients, those of one shape together, with the rows of the parts
    that each is made of; some for each thread, and at most as many together as fit into BATCH_ELEMENTS."""
    rows_of = group.get("rows") or [None] * len(group["params"])
    together: dict[tuple[Any, ...], list[Tensor]] = {}
    for parameter, rows in zip(group["params"], rows_of, strict=True):
        if parameter.grad is not None:
            together.setdefault((parameter.shape, rows or (len(parameter),)), []).append(parameter)
    for (shape, rows), matrices in together.items():
        ranks = matrices[0].device_mesh.size() if is_sharded(matrices[0]) else 1  # type: ignore[attr-defined]
        count = ranks * max(1, min(BATCH_ELEMENTS // threads // shape.numel(), -(-len(matrices) // threads)))
        for first in range(0, len(matrices), count):
            yield matrices[first : first + count], rows


def is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "device_mesh")  # of torch's DTensor, whose import takes a second


def on_whole_matrices(stack: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """`function` of matrices (N, A, B), which treats each by itself; where the stack is sharded, so is the result."""
    if not is_sharded(stack):
        return function(stack)
    from torch.distributed.tensor import DTensor, Shard

    # Exchanged once, so that each process has some matrices whole, instead of once for every product
    whole = [Shard(0) if placement.is_shard() else placement for placement in stack.placements]
    result = function(stack.redistribute(placements=whole).to_local())
    layout = {"shape": stack.shape, "stride": stack.stride(), "run_check": False}
    return DTensor.from_local(result, stack.device_mesh, whole, **layout).redistribute(placements=stack.placements)


def scaled_rows(stack: Any, factors: Tensor) -> Any:
    """(N, A, B), perhaps sharded, with each row multiplied by its factor of (N, A), which every process has."""
    scales: Any = factors.unsqueeze(-1)
    if is_sharded(stack):
        from torch.distributed.tensor import DTensor, Replicate

        scales = DTensor.from_local(scales, stack.device_mesh, [Replicate()] * stack.device_mesh.ndim, run_check=False)
    return stack * scales


def row_mean_squares(stack: Any) -> Tensor:
    """The mean square of each row of (N, A, B), perhaps sharded: (N, A), on every process."""
    means = stack.square().mean(-1)
    full: Tensor = means.full_tensor() if is_sharded(stack) else means
    return full
