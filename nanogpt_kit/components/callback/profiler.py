"""A trace of a few steps, operation by operation, that https://ui.perfetto.dev opens.

It is written to `profile/` in the run's folder. Source: torch.profiler, on Kineto.
"""

from __future__ import annotations

import logging

from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile, supported_activities

from nanogpt_kit.api import Callback, Field, LiveRun, hookimpl

logger = logging.getLogger(__name__)


class Profiler(Callback):
    tracker = True
    first_step: int = Field(10, ge=2, description="the first that is traced, or the second after a resume")
    steps: int = Field(5, ge=1, description="how many are traced; each is some megabytes")
    shapes: bool = Field(False, description="whether operations tell the shapes of their inputs")
    stacks: bool = Field(False, description="whether operations tell the lines of Python that called them; slow")

    def build(self, run: LiveRun) -> object:
        return Trace(self)


class Trace:
    def __init__(self, options: Profiler) -> None:
        self.options = options
        self.profile: profile | None = None
        self.first = 0

    @hookimpl
    def step_finished(self, run: LiveRun, step: int) -> None:
        wanted = self.options
        if self.profile is None and step == max(wanted.first_step, run.first_step + 2) - 1 < run.total_steps:
            known = {ProfilerActivity.CPU, ProfilerActivity.CUDA} & supported_activities()
            self.first = step + 1
            self.profile = profile(
                activities=known,
                record_shapes=wanted.shapes,
                with_stack=wanted.stacks,
                experimental_config=_ExperimentalConfig(profile_all_threads=True),  # windows are shared among them
            )
            self.profile.start()
        elif self.profile is not None and step == self.first + wanted.steps - 1:
            self.write(run, step)

    @hookimpl
    def run_finished(self, run: LiveRun) -> None:
        if self.profile is not None and run.step >= self.first:  # it ended while being traced
            self.write(run, run.step)
        elif self.profile is not None:
            self.profile.stop()
        elif not self.first:
            logger.warning("no step was traced: the run has ended before step %d", self.options.first_step)

    def write(self, run: LiveRun, step: int) -> None:
        assert self.profile is not None, "only what was begun can be written"
        self.profile.stop()
        folder = run.path / "profile"
        folder.mkdir(exist_ok=True)
        self.profile.export_chrome_trace(str(folder / f"steps-{self.first}-{step}.json.gz"))
        self.profile, self.first = None, run.total_steps + 1
