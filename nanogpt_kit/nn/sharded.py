"""Tensors that may be sharded over processes: the norm of such gradients, full and sharded copies.

Source: Pascanu et al. 2012, arXiv:1211.5063, for clipping; torch's DTensor for the layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

CLIP_EPS = 1e-6  # which torch adds to the norm in clip_grads_with_norm_


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
    """Scales gradients down to `max_norm` (0 leaves them); returns their norm before, the same on every rank.

    A CPU does not multiply by 1: of the 39 ms that clipping GPT-2's gradients took, the product took 21 (one thread of
    an AMD EPYC, Zen 4). Other devices do, since asking them would wait for them.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    may_ask = norm.device.type == "cpu" and not is_sharded(norm)
    if max_norm and not (may_ask and (max_norm / (norm + CLIP_EPS)).item() >= 1):
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return full_tensor(norm)


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor; asked without importing their module, which takes a second."""
    return hasattr(tensor, "device_mesh")


def full_tensor(tensor: Tensor) -> Tensor:
    """The full tensor, on every rank."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def reshard(model: nn.Module) -> None:
    """Frees the full weights that a forward pass without a backward pass has gathered."""
    for module in model.modules():
        reshard_module = getattr(module, "reshard", None)  # a method of torch's FSDPModule
        if callable(reshard_module):
            reshard_module()


def distribute_state_like(state: Any, like: Any) -> Any:
    """`state`, plain values and full tensors, with each tensor sharded as the one at the same place of `like`."""
    if isinstance(state, Tensor):
        return distribute_like(state, like) if isinstance(like, Tensor) else state
    if isinstance(state, dict) and isinstance(like, dict):
        return {key: distribute_state_like(value, like.get(key)) for key, value in state.items()}
    if isinstance(state, list) and isinstance(like, list) and len(state) == len(like):
        return [distribute_state_like(value, other) for value, other in zip(state, like, strict=True)]
    return state


def distribute_like(value: Tensor, like: Tensor) -> Tensor:
    """A full tensor, sharded as `like` is where both have one shape; every rank holds it, so nothing is sent."""
    if not is_sharded(like) or is_sharded(value) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor), "only these have a mesh"
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
