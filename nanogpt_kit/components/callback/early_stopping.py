"""Ends a run when a metric of its evaluations has not become better for a while.

Source: Prechelt 1998, "Early Stopping - But When?".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from nanogpt_kit.api import Callback, Field, KitError, LiveRun, hookimpl


class EarlyStopping(Callback):
    metric: str = Field("val/loss", min_length=1, description="of the evaluations")
    patience: int = Field(3, ge=1, description="evaluations without a better value, after which the run ends")
    min_delta: float = Field(0.0, ge=0, description="by how much a value must be better to count")
    mode: Literal["min", "max"] = Field("min", description="whether lower or higher is better")

    def metrics_read(self) -> dict[str, str]:
        return {"metric": self.metric}

    def build(self, run: LiveRun) -> object:
        return Watcher(self)


class Watcher:
    def __init__(self, options: EarlyStopping) -> None:
        self.options = options
        self.best = math.inf  # of the metric, or of its negative
        self.waited = 0

    @hookimpl
    def evaluated(self, run: LiveRun, step: int, metrics: Mapping[str, float]) -> None:
        wanted = self.options
        if wanted.metric not in metrics:
            raise KitError(f"no evaluator reports {wanted.metric!r}; reported are {', '.join(sorted(metrics))}")
        value = metrics[wanted.metric] if wanted.mode == "min" else -metrics[wanted.metric]
        if value < self.best - wanted.min_delta:
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited >= wanted.patience:
            best = self.best if wanted.mode == "min" else -self.best
            run.request_stop(f"{wanted.metric} was not better than {best:.4f} in {self.waited} evaluations")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.waited = state["best"], state["waited"]
