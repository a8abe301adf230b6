"""Which trials a confirmation runs again, with which seeds, and what a summary knows of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import TrialState, create_trial

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.sweep import session
from nanogpt_kit.sweep.report.best import write_best_experiment
from nanogpt_kit.sweep.space.space import Space
from nanogpt_kit.sweep.study.branches import Branch
from nanogpt_kit.sweep.study.confirmation import (
    ConfirmationPlan,
    ConfirmedTrial,
    choose_trials,
    confirmed_trials,
    most_confirmed,
    runs_left,
)
from nanogpt_kit.sweep.study.records import FreshSeed, JudgedSeeds, SeedsLook, TrialResult
from nanogpt_kit.sweep.study.search import SearchPlan
from nanogpt_kit.sweep.study.storage import open_storage
from nanogpt_kit.sweep.study.stored_summary import read_summary
from nanogpt_kit.sweep.study.study import Study
from nanogpt_kit.sweep.study.summary import SweepSummary
from nanogpt_kit.sweep.study.trial_comparability import add_reasons, find_uneven_budgets, store_incomparable
from nanogpt_kit.sweep.study.verdict import headline, judge_sweep
from tests.sweep.planted_sweep import BRANCHES, USE, planted_sweep

BASE = Path(__file__).with_name("base.toml").read_text(encoding="utf-8")
TWO = """
[sweep.space."optimizer.use".choice.adamw]
"optimizer.lr" = { float = [1e-4, 1e-2], log = true }
[sweep.space."optimizer.use".choice.sgd]
"optimizer.lr" = { float = [0.1, 1.0], log = true }
"""
Point = tuple[str, float]


class Searched:
    """A sweep whose search has ended, with the points and values that a test gives it."""

    def __init__(self, folder: Path, options: str, table: str = TWO, storage: BaseStorage | None = None) -> None:
        self.folder, self.table = folder / "runs" / "x" / "sweep", table
        self.storage = storage or InMemoryStorage()
        self.path = folder / "exp.toml"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.open(options)

    def open(self, options: str) -> None:
        """As the same command with these options."""
        self.path.write_text(f"{BASE}[sweep]\n{options}\n[sweep.space]\n{self.table}\n", encoding="utf-8")
        self.space = Space(Experiment.load(self.path, trust_code=True))
        first = {USE: "adamw", "optimizer.lr": 3e-3}
        self.study = Study(SearchPlan(self.space, first), self.storage, self.folder)
        self.study.open()

    def ends(self, *values: float | None, points: Sequence[Point] = ()) -> None:
        """The next trials end so; None: its memory ran out."""
        for place, value in enumerate(values):
            if points:
                use, rate = points[place]
                params = self.space.to_optuna({USE: use, "optimizer.lr": rate})
                [waiting] = self.study.trials(TrialState.WAITING)[:1]
                self.storage.set_trial_system_attr(waiting._trial_id, "fixed_params", params)
            trial = self.study.claim()
            assert trial is not None
            self.study.config(trial)
            cause = "oom" if value is None else "complete"
            TrialResult(cause=cause, tokens=9600, seconds=10.0).store(trial)
            state = TrialState.PRUNED if value is None else TrialState.COMPLETE
            self.study.optuna_study.tell(trial, value, state)

    def confirmation(self) -> Study[ConfirmationPlan]:
        study = Study(ConfirmationPlan(self.space, self.study.trials), self.storage, self.folder)
        study.open()
        return study

    def summary(self) -> SweepSummary:
        return read_summary("x", self.space.options, self.storage)


def queued(study: Study[ConfirmationPlan], *states: TrialState) -> list[tuple[int, int]]:
    runs = [FreshSeed.of(trial) for trial in study.trials(*states)]
    return [(run.trial, run.seed) for run in runs if run is not None]


def confirm(study: Study[ConfirmationPlan], values: Mapping[int, float | None], runs: int = 10**6) -> None:
    """Ends the waiting runs, each with its trial's value plus a hundredth of its seed; None is a failure."""
    for _ in range(min(runs, len(study.unfinished()))):
        trial = study.claim()
        assert trial is not None
        run = FreshSeed.of(trial)
        assert run is not None
        value = values[run.trial]
        TrialResult(cause="error" if value is None else "complete", tokens=9600, seconds=10.0).store(trial)
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        study.optuna_study.tell(trial, None if value is None else value + run.seed / 100, state)


