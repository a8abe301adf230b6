"""The page of a comparison: what it begins with, what it shows, and that it is written whatever is missing."""

from __future__ import annotations

import html
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.comparison import ledger
from nanogpt_kit.comparison.comparison import make_comparison
from nanogpt_kit.comparison.record import ArmRecord, Comparison, Effect, Look
from nanogpt_kit.comparison.report import page as comparison_report
from nanogpt_kit.comparison.report.arm_labels import short_arm_labels
from nanogpt_kit.comparison.report.arm_runs import find_arm_runs
from nanogpt_kit.comparison.report.page import comparison_page
from nanogpt_kit.comparison.sentences import effect_sentence, tries_sentence, verdict_sentence
from nanogpt_kit.comparison.split_opening import OPENING, SplitOpening
from nanogpt_kit.report.page import NO_FIGURES
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.samples import add_samples
from tests.comparison.made_arms import DATA, MACHINE, make_question, measure_arms
from tests.comparison.made_records import made, make_record, make_result

GELU, SWIGLU = {7: 2.512, 8: 2.498, 9: 2.5033}, {7: 2.548, 8: 2.608, 9: 2.4993}
TAG = re.compile(r"<[^>]*>")


@pytest.fixture
def without_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison_report, "has_figures", lambda: False)


def page_of(comparison: Comparison, folder: Path = Path("nowhere")) -> str:
    return comparison_page(comparison, folder).html()


def shown(page: str) -> str:
    """The text that a reader sees, besides that of figures."""
    return html.unescape(TAG.sub(" ", re.sub(r"<(style|script)\b.*?</\1>", " ", page, flags=re.DOTALL)))


def verdicts(page: str) -> list[tuple[str, str]]:
    """(kind, text) of each box, in the order of the page."""
    boxes = re.findall(r'<p class="verdict (\w+)">(.*?)</p>', page)
    return [(kind, html.unescape(TAG.sub("", text))) for kind, text in boxes]


