"""CombinedOptimizer: several optimizers of different parameters behind the interface of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from nanogpt_kit.core.evaluation_weights import set_evaluation_weights, set_trained_weights
from nanogpt_kit.nn.sharded import is_sharded
from nanogpt_kit.nn.threads import call_concurrently, concurrent_threads


class CombinedOptimizer(torch.optim.Optimizer):
    """Optimizers of different parameters behind the interface of one: its groups are theirs, in their order.

    Its state and its groups are those of the parts, so that it is saved and resumed, and driven by schedules, like any
    optimizer of torch. The parts of a part that is such an optimizer itself are its own.

    A part may have a method `updates(threads)`, which returns independent calls that together are its step, the longest
    first. On a CPU these, and the steps of the other parts, are then made by several threads at once.
    """

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts: list[torch.optim.Optimizer] = []
        for part in parts:
            self.parts += part.parts if isinstance(part, CombinedOptimizer) else [part]
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share_state()
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        self.may_divide = all(p.device.type == "cpu" and not is_sharded(p) for p in parameters)
        self.may_divide &= any(hasattr(part, "updates") for part in self.parts)

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
        threads = concurrent_threads() if self.may_divide else 1
        if threads > 1:
            call_concurrently(self._updates(threads), threads)
        else:
            for part in self.parts:
                part.step()
        return loss

    def _updates(self, threads: int) -> list[Callable[[], object]]:
        calls: list[Callable[[], object]] = []
        for part in self.parts:
            updates = getattr(part, "updates", None)
            calls += updates(threads) if callable(updates) else [part.step]
        return [torch.no_grad()(call) for call in calls]  # a mode of each thread

    def eval(self) -> None:
        """Gives the parameters the weights for evaluation, of those parts that have such: see kind `optimizer`."""
        for part in self.parts:
            set_evaluation_weights(part)

    def train(self) -> None:
        """Gives the parameters the weights that are trained."""
        for part in self.parts:
            set_trained_weights(part)