# Which trials


@pytest.mark.parametrize(
    ("ranked", "best", "chosen"),
    [
        ("5m 2m 4m 0a 3a", 2, [0, 5, 2]),
        ("5m 2m 4m 3a 0a", 2, [0, 5, 2, 3]),
        ("5m 3a", 1, [5, 3]),
        ("0a 4m 3a", 1, [0, 4]),
        ("0a 3a 4m", 1, [0, 3, 4]),
        ("0a", 3, [0]),
        ("", 3, []),
    ],
)
def test_trial_0_the_best_and_the_best_of_each_branch_are_chosen(ranked: str, best: int, chosen: list[int]) -> None:
    uses = {"a": "adamw", "m": "muon"}
    trials = [(int(word[0]), {USE: uses[word[1]]}) for word in ranked.split()]
    assert choose_trials(trials, best, BRANCHES) == chosen
    options = planted_sweep((1.0,), confirm=best).options
    assert len(chosen) <= most_confirmed(options, len(BRANCHES), len(trials))


def test_a_space_without_branches_has_none_to_confirm() -> None:
    assert choose_trials([(3, {}), (0, {}), (1, {})], 1, []) == [0, 3]


@pytest.mark.parametrize(("best", "branches"), [(1, 0), (1, 2), (2, 3), (3, 2)])
def test_no_choice_has_more_trials_than_a_budget_leaves_room_for(best: int, branches: int) -> None:
    space = [Branch({USE: str(branch)}) for branch in range(branches)]
    ranked = [(index, {USE: str(index % max(1, branches))}) for index in (6, 3, 9, 12, 1, 2, 0, 4, 5)]
    options = planted_sweep((1.0,), confirm=best).options
    found = choose_trials(ranked, best, space)
    assert len(found) <= most_confirmed(options, branches, len(ranked)) == best + 1 + max(0, branches - 1)


def test_a_confirmation_runs_seed_by_seed_with_seeds_that_the_search_did_not_use(tmp_path: Path) -> None:
    searched = Searched(tmp_path, "trials = 4\nseeds = 2\nconfirm = 1\nconfirm_seeds = 3")
    searched.ends(4.0, 3.0, 1.0, 3.5, points=[("adamw", 3e-3), ("adamw", 1e-3), ("sgd", 0.5), ("sgd", 0.2)])
    confirmation = searched.confirmation()
    assert queued(confirmation) == [(index, seed) for seed in (1339, 1340, 1341) for index in (0, 2, 1)]


def test_where_trial_0_has_no_value_the_others_are_confirmed(tmp_path: Path) -> None:
    searched = Searched(tmp_path, "trials = 3\nconfirm = 1\nconfirm_seeds = 2")
    searched.ends(None, 3.0, 1.0, points=[("adamw", 3e-3), ("adamw", 1e-3), ("sgd", 0.5)])
    assert queued(searched.confirmation()) == [(2, 1338), (1, 1338), (2, 1339), (1, 1339)]
    assert "trial 0, the experiment as written, gave no result (oom)" in headline(searched.summary())


def test_a_search_that_grows_adds_runs_of_the_newly_chosen_trials_with_the_seeds_of_the_others(tmp_path: Path) -> None:
    searched = Searched(tmp_path, "trials = 2\nconfirm = 1\nconfirm_seeds = 2")
    searched.ends(4.0, 3.0, points=[("adamw", 3e-3), ("sgd", 0.5)])
    confirm(searched.confirmation(), {0: 4.0, 1: 3.0})
    assert searched.summary().is_confirmed()
    searched.open("trials = 3\nconfirm = 1\nconfirm_seeds = 2")
    searched.ends(1.0, points=[("sgd", 0.2)])
    assert not searched.summary().is_confirmed()
    assert searched.summary().best() == searched.summary().trials[2], "by the search"
    before = judge_sweep(searched.summary())
    assert before is not None
    assert "trial 2 is not confirmed yet; the same command continues" in before.notes
    grown = searched.confirmation()
    assert queued(grown, TrialState.WAITING) == [(2, 1338), (2, 1339)]
    confirm(grown, {2: 3.5})
    assert searched.summary().is_confirmed()
    assert searched.summary().best() == searched.summary().trials[1], "by fresh seeds"
    verdict = judge_sweep(searched.summary())
    assert verdict is not None
    assert [one.result.seeds for one in verdict.against_first] == [(1338, 1339)] * 2