def rows_of(page: str) -> list[list[str]]:
    """The cells of every row of a table's body."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", page, flags=re.DOTALL)
    return [[html.unescape(TAG.sub("", cell)) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)] for row in rows]


@pytest.fixture
def compared(tiny: Path) -> Comparison:
    """Two arms with three seeds and their runs."""
    question = make_question(tiny, "model.mlp=swiglu")
    return make_comparison(question, measure_arms(question, [GELU, SWIGLU]), "nanogpt-kit compare tiny")


def folder_of(comparison: Comparison) -> Path:
    return ledger.record_path(comparison).parent


# Verdicts


@pytest.mark.parametrize("verdict", ["better", "worse", "undecided"])
def test_the_verdict_is_in_a_box_before_all_else_with_the_sentence_of_the_console(
    verdict: Any, without_plotly: None
) -> None:
    record = make_record(make_result(verdict=verdict), measurements=(made(0, 1, 2.5), made(1, 1, 2.75)))
    page = page_of(record)
    assert verdicts(page) == [(verdict, f"{verdict.capitalize()} {verdict_sentence(record, record.results[0])}.")]
    assert page.index('class="verdict') < page.index("<h2")
    assert "lower is better" in shown(page)


def test_several_contenders_have_a_box_each_the_best_first_with_the_level_of_holm(without_plotly: None) -> None:
    results = [
        make_result(1, 0.5, verdict="worse", level=0.975, wins=0),
        make_result(2, -0.25, verdict="better", level=1 - 0.05 / 3, wins=3),
        make_result(3, 0.0, more_seeds=12, wins=2),
    ]
    record = make_record(*results, labels=("base", "a", "b", "c"), kind="ablate")
    page = page_of(record)
    assert [kind for kind, _ in verdicts(page)] == ["better", "undecided", "worse"]
    assert "Of 3 contenders, 1 is better, 1 is undecided and 1 is worse." in shown(page)
    assert "(98.33% interval" in verdicts(page)[0][1]
    assert "Holm's correction for 3 contenders" in shown(page)
    untested = make_result(3, None, seeds=(), low=None, high=None)
    two = record.model_copy(update={"results": (*results[:2], untested)})
    assert "Holm's correction for 2 contenders" in shown(page_of(two))
    assert "Holm" not in page_of(record.model_copy(update={"results": (results[0], untested)})), "only one is tested"
    assert ["b", "", "", "0", "-0.2500", "0.1250", "-0.5000 to 1.0000", "98.33%", "3/3", "better"] in rows_of(page)
    assert any(row[-1] == "undecided (+12)" for row in rows_of(page) if row)


def test_a_factorial_has_its_effects(without_plotly: None) -> None:
    effect = Effect(factors=("model.mlp",), levels=("swiglu",), seeds=(1, 2), difference=0.25, low=0.125, high=0.375)
    record = make_record(make_result(), effects=(effect.model_copy(update={"verdict": "worse"}),))
    found = verdicts(page_of(record))
    assert found[1] == ("worse", f"Worse {effect_sentence(record, record.effects[0])}.")


def test_noise_has_its_spread_and_what_it_detects_and_no_verdict(without_plotly: None) -> None:
    measurements = tuple(made(0, seed, value) for seed, value in {3: 4.5, 5: 4.75, 7: 4.25}.items())
    page = page_of(make_record(kind="noise", labels=("gelu",), measurements=measurements))
    assert verdicts(page) == []
    assert "Standard deviation over seeds: 0.2500 (95% interval 0.1302 to 1.5712)." in shown(page)
    assert [row[0] for row in rows_of(page) if len(row) == 2] >= ["3", "5", "10", "20"]


def test_small_noise_has_the_same_decimals_in_its_sentences_and_tables(without_plotly: None) -> None:
    measurements = tuple(made(0, seed, value) for seed, value in {3: 4.5000012, 5: 4.5000034, 7: 4.5000023}.items())
    page = page_of(make_record(kind="noise", labels=("gelu",), measurements=measurements))
    assert "val/loss 4.5000023 on average over 3 seeds" in shown(page)
    assert ["gelu (base)", "4.5000023", "0.0000011", "3"] in rows_of(page)
    assert ["3", "4.5000012"] in rows_of(page)


# Evidence


def test_every_seed_and_every_difference_is_in_a_table_rounded_as_on_the_console(compared: Comparison) -> None:
    rows = rows_of(page_of(compared, folder_of(compared)))
    assert ["tiny (base)", "2.5044", "0.0071", "3", *[""] * 6] in rows
    assert ["7", "2.5120", "2.5480", "+0.0360"] in rows
    assert ["9", "2.5033", "2.4993", "-0.0040"] in rows


def test_costs_changes_looks_luck_and_notes_are_there(without_plotly: None) -> None:
    arms = [ArmRecord(label=label, experiment="tiny", configuration=label) for label in ("gelu", "swiglu")]
    arms[1] = arms[1].model_copy(update={"changes": {"model.mlp.use": ('"gelu"', '"swiglu"'), "model.x": ("1", None)}})
    cost = {"tokens_per_second": 2e6, "memory_bytes": 3 * 2**30, "parameters": 124_400_000, "seconds": 1234.5}
    record = make_record(
        make_result(),
        arms=tuple(arms),
        measurements=(made(0, 1, 2.5, **cost), made(1, 1, 2.5, **cost), made(1, 2, None, reason="the loss is nan")),
        budget="1,500 steps",
        notes=("the runs differ in torch: 2.12 (gelu), 2.13 (swiglu)",),
        looks=(Look(seeds=(1,), time=0.0), Look(seeds=(1, 2), time=1.0)),
        tries=7,
        luck=0.0123,
        text="why?",
    )
    page = page_of(record)
    rows, text = rows_of(page), shown(page)
    assert ["swiglu", "2.0M", "x1.00", "1,234", "x1.00", "3,072 MiB", "x1.00", "124M", "x1.00"] in rows
    assert ["swiglu", "model.mlp.use", '"gelu"', '"swiglu"'] in rows
    assert ["", "model.x", "1", "unset"] in rows
    assert ["swiglu", "2", "failed", "the loss is nan"] in rows
    for line in ("why?", "budget of each run: 1,500 steps", f"note: {record.notes[0]}", "looks: 2 at this question"):
        assert line in text
    assert tries_sentence(record) in text


def test_curves_have_a_section_for_the_metric_and_one_for_the_training_loss(compared: Comparison) -> None:
    pytest.importorskip("plotly")
    page = page_of(compared, folder_of(compared))
    assert "Curves of val/loss" in page
    assert "Curves of train/loss" in page
    assert page.count("Plotly.newPlot(") == 4


def test_the_training_loss_of_arms_with_other_tokens_is_in_separate_figures(tiny: Path) -> None:
    pytest.importorskip("plotly")
    question = make_question(tiny, "model.mlp=swiglu")
    others = DATA.model_copy(update={"splits": {**DATA.splits, "train": "other-ids"}})
    measured = [*measure_arms(question, [GELU, {}]), *measure_arms(question, [{}, SWIGLU], data=others)]
    comparison = make_comparison(question, measured, "nanogpt-kit compare tiny")
    text = shown(page_of(comparison, folder_of(comparison)))
    assert "Curves of train/loss: tiny" in text
    assert "Curves of train/loss: model.mlp=swiglu" in text
    assert "Curves of val/loss:" not in text, "it compares"


def test_samples_are_beside_each_other_where_runs_have_some(compared: Comparison, without_plotly: None) -> None:
    assert "Samples" not in page_of(compared, folder_of(compared))
    for one in compared.measurements:
        add_samples(RunFolder(Path(one.run)).samples, 20, [f"<b>of {one.arm} and {one.seed}"])
    page = page_of(compared, folder_of(compared))
    assert [f"&lt;b&gt;of {arm} and 7" in page for arm in (0, 1)] == [True, True]
    assert "and 8" not in page, "the samples of one run of each arm"


def test_what_runs_ran_with_is_named_once_for_each_distinct_value(tiny: Path, without_plotly: None) -> None:
    question = make_question(tiny, "model.mlp=swiglu")
    first, second = {7: 2.5, 8: 2.625}, {7: 2.25, 8: 2.375}
    laptop = MACHINE.model_copy(update={"host": "laptop"})
    measured = [
        *measure_arms(question, [first, {}]),
        *measure_arms(question, [{}, second], machine=laptop),
    ]
    comparison = make_comparison(question, measured, "nanogpt-kit compare tiny model.mlp=swiglu")
    page = page_of(comparison, folder_of(comparison))
    assert shown(page).count("laptop, 2 cores") == 1
    assert "machine of 2 of 4 runs" in page
    assert shown(page).count("torch 2.12") == 1
    assert "nanogpt-kit compare tiny model.mlp=swiglu" in page
    assert comparison.id in page
    assert comparison.yardstick in page


def test_the_test_split_that_the_comparison_opened_has_its_verdict(compared: Comparison, without_plotly: None) -> None:
    opening = SplitOpening(
        id=compared.id,
        command="",
        time=0.0,
        metric="test/loss",
        splits=(),
        measurements=compared.measurements,
        results=compared.results,
    )
    others = tuple(one.model_copy(update={"seed": one.seed + 1}) for one in compared.measurements)
    opening.model_copy(update={"measurements": others}).write(folder_of(compared) / OPENING)
    assert "test/loss" not in page_of(compared, folder_of(compared)), "it has other runs"
    opening.write(folder_of(compared) / OPENING)
    assert "model.mlp=swiglu against tiny: test/loss higher by 0.0473" in shown(page_of(compared, folder_of(compared)))
    wrong = tuple(one.model_copy(update={"arm": 7}) for one in compared.results)
    opening.model_copy(update={"results": wrong}).write(folder_of(compared) / OPENING)
    assert "test/loss" not in page_of(compared, folder_of(compared)), "it has other arms"
    (folder_of(compared) / OPENING).write_text("{")
    assert f"{OPENING} cannot be read" in shown(page_of(compared, folder_of(compared)))


# What is missing


def test_removed_runs_runs_in_their_place_and_damaged_ones_are_named_and_the_page_is_whole(
    compared: Comparison,
) -> None:
    runs = [RunFolder(Path(one.run)) for one in compared.measurements]
    shutil.rmtree(runs[0].path)
    shutil.rmtree(runs[1].path)
    shutil.copytree(runs[3].path, runs[1].path)
    (runs[2].path / "provenance.json").write_text("{")
    page = page_of(compared, folder_of(compared))
    reasons = [row[-1] for row in rows_of(page) if row[2:3] == ["finished"]]
    assert reasons[0] == "no such folder: it was removed or moved"
    assert reasons[1] == "another run is in its place"
    assert "provenance.json cannot be read" in reasons[2]
    assert reasons[3:] == ["", "", ""]
    assert "3 of 6 runs are not found" in shown(page)
    assert ["7", "2.5120", "2.5480", "+0.0360"] in rows_of(page)


def test_without_any_run_the_page_is_that_of_the_record(compared: Comparison, tmp_path: Path) -> None:
    folder = tmp_path / "alone"
    shutil.copytree(folder_of(compared), folder)
    shutil.rmtree(tmp_path / "runs")
    page = page_of(compared, folder)
    assert verdicts(page)[0][1].startswith("Undecided model.mlp=swiglu against tiny: val/loss higher by 0.0473")
    assert "6 of 6 runs are not found" in shown(page)
    assert "Curves" not in page


def test_runs_in_the_folder_of_the_comparison_are_found_where_it_was_moved_to(
    compared: Comparison, tmp_path: Path, without_plotly: None
) -> None:
    inside = []
    for one in compared.measurements:
        shutil.move(one.run, folder_of(compared) / f"{one.arm}-s{one.seed}")
        inside.append(one.model_copy(update={"run": str(folder_of(compared) / f"{one.arm}-s{one.seed}")}))
    moved = compared.model_copy(update={"measurements": tuple(inside)})
    shutil.move(folder_of(compared), tmp_path / "elsewhere")
    text = shown(page_of(moved, tmp_path / "elsewhere"))
    assert "not found" not in text
    assert "torch 2.12" in text


def test_runs_with_relative_paths_are_found_from_another_folder(
    compared: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_plotly: None
) -> None:
    relative = tuple(
        one.model_copy(update={"run": str(Path(one.run).relative_to(tmp_path))}) for one in compared.measurements
    )
    (tmp_path / "another").mkdir()
    monkeypatch.chdir(tmp_path / "another")
    moved = compared.model_copy(update={"measurements": relative})
    assert "not found" not in shown(page_of(moved, folder_of(compared)))


def test_runs_beside_the_record_are_preferred_to_others_of_the_same_names_in_the_current_folder(
    compared: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_plotly: None
) -> None:
    relative = tuple(
        one.model_copy(update={"run": str(Path(one.run).relative_to(tmp_path))}) for one in compared.measurements
    )
    shutil.copytree(tmp_path / "runs", tmp_path / "another" / "runs")
    monkeypatch.chdir(tmp_path / "another")
    moved = compared.model_copy(update={"measurements": relative})
    found = [one.folder.path for one in find_arm_runs(moved, folder_of(compared)) if one.folder]
    assert found == [tmp_path / one.run for one in relative]


def test_runs_of_another_machine_are_named_as_such(compared: Comparison, tmp_path: Path, without_plotly: None) -> None:
    measurement = compared.measurements[5]
    copy = folder_of(compared) / "trials" / "other-machines" / "model.mlp=swiglu-s9"
    copy.mkdir(parents=True)
    shutil.move(Path(measurement.run) / "provenance.json", copy)
    measured = (*compared.measurements[:5], measurement.model_copy(update={"run": str(copy)}))
    text = shown(page_of(compared.model_copy(update={"measurements": measured}), folder_of(compared)))
    assert "1 is on another machine: its curves and samples are not in this report" in text
    assert "on another machine; its records are copied here" in text
    assert "torch 2.12" in text


def test_without_plotly_the_page_has_all_tables_and_the_remedy(compared: Comparison, without_plotly: None) -> None:
    page = page_of(compared, folder_of(compared))
    assert NO_FIGURES in html.unescape(page)
    assert "<script" not in page
    assert ["8", "2.4980", "2.6080", "+0.1100"] in rows_of(page)


# Hostile records

HOSTILE = (
    "A: twice",
    "<script>alert(1)</script>",
    "a\nb\tc\x1b[31m",
    "\udcff\u202eevil",
    "<b>" + "x" * 9_000,
    "<b>" + "x" * 9_001,
    "<i>" + "x" * 9_000,
    "twice",
    "twice",
)


def test_labels_of_any_kind_are_text_and_stay_distinct() -> None:
    results = [make_result(arm, 0.125 * arm) for arm in range(1, len(HOSTILE))]
    measurements = tuple(
        made(arm, seed, 2.5 + arm + seed, run="<u>\udcff") for arm in range(len(HOSTILE)) for seed in (1, 2)
    )
    words = {"notes": ("<hr>\udcff",), "text": "<hr>\n\udcff", "command": "nanogpt-kit '<hr>\udcff'", "metric": "<hr>"}
    record = make_record(*results, labels=HOSTILE, measurements=measurements, **words)
    changed = record.arms[1].model_copy(update={"changes": {"<hr>": ("'\udcff'", "<hr>")}})
    record = record.model_copy(update={"arms": (record.arms[0], changed, *record.arms[2:])})
    page = page_of(record)
    page.encode("utf-8")
    names = short_arm_labels(record)
    assert len({*names}) == len(HOSTILE)
    assert max(map(len, names)) < 40
    for tag in ("<script>alert", "<hr>", "<u>", "<b>", "<i>"):
        assert tag not in page, tag
    assert "\x1b" not in page


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_values_of_any_size_have_a_page(scale: float) -> None:
    values = {(0, 1): 2.5, (0, 2): 2.75, (1, 1): 3.5, (1, 2): 3.25}
    measurements = tuple(made(arm, seed, value * scale) for (arm, seed), value in values.items())
    result = make_result(1, 0.75 * scale, seeds=(1, 2), difference_sd=0.25 * scale, low=-scale, high=2 * scale)
    page = page_of(make_record(result, measurements=measurements))
    assert "undecided" in page
    assert "NaN" not in shown(page)


def test_one_seed_without_an_interval_and_an_arm_whose_seeds_all_failed_have_a_page() -> None:
    reason = {"low": None, "high": None, "difference_sd": None, "reason": "one pair has no spread"}
    failed = make_result(2, None, seeds=(), reason="no seed has a value in both arms", low=None, high=None)
    measurements = (made(0, 1, 2.5), made(1, 1, 2.75), made(2, 1, None, reason="the loss is nan"))
    results = (make_result(1, 0.25, seeds=(1,), **reason), failed)
    page = page_of(make_record(*results, labels=("base", "a", "b"), measurements=measurements))
    assert ["1", "2.5000", "2.7500", "failed"] in rows_of(page)
    assert ["b", "1", "failed", "the loss is nan"] in rows_of(page)
    assert "undecided; one pair has no spread" in shown(page)
    page_of(make_record(failed, labels=("base", "a", "b"), measurements=(made(0, 1, None), made(2, 1, None))))


def test_many_contenders_with_many_seeds_have_a_page_within_seconds_that_says_what_figures_leave_out() -> None:
    arms, seeds = range(41), range(100)
    measurements = tuple(made(arm, seed, 2.5 + 0.001 * (seed * 7 % 11 + arm)) for arm in arms for seed in seeds)
    results = [make_result(arm, 0.001 * arm, seeds=tuple(seeds)) for arm in arms[1:]]
    labels = tuple(f"optimizer.lr={arm}e-3" for arm in arms)
    began = time.monotonic()
    page = page_of(make_record(*results, labels=labels, measurements=measurements))
    assert time.monotonic() - began < 20
    assert "The first 31 of 40 contenders are drawn" in page
    assert "The first 31 of 41 arms are drawn" in page
    assert len(page) < 12e6
