"""Stops a run whose evaluations no longer improve.

Source: Prechelt 1998, "Early Stopping - But When?".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from nanogpt_kit.api import Callback, Field, KitError, LiveRun, hookimpl


class EarlyStopping(Callback):
    metric: str = Field("val/loss", min_length=1, description="metric to watch, as an evaluator names it")
    patience: int = Field(
        3, ge=1, description="consecutive evaluations without a better value, after which the run stops"
    )
    min_delta: float = Field(0.0, ge=0, description="smallest difference that counts as better")
    mode: Literal["min", "max"] = Field("min", description="direction of improvement: min (lower is better) or max")

    def metrics_read(self) -> dict[str, str]:
        return {"metric": self.metric}

    def build(self, run: LiveRun) -> object:
        return Watcher(self)


class Watcher:
    def __init__(self, options: EarlyStopping) -> None:
        self.options = options
        self.best = math.inf  # of the metric; of its negative where mode is max
        self.waited = 0  # evaluations since the best

    @hookimpl
    def evaluated(self, run: LiveRun, step: int, metrics: Mapping[str, float]) -> None:
        options = self.options
        if options.metric not in metrics:
            raise KitError(f"no evaluator reports {options.metric!r}; reported are {', '.join(sorted(metrics))}")
        value = metrics[options.metric] if options.mode == "min" else -metrics[options.metric]
        if value < self.best - options.min_delta:
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited >= options.patience:
            best = self.best if options.mode == "min" else -self.best
            run.request_stop(f"{options.metric} was not better than {best:.4f} in {self.waited} evaluations")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.waited = state["best"], state["waited"]
