"""A trace of the operations of a few steps, for https://ui.perfetto.dev.

It is written to `profile/` in the run's folder. Source: torch.profiler, on Kineto.
"""

from __future__ import annotations

import logging

from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile, supported_activities

from nanogpt_kit.api import Callback, Field, LiveRun, hookimpl

logger = logging.getLogger(__name__)


class Profiler(Callback):
    is_tracker = True
    first_step: int = Field(10, ge=2, description="first step to trace; after resuming, at least the second step")
    steps: int = Field(5, ge=1, description="number of steps to trace; each takes some megabytes")
    shapes: bool = Field(False, description="recording of the input shapes of operations")
    stacks: bool = Field(False, description="recording of the Python call stack of operations; slow")

    def build(self, run: LiveRun) -> object:
        return Trace(self)


class Trace:
    def __init__(self, options: Profiler) -> None:
        self.options = options
        self.profile: profile | None = None
        self.first = 0

    @hookimpl
    def step_finished(self, run: LiveRun, step: int) -> None:
        options = self.options
        if self.profile is None and step == max(options.first_step, run.first_step + 2) - 1 < run.total_steps:
            activities = {ProfilerActivity.CPU, ProfilerActivity.CUDA} & supported_activities()
            self.first = step + 1
            self.profile = profile(
                activities=activities,
                record_shapes=options.shapes,
                with_stack=options.stacks,
                experimental_config=_ExperimentalConfig(profile_all_threads=True),  # a batch is split among threads
            )
            self.profile.start()
        elif self.profile is not None and step == self.first + options.steps - 1:
            self.write(run, step)

    @hookimpl
    def run_finished(self, run: LiveRun) -> None:
        if self.profile is not None and run.step >= self.first:  # the run ended during the trace
            self.write(run, run.step)
        elif self.profile is not None:
            self.profile.stop()
        elif not self.first:
            logger.warning("no step was traced: the run ended before step %d", self.options.first_step)

    def write(self, run: LiveRun, step: int) -> None:
        assert self.profile is not None, "a trace was started"
        self.profile.stop()
        folder = run.path / "profile"
        folder.mkdir(exist_ok=True)
        self.profile.export_chrome_trace(str(folder / f"steps-{self.first}-{step}.json.gz"))
        self.profile, self.first = None, run.total_steps + 1
