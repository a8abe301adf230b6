"""The ledger: finished runs by identity, and comparisons as their folders have them."""

from __future__ import annotations

import functools
import json
import logging
import operator
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.comparison.comparison import make_comparison
from nanogpt_kit.comparison.ledger import finished_by_seed, finished_runs, read_comparisons, record_path
from nanogpt_kit.comparison.record import Comparison
from nanogpt_kit.core.code_identity import code_identity
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs.provenance import BranchedFrom, InitFrom, TokenizerFrom
from nanogpt_kit.runs.record import Unreadable
from nanogpt_kit.train import session
from tests.comparison.made_arms import DATA, make_arm_run, make_question, measure_arms

LOSS = {20: {"val/loss": 2.5}}

# Finished runs


def test_a_trained_run_answers_for_its_configuration_and_seed_alone(tiny: Path) -> None:
    experiment = Experiment.load(tiny, ["train.steps=2"])
    run = session.run(experiment)
    assert [*finished_by_seed(experiment)] == [1337]
    renamed = experiment.with_('name="another"', "train.seed=5", "train.threads=1", 'note="why"')
    assert finished_by_seed(renamed)[1337].path == run.path.absolute()
    assert finished_by_seed(experiment.with_("optimizer.lr=1e-4")) == {}
    text = Path(experiment.dataset.source)  # type: ignore[attr-defined]
    text.write_text(text.read_text(encoding="utf-8") + "more\n", encoding="utf-8")
    assert finished_by_seed(Experiment.load(tiny, ["train.steps=2"])) == {}


def test_of_two_runs_with_one_seed_the_newest_answers(tiny: Path, tmp_path: Path) -> None:
    arm = make_question(tiny).base
    make_arm_run(arm, 3, LOSS, started="2026-01-02T03:04:05Z")
    newest = make_arm_run(arm, 3, LOSS, folder=tmp_path / "runs" / "x" / "y", started="2026-02-02T03:04:05Z")
    assert finished_runs(arm.configuration, "code", "text") == {3: newest}


@pytest.mark.parametrize(
    "details",
    [
        {"status": {"state": "failed"}},
        {"status": {"state": "interrupted"}},
        {"code": "edited"},
        {"configuration": "other"},
        {"data": DATA.model_copy(update={"dataset": "edited"})},
        {"branched_from": BranchedFrom(checkpoint="x", sha256="")},
        {"init_from": InitFrom(checkpoint="x", sha256="")},
        {"tokenizer_from": TokenizerFrom(checkpoint="x", fingerprint="")},
        {"changed_at_step": 10},
    ],
    ids=lambda details: next(iter(details)),
)
def test_a_run_of_another_identity_does_not_answer(tiny: Path, details: dict[str, Any]) -> None:
    arm = make_question(tiny).base
    make_arm_run(arm, 3, LOSS, **details)
    assert finished_runs(arm.configuration, "code", "text") == {}


def test_the_code_of_components_is_part_of_an_identity(tiny: Path) -> None:
    experiment = Experiment.load(tiny)
    make_arm_run(make_question(tiny).base, 3, LOSS, code=code_identity(experiment))
    arguments = experiment.configuration(), code_identity(experiment), "text"
    assert [*finished_runs(*arguments)] == [3]


# Comparisons


@pytest.fixture
def three(tiny: Path) -> list[Comparison]:
    """Three comparisons, of which the last has failed runs only."""
    made = []
    values: dict[str, float | None] = {"model.mlp=swiglu": 2.5, "model.mlp=relu2": 2.25, "optimizer.lr=1.0": None}
    for change, value in values.items():
        question = make_question(tiny, change)
        runs = measure_arms(question, [{1: 2.5, 2: 2.625}, {1: value, 2: value}], again=True)
        made.append(make_comparison(question, runs, "nanogpt-kit compare"))
    return made


def test_all_comparisons_are_read_in_order_with_their_failures(three: list[Comparison]) -> None:
    assert read_comparisons() == three
    assert [one.results[0].verdict for one in three] == ["undecided"] * 3


