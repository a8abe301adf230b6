"""Whether a sweep with several seeds found something better: on the console, as JSON and in its report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from scipy import stats

from nanogpt_kit.cli.sweep import print_result, print_status, status_json
from nanogpt_kit.core.sections import Sweep
from nanogpt_kit.sweep.report.report import write_report
from nanogpt_kit.sweep.study.confirmation import ConfirmationPlan
from nanogpt_kit.sweep.study.records import FORMAT, FreshSeed, TrialResult
from nanogpt_kit.sweep.study.stored_summary import read_summary
from nanogpt_kit.sweep.study.summary import SweepSummary
from tests.sweep.planted_study import shown

GELU = (2.310, 2.295, 2.322)
SWIGLU = (2.346, 2.405, 2.318)  # by 0.036, 0.110 and -0.004 higher
MLP = optuna.distributions.CategoricalDistribution(("gelu", "swiglu", "relu2", "geglu"))


def one_trial(index: int, values: Sequence[float | None]) -> FrozenTrial:
    """A trial with these values by seed; pruned after the first one if there is a None."""
    found = [value for value in values if value is not None]
    is_complete = len(found) == len(values)
    result = TrialResult(cause="complete" if is_complete else "oom", values=tuple(values) if len(values) > 1 else ())
    return create_trial(
        state=TrialState.COMPLETE if is_complete else TrialState.PRUNED,
        value=sum(found) / len(found),
        params={"model.mlp": MLP.choices[index]},
        distributions={"model.mlp": MLP},
        user_attrs={"result": result.stored()},
    )


def grid(*values: Sequence[float | None], **options: Any) -> tuple[SweepSummary, optuna.Study]:
    """A sweep over model.mlp whose trials have these values by seed."""
    space = {"model.mlp": {"choice": [*MLP.choices]}}
    chosen = Sweep(space=space, sampler="grid", seeds=len(values[0]), **options)
    study = optuna.create_study(study_name="mlp", storage=InMemoryStorage(), direction=chosen.direction)
    attributes = {
        "format": FORMAT,
        "plan": "search",
        "experiment": {"train": {"batch_tokens": 100, "seed": 1337}},
        "trial_tokens": 1000,
        "space": {"model.mlp": "choice"},
        "count": len(values),
    }
    for key, value in attributes.items():
        study.set_user_attr(key, value)
    study.add_trials([one_trial(index, one) for index, one in enumerate(values)])
    return read_summary("mlp", chosen, study._storage), study


def headline(summary: SweepSummary, study: optuna.Study, folder: Path) -> str:
    write_report(summary, study, folder / "report.html")
    text = shown((folder / "report.html").read_text(encoding="utf-8"))
    return text[text.rindex("Sweep of mlp", 0, text.index("Written 2")) : text.index("Written 2")]


@pytest.mark.parametrize(("values", "relation"), [((GELU, SWIGLU), "higher"), ((SWIGLU, GELU), "lower")])
def test_a_grid_of_gelu_and_swiglu_with_three_seeds_is_undecided(
    values: tuple[Sequence[float], ...], relation: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary, study = grid(*values)
    print_result(summary)
    texts = [capsys.readouterr().err, headline(summary, study, tmp_path)]
    print_status(summary)
    texts.append(capsys.readouterr().out)
    for text in texts:
        line = re.search(r"val/loss (?:higher|lower) by .*?(?=\.(?:\s|$)|\n)", text)
        assert line is not None, text
        assert f"val/loss {relation} by 0.0473" in line[0]
        assert re.search(r"95% interval -0\.\d+ to 0\.\d+", line[0])
        assert "3 pairs" in line[0]
        assert "undecided" in line[0]
        assert "16 more seeds" in line[0]
    assert "no other trial beats" not in texts[1]
    assert "better than" not in texts[1]


def test_the_json_of_a_sweep_has_the_verdict_with_its_interval() -> None:
    verdict = status_json(grid(GELU, SWIGLU)[0])["verdict"]["best"]
    assert (verdict["trial"], verdict["base"], verdict["verdict"], verdict["wins"]) == (1, 0, "undecided", 1)
    assert (verdict["low"], verdict["high"]) == pytest.approx((-0.0963, 0.1910), abs=1e-4)
    assert (verdict["seeds"], verdict["more_seeds"], verdict["level"]) == ([1337, 1338, 1339], 16, 0.95)
    assert "arm" not in verdict


def test_a_trial_that_is_better_with_every_seed_is_called_better(tmp_path: Path) -> None:
    values = GELU, SWIGLU, tuple(value - shift for value, shift in zip(GELU, (0.100, 0.103, 0.101), strict=True))
    summary, study = grid(*values)
    words = headline(summary, study, tmp_path)
    assert "The best is trial 2" in words
    assert "Trial 0, the experiment as written, has 2.309." in words
    assert re.search(
        r"Trial 2 \(model.mlp=relu2\) against trial 0, the experiment as written: "
        r"val/loss lower by 0\.101.*97\.5% interval.*: better\.",
        words,
    )


def test_all_complete_trials_count_for_holms_correction() -> None:
    near = tuple(value - shift for value, shift in zip(GELU, (0.030, 0.060, 0.035), strict=True))
    p_value = stats.ttest_rel(near, GELU).pvalue
    assert 0.025 < p_value < 0.05
    assert status_json(grid(GELU, near)[0])["verdict"]["best"]["verdict"] == "better"
    several = status_json(grid(GELU, near, SWIGLU)[0])["verdict"]["best"]
    assert (several["verdict"], several["trial"]) == ("undecided", 1)
    assert several["p_value"] == pytest.approx(p_value)


def test_a_trial_without_all_its_seeds_is_not_compared() -> None:
    summary, _ = grid(GELU, (2.0, None, 2.1), SWIGLU)
    assert status_json(summary)["verdict"]["best"]["trial"] == 2


def test_where_more_is_better_the_sign_is_the_other_one() -> None:
    verdict = status_json(grid((0.50, 0.52, 0.48), (0.60, 0.625, 0.585), direction="maximize")[0])["verdict"]["best"]
    assert (verdict["verdict"], verdict["wins"]) == ("better", 3)


@pytest.mark.parametrize("values", [[(2.0,), (1.0,)], [GELU], [(2.0, None, 2.1), GELU, SWIGLU]])
def test_with_one_seed_or_without_a_pair_of_trials_there_is_no_verdict(
    values: list[Sequence[float | None]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    summary, study = grid(*values)
    assert status_json(summary)["verdict"] is None
    print_result(summary)
    assert "against" not in capsys.readouterr().err
    assert "against" not in headline(summary, study, tmp_path)


def test_the_trial_that_fresh_seeds_call_the_best_is_the_one_that_is_compared() -> None:
    summary, study = grid(GELU, (2.2, 2.1, 2.3), (2.3, 2.2, 2.25), confirm=2, confirm_seeds=2)
    again = optuna.create_study(study_name="mlp" + ConfirmationPlan.suffix, storage=study._storage)
    again.set_user_attr("plan", ConfirmationPlan.kind)
    for index, values in {0: (2.4, 2.5), 1: (2.5, 2.6), 2: (2.2, 2.3)}.items():
        for seed, value in enumerate(values, start=1340):
            attributes = {FreshSeed.attribute: FreshSeed(trial=index, seed=seed).stored()}
            again.add_trial(create_trial(value=value, user_attrs=attributes))
    summary = read_summary("mlp", summary.options, study._storage)
    assert summary.best() == summary.trials[2]
    assert status_json(summary)["verdict"]["best"]["trial"] == 2
