"""The suite for callbacks: known hooks, a state that resumes, and a model that is trained as without a tracker."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from nanogpt_kit.core.errors import KitError, RunFailed
from nanogpt_kit.core.hooks import Hooks
from nanogpt_kit.core.kinds import Callback
from nanogpt_kit.testing.component import ComponentConformance
from nanogpt_kit.testing.remedy import errors_as_failures
from nanogpt_kit.testing.simulated_run import TOTAL_STEPS, SimulatedRun
from nanogpt_kit.train.finite import non_finite, tensors_in

RESUMED_AT = 7  # a step without an evaluation or a checkpoint


class CallbackConformance(ComponentConformance):
    """Subclass it with `component = MyCallback(...)`. The run has 12 steps, and evaluates every 3."""

    component: ClassVar[Callback]

    def start(self, folder: Path, rank: int = 0) -> tuple[SimulatedRun, Hooks]:
        """A run with the callback, before its first step."""
        folder.mkdir(exist_ok=True)
        run = SimulatedRun(folder, rank, tuple(self.component.metrics_read().values()))
        with errors_as_failures("it cannot be built and registered"):
            return run, Hooks([self.component], run)

    def play(self, run: SimulatedRun, hooks: Hooks, until: int = TOTAL_STEPS, ends: bool = True) -> None:
        """Plays the run; fails where a hook raises."""
        before = dict(hooks.callbacks)
        try:
            run.play(hooks, until, ends)
        except (KitError, RunFailed) as error:
            raise AssertionError(f"it ends a run in which nothing is wrong: {error}") from error
        assert hooks.callbacks.keys() == before.keys(), (
            "a hook has raised, so that the tracker was dropped (the warning in the log says where): catch what it "
            "cannot help"
        )

    def test_each_build_is_a_fresh_object(self, tmp_path: Path) -> None:
        run, _ = self.start(tmp_path)
        one, other = (self.component.build(run) for _ in range(2))
        assert len({id(one), id(other), id(self.component)}) == 3, (
            "build returns the same object twice: return a new one for each run, not the component itself"
        )

    def test_its_hooks_are_known(self, tmp_path: Path) -> None:
        """Misspelt hooks and arguments, and an object without any."""
        run = SimulatedRun(tmp_path)
        try:
            hooks = Hooks([self.component], run)
        except KitError as error:
            raise AssertionError(f"it is refused: {error}") from error
        assert hooks.callbacks, "build raises, so that the tracker is dropped (the warning in the log says why)"

    @pytest.mark.parametrize("rank", [0, 1])
    def test_it_takes_part_in_a_run(self, tmp_path: Path, rank: int) -> None:
        """On every rank; a tracker on rank 0 alone."""
        self.play(*self.start(tmp_path, rank))

    def test_after_an_evaluation_the_model_has_its_trained_weights(self, tmp_path: Path) -> None:
        run, hooks = self.start(tmp_path)
        self.play(run, hooks, until=2, ends=False)
        trained = weights_of(run)
        run.evaluate(hooks)
        self.assert_same_weights(run, trained, "an evaluation changes {}: undo in evaluation_ended what it swaps in")

    def test_a_tracker_only_reports(self, tmp_path: Path) -> None:
        if not self.component.is_tracker:
            return
        plain = SimulatedRun(tmp_path)
        plain.play(Hooks([], plain))
        run, hooks = self.start(tmp_path / "tracked")
        self.play(run, hooks)
        claim = "a tracker changes {}: only rank 0 has it, so that ranks would differ; set is_tracker = False"
        self.assert_same_weights(run, weights_of(plain), claim)

    def test_torchs_random_numbers_stay_as_they_are(self, tmp_path: Path) -> None:
        """Dropout draws from them."""
        run, hooks = self.start(tmp_path)
        before = torch.get_rng_state()
        self.play(run, hooks)
        assert torch.equal(torch.get_rng_state(), before), (
            "it draws from torch's generator, which changes dropout: draw from its own torch.Generator"
        )

    def test_every_rank_does_the_same(self, tmp_path: Path) -> None:
        """What depends on the rank would train another model on each."""
        if self.component.is_tracker:
            return
        runs = [self.start(tmp_path / str(rank), rank) for rank in range(2)]
        for run, hooks in runs:
            self.play(run, hooks)
        claim = "{} differs between two ranks that were given the same: let nothing depend on run.rank"
        self.assert_same_weights(runs[1][0], weights_of(runs[0][0]), claim)

    def test_its_state_survives_a_checkpoint(self, tmp_path: Path) -> None:
        run, hooks = self.start(tmp_path)
        self.play(run, hooks, until=RESUMED_AT, ends=False)
        state = hooks.state_dict()
        broken = non_finite(tensors_in(state))
        assert not broken, f"{broken[0]} in its state is not finite: hold a bound that is infinite as a Python float"
        saved = saved_and_loaded(state)
        again, fresh = self.start(tmp_path)
        with errors_as_failures("its state cannot be loaded into a fresh one"):
            fresh.load_state_dict(saved)
        found = fresh.state_dict()
        assert same_values(found, saved), (
            "loaded into a fresh one its state is another: load_state_dict must take all that state_dict gives"
        )
        assert again.step == 0

    def test_resumed_it_continues_as_if_it_had_not_stopped(self, tmp_path: Path) -> None:
        whole, hooks = self.start(tmp_path / "whole")
        self.play(whole, hooks)
        first, before = self.start(tmp_path / "parts")
        self.play(first, before, until=RESUMED_AT, ends=False)
        if first.stop_reason:
            return
        resumed, after = self.start(tmp_path / "parts")
        resumed.model.load_state_dict(first.model.state_dict())
        resumed.optimizer.load_state_dict(first.optimizer.state_dict())
        resumed.step = resumed.first_step = RESUMED_AT
        after.load_state_dict(saved_and_loaded(before.state_dict()))
        self.play(resumed, after)
        remedy = "keep in state_dict all that later steps depend on"
        self.assert_same_weights(resumed, weights_of(whole), f"after a resume {{}} is another: {remedy}")
        assert same_values(after.state_dict(), hooks.state_dict()), f"after a resume its state is another: {remedy}"
        assert resumed.stop_reason == whole.stop_reason, (
            f"the whole run was stopped by {whole.stop_reason!r}, the resumed one by {resumed.stop_reason!r}: {remedy}"
        )

    def test_the_metrics_that_it_reads_are_options(self) -> None:
        for option, metric in self.component.metrics_read().items():
            value = getattr(self.component, option, None)
            assert value == metric, (
                f"metrics_read() has {option!r}: {metric!r}, and that option {value!r}: name options and their values"
            )

    def assert_same_weights(self, run: SimulatedRun, expected: Mapping[str, Tensor], claim: str) -> None:
        """`claim` has a place for the name of a weight."""
        for name, weight in weights_of(run).items():
            assert torch.equal(weight, expected[name]), claim.format(name)


def weights_of(run: SimulatedRun) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in run.model.state_dict().items()}


def saved_and_loaded(state: dict[str, Any]) -> dict[str, Any]:
    """As from a checkpoint, which loads no code."""
    file = io.BytesIO()
    with errors_as_failures("its state cannot be saved and loaded: hold tensors, numbers, strings, lists and dicts"):
        torch.save(state, file)
        file.seek(0)
        loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def same_values(one: Any, other: Any) -> bool:
    """Whether nested states are equal, tensors bit for bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same_values(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same_values, one, other))
    return bool(one == other or (one != one and other != other))
