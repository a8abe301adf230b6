"""Warns once of each sign that training becomes unstable: a loss that rises, gradients and attention logits that grow.

Loss and gradient norm are read at every step, one step late where they are on a GPU, which never waits. They are
compared with the steps before, relative to their variation there; from the first step on, the loss also with that of a
model that gives all tokens the same probability.

Sources: Chowdhery et al. 2022 (PaLM), arXiv:2204.02311, for loss spikes; Team OLMo 2025, arXiv:2501.00656, for
growing gradient norms; Wortsman et al. 2023, arXiv:2309.14322, for attention logits and for what helps.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from nanogpt_kit.api import Callback, Field, LiveRun, hookimpl
from nanogpt_kit.components.callback.instability_remedies import remedies
from nanogpt_kit.components.callback.rise_detector import Rise, RiseDetector

logger = logging.getLogger(__name__)

# Rises of the loss, as fractions of the loss of equal probabilities. Measured: docs/decisions/divergence.md.
# In runs that went well, the median of 20 steps rose by at most 0.10 from its lowest, and by 0.21 with tiny batches or
# windows in the order of the text: at most half of eight of their own standard deviations.
SPIKE_FRACTION, SLOW_FRACTION, FAR_FRACTION = 0.02, 0.08, 0.2
TOKEN_FRACTION = 0.5  # the standard deviation of a batch's loss, times the root of its tokens: 0.28 to 1.05 there
# Factors of the gradient norm: at most 7.6 there, and 12 where a text is learnt by heart.
SUDDEN_GROWTH, SLOW_GROWTH = 5.0, 40.0
LOGIT_METRIC = "attention/max_logit_"  # of train.watch


class Divergence(Callback):
    is_tracker = True
    spike: float = Field(
        8.0,
        ge=2,
        le=1000,
        description="smallest rise of loss or gradient norm to report, in standard deviations of the steps before",
    )
    window_steps: int = Field(
        100, ge=30, le=10**5, description="number of earlier steps, whose variation is taken as usual"
    )
    max_attention_logit: float = Field(
        500.0,
        gt=0,
        description='largest attention logit that is not reported; requires "attention" in train.watch',
    )

    def build(self, run: LiveRun) -> object:
        return Watch(self, run)


class Watch:
    """Of each sign of trouble it logs one warning in the life of a run."""

    def __init__(self, options: Divergence, run: LiveRun) -> None:
        self.options, self.run = options, run
        self.loss_of_equal = math.log(max(1, run.vocab_size))  # nats per token
        nats = max(1.0, self.loss_of_equal)
        window, spike = options.window_steps, options.spike
        deviation = TOKEN_FRACTION * nats / math.sqrt(run.experiment.tokens(1))  # of the first steps
        sudden, slow, far = (fraction * nats for fraction in (SPIKE_FRACTION, SLOW_FRACTION, FAR_FRACTION))
        self.loss = RiseDetector(window, spike, sudden, slow, far, deviation)
        self.learnt = sudden  # below it the loss is that of few tokens, and the gradient varies by orders of magnitude
        self.largest = self.loss_of_equal + max(far, spike * deviation)  # that a single step may have
        sudden, slow = math.log(SUDDEN_GROWTH), math.log(SLOW_GROWTH)
        self.log_norm = RiseDetector(window, spike, sudden, slow, slow, 0.0)
        self.reported: set[str] = set()
        self.pending: tuple[int, Callable[[], list[float]]] | None = None  # a step, and what reads its scalars

    @hookimpl
    def step_finished(self, run: LiveRun, step: int) -> None:
        if {"loss", "gradient"} <= self.reported:
            return
        self.read_pending()  # the step before, which is known while the device computes this one
        self.pending = step, run.scalars.read
        if run.scalars.is_ready():
            self.read_pending()

    @hookimpl
    def logged(self, step: int, metrics: Mapping[str, float]) -> None:
        logits = {name: value for name, value in metrics.items() if name.startswith(LOGIT_METRIC)}
        if not logits or max(logits.values()) <= self.options.max_attention_logit:
            return
        name = max(logits, key=lambda name: logits[name])
        layer = name.removeprefix(LOGIT_METRIC)
        text = f"the largest attention logit is {logits[name]:,.0f} in layer {layer}, where some tens are usual"
        self.report("attention", step, text)

    @hookimpl
    def run_finished(self) -> None:
        with suppress(RuntimeError):  # of a device that failed
            self.read_pending()

    def read_pending(self) -> None:
        if self.pending is None:
            return
        (step, read), self.pending = self.pending, None
        loss, grad_norm = read()
        if loss != 0 and math.isfinite(loss):  # it is 0 where no token of the step counts
            self.check_loss(step, loss)
        if loss > self.learnt and 0 < grad_norm < math.inf:  # fp16 skips steps whose gradient is not finite
            rise = self.log_norm.add(math.log(grad_norm))
            if rise is not None:
                self.report("gradient", step, f"the gradient norm is {grad_norm:.3g}, {compared(rise, math.exp)}")

    def check_loss(self, step: int, loss: float) -> None:
        rise = self.loss.add(loss)
        if rise is not None:
            self.report("loss", step, f"the loss is {loss:.2f}, {compared(rise, float)}")
        elif loss > self.largest:
            known = f"equal probabilities for all {self.run.vocab_size:,} tokens give {self.loss_of_equal:.2f}"
            self.report("loss", step, f"the loss is {loss:.2f}, and {known}")

    def report(self, kind: str, step: int, text: str) -> None:
        if kind in self.reported:
            return
        self.reported.add(kind)
        options = self.run.experiment.resolved()
        logger.warning("step %d: %s; what usually helps: %s", step, text, ", ".join(remedies(kind, step, options)))

    def state_dict(self) -> dict[str, Any]:
        self.read_pending()
        detectors = {"loss": self.loss.state_dict(), "log_norm": self.log_norm.state_dict()}
        return {"reported": sorted(self.reported), **detectors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.reported = set(state["reported"])
        self.loss.load_state_dict(state["loss"])
        self.log_norm.load_state_dict(state["log_norm"])


def compared(rise: Rise, convert: Callable[[float], float]) -> str:
    """What the value was before; `convert` undoes what was done to the values of the detector."""
    level = f"{convert(rise.level):.3g}"
    if rise.steps_before:
        return f"up from {level}, its median over the {rise.steps_before} steps before"
    return f"up from {level}, its lowest level so far"
