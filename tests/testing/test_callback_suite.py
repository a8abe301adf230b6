"""The suite for callbacks fails where one is broken: each break is seen by the test beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from nanogpt_kit.api import Callback, LiveRun, TrainingBatch, hookimpl
from nanogpt_kit.testing.callback import CallbackConformance
from tests.testing.remedies import assert_fails

ONE: list[object] = []  # what "one for all" builds


class Broken(Callback):
    """Nudges the gradients by a sum that it keeps, except in the way that `how` says."""

    how: str = "not"
    metric: str = "val/loss"

    def metrics_read(self) -> dict[str, str]:
        return {"metric": "val/other"} if self.how == "reads another metric" else {"metric": self.metric}

    def build(self, run: LiveRun) -> object:
        if self.how == "cannot be built":
            raise OSError("no server")
        if self.how == "misspelt":
            return Misspelt()
        if self.how == "one for all":
            ONE.append(Nudge(self, run))
            return ONE[0]
        return Nudge(self, run)


class BrokenTracker(Broken):
    is_tracker: ClassVar[bool] = True


class Misspelt:
    @hookimpl
    def step_finishd(self, step: int) -> None: ...


class Nudge:
    def __init__(self, options: Broken, run: LiveRun) -> None:
        self.how, self.rank, self.sum = options.how, run.rank, 0.0
        self.largest = torch.tensor(0.0)

    @hookimpl
    def batch_ready(self, batch: TrainingBatch) -> None:
        if self.how == "by chance":
            batch.ids[0, 0] = torch.randint(256, ())
        if self.how == "another vocabulary":
            batch.ids[0, 0] = -7

    @hookimpl
    @torch.no_grad()
    def gradients_ready(self, run: LiveRun, step: int) -> None:
        if self.how == "by rank" and self.rank == 1:
            return
        if self.how != "reports":
            self.sum += 0.01
            next(run.model.parameters()).grad.add_(self.sum)  # type: ignore[union-attr]

    @hookimpl
    def step_finished(self, step: int) -> None:
        if self.how == "raises" and step == 5:
            raise ValueError("five")

    @hookimpl
    @torch.no_grad()
    def evaluation_started(self, run: LiveRun) -> None:
        if self.how == "swaps for good":
            next(run.model.parameters()).mul_(0.5)

    @hookimpl
    def checkpoint_saved(self, run: LiveRun, path: Path) -> None:
        """What a run offers is there: the files of a checkpoint, and the optimizer's groups with their roles."""
        assert (path / "model.safetensors").exists()
        assert {group["role"] for group in run.optimizer.param_groups} >= {"matrix", "embedding"}

    def state_dict(self) -> dict[str, Any]:
        if self.how == "forgets":
            return {}
        if self.how == "infinite":
            return {"sum": self.sum, "largest": self.largest - float("inf")}
        if self.how == "an object":
            return {"sum": self.sum, "object": self}
        return {"sum": self.sum}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.how != "ignores its state":
            self.sum = state.get("sum", 0.0)


CAUGHT = {
    "one for all": "test_each_build_is_a_fresh_object",
    "misspelt": "test_its_hooks_are_known",
    "raises": "test_it_takes_part_in_a_run",
    "another vocabulary": "test_it_takes_part_in_a_run",
    "swaps for good": "test_after_an_evaluation_the_model_has_its_trained_weights",
    "by chance": "test_torchs_random_numbers_stay_as_they_are",
    "by rank": "test_every_rank_does_the_same",
    "infinite": "test_its_state_survives_a_checkpoint",
    "an object": "test_its_state_survives_a_checkpoint",
    "ignores its state": "test_its_state_survives_a_checkpoint",
    "forgets": "test_resumed_it_continues_as_if_it_had_not_stopped",
    "reads another metric": "test_the_metrics_that_it_reads_are_options",
}
OF_TRACKERS = {
    "cannot be built": "test_its_hooks_are_known",
    "raises": "test_it_takes_part_in_a_run",
    "not": "test_a_tracker_only_reports",
}


def arguments(test: str, folder: Path) -> list[Any]:
    more = [0] if test == "test_it_takes_part_in_a_run" else []
    return [] if test == "test_the_metrics_that_it_reads_are_options" else [folder, *more]


def assert_caught(healthy: Callback, broken: Callback, test: str, folder: Path) -> None:
    for component, fails in ((healthy, False), (broken, True)):
        suite = type("Suite", (CallbackConformance,), {"component": component})()
        path = folder / type(component).__name__ / str(fails)
        path.mkdir(parents=True)
        if fails:
            assert_fails(suite, test, *arguments(test, path))
        else:
            getattr(suite, test)(*arguments(test, path))


@pytest.mark.parametrize("how", CAUGHT)
def test_a_broken_callback_is_caught(how: str, tmp_path: Path) -> None:
    assert_caught(Broken(), Broken(how=how), CAUGHT[how], tmp_path)


@pytest.mark.parametrize("how", OF_TRACKERS)
def test_a_broken_tracker_is_caught(how: str, tmp_path: Path) -> None:
    assert_caught(BrokenTracker(how="reports"), BrokenTracker(how=how), OF_TRACKERS[how], tmp_path)
