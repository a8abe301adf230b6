"""Building optimizers without torch's compiler: methods of torch's optimizers import it before they do anything, which
takes as long as importing torch itself, also in a run that compiles nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import torch

from nanogpt_kit.core.kinds import Optimizer

NEVER_COMPILED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")  # torch excludes them from compiling


def build_optimizer(optimizer: Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """`optimizer.build(groups)` without importing torch's compiler."""
    unwrap_torch_optimizers()
    return optimizer.build(groups)


@cache
def unwrap_torch_optimizers() -> None:
    """Replaces, in this process, methods of torch's optimizers by the functions that torch has wrapped."""
    classes = [cls for cls in vars(torch.optim).values() if inspect.isclass(cls)]
    for cls in classes:
        if not issubclass(cls, torch.optim.Optimizer):
            continue
        for name in NEVER_COMPILED:
            if name in vars(cls):
                setattr(cls, name, inspect.unwrap(vars(cls)[name]))
        if "step" in vars(cls) and cls is not torch.optim.Optimizer:
            cls.step = with_grad_mode(inspect.unwrap(cls.step))  # type: ignore[method-assign]


def with_grad_mode(step: Callable[..., Any]) -> Callable[..., Any]:
    """Records gradients in a step for differentiable optimizers only, as torch's wrapper does."""

    @wraps(step)
    def call(self: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
        with torch.set_grad_enabled(bool(self.defaults.get("differentiable"))):
            return step(self, *args, **kwargs)

    return call
