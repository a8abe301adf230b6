"""CombinedOptimizer: several optimizers of different parameters behind the interface of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from nanogpt_kit.core.evaluation_weights import set_evaluation_weights, set_trained_weights


class CombinedOptimizer(torch.optim.Optimizer):
    """Optimizers of different parameters behind the interface of one: its groups are theirs, in their order.

    Its state and its groups are those of the parts, so that it is saved and resumed, and driven by schedules, like any
    optimizer of torch.
    """

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share_state()

    def _share_state(self) -> None:
        """Makes the parts refer to the state and the groups of this optimizer, which torch may replace."""
        first = 0
        for part in self.parts:
            part.state = self.state
            part.param_groups = self.param_groups[first : first + len(part.param_groups)]
            first += len(part.param_groups)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share_state()
        for part in self.parts:
            part.__setstate__({"state": part.state, "param_groups": part.param_groups})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = torch.enable_grad()(closure)() if closure else None
        for part in self.parts:
            part.step()
        return loss

    def eval(self) -> None:
        """Gives the parameters the weights for evaluation, of those parts that have such: see kind `optimizer`."""
        for part in self.parts:
            set_evaluation_weights(part)

    def train(self) -> None:
        """Gives the parameters the weights that are trained."""
        for part in self.parts:
            set_trained_weights(part)
