"""The verdict of a sweep by fresh seeds, and the headline: a gain is claimed only where the numbers carry it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from nanogpt_kit.sweep.study.records import SeedsLook
from nanogpt_kit.sweep.study.seed_values import current_look, look_number
from nanogpt_kit.sweep.study.verdict import SweepVerdict, headline, judge_sweep
from tests.sweep.planted_sweep import FIRST_FRESH, Fresh, planted_sweep

WRITTEN = (2.60, 2.62, 2.59)
LOWER = (2.39, 2.42, 2.40)
NEAR = (2.61, 2.60, 2.60)
NONE = "No verdict"


def judged(values: Sequence[float | None], fresh: Fresh, **options: Any) -> SweepVerdict:
    verdict = judge_sweep(planted_sweep(values, fresh, **options))
    assert verdict is not None
    return verdict


def pairs(verdict: SweepVerdict) -> list[tuple[int, int]]:
    return [(one.trial.index, one.base) for one in (*verdict.against_first, *verdict.between_branches)]


# Which pairs


def test_each_confirmed_trial_is_judged_against_trial_0_by_its_fresh_seeds_the_best_first() -> None:
    verdict = judged((2.7, 2.4, 2.3), {0: WRITTEN, 2: NEAR, 1: LOWER})
    assert verdict.seeds == "fresh"
    assert pairs(verdict) == [(1, 0), (2, 0)]
    assert verdict.best is verdict.against_first[0]
    assert verdict.best.result.seeds == (FIRST_FRESH, FIRST_FRESH + 1, FIRST_FRESH + 2)
    assert verdict.best.result.difference == pytest.approx(-0.2)
    assert verdict.best.result.mean == pytest.approx(sum(LOWER) / 3)
    assert (verdict.best.result.verdict, verdict.best.result.wins) == ("better", 3)
    assert verdict.against_first[1].result.verdict == "undecided"
    [note] = verdict.notes
    assert "2 pairs are judged together, each by an interval of 97.5%" in note
    assert {one.result.level for one in verdict.against_first} == {0.975}


def test_the_best_of_each_other_branch_is_judged_against_the_best_of_trial_0s() -> None:
    fresh = {0: WRITTEN, 3: LOWER, 1: NEAR, 2: NEAR}
    verdict = judged((2.7, 2.5, 2.6, 2.4), fresh, uses="ammm", confirm=1)
    assert pairs(verdict) == [(3, 0), (1, 0), (2, 0)], "trial 0 is the best of its branch"
    verdict = judged((2.7, 2.5, 2.6, 2.4), fresh, uses="aamm", confirm=1)
    assert [(one.trial.index, one.base) for one in verdict.between_branches] == [(3, 1)]
    assert verdict.of_pair(3, 1) is verdict.between_branches[0]
    assert verdict.between_branches[0].result.difference == pytest.approx(-0.2)


def test_all_pairs_are_one_family() -> None:
    shifts = (0.030, 0.060, 0.035)
    near = tuple(value - shift for value, shift in zip(WRITTEN, shifts, strict=True))
    p_value = stats.ttest_rel(near, WRITTEN).pvalue
    assert 0.05 / 3 < p_value < 0.05
    alone = judged((2.7, 2.5), {0: WRITTEN, 1: near}).against_first[0].result
    assert (alone.verdict, alone.level) == ("better", 0.95)
    verdict = judged((2.7, 2.5, 2.6), {0: WRITTEN, 1: near, 2: (2.9, 2.2, 2.6)}, uses="aam")
    assert len(pairs(verdict)) == 3
    found = verdict.of_pair(1, 0)
    assert found is not None
    assert found.result.verdict == "undecided"
    assert found.result.level == pytest.approx(1 - 0.05 / 3)
    assert found.result.p_value == pytest.approx(p_value)


def test_where_more_is_better_the_best_is_the_one_with_most() -> None:
    verdict = judged((0.5, 0.6, 0.7), {0: LOWER, 1: WRITTEN, 2: LOWER}, direction="maximize")
    assert verdict.best is not None
    assert (verdict.best.trial.index, verdict.best.result.verdict) == (1, "better")


def test_the_seeds_of_a_search_do_not_compare_branches() -> None:
    """They chose the best of each: that of the branch with more trials would look better."""
    summary = planted_sweep((2.7, 2.5, 2.6, 2.4), uses="aamm", seeds=2)
    trials = [
        dataclasses.replace(trial, values=(trial.value - 0.01, trial.value + 0.01 + 0.001 * trial.index))
        for trial in summary.trials
        if trial.value is not None
    ]
    verdict = judge_sweep(dataclasses.replace(summary, trials=tuple(trials)))
    assert verdict is not None
    assert verdict.seeds == "search"
    assert len(verdict.against_first) == 3
    assert verdict.between_branches == []
    assert "compared by fresh seeds only" in verdict.notes[0]


# Seeds that are missing


def test_a_trial_that_failed_with_a_seed_with_which_trial_0_did_not_cannot_win() -> None:
    lost = (2.39, None, 2.405, 2.39)
    four = (*WRITTEN, 2.60)
    verdict = judged((2.7, 2.5, 2.4), {0: four, 1: lost, 2: (*NEAR, 2.59)}, confirm_seeds=4)
    found = verdict.of_pair(1, 0)
    assert found is not None
    assert found.result.verdict == "undecided"
    assert found.result.high is not None
    assert found.result.high < 0
    assert f"failed with seed {FIRST_FRESH + 1}" in found.result.reason
    assert pairs(verdict)[-1] == (1, 0), "after those with all seeds"
    assert verdict.best is not None
    assert verdict.best.trial.index == 2


def test_a_value_that_overflows_has_failed_as_in_a_comparison() -> None:
    for value in (1e300, float("inf"), -float("inf"), float("nan")):
        result = judged((2.7, 2.5), {0: WRITTEN, 1: (value, *LOWER[1:])}).against_first[0].result
        assert (result.verdict, result.mean) == ("undecided", pytest.approx(2.41))
        assert f"failed with seed {FIRST_FRESH}" in result.reason


def test_where_trial_0_failed_with_every_seed_the_branches_are_still_judged() -> None:
    failed = (None, None, None)
    summary = planted_sweep((2.7, 2.6, 2.4, 2.3), {0: failed, 1: WRITTEN, 2: NEAR, 3: LOWER}, uses="aamm")
    verdict = judge_sweep(summary)
    assert verdict is not None
    assert pairs(verdict) == [(3, 1)]
    assert (verdict.between_branches[0].result.verdict, verdict.between_branches[0].result.level) == ("better", 0.95)
    assert headline(summary).startswith(f"{NONE}: trial 0, the experiment as written, failed with every fresh seed.")


def test_a_trial_that_failed_with_every_seed_is_named() -> None:
    verdict = judged((2.7, 2.5, 2.4), {0: WRITTEN, 1: (None, None, None), 2: LOWER})
    assert pairs(verdict) == [(2, 0)]
    [note] = verdict.notes
    assert "trial 1 failed with every fresh seed" in note


def test_of_an_unfinished_confirmation_two_whole_pairs_are_judged_at_a_wider_interval() -> None:
    summary = planted_sweep((2.7, 2.5), {0: WRITTEN, 1: LOWER[:2]})
    verdict = judge_sweep(summary)
    assert verdict is not None
    assert verdict.best is not None
    assert verdict.best.result.seeds == (FIRST_FRESH, FIRST_FRESH + 1)
    assert verdict.best.result.level == 0.9975
    assert verdict.best.result.verdict == "undecided"
    assert "not finished: 5 of 6 runs" in verdict.notes[0]
    assert "the same command continues" in verdict.notes[0]
    assert "not finished: 5 of 6 runs" in headline(summary)


def test_an_unfinished_confirmation_has_no_first_look_although_one_trial_has_all_its_seeds() -> None:
    """Otherwise each trial has a first look of its own as its last seed ends."""
    verdict = judged((2.7, 2.5, 2.4), {0: WRITTEN, 1: LOWER, 2: LOWER[:2]})
    assert pairs(verdict) == [(2, 0), (1, 0)]
    assert {one.result.level >= 0.9975 for one in verdict.against_first} == {True}
    assert "8 of 9 runs" in verdict.notes[0]


def test_stopping_a_confirmation_after_every_run_does_not_decide_equal_trials_more_often() -> None:
    """In 9.7% of sweeps, were each trial judged at the first level as soon as its seeds have ended."""
    rng, decided = np.random.default_rng(7), []
    for _ in range(300):
        fresh = rng.normal(size=(4, 5)).tolist()
        looks: list[SeedsLook] = []
        found = []
        for ended in range(16, 21):
            by_trial = {trial: values[: (ended + 3 - trial) // 4] for trial, values in enumerate(fresh)}
            summary = planted_sweep((2.7, 2.5, 2.4, 2.3), by_trial, confirm_seeds=5, looks=looks)
            verdict, look = judge_sweep(summary), current_look(summary)
            found += [one.result.verdict for one in verdict.against_first] if verdict else []
            looks += [look] if look and look not in looks else []
        decided.append(set(found) != {"undecided"})
    assert np.mean(decided) <= 0.06


@pytest.mark.parametrize("fresh", [{0: WRITTEN[:2], 1: LOWER[:1]}, {0: (), 1: ()}, {0: (None, None, None), 1: LOWER}])
def test_with_fewer_than_two_pairs_there_is_no_verdict(fresh: Fresh) -> None:
    summary = planted_sweep((2.7, 2.5), fresh)
    assert judge_sweep(summary) is None
    assert headline(summary).startswith(f"{NONE}: ")
    assert "2.5" not in headline(summary)


def test_nothing_is_claimed_from_half_of_the_seeds_of_a_sweep_that_runs() -> None:
    summary = planted_sweep((2.7, 2.5), {0: WRITTEN, 1: LOWER[:2]}, is_running=True)
    assert judge_sweep(summary) is None
    assert headline(summary) == "No verdict yet: 5 of 6 runs with fresh seeds have ended."
    running = dataclasses.replace(planted_sweep((2.7, 2.5, 2.6), seeds=3), count=7)
    third = dataclasses.replace(running.trials[2], state="running")
    running = dataclasses.replace(running, trials=(*running.trials[:2], third))
    assert judge_sweep(running) is None
    assert headline(running) == "No verdict yet: 2 of 7 trials have ended."


# Looks

WHOLE, PART = SeedsLook(count=3), SeedsLook(count=2, is_whole=False)
FIVE = SeedsLook(count=5)


@pytest.mark.parametrize(
    ("looks", "look", "number"),
    [
        ([], WHOLE, 1),
        ([WHOLE], WHOLE, 1),
        ([WHOLE], FIVE, 2),
        ([WHOLE, FIVE], FIVE, 2),
        ([WHOLE, FIVE], WHOLE, 1),
        ([], PART, 2),
        ([PART], PART, 2),
        ([PART], WHOLE, 1),
        ([PART, WHOLE], FIVE, 3),
        ([WHOLE, FIVE], SeedsLook(count=8), 3),
    ],
)
def test_the_first_look_at_all_seeds_has_the_first_number(looks: list[SeedsLook], look: SeedsLook, number: int) -> None:
    assert look_number(looks, look) == number


def test_more_fresh_seeds_later_are_another_look_and_the_same_ones_are_not() -> None:
    first = judged((2.7, 2.5), {0: WRITTEN, 1: LOWER}, looks=[WHOLE])
    assert first.best is not None
    assert first.best.result.level == 0.95
    assert first.notes == []
    fresh = {0: (*WRITTEN, 2.6, 2.6), 1: (*LOWER, 2.4, 2.39)}
    later = judged((2.7, 2.5), fresh, looks=[WHOLE], confirm_seeds=5)
    assert later.best is not None
    assert later.best.result.level == 0.9975
    assert "intervals are wider" in later.notes[0]


def test_raising_confirm_seeds_alone_widens_nothing() -> None:
    """Until a further seed has ended, the same seeds are looked at."""
    verdict = judged((2.7, 2.5), {0: WRITTEN, 1: LOWER}, looks=[WHOLE], confirm_seeds=5)
    assert verdict.best is not None
    assert (verdict.best.result.level, verdict.best.result.verdict) == (0.95, "better")


def test_after_a_failed_seed_raising_confirm_seeds_alone_widens_nothing() -> None:
    fresh = {0: (2.6, None, 2.61), 1: LOWER}
    verdict = judged((2.7, 2.5), fresh, looks=[WHOLE], confirm_seeds=5)
    assert verdict.best is not None
    assert verdict.best.result.level == 0.95


# Trials that do not compare


def test_a_trial_that_does_not_compare_is_not_judged_and_the_reason_is_told() -> None:
    reason = "trial 1 and trial 0 have other tokens of the same text"
    fresh = {0: WRITTEN, 1: (1.2, 1.3, 1.25), 2: NEAR}
    summary = planted_sweep((2.7, 1.2, 2.6), fresh, not_comparable={1: reason})
    verdict = judge_sweep(summary)
    assert verdict is not None
    assert pairs(verdict) == [(2, 0), (1, 0)]
    alone = verdict.against_first[1].result
    assert (alone.difference, alone.verdict, alone.reason) == (None, "undecided", reason)
    assert reason in verdict.notes
    assert verdict.against_first[0].result.level == 0.95, "it is not in the family"
    assert f"Not judged is the trial with the best value: {reason}." in headline(summary)
    alone = planted_sweep((2.7, 1.2), {0: WRITTEN, 1: fresh[1]}, not_comparable={1: reason})
    assert headline(alone) == f"{NONE}: {reason}."


# The headline


def test_a_gain_is_in_the_headline_with_its_interval_and_the_values_of_the_trial() -> None:
    text = headline(planted_sweep((2.7, 2.5, 2.4), {0: WRITTEN, 2: LOWER}, uses="aam"))
    assert text.startswith(
        "Trial 2 (optimizer.use=muon, optimizer.lr=0.003) against trial 0, the experiment as written: val/loss lower "
        "by 0.2000 (95% interval -0.2"
    )
    assert text.endswith(" over 3 pairs: better.")


@pytest.mark.parametrize("others", [(2.605, 2.625, 2.59), (2.7, 2.72, 2.69)])
def test_trial_0_unbeaten_is_the_headline(others: Sequence[float]) -> None:
    text = headline(planted_sweep((2.7, 2.5), {0: WRITTEN, 1: others}))
    assert text.startswith(
        "No judged trial has a better mean than trial 0, the experiment as written. The best of the others is "
    )
    assert "trial 1 (optimizer.lr=0.002): val/loss higher by" in text


def test_where_a_trial_is_better_no_other_sentence_says_that_none_is() -> None:
    """The trial without a failed seed is the first of the order, although another one has a better mean."""
    written, near, lower = (*WRITTEN, None), (2.61, 2.63, 2.60, 2.6), (*LOWER, None)
    text = headline(planted_sweep((2.7, 2.5, 2.4), {0: written, 1: near, 2: lower}, confirm_seeds=4))
    assert re.match(r"Trial 1 .*: undecided; the base failed with seed .* Trial 2 .*lower by 0.2000.*: better", text)
    assert "No " not in text


def test_a_trial_that_is_better_is_named_beside_an_undecided_best_one() -> None:
    text = headline(planted_sweep((2.7, 2.5, 2.4), {0: WRITTEN, 1: (2.0, 2.55, 2.1), 2: (2.50, 2.52, 2.492)}))
    assert re.match(r"Trial 1 .* undecided.* Trial 2 .*lower by 0.0993.*: better\.", text)


@pytest.mark.parametrize(
    ("values", "options", "text"),
    [
        ((2.7, 2.4), {}, "each trial has one seed"),
        ((2.7, 2.4), {}, "sweep.confirm = 3"),
        ((2.7, 2.4), {"confirm": 3}, "no trial has run with fresh seeds yet; the same command continues"),
        ((None, 2.4), {}, "trial 0, the experiment as written, gave no result (oom)"),
        ((2.7, None), {}, "trial 0, the experiment as written, is the only complete trial"),
        ((None, None), {}, "no trial is complete"),
        ((), {}, "no trial is complete"),
    ],
)
def test_without_a_verdict_the_headline_says_why_and_claims_nothing(
    values: Sequence[float | None], options: Mapping[str, Any], text: str
) -> None:
    summary = planted_sweep(values, **options)
    assert judge_sweep(summary) is None
    assert headline(summary).startswith(f"{NONE}: ")
    assert text in headline(summary)
    assert "2.4" not in headline(summary)
    assert "better" not in headline(summary)


def test_without_trial_0_the_branches_are_still_judged() -> None:
    summary = planted_sweep((None, 2.6, 2.4), {1: WRITTEN, 2: LOWER}, uses="aam")
    verdict = judge_sweep(summary)
    assert verdict is not None
    assert (verdict.best, verdict.against_first) == (None, [])
    assert pairs(verdict) == [(2, 1)]
    text = headline(summary)
    assert "No verdict: trial 0, the experiment as written, gave no result" in text
    assert re.search(r"Trial 2 against trial 1: val/loss lower by 0\.2000.*: better\.$", text)


def test_a_budget_that_is_used_up_is_named_with_the_key_to_raise() -> None:
    summary = planted_sweep((2.7, 2.5), {0: WRITTEN[:1], 1: LOWER[:1]}, max_seconds=10.0)
    assert summary.confirmation is not None
    spent = dataclasses.replace(summary, confirmation=dataclasses.replace(summary.confirmation, seconds=12.0))
    assert headline(spent).endswith("too few pairs; raise sweep.max_seconds, and the same command continues.")
    assert "raise" not in headline(summary)


def test_a_search_that_a_budget_has_ended_is_noted_beside_the_verdict_with_the_key_to_raise() -> None:
    summary = planted_sweep((2.7, 2.5), {0: WRITTEN, 1: LOWER}, max_tokens=10_000)
    assert judge_sweep(summary).notes == []  # type: ignore[union-attr]
    longer = judge_sweep(dataclasses.replace(summary, count=8))
    assert longer is not None
    (note,) = longer.notes
    assert note.startswith("the search is not finished: 2 of 8 trials have ended; the same command continues, if ")
    assert note.endswith(" necessary with a larger sweep.max_tokens")


def test_the_reason_for_which_trial_0_has_no_result_is_in_the_headline() -> None:
    summary = planted_sweep((None, 2.5))
    first, other = summary.trials
    lost = dataclasses.replace(first, reason="out of memory: CUDA out of memory; a smaller model needs less")
    text = headline(dataclasses.replace(summary, trials=(lost, other)))
    assert "gave no result (out of memory: CUDA out of memory), so that nothing can be compared with it" in text


def test_a_best_trial_with_more_training_tokens_in_equal_steps_or_more_parameters_is_noted() -> None:
    plain = planted_sweep((2.6, 2.3), {0: WRITTEN, 1: LOWER})
    sizes = [(0, 1_000, 3_000), (1, 2_000, 3_360)]
    trials = tuple(
        dataclasses.replace(plain.trials[index], step=10, tokens=tokens, parameters=parameters)
        for index, tokens, parameters in sizes
    )
    verdict = judge_sweep(dataclasses.replace(plain, trials=trials))
    assert verdict is not None
    assert verdict.notes == [
        "trial 1 has 12% more parameters than trial 0 (3,360 against 3,000)",
        "trial 1 has 100% more training tokens than trial 0 (2,000 against 1,000)",
    ]
    assert judged((2.6, 2.3), {0: WRITTEN, 1: LOWER}).notes == []
