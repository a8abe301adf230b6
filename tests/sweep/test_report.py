"""report.html: what it says of a sweep, that it is one file, and that a browser draws it."""

from __future__ import annotations

import builtins
import html
import math
import random
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from nanogpt_kit.core.sections import Sweep
from nanogpt_kit.report.page import NO_FIGURES, Page
from nanogpt_kit.sweep.report import findings
from nanogpt_kit.sweep.report.importances import measure_importances
from nanogpt_kit.sweep.report.report import write_report
from nanogpt_kit.sweep.space.parameters import Condition, Parameter, optuna_choice
from nanogpt_kit.sweep.study.confirmation import ConfirmationPlan
from nanogpt_kit.sweep.study.records import FORMAT, FreshSeed, Owner, TrialResult
from nanogpt_kit.sweep.study.summary import SweepSummary, read_summary

ADAMW, MUON = ((Condition("optimizer.use", (name,)),) for name in ("adamw", "muon"))
PLACE = "experiment.toml:1"
LR = Parameter("optimizer.lr", (), PLACE, "float", 1e-4, 1e-2, log=True, name="optimizer.lr")
SPACE = [
    Parameter("optimizer.use", (), PLACE, "choice", choices=("adamw", "muon"), name="optimizer.use"),
    Parameter("optimizer.lr", ADAMW, PLACE, "float", 1e-4, 1e-2, log=True, name="optimizer.lr@adamw"),
    Parameter("optimizer.weight_decay", ADAMW, PLACE, "float", 0, 0.3, step=0.05, name="optimizer.weight_decay"),
    Parameter("optimizer.lr", MUON, PLACE, "float", 3e-3, 1e-1, log=True, name="optimizer.lr@muon"),
    Parameter("model.n_layer", (), PLACE, "int", 2, 12, name="model.n_layer"),
    Parameter("model.norm", (), PLACE, "choice", choices=("layernorm", "rmsnorm"), name="model.norm"),
]
TOKENS = 50_000_000  # of a trial


def one_trial(
    number: int,
    config: dict[str, Any],
    value: float | None,
    state: TrialState = TrialState.COMPLETE,
    space: Sequence[Parameter] = (LR,),
    reports: dict[int, float] | None = None,
    **told: Any,
) -> FrozenTrial:
    active = [one for one in space if one.key in config and one.is_active(config)]
    cause = told.pop("cause", {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "error"}.get(state.name, ""))
    result = {"tokens": 1_000, "seconds": 2.5, "parameters": 10_000, **told}
    owner = Owner(folder="runs/planted/sweep", folder_id="planted", seen=0.0)
    attributes = {"owner": owner.stored()}
    if cause:
        attributes["result"] = TrialResult(cause=cause, **result).stored()
    return create_trial(
        state=state,
        value=value,
        params={one.name: optuna_choice(config[one.key]) for one in active},
        distributions={one.name: one.distribution() for one in active},
        intermediate_values=reports or {},
        user_attrs=attributes,
    )


def sweep_of(
    trials: Sequence[FrozenTrial],
    confirmed: dict[int, Sequence[float]] | None = None,
    /,
    name: str = "planted",
    space: Sequence[Parameter] = (LR,),
    trial_tokens: int = 1_000,
    **options: Any,
) -> tuple[SweepSummary, optuna.Study]:
    """A study as the controller leaves it, and what is read of it."""
    chosen = Sweep(space={"optimizer.lr": {"float": [1e-4, 1e-2]}}, **options)
    storage = InMemoryStorage()
    study = optuna.create_study(study_name=name, storage=storage, direction=chosen.direction)
    about = {
        "format": FORMAT,
        "plan": "search",
        "experiment": {"train": {"batch_tokens": 100, "seed": 7}},
        "trial_tokens": trial_tokens,
        "space": {one.name: str(one) for one in space},
        "count": len(trials),
    }
    for key, value in about.items():
        study.set_user_attr(key, value)
    study.add_trials(trials)
    if confirmed:
        again = optuna.create_study(
            study_name=name + ConfirmationPlan.suffix, storage=storage, direction=chosen.direction
        )
        again.set_user_attr("plan", ConfirmationPlan.kind)
        for number, values in confirmed.items():
            for seed, value in enumerate(values, start=8):
                attributes = {"confirms": FreshSeed(trial=number, seed=seed).stored()}
                again.add_trial(create_trial(value=value, user_attrs=attributes))
    return read_summary(name, chosen, storage), study


