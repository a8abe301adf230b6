"""The budgets of a sweep: the search leaves room for its confirmation, which begins no run when they are used up."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.launch.slots import MachineSlot
from nanogpt_kit.runs.lock import Lock
from nanogpt_kit.sweep import session
from nanogpt_kit.sweep.space.space import Space
from nanogpt_kit.sweep.study.records import TrialResult
from nanogpt_kit.sweep.study.search import SearchPlan
from nanogpt_kit.sweep.study.study import Study
from nanogpt_kit.sweep.study.verdict import headline, judge_sweep
from nanogpt_kit.sweep.work import budget, controller
from nanogpt_kit.sweep.work.outcome import Outcome, failed_outcome
from nanogpt_kit.train.stop import StopSignals

BASE = Path(__file__).with_name("base.toml").read_text(encoding="utf-8")
RUN = 9600  # tokens
LR = '"optimizer.lr" = { float = [1e-4, 1e-2], log = true }'
TWO = """
[sweep.space."optimizer.use".choice.adamw]
"optimizer.lr" = { float = [1e-4, 1e-2], log = true }
[sweep.space."optimizer.use".choice.sgd]
"optimizer.lr" = { float = [0.1, 1.0], log = true }
"""


class PlayedTrial:
    """A trial that has used its tokens and seconds as soon as it begins, and ends two polls later."""

    seconds: Callable[[int], float] = staticmethod(lambda index: 10.0)
    fails: frozenset[int] = frozenset()  # indices in the search, whose memory runs out
    most_at_once = 0
    running: int = 0

    def __init__(self, study: Study[Any], trial: optuna.Trial, slot: MachineSlot, folder: Path, lock: Lock) -> None:
        self.study, self.trial, self.slot, self.folder, self.lock = study, trial, slot, folder, lock
        self.index, self.label = trial.number, study.plan.label(trial)
        self.runs, self.config = study.runs(trial, slot, folder), study.config(trial)
        self.run, self.process, self.polls = self.runs[0], None, 0
        self.is_pruned = self.is_stopping = False
        for run in self.runs:
            run.tokens, run.seconds = RUN, self.seconds(self.index)

    def is_choosing_for(self, other: object) -> bool:
        return False

    def poll(self, must_wait: bool) -> Outcome | None:
        self.polls += 1
        if self.polls < 3:
            return None
        if self.study.plan.ranks_trials and self.index in self.fails:
            return failed_outcome("oom", "no memory")
        value = 3.0 - 0.01 * self.index + 0.003 * (self.runs[0].experiment.train.seed % 7)
        return Outcome(TrialState.COMPLETE, "complete", value)

    def store_result(self, outcome: Outcome) -> None:
        tokens, seconds = sum(run.tokens for run in self.runs), sum(run.seconds for run in self.runs)
        TrialResult(cause=outcome.cause, tokens=tokens, seconds=seconds).store(self.trial)

    def stop(self) -> None:
        self.kill()

    def kill(self) -> None:
        return

    def release(self) -> None:
        self.lock.__exit__(None, None, None)


class Played:
    """A sweep whose trials are played, as one command runs it; `open` is the same command with other options."""

    def __init__(self, folder: Path, options: str, table: str = LR, base: str = "steps = 20") -> None:
        self.base = BASE.replace("steps = 20", base)
        self.folder, self.table, self.storage = folder / "runs" / "x" / "sweep", table, InMemoryStorage()
        self.folder.mkdir(parents=True)
        self.path = folder / "exp.toml"
        self.open(options)

    def open(self, options: str) -> None:
        self.path.write_text(f"{self.base}[sweep]\n{options}\n[sweep.space]\n{self.table}\n", encoding="utf-8")
        self.space = Space(Experiment.load(self.path))
        first = {"optimizer.lr": 3e-3} | ({"optimizer.use": "adamw"} if self.table == TWO else {})
        self.search = Study(SearchPlan(self.space, first), self.storage, self.folder)
        self.search.open()

    def run(self) -> None:
        slots = [MachineSlot(index) for index in range(self.space.options.workers)]
        limits = session.search_budget(self.search)
        controller.Controller(self.search, slots, StopSignals(), budget=limits).run()
        if self.space.options.confirm:
            session.confirm_trials(self.search, slots, StopSignals())

    def ended(self) -> tuple[int, int]:
        """Trials of the search, and runs of the confirmation."""
        state = session.summarize_sweep(self.search).confirmation
        return sum(trial.state.is_finished() for trial in self.search.trials()), state.ended if state else 0

    def tokens(self) -> int:
        summary = session.summarize_sweep(self.search)
        return summary.tokens + (summary.confirmation.tokens if summary.confirmation else 0)


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level("INFO")
    trial = type("Trial", (PlayedTrial,), {})
    monkeypatch.setattr(controller, "TrialProcess", trial)
    monkeypatch.setattr(controller, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(controller, "IDLE_SECONDS", 0.0)

    def made(options: str, table: str = LR, base: str = "steps = 20", **acts: Any) -> Played:
        for name, value in acts.items():
            setattr(trial, name, staticmethod(value) if callable(value) else value)
        return Played(tmp_path, options, table, base)

    return made


CONFIRM = "confirm = 1\nconfirm_seeds = 3"


@pytest.mark.parametrize(("limit", "trials", "runs"), [(10, 4, 6), (8, 2, 6), (9, 3, 6), (30, 9, 6)])
@pytest.mark.parametrize("workers", [1, 3])
def test_the_search_ends_early_enough_that_the_tokens_of_its_confirmation_fit(
    played: Any, limit: int, trials: int, runs: int, workers: int
) -> None:
    play = played(f"trials = 9\nworkers = {workers}\nmax_tokens = {limit * RUN}\n{CONFIRM}")
    play.run()
    assert play.ended() == (trials, runs)
    assert play.tokens() <= limit * RUN


def test_with_branches_room_is_left_for_the_best_of_each(played: Any) -> None:
    play = played(f'trials = 12\nsampler = "random"\nmax_tokens = {14 * RUN}\n{CONFIRM}', TWO)
    play.run()
    trials, runs = play.ended()
    assert trials == 5, "and three confirmed trials at most"
    assert runs in (6, 9)
    assert session.summarize_sweep(play.search).is_confirmed()


def test_several_seeds_a_trial_count(played: Any) -> None:
    play = played(f"trials = 9\nseeds = 2\nmax_tokens = {13 * RUN}\n{CONFIRM}")
    play.run()
    assert play.ended() == (3, 6)


def test_a_larger_budget_continues_the_search_and_confirms_only_what_is_new(
    played: Any, caplog: pytest.LogCaptureFixture
) -> None:
    play = played(f"trials = 9\nmax_tokens = {9 * RUN}\n{CONFIRM}")
    play.run()
    assert play.ended() == (3, 6)
    assert (
        "the rest of sweep.max_tokens = 86400 is left for the confirmation: 3 of 9 trials have ended; raise "
        "sweep.max_tokens, and the same command continues"
    ) in caplog.text
    play.open(f"trials = 9\nmax_tokens = {14 * RUN}\n{CONFIRM}")
    play.run()
    assert play.ended() == (5, 9)
    assert play.tokens() == 14 * RUN


def test_the_seconds_of_the_confirmation_are_those_of_the_complete_trials_with_a_margin(played: Any) -> None:
    play = played(f"trials = 9\nmax_seconds = 110\n{CONFIRM}")  # trials of 10 s, and 66 s for the confirmation
    play.run()
    assert play.ended() == (4, 6)


def test_the_confirmation_of_slow_trials_has_room(played: Any) -> None:
    """Trials of trial 0's branch take three times as long, and two of the three confirmed trials are in it."""
    play = played(f'trials = 40\nallocate = "equal"\nsampler = "random"\nmax_seconds = 500\n{CONFIRM}', TWO)
    slow = staticmethod(lambda index: 30.0 if index % 2 == 0 else 10.0)
    controller.TrialProcess.seconds = slow
    limits = session.search_budget(play.search)
    controller.Controller(play.search, [MachineSlot(0)], StopSignals(), budget=limits).run()
    summary = session.summarize_sweep(play.search)
    chosen = [trial.seconds for trial in summary.trials if trial.index in summary.to_confirm()]
    assert sum(chosen) / len(chosen) > summary.seconds / len(summary.trials), "or the case shows nothing"
    assert summary.seconds + 3 * sum(chosen) <= 500


