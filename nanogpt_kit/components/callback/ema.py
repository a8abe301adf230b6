"""An exponential moving average of the weights, often a better model; evaluations and samples use it.

Training itself never uses it. `nanogpt-kit sample RUN --weights ema` loads the average of a checkpoint.

Source: Polyak & Juditsky 1992; Tarvainen & Valpola 2017, arXiv:1703.01780, for the exponential one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch

from nanogpt_kit.api import Callback, Field, LiveRun, hookimpl


class EMA(Callback):
    decay: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.999, description="fraction of the average that remains at each step"
    )
    evaluate: bool = Field(True, description="use of the average in evaluations and in the samples of the run")

    def build(self, run: LiveRun) -> object:
        return Averages(self, run)


class Averages:
    def __init__(self, options: EMA, run: LiveRun) -> None:
        self.options = options
        self.parameters = dict(run.model.named_parameters())  # a tied one under its first name
        self.weights = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self.steps = 0

    @hookimpl
    @torch.no_grad()
    def step_finished(self) -> None:
        self.steps += 1
        decay = min(
            self.options.decay, self.steps / (self.steps + 9)
        )  # faster at first, when the average contains few steps
        new = [parameter.detach() for parameter in self.parameters.values()]
        torch._foreach_lerp_(list(self.weights.values()), new, 1 - decay)

    @hookimpl
    def evaluation_started(self) -> None:
        self.swap()

    @hookimpl
    def evaluation_ended(self) -> None:
        self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the weights of the model and the averages, tensor by tensor."""
        if self.options.evaluate:
            for name, parameter in self.parameters.items():
                current = parameter.detach().clone()
                parameter.copy_(self.weights[name])
                self.weights[name].copy_(current)

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights, "steps": self.steps}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]
        for name, average in self.weights.items():
            saved = state["weights"][name]
            if saved.shape != average.shape:  # copy_ might broadcast it
                raise ValueError(f"the average of {name} is {list(saved.shape)}")
            average.copy_(saved)
