"""The log of a run in metrics.jsonl; a resumed run continues it at the step of its checkpoint."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from typing import Any

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs import samples
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import MetricsLog, read_metrics, truncate_metrics
from nanogpt_kit.train.progress import Progress

logger = logging.getLogger(__name__)


class RunLog:
    """The metrics of one run; only rank 0 writes them."""

    def __init__(
        self, folder: RunFolder, experiment: Experiment, progress: Progress, is_resumed: bool, rank: int
    ) -> None:
        """Removes what was logged after the checkpoint that the run continues from."""
        self.metrics = MetricsLog(folder.metrics)
        self.tokens_of_steps = experiment.step_plan.tokens
        self.log_every_steps = experiment.train.log_every_steps
        self.progress = progress
        self.is_writer = rank == 0
        self.evaluation_before: Mapping[str, Any] = {}  # at the step resumed from, where the file has one
        if self.is_writer:
            self._truncate(folder, is_resumed)

    def write(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Appends a line. Returns the metrics with the tokens and seconds so far."""
        progress = self.progress
        record = {"tokens": self.tokens_of_steps(progress.step), "seconds": round(progress.seconds, 3), **metrics}
        if self.is_writer:
            self.metrics.write({"step": progress.step, **record})
        return record

    def write_evaluation_once(self, metrics: Mapping[str, float]) -> bool:
        """Appends a line. Returns False, and writes nothing, where a resumed run repeats an evaluation in the file."""
        before = self.evaluation_before
        if before.get("step") == self.progress.step and metrics.keys() <= before.keys():
            return False
        self.write(metrics)
        return True

    def sync(self) -> None:
        """Flushes the metrics to disk, so that a power cut cannot lose lines from before a checkpoint."""
        if self.is_writer:
            self.metrics.sync()

    def _truncate(self, folder: RunFolder, is_resumed: bool) -> None:
        step, every = self.progress.step, self.log_every_steps
        after = step if is_resumed else -1
        reached = truncate_metrics(folder.metrics, after)
        samples.truncate_samples(folder.samples, after)
        last = next(iter(deque(read_metrics(folder.metrics), maxlen=1)), {})
        if last.get("step") == step and "train/loss" not in last:
            self.evaluation_before = last
        if not is_resumed and reached:
            logger.warning(
                "%s has no checkpoint, but its metrics reach step %d: it starts again at 0", folder.path, reached
            )
        logged = step - step % every or min(1, step)
        if reached < logged:
            message = "%s ends at step %d, before the checkpoint of step %d: the metrics in between are missing"
            logger.warning(message, folder.metrics, reached, step)