def test_without_a_confirmation_a_budget_ends_the_search_as_soon_as_it_is_used_up(
    played: Any, caplog: pytest.LogCaptureFixture
) -> None:
    play = played("trials = 9\nmax_seconds = 25")
    play.run()
    assert play.ended() == (3, 0)
    assert (
        "the budget sweep.max_seconds = 25 is used up: 3 of 9 trials have ended; raise sweep.max_seconds" in caplog.text
    )


def test_a_confirmation_begins_no_run_when_the_budget_is_used_up(played: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Its runs may take longer than those of the search."""
    slow = played(f"trials = 3\nmax_seconds = 110\n{CONFIRM}")
    controller.TrialProcess.seconds = staticmethod(lambda index: 10.0)
    limits = session.search_budget(slow.search)
    controller.Controller(slow.search, [MachineSlot(0)], StopSignals(), budget=limits).run()
    controller.TrialProcess.seconds = staticmethod(lambda index: 25.0)
    session.confirm_trials(slow.search, [MachineSlot(0)], StopSignals())
    assert slow.ended() == (3, 4), "30 + 4 * 25 s"
    text = "the budget sweep.max_seconds = 110 is used up: 4 of 6 runs with fresh seeds have ended; raise"
    assert f"{text} sweep.max_seconds, and the same command continues" in caplog.text
    verdict = judge_sweep(session.summarize_sweep(slow.search))
    assert verdict is not None
    assert "4 of 6 runs with fresh seeds have ended" in verdict.notes[0]
    assert "raise sweep.max_seconds" in verdict.notes[0]
    slow.open(f"trials = 3\nmax_seconds = 200\n{CONFIRM}")
    slow.run()
    assert slow.ended() == (3, 6)
    verdict = judge_sweep(session.summarize_sweep(slow.search))
    assert verdict is not None
    assert verdict.notes == []
    assert verdict.best is not None
    assert verdict.best.result.level == 0.95, "the first look at all seeds"


def test_a_budget_of_seconds_without_room_for_any_confirmation_is_told_when_it_is_known(
    played: Any, caplog: pytest.LogCaptureFixture
) -> None:
    play = played(f"trials = 9\nmax_seconds = 50\n{CONFIRM}")
    play.run()
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("sweep.max_seconds = 50 is too small for a confirmation: ")
    assert "sweep.max_seconds = about 86" in warning, "two trials of 10 s, and 66 s"
    assert play.ended() == (5, 0)
    assert headline(session.summarize_sweep(play.search)).startswith("No verdict: ")


def test_runs_of_limited_seconds_need_room_for_the_tokens_that_they_took(
    played: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Their steps are a bound that they do not reach: nobody knows their tokens before."""
    play = played(f"trials = 9\nmax_tokens = {10 * RUN}\n{CONFIRM}", base="steps = 1_000_000\nmax_seconds = 10")
    budget.check_token_budget(play.space)
    play.run()
    assert play.ended() == (4, 6)
    assert "too small" not in caplog.text


def test_trials_without_a_value_need_no_room_in_the_confirmation(played: Any) -> None:
    play = played(f"trials = 9\nmax_tokens = {10 * RUN}\n{CONFIRM}", fails=frozenset({1, 2}))
    play.run()
    assert play.ended() == (4, 6)


# Before anything starts


def refusal(folder: Path, options: str) -> str:
    path = folder / "exp.toml"
    path.write_text(f"{BASE}[sweep]\n{options}\n[sweep.space]\n{LR}\n", encoding="utf-8")
    with pytest.raises(KitError) as caught:
        session.check_sweep(Experiment.load(path))
    [fault] = caught.value.faults
    line = (
        path.read_text(encoding="utf-8").splitlines().index(next(one for one in options.split("\n") if "max_" in one))
    )
    assert fault.location == f"{path}:{line + 1}"
    assert fault.key == "sweep.max_tokens"
    return fault.message


def test_tokens_without_room_for_any_confirmation_are_refused_with_the_least_that_has(tmp_path: Path) -> None:
    message = refusal(tmp_path, f"trials = 9\nmax_tokens = 70_000\n{CONFIRM}")
    assert re.search(r"^70,000 tokens .*3 fresh seeds.* 8 runs of 9,600 tokens.*set at least 76,800", message)
    assert "sweep.confirm = 0" in message
    assert "96,000" in refusal(tmp_path, f"trials = 9\nseeds = 2\nmax_tokens = 70_000\n{CONFIRM}")


@pytest.mark.parametrize(
    "options", ["trials = 9\nmax_tokens = 76_800\n" + CONFIRM, "trials = 9\nmax_tokens = 9", "trials = 1\n" + CONFIRM]
)
def test_tokens_with_room_and_sweeps_without_a_confirmation_are_not_refused(tmp_path: Path, options: str) -> None:
    path = tmp_path / "exp.toml"
    path.write_text(f"{BASE}[sweep]\n{options}\n[sweep.space]\n{LR}\n", encoding="utf-8")
    budget.check_token_budget(Space(Experiment.load(path)))