def test_a_ledger_rebuilt_from_copied_folders_is_identical(
    three: list[Comparison], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tmp_path / "runs", tmp_path / "copy")
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    monkeypatch.setenv("NANOGPT_KIT_RUNS", str(tmp_path / "copy"))
    assert read_comparisons() == three


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"arms": []}, "it names arms that it does not have"),
        ({"results.0.arm": -1}, "it names arms that it does not have"),
        ({"measurements.0.arm": 2}, "it names arms that it does not have"),
        ({"results.0.level": 1.0}, "'results.0.level': Input should be less than 1"),
        ({"results.0.difference_sd": -1.0}, "'results.0.difference_sd': Input should be greater than or equal to 0"),
        ({"effects": [{"factors": ["a"], "levels": [], "seeds": []}]}, "'effects.0': an effect has as many levels"),
    ],
)
def test_records_that_were_edited_to_contradict_themselves_are_refused_with_the_reason(
    three: list[Comparison], change: dict[str, Any], reason: str
) -> None:
    path = record_path(three[1])
    values: Any = json.loads(path.read_text())
    for key, value in change.items():
        *parents, last = [int(part) if part.isdigit() else part for part in key.split(".")]
        functools.reduce(operator.getitem, parents, values)[last] = value
    path.write_text(json.dumps(values))
    with pytest.raises(Unreadable, match=rf"^comparison\.json cannot be read: {re.escape(reason)}"):
        Comparison.read(path)


@pytest.mark.parametrize("damage", ["", "{", '{"format": 2}', '{"format": 1}', "[" * 100_000])
def test_damaged_records_are_named_and_left_out(
    three: list[Comparison], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = record_path(three[1])
    path.write_text(damage)
    with caplog.at_level(logging.WARNING):
        assert read_comparisons() == [three[0], three[2]]
    assert str(path) in caplog.text
    assert "left out of the ledger" in caplog.text


def test_a_copy_within_the_runs_folder_is_named_and_left_out(
    three: list[Comparison], caplog: pytest.LogCaptureFixture
) -> None:
    path = record_path(three[1])
    shutil.copytree(path.parent, path.parent.with_name("backup"))
    with caplog.at_level(logging.WARNING):
        assert read_comparisons() == three
    assert "backup" in caplog.text


def test_files_that_are_not_records_are_left_out(three: list[Comparison], tmp_path: Path) -> None:
    (tmp_path / "runs" / "other" / "sweep" / "trials").mkdir(parents=True)
    (tmp_path / "runs" / "tiny" / "compare" / "empty").mkdir()
    record_path(three[0]).unlink()
    record_path(three[0]).mkdir()
    assert read_comparisons() == three[1:]


# The verb


def test_the_ledger_has_a_line_for_each_contender(three: list[Comparison], command: Callable[..., Any]) -> None:
    answer = command("runs", "ledger")
    header, *lines = answer.out.splitlines()
    assert answer.code == 0
    assert header.split()[:6] == ["date", "base", "change", "verdict", "difference", "interval"]
    assert [line.split()[1:4] for line in lines] == [
        ["tiny", "model.mlp=swiglu", "undecided"],
        ["tiny", "model.mlp=relu2", "undecided"],
        ["tiny", "optimizer.lr=1.0", "undecided"],
    ]
    assert "-0.0625" in lines[0]


def test_the_ledger_as_json_has_the_whole_records(
    three: list[Comparison], command: Callable[..., Any], tmp_path: Path
) -> None:
    answer = command("runs", "ledger", "--json", "tiny", "undecided")
    records = json.loads(answer.out)
    assert [record.pop("path") for record in records] == [str(record_path(one)) for one in three]
    assert records == [one.model_dump(mode="json") for one in three]


@pytest.mark.parametrize(
    ("words", "count"), [(["tiny"], 3), (["undecided"], 3), (["better"], 0), (["tiny", "worse"], 0)]
)
def test_filters_are_verdicts_and_experiments(
    three: list[Comparison], command: Callable[..., Any], words: list[str], count: int
) -> None:
    answer = command("runs", "ledger", *words)
    assert (answer.code, len(answer.out.splitlines())) == (0, count and count + 1)
    assert ("no comparison matches" in answer.err) == (count == 0)


def test_an_unknown_filter_is_refused_with_the_nearest_name(
    three: list[Comparison], command: Callable[..., Any]
) -> None:
    answer = command("runs", "ledger", "tinny")
    assert answer.code == 2
    assert "command line: FILTER: 'tinny'" in answer.err
    assert "did you mean 'tiny'?" in answer.err


def test_an_empty_ledger_says_so(command: Callable[..., Any]) -> None:
    answer = command("runs", "ledger")
    assert (answer.code, answer.out) == (0, "")
    assert "no comparisons yet" in answer.err
    assert command("runs", "ledger", "--json").out == "[]\n"


def test_a_folder_that_is_removed_while_the_ledger_is_read_is_left_out(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = make_question(tiny, "model.mlp=swiglu")
    comparison = make_comparison(question, measure_arms(question, [{1: 1.0}, {1: 1.5}]), "")
    (question.folder().parents[1] / "removed").mkdir()
    scandir = os.scandir

    def scan(path: Any) -> Any:
        if str(path).endswith("removed"):
            raise FileNotFoundError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    assert read_comparisons() == [comparison]
