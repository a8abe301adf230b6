"""Which branches the choices of a space make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.sweep.space.space import Space
from nanogpt_kit.sweep.study.branches import MAX_BRANCHES, Branch, branch_index, find_branches

BASE = Path(__file__).with_name("base.toml").read_text(encoding="utf-8")
LR = "{ float = [1e-4, 1e-2], log = true }"


def space_of(folder: Path, table: str, allocate: str = "sampler") -> Space:
    path = folder / "exp.toml"
    path.write_text(f'{BASE}[sweep]\nallocate = "{allocate}"\n[sweep.space]\n{table}', encoding="utf-8")
    return Space(Experiment.load(path))


def params_of(folder: Path, table: str, allocate: str = "sampler") -> list[dict[str, Any]]:
    return [dict(branch.params) for branch in find_branches(space_of(folder, table, allocate))]


def uses(*names: str) -> list[dict[str, Any]]:
    return [{"optimizer.use": name} for name in names]


def test_a_choice_that_other_keys_depend_on_makes_branches_and_others_do_not(tmp_path: Path) -> None:
    table = f'"model.position" = {{ choice = ["rope", "none"] }}\n"optimizer.use".choice.adamw."optimizer.lr" = {LR}\n'
    for allocate in ("sampler", "equal"):
        assert params_of(tmp_path, table + '"optimizer.use".choice.sgd = {}', allocate) == uses("adamw", "sgd")
    when = f'"optimizer.use" = {{ choice = ["adamw", "muon"] }}\n"optimizer.lr" = {LR[:-2]}, when = '
    assert params_of(tmp_path, when + '{ "optimizer.use" = "muon" } }') == uses("adamw", "muon")


def test_a_setting_makes_branches_like_a_range(tmp_path: Path) -> None:
    table = '"optimizer.use".choice.sgd."optimizer.momentum" = 0.9\n"optimizer.use".choice.adamw = {}\n'
    table += '"model.position" = { choice = ["rope", "none"] }'
    assert params_of(tmp_path, table) == uses("sgd", "adamw")


def test_choices_within_a_branch_make_branches_of_it(tmp_path: Path) -> None:
    table = f"""
"optimizer.use".choice.adamw."optimizer.lr" = {LR}
"optimizer.use".choice.muon."optimizer.nesterov".choice.true."optimizer.lr" = {LR}
"optimizer.use".choice.muon."optimizer.nesterov".choice.false = {{}}
"""
    branches = find_branches(space_of(tmp_path, table))
    assert [branch.label for branch in branches] == [
        "optimizer.use = adamw",
        "optimizer.use = muon, optimizer.nesterov = true",
        "optimizer.use = muon, optimizer.nesterov = false",
    ]
    assert branches[1].params["optimizer.nesterov"] is True


def test_a_choice_with_one_range_of_names_in_each_branch_keeps_its_conditions(tmp_path: Path) -> None:
    table = """
"optimizer.use".choice.adamw."optimizer.nesterov" = { choice = [true, false] }
"optimizer.use".choice.muon."optimizer.nesterov" = { choice = [true, false] }
"optimizer.lr" = { float = [1e-4, 1e-2], when = { "optimizer.nesterov" = true } }
"""
    branches = find_branches(space_of(tmp_path, table))
    assert [branch.label for branch in branches] == [
        f"optimizer.use = {use}, optimizer.nesterov = {value}"
        for use in ("adamw", "muon")
        for value in ("true", "false")
    ]
    name = "optimizer.nesterov@optimizer.use=muon"
    assert branches[2].params == {"optimizer.use": "muon", name: True}
    for index, branch in enumerate(branches):  # no trial is in two
        assert [other.has(branch.params) for other in branches].count(True) == 1
        assert branch_index(branches, {**branch.params, "optimizer.lr": 1e-3}) == index
    assert branch_index(branches, {"optimizer.use": "muon"}) is None


def test_tables_are_stored_as_optuna_stores_them(tmp_path: Path) -> None:
    table = '"model.mlp" = { choice = ["gelu", { use = "relu2", width = 3.0 }] }'
    branches = find_branches(space_of(tmp_path, table))
    assert [branch.params["model.mlp"] for branch in branches] == ["gelu", '{"use": "relu2", "width": 3.0}']
    stored = json.loads(json.dumps([dict(branch.params) for branch in branches]))
    assert [Branch(params).label for params in stored] == [branch.label for branch in branches]
    assert branches[1].label == 'model.mlp = {"use": "relu2", "width": 3.0}'


def test_a_single_choice_makes_branches_unless_its_values_are_numbers(tmp_path: Path) -> None:
    for values, count in (('["rope", "none"]', 2), ("[true, false]", 2), ('[1, 2, "three"]', 3), ("[0.0, 0.1]", 0)):
        assert len(params_of(tmp_path, f'"model.dropout" = {{ choice = {values} }}\n"optimizer.lr" = {LR}')) == count
    two = '"model.position" = { choice = ["rope", "none"] }\n"model.norm" = { choice = ["layernorm", "rmsnorm"] }\n'
    assert params_of(tmp_path, two) == []
    assert params_of(tmp_path, f'"optimizer.lr" = {LR}', "equal") == []


def test_equal_allocation_takes_every_combination_of_choices_of_equal_rank(tmp_path: Path) -> None:
    table = '"model.dropout" = { choice = [0.0, 0.1, 0.2] }\n"model.norm" = { choice = ["layernorm", "rmsnorm"] }\n'
    assert params_of(tmp_path, table, "equal") == [
        {"model.dropout": dropout, "model.norm": norm}
        for dropout in (0.0, 0.1, 0.2)
        for norm in ("layernorm", "rmsnorm")
    ]


@pytest.mark.parametrize("allocate", ["sampler", "equal"])
def test_a_choice_that_depends_on_a_range_makes_no_branches(allocate: str, tmp_path: Path) -> None:
    table = '"model.n_layer" = { int = [1, 3] }\n'
    table += '"model.norm" = { choice = ["layernorm", "rmsnorm"], when = { "model.n_layer" = 2 } }\n'
    table += '"model.dropout" = { float = [0.0, 0.1], when = { "model.norm" = "rmsnorm" } }\n'
    assert params_of(tmp_path, table, allocate) == []
    names = [{"model.position": name} for name in ("rope", "none")]
    assert params_of(tmp_path, table + '"model.position" = { choice = ["rope", "none"] }', allocate) == names


def test_more_branches_than_a_table_can_show_are_none(tmp_path: Path) -> None:
    for count in (MAX_BRANCHES, MAX_BRANCHES + 1):
        table = f'"model.n_embd" = {{ choice = {list(range(24, 24 + count))} }}'
        assert len(params_of(tmp_path, table, "equal")) == (count if count == MAX_BRANCHES else 0)