def test_more_fresh_seeds_are_run_for_every_trial_that_was_confirmed(tmp_path: Path) -> None:
    searched = Searched(tmp_path, "trials = 2\nconfirm = 1\nconfirm_seeds = 2")
    searched.ends(4.0, 3.0, points=[("adamw", 3e-3), ("sgd", 0.5)])
    confirm(searched.confirmation(), {0: 4.0, 1: 3.0})
    searched.open("trials = 3\nconfirm = 1\nconfirm_seeds = 3")
    searched.ends(1.0, points=[("sgd", 0.2)])
    grown = searched.confirmation()
    assert queued(grown, TrialState.WAITING) == [(2, 1338), (2, 1339), (0, 1340), (2, 1340), (1, 1340)]
    fewer = "trials = 3\nconfirm = 1\nconfirm_seeds = 2"
    searched.open(fewer)
    assert searched.confirmation().count == 9, "what was queued stays"


@pytest.mark.parametrize(
    ("branches", "complete", "known", "left"),
    [(0, 1, 0, 2), (0, 9, 0, 8), (2, 9, 0, 10), (2, 3, 0, 6), (2, 9, 4, 12 - 4), (2, 3, 4, 2)],
)
def test_the_runs_that_are_left_are_bounded(
    tmp_path: Path, branches: int, complete: int, known: int, left: int
) -> None:
    """With confirm = 3 and 2 fresh seeds; `known` runs of trials 0 and 1 have ended."""
    options = planted_sweep((1.0,), confirm=3, confirm_seeds=2).options
    searched = Searched(tmp_path, "trials = 2\nconfirm = 3\nconfirm_seeds = 2")
    searched.ends(4.0, 3.0)
    confirmation = searched.confirmation()
    if known:
        confirm(confirmation, {0: 4.0, 1: 3.0})
    assert runs_left(options, branches, complete, confirmation.trials() if known else []) == left


# Their results


@pytest.mark.parametrize(("direction", "order"), [("minimize", [1, 2, 0]), ("maximize", [2, 1, 0])])
def test_a_confirmed_trial_with_a_failed_seed_comes_last(tmp_path: Path, direction: str, order: list[int]) -> None:
    searched = Searched(tmp_path, f"trials = 4\nconfirm = 4\nconfirm_seeds = 2\ndirection = '{direction}'")
    searched.ends(1.0, 1.0, 1.0, 1.0)
    confirmation = searched.confirmation()
    told = {0: (0.5, None), 1: (2.0, 4.0), 2: (3.0, 5.0), 3: (None, None)}
    for _ in range(8):
        trial = confirmation.claim()
        assert trial is not None
        run = FreshSeed.of(trial)
        assert run is not None
        value = told[run.trial][run.seed - 1338]
        confirmation.optuna_study.tell(trial, value, TrialState.FAIL if value is None else TrialState.COMPLETE)
    found = confirmed_trials(confirmation.trials(), direction)
    assert [one.index for one in found] == order
    assert found[-1] == ConfirmedTrial(0, {1338: 0.5}, (1339,))
    best = searched.summary().best()
    assert best is not None
    assert best.index == order[0]