def realistic(count: int = 40, evaluations: int = 25, seed: int = 3) -> tuple[SweepSummary, optuna.Study]:
    """Two optimizers, each with rates of its own; bad trials are pruned, deep ones run out of memory."""
    dice = random.Random(seed)
    trials = []
    for number in range(count):
        config: dict[str, Any] = {}
        for one in SPACE:
            if one.is_active(config):
                config[one.key] = one.at_fraction(dice.random())
        best_rate = 1.5e-3 if config["optimizer.use"] == "adamw" else 2e-2
        miss = math.log10(config["optimizer.lr"] / best_rate) ** 2
        depth = config["model.n_layer"]
        end = 3.1 + 0.5 * miss - 0.012 * depth + 0.03 * (config["model.norm"] == "layernorm") + dice.gauss(0, 0.01)
        end -= 0.04 * (config["optimizer.use"] == "muon")
        unit = TOKENS // evaluations
        reports = {
            unit * at: end + 7.0 / (1 + 0.6 * at) - 7.0 / (1 + 0.6 * evaluations) + dice.gauss(0, 0.006)
            for at in range(1, evaluations + 1)
        }
        cost = {"seconds": 40.0 * depth * dice.uniform(0.9, 1.3), "parameters": 786_432 * depth + 6_438_912}
        if number in (7, 23):
            why = "out of memory: 12.1 GB more were wanted, of 23.6 GB"
            trials.append(one_trial(number, config, None, TrialState.PRUNED, SPACE, cause="oom", reason=why))
        elif number == 29:
            why = "ValueError: micro_batch_size 12 does not divide 80"
            trials.append(one_trial(number, config, None, TrialState.FAIL, SPACE, reason=why))
        elif miss > 0.45 and number > 8:
            short = {at: reports[at] for at in list(reports)[: max(1, evaluations // 4)]}
            told = {"tokens": list(short)[-1], "seconds": cost["seconds"] / 4, "parameters": cost["parameters"]}
            last = list(short.values())[-1]
            why = f"val/loss {last:.4f} at {told['tokens']:,} tokens"
            trials.append(one_trial(number, config, last, TrialState.PRUNED, SPACE, short, reason=why, **told))
        else:
            last = reports[unit * evaluations]
            trials.append(one_trial(number, config, last, TrialState.COMPLETE, SPACE, reports, tokens=TOKENS, **cost))
    complete = sorted((trial.value, number) for number, trial in enumerate(trials) if trial.state.name == "COMPLETE")
    again = {number: [value + 0.02 + dice.gauss(0, 0.012) for _ in range(3)] for value, number in complete[:3]}
    return sweep_of(
        trials, again, "fineweb-proxy", SPACE, TOKENS, trials=count, pruner="asha", confirm=3, confirm_seeds=3
    )


def page_of(summary: SweepSummary, study: optuna.Study, folder: Path) -> str:
    path = folder / "report.html"
    write_report(summary, study, path)
    assert [one.name for one in folder.iterdir()] == ["report.html"], "nothing half-written is left"
    return path.read_text(encoding="utf-8")


class Fetched(HTMLParser):
    """What a browser would fetch for a page, and the words that it shows."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.styles, self.words = "", ""
        self.inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "poster", "action", "xlink:href"):
                self.addresses.append(value or "")
            if name == "style":
                self.styles += value or ""

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "style":
            self.styles += data
        elif self.inside != "script":
            self.words += data


def shown(page: str) -> str:
    return " ".join(Fetched(page).words.split())


def rates(values: Sequence[float | None], lrs: Sequence[float] | None = None, **told: Any) -> list[FrozenTrial]:
    """Complete trials with these values, at rates in the middle of the range."""
    lrs = lrs or [1e-3 * (1 + 0.01 * at) for at in range(len(values))]
    pairs = enumerate(zip(values, lrs, strict=True))
    return [one_trial(at, {"optimizer.lr": lr}, value, **told) for at, (value, lr) in pairs]


def warned(trials: Sequence[FrozenTrial], *rest: Any, space: Sequence[Parameter] = (LR,), **options: Any) -> str:
    summary, study = sweep_of(trials, *rest, space=space, **options)
    return " ".join(findings.warnings_about(summary, findings.parameter_ranges(study)))


def test_the_page_refers_to_nothing_outside_of_itself(tmp_path: Path) -> None:
    found = Fetched(page_of(*realistic(), tmp_path))
    assert found.addresses, "the links to its own sections"
    assert all(re.fullmatch(r"#section-\d+", address) for address in found.addresses)
    assert not {"link", "img", "iframe", "object", "embed", "base"} & set(found.tags)
    assert "@import" not in found.styles
    assert "url(" not in found.styles


def test_the_script_of_the_figures_is_in_the_page_once(tmp_path: Path) -> None:
    page = page_of(*realistic(), tmp_path)
    assert page.count("plotly.js v") == 1
    assert page.count("Plotly.newPlot(") > 10


def test_words_of_others_are_taken_literally(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    space = [Parameter("model.norm", (), PLACE, "choice", choices=(evil, "b & c"), name="model.norm")]
    trials = [one_trial(at, {"model.norm": (evil, "b & c")[at % 2]}, 3.0 + at, space=space) for at in range(12)]
    trials.append(one_trial(12, {"model.norm": evil}, None, TrialState.FAIL, space, reason=f"no such {evil}"))
    page = page_of(*sweep_of(trials, name=f"a {evil}", space=space), tmp_path)
    assert evil not in page
    assert '"\\u003cscript' not in page, "plotly takes tags for tags"
    assert html.escape(f"no such {evil}") in page
    assert f"Sweep of a {evil}" in shown(page)
    assert page.count("<script") == page.count("</script>"), "plotly's own"


def test_the_headline_says_what_was_found_and_how_to_run_it_again(tmp_path: Path) -> None:
    folder = tmp_path / "my runs"
    folder.mkdir()
    trials = [*rates([3.5, 3.25, 3.75], seconds=3600.0, tokens=2_000_000)]
    words = shown(page_of(*sweep_of(trials), folder))
    assert "val/loss, lower is better. Of 3 trials: 3 complete" in words
    assert "6 million tokens and 3.0 hours" in words
    assert "The best is trial 1 with val/loss = 3.25, 0.25 better than trial 0" in words
    assert f"nanogpt-kit run '{folder}/best.toml'" in words


@pytest.mark.parametrize(
    ("lr", "side"), [(1.2e-4, "lower"), (1.24e-4, "lower"), (8.2e-3, "upper"), (1.3e-4, ""), (7.8e-3, ""), (1e-3, "")]
)
def test_a_best_within_5_percent_of_an_edge_is_told_in_the_scale_of_its_range(lr: float, side: str) -> None:
    words = warned(rates([3.0, 3.5, 3.6], [lr, 1e-3, 2e-3]))
    assert ("at the lower edge of its range (0.0001)" in words) == (side == "lower")
    assert ("at the upper edge of its range (0.01)" in words) == (side == "upper")
    assert ("widen the range" in words) == bool(side)


def test_an_edge_says_how_many_of_the_best_lie_there_too() -> None:
    lrs = [1e-4, 1.1e-4, 1e-3, 2e-3, 3e-3, 4e-3]
    assert "optimizer.lr = 0.0001" in warned(rates([3.0, 3.1, 3.2, 3.3, 3.4, 3.5], lrs))
    assert "2 of the best 3." in warned(rates([3.0, 3.1, 3.2, 3.3, 3.4, 3.5], lrs))


def test_choices_and_ranges_of_one_value_have_no_edge() -> None:
    space = [
        Parameter("model.norm", (), PLACE, "choice", choices=("a", "b"), name="model.norm"),
        Parameter("model.n_layer", (), PLACE, "int", 4, 4, name="model.n_layer"),
    ]
    config = {"model.norm": "a", "model.n_layer": 4}
    assert "edge" not in warned([one_trial(0, config, 3.0, space=space)], space=space)


def test_many_lost_trials_are_told_with_their_commonest_reasons() -> None:
    lost: dict[str, Any] = {"value": None, "state": TrialState.PRUNED, "cause": "oom"}
    more = [one_trial(at, {"optimizer.lr": 1e-3}, **lost, reason="9 GB were wanted") for at in (8, 9)]
    words = warned([*rates([3.0 + at for at in range(8)]), *more])
    assert "2 of 10 ended trials (20%) gave no result: 2 out of memory. Most often: 9 GB were wanted (2x)" in words
    assert "gave no result" not in warned([*rates([3.0 + at for at in range(20)]), more[0]]), (
        "one in 21 is to be expected"
    )


def test_a_single_failure_is_told_since_it_lies_in_no_value() -> None:
    failed = one_trial(30, {"optimizer.lr": 1e-3}, None, TrialState.FAIL, reason="KeyError: 'x'")
    assert "KeyError: 'x'" in warned([*rates([3.0 + at for at in range(30)]), failed])


def test_the_best_of_many_is_doubted_until_it_is_confirmed() -> None:
    trials = rates([3.0 + 0.1 * at for at in range(12)])
    assert "best of 12 trials is optimistic" in warned(trials)
    assert "optimistic" not in warned(trials, {0: [3.1, 3.2], 1: [3.3, 3.4]})


def test_few_trials_are_no_ground_for_importances() -> None:
    assert "Only 9 trials are complete" in warned(rates([3.0 + at for at in range(9)]))
    assert "Only" not in warned(rates([3.0 + at for at in range(10)]))


def test_a_pruner_that_pruned_nothing_is_told() -> None:
    trials = rates([3.0 + at for at in range(12)])
    assert "The pruner 'asha' pruned no trial" in warned(trials, pruner="asha")
    pruned = one_trial(12, {"optimizer.lr": 1e-3}, 4.0, TrialState.PRUNED)
    assert "pruned no trial" not in warned([*trials, pruned], pruner="asha")


@pytest.mark.parametrize(
    ("fresh", "told"),
    [
        ({0: [3.0, 3.02], 1: [3.2, 3.22], 2: [3.4, 3.42]}, "confirm the ranking"),
        ({0: [3.0, 3.02], 1: [3.4, 3.42], 2: [3.2, 3.22]}, "keep trial 0 in first place and change the ranking"),
        (
            {0: [3.4, 3.42], 1: [3.0, 3.02], 2: [3.2, 3.22]},
            "trial 1 is now the best, and trial 0, ",
        ),
        ({0: [3.0, 3.4], 1: [3.1, 3.5], 2: [3.9, 4.0]}, "do not separate the two"),
    ],
)
def test_confirmation_ranks_and_says_whether_the_order_changed(
    fresh: dict[int, list[float]], told: str, tmp_path: Path
) -> None:
    summary, study = sweep_of(rates([3.0, 3.1, 3.2, 3.3]), fresh)
    page = page_of(summary, study, tmp_path)
    assert told in shown(page)
    table = page[page.index("rank in the sweep") :]
    places = re.findall(r'<tr[^>]*><td class="number">(\d+)</td><td class="number">(\d+)</td>', table)[:3]
    assert [int(number) for _, number in places] == [one.index for one in summary.confirmed]
    assert [int(place) for place, _ in places] == [1, 2, 3]


def test_importances_find_what_makes_the_best_whether_less_or_more_is_better() -> None:
    dice = random.Random(1)
    space = [LR, Parameter("train.grad_clip", (), PLACE, "float", 0.0, 1.0, name="train.grad_clip")]
    shares = [(dice.random(), dice.random()) for _ in range(60)]
    cost = [rate if rate < 0.3 else 1 + clip for rate, clip in shares]  # the rate makes the best, the other the worst
    configs = [{one.key: one.at_fraction(share) for one, share in zip(space, both, strict=True)} for both in shares]
    for sign, direction in ((1, "minimize"), (-1, "maximize")):
        trials = [one_trial(at, configs[at], sign * cost[at], space=space) for at in range(60)]
        (found,) = measure_importances(sweep_of(trials, space=space, direction=direction)[1])
        assert found.values["optimizer.lr"] > 0.7


def test_importances_are_measured_in_each_branch_too() -> None:
    found = measure_importances(realistic(60)[1])
    assert [one.title for one in found] == ["all trials", "optimizer.use = adamw", "optimizer.use = muon"]
    assert "optimizer.lr@muon" not in found[1].values
    assert set(found[2].values) == {"optimizer.lr@muon", "model.n_layer", "model.norm"}


def test_importances_that_fail_say_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(*given: Any, **named: Any) -> None:
        raise RuntimeError("it did not converge")

    monkeypatch.setattr(optuna.importance, "get_param_importances", fails)
    assert "Not known: it did not converge." in shown(page_of(*realistic(), tmp_path))


def failing(at: int) -> FrozenTrial:
    return one_trial(at, {"optimizer.lr": 1e-3}, None, TrialState.FAIL, reason="no")


SWEEPS: dict[str, list[FrozenTrial]] = {
    "no trial": [],
    "one trial": rates([3.0], reports={500: 3.5, 1_000: 3.0}),
    "all failed": [failing(at) for at in range(12)],
    "all the same": rates([3.0] * 12),
    "one of them far off": rates([3.0 + 0.01 * at for at in range(11)] + [1e30]),
    "refused before it had values": [
        one_trial(0, {}, None, TrialState.PRUNED, cause="refused"),
        *rates([3.0, 3.1])[1:],
    ],
    "at work": [*rates([3.0]), one_trial(1, {"optimizer.lr": 1e-3}, None, TrialState.RUNNING, reports={500: 4.0})],
    "only pruned": [one_trial(0, {"optimizer.lr": 1e-3}, 4.0, TrialState.PRUNED, reports={500: 4.0})],
}


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("trials", SWEEPS.values(), ids=SWEEPS)
def test_a_sweep_of_any_kind_has_a_report(trials: list[FrozenTrial], direction: str, tmp_path: Path) -> None:
    words = shown(page_of(*sweep_of(trials, direction=direction), tmp_path))
    assert "Sweep of planted" in words
    assert ("All trials" in words) == bool(trials)


def test_equal_values_make_no_best(tmp_path: Path) -> None:
    words = shown(page_of(*sweep_of(SWEEPS["all the same"]), tmp_path))
    assert "All 12 complete trials have the same val/loss" in words
    assert "Not known: all of them have the same value." in words


def test_where_more_is_better_the_most_is_the_best(tmp_path: Path) -> None:
    page = page_of(*sweep_of(rates([0.5, 0.75, 0.25]), direction="maximize", metric="val/accuracy"), tmp_path)
    assert "The best is trial 1 with val/accuracy = 0.75, 0.25 better than trial 0" in shown(page)
    table = page[page.index("All trials</h2>") :]
    assert re.findall(r'<tr[^>]*><td class="number">(\d+)</td><td>complete', table) == ["1", "0", "2"]


def test_trials_outside_of_a_branch_pass_below_its_axis() -> None:
    pytest.importorskip("plotly")
    from nanogpt_kit.sweep.report import figures

    summary, study = realistic()
    ranges = findings.parameter_ranges(study)
    figure = figures.draw_parallel_coordinates(summary, ranges)
    assert figure is not None
    axis = next(one for one in figure.data[0].dimensions if one.label == "optimizer.lr@muon")
    assert axis.ticktext[0] == "absent"
    complete = summary.ranked_trials()[::-1]
    assert [value == axis.tickvals[0] for value in axis["values"]] == [
        row.config["optimizer.use"] == "adamw" for row in complete
    ]
    (panel,) = (
        figure for figure in figures.draw_slices(summary, ranges) if figure.layout.xaxis.title.text == axis.label
    )
    assert len(panel.data[0].x) == sum(row.config["optimizer.use"] == "muon" for row in complete)
    assert panel.layout.xaxis.type == "log"


def test_without_plotly_the_page_has_all_but_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really_import = builtins.__import__

    def without_plotly(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "plotly":
            raise ImportError(name)
        return really_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_plotly)
    page = page_of(*realistic(), tmp_path)
    assert page.count(html.escape(NO_FIGURES)) == 1
    assert "<script" not in page
    words = shown(page)
    for told in ("Confirmation", "gave no result", "out of memory", "optimizer.use = muon", "trial-0022-s7"):
        assert told in words


def test_curves_are_thinned_where_there_are_many_and_the_page_says_so(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    from nanogpt_kit.sweep.report import figures

    summary, study = realistic(250, 100)
    drawn = sum(len(trace.x) for trace in figures.draw_curves(summary).data)
    assert drawn < 1.02 * figures.MAX_CURVE_POINTS
    assert "At most 80 evaluations of each are drawn" in shown(page_of(summary, study, tmp_path))


@pytest.mark.slow
def test_a_thousand_trials_make_a_page_that_is_small_and_quick(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    summary, study = realistic(1_000, 100)
    began = time.monotonic()
    page = page_of(summary, study, tmp_path)
    assert time.monotonic() - began < 30
    assert len(page) < 10e6


def test_columns_of_a_table_are_written_with_as_many_decimals_a_cell() -> None:
    page = Page("a")
    page.table(["a", "b", "c"], [[2.981, 0.001, 1], [2.9528, 0.00025, "x"], [None, None, None]], marked=1)
    assert "2.9810" in page.html()
    assert "0.00025" in page.html()
    assert "<th>c</th>" in page.html(), "a column with a word in it is one of words"


def test_a_browser_without_a_network_draws_the_figures(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not on this machine")
    write_report(*realistic(20), tmp_path / "report.html")
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
    offline = ["--proxy-server=127.0.0.1:9", "--host-resolver-rules=MAP * ~NOTFOUND"]
    found = subprocess.run(
        [
            *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", *quiet, *offline),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000", "--dump-dom"),
            (tmp_path / "report.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert found.stdout.count('class="main-svg"') > 10
