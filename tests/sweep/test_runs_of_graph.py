"""A study tells its runs how many of their graph follow, and the first of them decides whether it is compiled."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanogpt_kit.comparison.question import Arm, Question
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.machine_choices import COMPILE_TASK
from nanogpt_kit.runs.machine_choices import FILE_NAME, ChoicesRecord, compile_choices
from nanogpt_kit.sweep.comparison import comparison_options
from nanogpt_kit.sweep.space.space import Space
from nanogpt_kit.sweep.study.cells import Cell
from nanogpt_kit.sweep.study.comparison import ComparisonPlan
from nanogpt_kit.sweep.study.search import SearchPlan

BASE = Path(__file__).with_name("base.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("parameter", "count"),
    [
        ('"optimizer.lr" = { float = [1e-4, 1e-2], log = true }', 6),  # three trials of two seeds
        ('"model.n_layer" = { int = [1, 3] }', 0),
    ],
)
def test_trials_share_a_graph_where_the_space_varies_none(tmp_path: Path, parameter: str, count: int) -> None:
    path = tmp_path / "x.toml"
    path.write_text(f"{BASE}\n[sweep]\ntrials = 9\nseeds = 2\n[sweep.space]\n{parameter}\n", encoding="utf-8")
    space = Space(Experiment.load(path))
    plan = SearchPlan(space, {one.key: 1 for one in space.parameters})
    assert plan.runs_of_graph(space.base, [4, 5, 6]) == count


def test_arms_that_change_the_optimizer_share_the_graph_of_the_base(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(BASE, encoding="utf-8")
    base = Experiment.load(path)
    changes = ("optimizer.lr=1e-4", "model.mlp=swiglu")
    arms = (Arm("base", base), *(Arm(change, base.with_(change)) for change in changes))
    question = Question("compare", arms)
    cells = [Cell(arm, arm.configuration, "code", "text", seed) for seed in (1, 2) for arm in arms]
    plan = ComparisonPlan(question, cells, comparison_options(question, 1, "journal"), again=False)
    plan.chosen = dict(enumerate(cells))
    assert plan.runs_of_graph(base, [1, 2, 3, 4, 5]) == 3  # of the six, not the first itself
    assert plan.runs_of_graph(arms[2].experiment, [0, 5]) == 1


def test_later_runs_of_a_study_compile_as_the_first_has_recorded(tmp_path: Path) -> None:
    task, other = f"{COMPILE_TASK}abc", f"{COMPILE_TASK}def"
    for name, choices in {"a": {task: "default", "precision cpu": "bf16"}, "b": {task: "off", other: "off"}}.items():
        (tmp_path / name).mkdir()
        ChoicesRecord(choices=choices).write(tmp_path / name / FILE_NAME)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / FILE_NAME).write_text("{", encoding="utf-8")
    folders = [tmp_path / name for name in ("a", "b", "c", "absent")]
    assert compile_choices(folders) == {task: "default", other: "off"}