@pytest.mark.parametrize(
    ("values", "fresh", "best", "is_confirmed"),
    [
        ((3.0, 1.0, 2.0), {0: (3.0, 3.1), 2: (1.5, 1.6), 1: (1.7, 1.8)}, 2, True),
        ((3.0, 1.0, 2.0), {0: (3.0, 3.1), 2: (1.5, 1.6), 1: (1.7,)}, 1, False),
        ((3.0, 1.0, 2.0), {2: (1.5, 1.6), 1: (1.7, 1.8)}, 1, False),
        ((1.5, 1.0, 0.5), {0: (1.5, 1.6), 1: (1.7, 1.8)}, 2, False),
        ((3.0, 1.0, 2.0), {0: (1.0, 1.1), 2: (1.5, 1.6), 1: (1.7, 1.8)}, 0, True),
        ((3.0, 1.0, 2.0), {0: (3.0, 3.1), 2: (0.5, None), 1: (1.7, 1.8)}, 1, True),
        ((3.0, 1.0, 2.0), {0: (3.0, None), 2: (0.5, None), 1: (1.7, None)}, 1, True),
        ((None, 1.0), {1: (1.5, 1.6)}, 1, True),
    ],
)
def test_the_best_is_that_of_the_fresh_seeds_where_all_have_ended_else_of_the_search(
    values: Sequence[float | None], fresh: Any, best: int, is_confirmed: bool
) -> None:
    summary = planted_sweep(values, fresh, confirm=2, confirm_seeds=2)
    found = summary.best()
    assert found is not None
    assert found.index == best
    assert summary.is_confirmed() is is_confirmed


def test_a_summary_without_confirm_in_the_file_takes_what_the_study_has() -> None:
    summary = planted_sweep((3.0, 1.0), {0: (0.5, 0.6), 1: (1.5, 1.6)}, confirm=0, confirm_seeds=2)
    assert summary.is_confirmed()
    assert judge_sweep(summary) is not None
    best = summary.best()
    assert best is not None
    assert best.index == 0


def test_a_summary_has_the_state_of_the_confirmation(tmp_path: Path) -> None:
    searched = Searched(tmp_path, "trials = 2\nconfirm = 1\nconfirm_seeds = 3")
    searched.ends(4.0, 3.0)
    assert searched.summary().confirmation is None
    confirmation = searched.confirmation()
    confirm(confirmation, {0: 4.0, 1: 3.0}, runs=3)
    state = searched.summary().confirmation
    assert state is not None
    assert (state.trials, state.seeds) == ((0, 1), (1338, 1339, 1340))
    assert (state.runs, state.ended, state.is_finished, state.is_running) == (6, 3, False, False)
    assert (state.tokens, state.seconds) == (3 * 9600, 30.0)
    trial = confirmation.claim()
    assert trial is not None
    with confirmation.ownership.trial_lock(trial.number):
        assert searched.summary().is_running
    assert not searched.summary().is_running, "its controller was killed"


# Looks


def test_a_look_is_recorded_at_the_end_of_a_command_and_read_again(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "study.journal"), tmp_path)
    searched = Searched(tmp_path, "trials = 2\nconfirm = 1\nconfirm_seeds = 2", storage=storage)
    searched.ends(4.0, 3.0)
    confirmation = searched.confirmation()
    confirm(confirmation, {0: 4.0, 1: 3.0})
    assert JudgedSeeds.of_study(confirmation.optuna_study).looks == (), "a summary is not a look"
    for _ in range(2):
        session.record_look(searched.summary(), confirmation.optuna_study)
        state = searched.summary().confirmation
        assert state is not None
        assert state.looks == (SeedsLook(count=2),)
    searched.open("trials = 2\nconfirm = 1\nconfirm_seeds = 3")
    confirm(searched.confirmation(), {0: 4.0, 1: 3.01})
    verdict = judge_sweep(searched.summary())
    assert verdict is not None
    assert verdict.best is not None
    assert len(verdict.best.result.seeds) == 3
    assert verdict.best.result.level == 0.9975
    session.record_look(searched.summary(), searched.confirmation().optuna_study)
    state = searched.summary().confirmation
    assert state is not None
    assert state.looks == (SeedsLook(count=2), SeedsLook(count=3))


# Trials that do not compare

OTHER_STEPS = '"train.steps" = { choice = [20, 40] }'


