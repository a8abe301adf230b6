"""Gaussian noise on the gradients that fades over the run, which helps deep networks to leave poor starting points.

Its variance in a step is eta / (1 + t) ** gamma, where t counts the steps before. The generator is the same on all
ranks, and its state is part of each checkpoint, so that a resumed run draws what it would have drawn.

Source: Neelakantan et al. 2015, "Adding Gradient Noise Improves Learning for Very Deep Networks", arXiv:1511.06807.
"""

from typing import Any

import torch
from torch import Tensor

from nanogpt_kit.api import Callback, Field, LiveRun, hookimpl


class GradientNoise(Callback):
    eta: float = Field(0.3, gt=0, description="variance of the noise in the first step")
    gamma: float = Field(0.55, ge=0, description="exponent with which the variance decays")
    seed: int = Field(1337, ge=0, lt=2**63, description="seed of the noise")

    def build(self, run: LiveRun) -> object:
        return Noise(self)


class Noise:
    def __init__(self, options: GradientNoise) -> None:
        self.options = options
        self.generator = torch.Generator().manual_seed(options.seed)

    @hookimpl
    def gradients_ready(self, run: LiveRun, step: int) -> None:
        deviation = (self.options.eta / (1 + step) ** self.options.gamma) ** 0.5
        for parameter in run.model.parameters():
            if parameter.grad is not None:
                noise = torch.randn(parameter.shape, generator=self.generator)
                parameter.grad.add_(laid_out_like(noise, parameter.grad), alpha=deviation)

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])


def laid_out_like(noise: Tensor, gradient: Tensor) -> Tensor:
    """On the device of a gradient; with fsdp, this rank's part of it."""
    noise = noise.to(gradient.device, gradient.dtype)
    if not hasattr(gradient, "placements"):
        return noise
    from torch.distributed.tensor import distribute_tensor  # takes a second to import

    return distribute_tensor(noise, gradient.device_mesh, gradient.placements, src_data_rank=None)  # type: ignore[arg-type]