def compared(text: Path, table: str, *points: Mapping[str, Any]) -> Mapping[int, str]:
    """What the study of a search has about its trials, of which each has the values of a point."""
    folder, path = text.parent, text.parent / "exp.toml"
    base = BASE.replace('use = "python_stdlib"', f'use = "text"\nsource = "{text}"')
    path.write_text(f"{base}[sweep]\ntrials = {len(points)}\n[sweep.space]\n{table}\n", encoding="utf-8")
    space = Space(Experiment.load(path))
    study = Study(SearchPlan(space, dict(points[0])), InMemoryStorage(), folder / "sweep")
    study.folder.mkdir()
    study.open()
    for waiting, point in zip(study.trials(), points, strict=True):
        study.storage.set_trial_system_attr(waiting._trial_id, "fixed_params", space.to_optuna(dict(point)))
        trial = study.claim()
        assert trial is not None
        study.config(trial)
        study.optuna_study.tell(trial, 1.0)
    store_incomparable(study.optuna_study, space, range(len(points)))
    return read_summary("x", space.options, study.storage).not_comparable


def test_trials_with_other_steps_do_not_compare_and_other_rates_do(text_file: Path) -> None:
    rate = '"optimizer.lr" = { float = [1e-4, 1e-2], log = true }'
    first = {"train.steps": 20, "optimizer.lr": 3e-3}
    found = compared(
        text_file, f"{OTHER_STEPS}\n{rate}", first, first | {"optimizer.lr": 1e-3}, first | {"train.steps": 40}
    )
    assert [*found] == [2]
    assert "trial 2 has 40 steps" in found[2]
    assert "trial 0 has 20 steps" in found[2]


def test_trials_with_another_tokenizer_do_not_compare_in_nats_a_token(text_file: Path) -> None:
    table = '"tokenizer.use" = { choice = ["byte", "char"] }'
    found = compared(text_file, table, {"tokenizer.use": "byte"}, {"tokenizer.use": "char"})
    assert "trial 1 and trial 0 have other tokens" in found[1]
    assert "--metric" not in found[1]


@pytest.mark.parametrize(
    ("ended_by", "reasons"),
    [
        ("steps steps steps", {}),
        ("max_seconds max_seconds max_seconds", {}),
        ("steps max_tokens steps", {}),
        ("steps callback steps", {1: "trial 1 was ended by a callback after 12 steps"}),
        ("callback steps steps", dict.fromkeys((1, 2), "trial 0 was ended by a callback after 12 steps")),
        ("steps steps max_seconds", {2: "only some runs of trial 2 and trial 0 were ended by train.max_seconds"}),
    ],
)
def test_trials_with_other_training_do_not_compare(ended_by: str, reasons: Mapping[int, str]) -> None:
    results = [TrialResult(cause="complete", step=12, ended_by=how) for how in ended_by.split()]
    runs = [
        (index, create_trial(value=1.0, user_attrs={TrialResult.attribute: result.stored()}))
        for index, result in enumerate(results)
    ]
    found = dict(find_uneven_budgets(runs))
    assert found.keys() == reasons.keys()
    assert all(found[index].startswith(reason) for index, reason in reasons.items())


def test_reasons_add_up(tmp_path: Path) -> None:
    searched = Searched(tmp_path, "trials = 2")
    for index, reason in {0: "other tokens", 1: "other steps"}.items():
        add_reasons(searched.study.optuna_study, {index: reason})
    assert searched.summary().not_comparable == {0: "other tokens", 1: "other steps"}


def test_best_toml_has_the_headline_and_that_fresh_seeds_chose_it(tmp_path: Path) -> None:
    searched = Searched(tmp_path, "trials = 2\nconfirm = 1\nconfirm_seeds = 2")
    searched.ends(4.0, 3.0, points=[("adamw", 3e-3), ("sgd", 0.5)])
    confirm(searched.confirmation(), {0: 2.0, 1: 3.0})
    summary = searched.summary()
    write_best_experiment(searched.study, summary)
    text = (searched.folder / "best.toml").read_text(encoding="utf-8")
    assert "The best of 2 trials of the sweep 'x', by fresh seeds: trial 0." in text
    assert f"# {headline(summary)}\n" in text
    assert "mean of 2 fresh seeds: 15.385, standard deviation 0.0071" in text
