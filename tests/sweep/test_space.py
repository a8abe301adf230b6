"""What [sweep.space] may say, what a user is told where it is wrong, and the experiments that it makes."""

from __future__ import annotations

import itertools
import math
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import optuna
import pytest
import tomli_w
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.sweep.space import endpoints
from nanogpt_kit.sweep.space.endpoints import MAX_FAULTS, EndpointCombinations, check_endpoints, values_as_written
from nanogpt_kit.sweep.space.parameters import Config, Parameter, is_same_value, optuna_choice
from nanogpt_kit.sweep.space.space import Space
from nanogpt_kit.sweep.space.table import read_parameter

BASE = (
    Path(__file__).with_name("base.toml").read_text(encoding="utf-8")
    + """\
[sweep]
[sweep.space]
"""
)  # what a test adds begins at line 24
EXAMPLE = """\
"schedule.warmup_steps" = { int = [5, 50], log = true }
[sweep.space."optimizer.use".choice.adamw]
"optimizer.lr" = { float = [1e-4, 3e-3], log = true }
[sweep.space."optimizer.use".choice.muon]
"optimizer.lr" = { float = [5e-3, 5e-2], log = true }
"model.norm" = "rmsnorm"
"""
ADAMW_OR_SGD = '"optimizer.use" = { choice = ["adamw", "sgd"] }\n'


def space_of(folder: Path, text: str, *overrides: str, base: str = BASE) -> Space:
    path = folder / "exp.toml"
    path.write_text(base + text, encoding="utf-8")
    return Space(Experiment.load(path, overrides, trust_code=True))


def checked(folder: Path, text: str, *overrides: str, base: str = BASE) -> Space:
    space = space_of(folder, text, *overrides, base=base)
    check_endpoints(space)
    return space


def faults_of(folder: Path, text: str, *overrides: str, base: str = BASE) -> list[Fault]:
    """In the order of the file."""
    with pytest.raises(KitError) as refused:
        checked(folder, text, *overrides, base=base)
    return sorted(refused.value.faults, key=lambda fault: (fault.location, fault.key, fault.message))


def faults(folder: Path, text: str, *overrides: str, base: str = BASE) -> list[str]:
    with pytest.raises(KitError) as refused:
        checked(folder, text, *overrides, base=base)
    return [str(fault).replace(f"{folder}/", "") for fault in refused.value.faults]


Expected = tuple[Any, ...]  # of a fault: its line and key, and what its message names


def check_fault(fault: Fault, folder: Path, expected: Expected, prefix: str = "") -> None:
    line, key, *parts = expected
    assert fault.location == f"{folder / 'exp.toml'}:{line}"
    assert fault.key == f"{prefix}{key}".removesuffix(".")
    for part in parts:
        assert part in fault.message


# What a space makes


def test_the_experiment_as_written_is_trial_0(tmp_path: Path) -> None:
    space = space_of(tmp_path, EXAMPLE)
    first = check_endpoints(space)
    assert first == {"schedule.warmup_steps": 5, "optimizer.use": "adamw", "optimizer.lr": 3e-3}
    assert space.experiment(first) == space.base


def test_a_component_of_a_list_may_be_varied_by_its_name(tmp_path: Path) -> None:
    text = '"sampler.temperature" = { float = [0.5, 1.5] }\n"callback.early_stopping.patience" = { int = [2, 6] }\n'
    space = space_of(tmp_path, text, "callback.early_stopping.patience=3")
    first = check_endpoints(space)
    assert first == {"sampler.temperature": 0.8, "callback.early_stopping.patience": 3}
    values = space.experiment({"sampler.temperature": 1.25, "callback.early_stopping.patience": 5}).resolved()
    assert values["sampler"][0] == {"use": "temperature", "value": 1.25}
    assert values["callback"][-1]["patience"] == 5


def test_a_branch_has_its_own_ranges_and_settings(tmp_path: Path) -> None:
    space = checked(tmp_path, EXAMPLE)
    muon = space.experiment({"schedule.warmup_steps": 7, "optimizer.use": "muon", "optimizer.lr": 0.02}).resolved()
    assert (muon["optimizer"]["use"], muon["optimizer"]["lr"], muon["model"]["norm"]["use"]) == (
        "muon",
        0.02,
        "rmsnorm",
    )
    assert muon["schedule"]["warmup_steps"] == 7
    rates = {one.name: (one.low, one.high) for one in space.parameters if one.key == "optimizer.lr"}
    assert sorted(rates.values()) == [(1e-4, 3e-3), (5e-3, 5e-2)]


def test_another_component_does_not_inherit_the_options_of_the_one_before(tmp_path: Path) -> None:
    space = checked(tmp_path, ADAMW_OR_SGD)
    assert "betas" in space.experiment({"optimizer.use": "adamw"}).resolved()["optimizer"]
    assert "betas" not in space.experiment({"optimizer.use": "sgd"}).resolved()["optimizer"]


WRITINGS = {
    "quoted": '"optimizer.lr" = { float = [1e-3, 1e-2] }',
    "dotted": "optimizer.lr = { float = [1e-3, 1e-2] }",
    "half quoted": 'optimizer."lr" = { float = [1e-3, 1e-2] }',
    "spread": "optimizer.lr.float = [1e-3, 1e-2]",
    "a table": "[sweep.space.optimizer.lr]\nfloat = [1e-3, 1e-2]",
    "a table with a quoted name": '[sweep.space."optimizer.lr"]\nfloat = [1e-3, 1e-2]',
    "a table of the slot": "[sweep.space.optimizer]\nlr = { float = [1e-3, 1e-2] }",
    "whole numbers": '"optimizer.lr" = { float = [1e-3, 0.01], log = false }',
}


@pytest.mark.parametrize("writing", WRITINGS)
def test_a_key_may_be_quoted_or_written_as_tables(writing: str, tmp_path: Path) -> None:
    (one,) = checked(tmp_path, WRITINGS[writing]).parameters
    assert (one.key, one.kind, one.low, one.high, one.log) == ("optimizer.lr", "float", 1e-3, 1e-2, False)
    line = 25 if writing == "a table of the slot" else 24
    assert one.location == f"{tmp_path / 'exp.toml'}:{line}"


def test_choices_may_be_words_numbers_lists_and_tables(tmp_path: Path) -> None:
    text = """\
"model.attention" = { choice = ["sdpa", "naive", { use = "sdpa", window = 8 }] }
"optimizer.betas" = { choice = [[0.9, 0.95], [0.8, 0.99]] }
"train.compile" = { choice = ["auto", "off"] }
"model.bias" = { choice = [true, false] }
"sample.prompt" = { choice = ["\\n", "é", "☃"] }
"callback" = { choice = [["console", "tensorboard", "divergence"], []] }
"""
    space = checked(tmp_path, text)
    points = space.points()
    assert points is not None
    assert len(points) == 3 * 2 * 2 * 2 * 3 * 2
    windows = [space.experiment(point).resolved()["model"]["attention"].get("window") for point in points]
    assert windows.count(8) == len(points) / 3
    assert all(space.from_optuna(space.to_optuna(point)) == point for point in points)


def test_the_names_of_branches_are_read_as_values(tmp_path: Path) -> None:
    text = """\
[sweep.space."model.n_layer".choice.2]
[sweep.space."model.n_layer".choice.4]
"model.dropout" = 0.1
[sweep.space."model.bias".choice.true]
[sweep.space."model.bias".choice.false]
"""
    points = checked(tmp_path, text).points()
    assert points is not None
    found = [(point["model.n_layer"], point["model.bias"]) for point in points]
    assert found == [(2, True), (2, False), (4, True), (4, False)]


def test_branches_may_stand_in_branches(tmp_path: Path) -> None:
    text = """\
[sweep.space."optimizer.use".choice.adamw]
[sweep.space."optimizer.use".choice.adamw."schedule.use".choice.cosine]
"schedule.final_fraction" = { float = [0.0, 0.5] }
[sweep.space."optimizer.use".choice.adamw."schedule.use".choice.linear]
[sweep.space."optimizer.use".choice.sgd]
"optimizer.lr" = 0.1
"""
    base = BASE.replace("warmup_steps = 5", "warmup_steps = 5\nfinal_fraction = 0.1")
    space = checked(tmp_path, text, base=base)
    assert [sorted(config) for config in EndpointCombinations(space)] == [
        ["optimizer.use", "schedule.final_fraction", "schedule.use"],
        ["optimizer.use", "schedule.final_fraction", "schedule.use"],
        ["optimizer.use", "schedule.use"],
        ["optimizer.use"],
    ]


def test_a_condition_may_stand_before_what_it_is_about_and_name_several_values(tmp_path: Path) -> None:
    text = '"optimizer.weight_decay" = { float = [0.0, 0.5], when = { "optimizer.use" = ["adamw", "muon"] } }\n'
    text += '"optimizer.use" = { choice = ["adamw", "muon", "sgd"] }'
    space = checked(tmp_path, text)
    assert [one.key for one in space.parameters] == ["optimizer.use", "optimizer.weight_decay"]
    assert ["optimizer.weight_decay" in config for config in EndpointCombinations(space)] == [True] * 4 + [False]


def test_all_conditions_must_hold(tmp_path: Path) -> None:
    text = '"model.n_layer" = { int = [1, 3] }\n"model.bias" = { choice = [true, false] }\n'
    text += '"model.dropout" = { choice = [0.0, 0.5], when = { "model.n_layer" = [2, 3], "model.bias" = false } }\n'
    points = checked(tmp_path, text, "model.bias=true").points()
    assert points is not None
    with_dropout = {(point["model.n_layer"], point["model.bias"]) for point in points if "model.dropout" in point}
    assert with_dropout == {(2, False), (3, False)}


def test_true_is_not_1_in_a_condition(tmp_path: Path) -> None:
    text = '"model.n_layer" = { int = [1, 2] }\n'
    text += '"model.dropout" = { float = [0.0, 0.5], when = { "model.n_layer" = true } }'
    (found,) = faults(tmp_path, text)
    assert "model.dropout: " in found
    assert "model.n_layer being true" in found
    assert "int [1, 2]" in found


def test_a_whole_range_may_vary_an_option_that_takes_any_number(tmp_path: Path) -> None:
    space = space_of(tmp_path, '"train.grad_clip" = { int = [1, 4] }')
    assert check_endpoints(space) == {"train.grad_clip": 1}
    assert space.experiment({"train.grad_clip": 1}) == space.base


def test_steps_are_counted_in_decimals(tmp_path: Path) -> None:
    (one,) = space_of(tmp_path, '"model.dropout" = { float = [0.0, 0.3], step = 0.1 }').parameters
    assert one.values == [0.0, 0.1, 0.2, 0.3]
    assert one.at_fraction(0.99) == 0.3


def test_two_spaces_that_differ_are_described_differently(tmp_path: Path) -> None:
    def described(text: str) -> dict[str, str]:
        return space_of(tmp_path, text).describe()

    one, other = (f'"optimizer.lr" = {{ float = [1e-3, {high}] }}' for high in ("0.0123456789", "0.0123456788"))
    assert described(one) != described(other)
    assert described('"train.batch_tokens" = { int = [480, 1048576], step = 16 }') == {
        "train.batch_tokens": "int [480, 1048576], step 16"
    }
    assert list(described(EXAMPLE).values())[-1] == "= rmsnorm"


def test_ranges_of_one_key_have_names_of_their_own(tmp_path: Path) -> None:
    text = """\
"model.n_layer" = { choice = [1, 2] }
"model.n_head" = { choice = [1, 2, 3] }
"model.dropout" = { choice = [0.0, 2e-1] }
"optimizer.lr" = { float = [1e-3, 1e-2], when = { "model.n_layer" = 1, "model.n_head" = 2 } }
optimizer.lr = { float = [1e-2, 1e-1], when = { "model.n_head" = 1, "model.n_layer" = 2 } }
"""
    space = checked(tmp_path, text)
    assert len({one.name for one in space.parameters}) == 5
    assert {one.name.split("@")[0] for one in space.parameters} == {one.key for one in space.parameters}


def test_a_local_component_may_be_a_choice(tmp_path: Path) -> None:
    code = "from nanogpt_kit.components.norm.rmsnorm import RMSNorm\nclass Own(RMSNorm):\n    width: int = 1\n"
    (tmp_path / "own.py").write_text(code, encoding="utf-8")
    text = '[sweep.space."model.norm.use".choice]\nlayernorm = {}\nown = { "model.norm.width" = { int = [1, 3] } }'
    space = checked(tmp_path, text, base=BASE.replace("[dataset]", 'components = ["own.py"]\n[dataset]', 1))
    points = space.points()
    assert points is not None
    found = [space.experiment(point).resolved()["model"]["norm"] for point in points]
    assert [(norm["use"], norm.get("width")) for norm in found] == [
        ("layernorm", None),
        *(("own", n) for n in (1, 2, 3)),
    ]


# Mistakes in the table

MISTAKES: dict[str, tuple[str, Expected]] = {
    "nothing": ("", (23, "")),
    "reversed bounds": (
        '"optimizer.lr" = { float = [1e-2, 1e-4] }',
        (24, "optimizer.lr", "float", "[0.01, 0.0001]", "[0.0001, 0.01]"),
    ),
    "log over zero": ('"optimizer.lr" = { float = [0, 1e-2], log = true }', (24, "optimizer.lr", "log", "0.0")),
    "log over a negative bound": ('"sample.seed" = { int = [-1, 2], log = true }', (24, "sample.seed", "log", "0")),
    "equal bounds": ('"model.n_layer" = { int = [2, 2] }', (24, "model.n_layer", "2")),
    "log and step": ('"model.n_layer" = { int = [1, 3], log = true, step = 1 }', (24, "model.n_layer", "log", "step")),
    "a step that leads past the end": (
        '"model.n_layer" = { int = [1, 4], step = 2 }',
        (24, "model.n_layer", "steps of 2 from 1", "4; use 3"),
    ),
    "a step that leads past the end by a little": (
        '"model.dropout" = { float = [0.0, 1.0], step = 0.333333333333 }',
        (24, "model.dropout", "0.333333333333 from 0.0", "1.0; use 0.999999999999"),
    ),
    "a step that is too large": (
        '"model.n_layer" = { int = [1, 4], step = 5 }',
        (24, "model.n_layer", "step", "0", "3", "5"),
    ),
    "a step of nothing": ('"model.n_layer" = { int = [1, 4], step = 0 }', (24, "model.n_layer", "step", "0")),
    "a step backwards": ('"model.n_layer" = { int = [1, 4], step = -1 }', (24, "model.n_layer", "step", "0")),
    "half a step": ('"model.n_layer" = { int = [1, 4], step = 0.5 }', (24, "model.n_layer", "step", "0")),
    "a step of no number": ('"model.dropout" = { float = [0.0, 0.5], step = nan }', (24, "model.dropout", "step", "0")),
    "a step in words": ('"model.n_layer" = { int = [1, 4], step = "1" }', (24, "model.n_layer", '"1"')),
    "log in words": ('"optimizer.lr" = { float = [1e-3, 1e-2], log = "yes" }', (24, "optimizer.lr", "true", '"yes"')),
    "bounds in words": (
        '"optimizer.lr" = { float = ["1e-3", 1e-2] }',
        (24, "optimizer.lr", "float", "[low, high]", '["1e-3", 0.01]'),
    ),
    "one bound": ('"optimizer.lr" = { float = [1e-3] }', (24, "optimizer.lr", "float", "[low, high]", "[0.001]")),
    "three bounds": (
        '"optimizer.lr" = { float = [1, 2, 3] }',
        (24, "optimizer.lr", "float", "[low, high]", "[1, 2, 3]"),
    ),
    "no list": ('"optimizer.lr" = { float = 1e-3 }', (24, "optimizer.lr", "float", "[low, high]", "0.001")),
    "booleans for bounds": (
        '"model.n_layer" = { int = [true, 3] }',
        (24, "model.n_layer", "int", "[low, high]", "[true, 3]"),
    ),
    "fractions for whole numbers": (
        '"model.n_layer" = { int = [1.0, 3.0] }',
        (24, "model.n_layer", "int", "[low, high]", "[1.0, 3.0]"),
    ),
    "no number": ('"optimizer.lr" = { float = [nan, 1e-2] }', (24, "optimizer.lr", "float")),
    "infinity": ('"optimizer.lr" = { float = [1e-4, inf] }', (24, "optimizer.lr", "float")),
    "a date": ('"optimizer.lr" = { float = [1979-05-27, 1e-2] }', (24, "optimizer.lr", "float", "[low, high]", "1979")),
    "more than Optuna tells apart": (
        f'"sample.seed" = {{ int = [1, {2**53 + 1}] }}',
        (24, "sample.seed", "int", "[low, high]", "[1, 9007199254740993]"),
    ),
    "more than a float": (
        f'"optimizer.lr" = {{ float = [1, {10**400}] }}',
        (24, "optimizer.lr.float.1", "64"),
    ),
    "a misspelt kind": (
        '"optimizer.lr" = { flaot = [1e-3, 1e-2] }',
        (
            24,
            "optimizer.lr.flaot",
            "{ float = [1e-4, 1e-2], log = true }",
            "{ int = [2, 8] }",
            "{ choice = [...] }",
            "[0.001, 0.01]",
            "'float'",
        ),
    ),
    "a misspelt kind with log": (
        '"optimizer.lr" = { flaot = [1e-3, 1e-2], log = true }',
        (24, "optimizer.lr", "'flaot'", "'float'", "choice", "int", "log", "step"),
    ),
    "a plural": ('"optimizer.use" = { choices = ["adamw", "sgd"] }', (24, "optimizer.use.choices", "'choice'")),
    "a misspelt log": (
        '"optimizer.lr" = { float = [1e-3, 1e-2], lgo = true }',
        (24, "optimizer.lr", "'lgo'", "'log'", "choice", "float", "int", "step"),
    ),
    "two kinds": (
        '"optimizer.lr" = { float = [1e-3, 1e-2], choice = [1e-3, 3e-3] }',
        (24, "optimizer.lr", "float", "int", "choice"),
    ),
    "no kind": ('"optimizer.lr" = { log = true }', (24, "optimizer.lr", "float", "int", "choice")),
    "an empty table": ('"optimizer.lr" = {}', (24, "optimizer.lr", "float", "[1e-4, 1e-2]")),
    "an empty slot": ("[sweep.space.optimizer]", (24, "optimizer", "float", "[1e-4, 1e-2]")),
    "a bare value": ('"optimizer.lr" = 1e-3', (24, "optimizer.lr", "0.001")),
    "a bare list": ('"optimizer.lr" = [1e-3, 1e-2]', (24, "optimizer.lr", "float")),
    "an array of tables": (
        '[[sweep.space."optimizer.lr"]]\nfloat = [1e-3, 1e-2]',
        (24, "optimizer.lr", "float", "[1e-4, 1e-2]"),
    ),
    "one choice": ('"optimizer.use" = { choice = ["adamw"] }', (24, "optimizer.use")),
    "no choice": ('"optimizer.use" = { choice = [] }', (24, "optimizer.use", "choice")),
    "a word for choices": ('"optimizer.use" = { choice = "adamw" }', (24, "optimizer.use", "choice")),
    "one branch": ('[sweep.space."optimizer.use".choice.adamw]', (24, "optimizer.use", '["adamw"]')),
    "a choice with log": (
        '"model.n_layer" = { choice = [1, 2], log = true }',
        (24, "model.n_layer", "choice", "log", "step"),
    ),
    "a choice twice": ('"model.n_layer" = { choice = [1, 2, 1] }', (24, "model.n_layer", "1")),
    "a table twice": (
        '"model.norm" = { choice = [{ use = "rmsnorm" }, { use = "rmsnorm" }] }',
        (24, "model.norm", "twice"),
    ),
    "choices that are one to Optuna": ('"model.bias" = { choice = [1, true] }', (24, "model.bias", "true", "twice")),
    "a branch that is no table": (
        '[sweep.space."optimizer.use".choice]\nadamw = {}\nsgd = 3',
        (24, "optimizer.use", "'sgd'", "3"),
    ),
    "when in words": (
        '"optimizer.use" = { choice = ["adamw", "sgd"] }\n"optimizer.lr" = { float = [1e-3, 1e-2], when = "adamw" }',
        (25, "optimizer.lr", "when", '{ "optimizer.use" = "muon" }', '"adamw"'),
    ),
    "when nothing": (
        (
            '"optimizer.use" = { choice = ["adamw", "sgd"] }\n'
            '"optimizer.lr" = { float = [1e-3, 1e-2], when = { "optimizer.use" = [] } }'
        ),
        (25, "optimizer.lr", "when", "optimizer.use"),
    ),
    "a condition on a missing key": (
        (
            '"optimizer.use" = { choice = ["adamw", "sgd"] }\n'
            '"optimizer.lr" = { float = [1e-3, 1e-2], when = { "optimzer.use" = "adamw" } }'
        ),
        (25, "optimizer.lr", "optimzer.use", "[sweep.space]", "'optimizer.use'"),
    ),
    "a condition on a value that never is": (
        (
            '"optimizer.use" = { choice = ["adamw", "sgd"] }\n'
            '"optimizer.lr" = { float = [1e-3, 1e-2], when = { "optimizer.use" = "adam" } }'
        ),
        (25, "optimizer.lr", "optimizer.use", "choice", '["adamw", "sgd"]'),
    ),
    "a condition on a date": (
        (
            '"optimizer.use" = { choice = ["adamw", "sgd"] }\n'
            '"optimizer.lr" = { float = [1e-3, 1e-2], when = { "optimizer.use" = 1979-05-27 } }'
        ),
        (25, "optimizer.lr"),
    ),
    "a condition on one of endless values": (
        (
            '"optimizer.lr" = { float = [1e-3, 1e-2] }\n'
            '"model.n_layer" = { int = [1, 2], when = { "optimizer.lr" = 3e-3 } }'
        ),
        (25, "model.n_layer", "optimizer.lr", "0.003", "float", "[0.001, 0.01]"),
    ),
    "a condition on itself": (
        '"model.n_layer" = { int = [1, 3], when = { "model.n_layer" = 3 } }',
        (24, "model.n_layer", "[sweep.space]"),
    ),
    "a condition on an option that is not tried": (
        '"optimizer.lr" = { float = [1e-3, 1e-2], when = { "optimizer.use" = "adamw" } }',
        (24, "optimizer.lr", "optimizer.use", "[sweep.space]"),
    ),
    "conditions that exclude each other": (
        (
            '[sweep.space."optimizer.use".choice.adamw]\n'
            '"optimizer.lr" = { float = [1e-3, 1e-2], when = { "optimizer.use" = "sgd" } }\n'
            '[sweep.space."optimizer.use".choice.sgd]'
        ),
        (25, "optimizer.lr", "optimizer.use", "adamw"),
    ),
    "a circle": (
        (
            '"model.n_layer" = { int = [1, 3], when = { "model.n_head" = 3 } }\n'
            '"model.n_head" = { int = [1, 3], when = { "model.n_layer" = 2 } }'
        ),
        (24, "", "model.n_layer", "model.n_head"),
    ),
    "a key twice": (
        '"optimizer.lr" = { float = [1e-3, 1e-2] }\noptimizer.lr = { float = [1e-3, 1e-2] }',
        (25, "optimizer.lr", "twice", "exp.toml:24"),
    ),
    "a key in a branch too": (
        (
            '"optimizer.lr" = { float = [1e-3, 1e-2] }\n'
            '[sweep.space."optimizer.use".choice.adamw]\n'
            '"optimizer.lr" = 3e-3\n'
            '[sweep.space."optimizer.use".choice.sgd]'
        ),
        (26, "optimizer.lr", "twice", "exp.toml:24"),
    ),
    "a slot and its use": (
        (
            '"model.norm" = { choice = ["layernorm", "rmsnorm"] }\n'
            '"model.norm.use" = { choice = ["layernorm", "rmsnorm"] }'
        ),
        (25, "model.norm.use", "twice", "exp.toml:24"),
    ),
    "a key of the sweep": ('"sweep.trials" = { int = [1, 20] }', (24, "sweep.trials")),
    "the name": ('"name" = { choice = ["x", "y"] }', (24, "name")),
    "component files": ('"components" = { choice = [[], ["a.py"]] }', (24, "components")),
    "the base": ('"extends" = { choice = ["a.toml", "b.toml"] }', (24, "extends")),
    "the seed": ('"train.seed" = { int = [1, 2000] }', (24, "train.seed", "train.seed", "1")),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_table_is_told_with_line_key_and_remedy(mistake: str, tmp_path: Path) -> None:
    text, expected = MISTAKES[mistake]
    (fault,) = faults_of(tmp_path, text)
    check_fault(fault, tmp_path, expected, "sweep.space.")


def test_all_mistakes_of_the_table_are_told_at_once(tmp_path: Path) -> None:
    text = """\
"optimizer.lr" = { float = [1e-2, 1e-4] }
"model.n_layer" = { int = [1, 4], step = 2 }
"optimizer.use".choice = { adamw = { "optimizer.eps" = { float = [0, 1], log = true } }, sgd = {} }
model.dropout = 3
"""
    found = [fault.split(": ")[:2] for fault in faults(tmp_path, text)]
    keys = ["optimizer.lr", "model.n_layer", "optimizer.eps", "model.dropout"]
    assert found == [[f"exp.toml:{line}", f"sweep.space.{key}"] for line, key in enumerate(keys, start=24)]


def test_all_mistakes_between_keys_are_told_at_once(tmp_path: Path) -> None:
    text = """\
"train.seed" = { int = [1, 4] }
"model.n_layer" = { int = [1, 4], when = { "model.heads" = 1 } }
"optimizer.lr" = { float = [1e-3, 1e-2] }
optimizer.lr = { float = [1e-3, 1e-2] }
"""
    assert [fault.split(": ")[0] for fault in faults(tmp_path, text)] == ["exp.toml:24", "exp.toml:25", "exp.toml:27"]


# Mistakes in what it makes

UNFIT: dict[str, tuple[str, list[Expected]]] = {
    "an unknown key": ('"train.stepz" = { int = [10, 20] }', [(24, "train.stepz", "'steps'")]),
    "an unknown table": ('"modl.n_layer" = { int = [1, 2] }', [(24, "modl", "'model'")]),
    "an empty part": ('"model..n_layer" = { int = [1, 2] }', [(24, "model.")]),
    "an empty key": ('"" = { int = [1, 2] }', [(24, "")]),
    "a dot at the end": (
        '"model.n_layer." = { int = [1, 2] }',
        [(24, "model.n_layer", "{'': 1}"), (24, "model.n_layer", "{'': 2}")],
    ),
    "a key that is not ASCII": ('"modèle.n_layer" = { int = [1, 2] }', [(24, "modèle", "'model'")]),
    "a part of a number": ('"train.steps.x" = { choice = [1, 2] }', [(24, "train.steps"), (24, "train.steps")]),
    "a part of a default": (
        '"train.precision.x" = { choice = [1, 2] }',
        [(24, "train.precision", "'auto'"), (24, "train.precision", "'auto'")],
    ),
    "an element that is not there": (
        '"optimizer.betas.7" = { float = [0.9, 0.99] }',
        [(24, "optimizer.betas", "0", "1", "'7'")],
    ),
    "a table that is not there": ('"sampler.7.k" = { int = [1, 2] }', [(24, "sampler")]),
    "a word for an element": ('"sampler.k" = { int = [1, 2] }', [(24, "sampler", "0", "1", "'k'")]),
    "a component that is not installed": (
        '"optimizer.use" = { choice = ["adamw", "adamq"] }',
        [(24, "optimizer.use", "'adamq'", "'adamw'")],
    ),
    "a branch of a component that is not installed": (
        '[sweep.space."optimizer.use".choice.adamw]\n[sweep.space."optimizer.use".choice."[sgd"]',
        [(24, "optimizer.use", "'[sgd'", "'sgd'")],
    ),
    "slots of all sorts": (
        '"model.attention" = { choice = ["sdpa", "niave", { use = "sdpa", wndow = 8 }, 3] }',
        [
            (24, "model.attention", "3"),
            (24, "model.attention.use", "'niave'", "'naive'"),
            (24, "model.attention.wndow", "'window'"),
        ],
    ),
    "fractions for a whole number": (
        '"model.n_layer" = { float = [1, 3] }',
        [(24, "model.n_layer", "1.0"), (24, "model.n_layer", "3.0")],
    ),
    "below the option's own bounds": ('"model.n_layer" = { int = [0, 4] }', [(24, "model.n_layer", "1", "0")]),
    "above an element's own bounds": (
        '"optimizer.betas.1" = { float = [0.9, 1.5] }',
        [(24, "optimizer.betas.1", "1.5")],
    ),
    "no number among choices": ('"optimizer.lr" = { choice = [nan, 3e-3] }', [(24, "optimizer.lr")]),
    "a date among choices": ('"optimizer.lr" = { choice = [3e-3, 1979-05-27] }', [(24, "optimizer.lr", "1979-05-27")]),
    "heads that do not share": (
        '"model.n_embd" = { int = [24, 25] }\n"model.n_head" = { choice = [3, 4] }',
        [(24, "model.n_embd", "3", "25"), (24, "model.n_embd", "4", "25", "(with model.n_head = 4)")],
    ),
    "a batch of broken windows": (
        '"model.block_size" = { choice = [16, 32, 64] }\n"model.dropout" = { float = [0.0, 0.1] }',
        [(24, "model.block_size", "train.batch_tokens (480)", "model.block_size (64)", "512")],
    ),
    "an endpoint of one branch": (
        (
            '[sweep.space."optimizer.use".choice.adamw]\n'
            '"optimizer.lr" = { float = [0.0, 1e-2] }\n'
            '[sweep.space."optimizer.use".choice.sgd]\n'
            '"optimizer.lr" = { float = [-1.0, 1.0] }'
        ),
        [(25, "optimizer.lr", "0.0"), (27, "optimizer.lr", "1.0")],
    ),
    "a setting of one branch": (
        '[sweep.space."optimizer.use".choice.adamw]\n[sweep.space."optimizer.use".choice.sgd]\n"optimizer.betas" = 3',
        [(26, "optimizer.betas")],
    ),
    "a misspelt kind in a branch": (
        (
            '[sweep.space."optimizer.use".choice.adamw]\n'
            '"optimizer.lr" = { flaot = [1e-3, 1e-2] }\n'
            '[sweep.space."optimizer.use".choice.sgd]'
        ),
        [(25, "optimizer.lr", "{'flaot': [0.001, 0.01]}")],
    ),
    "what is tried between two endpoints": (
        '"model.n_layer" = { int = [1, 4] }\n"optimizer.rl" = { float = [0.1, 1], when = { "model.n_layer" = 3 } }',
        [(25, "optimizer.rl")],
    ),
    "several at once": (
        '"train.stepz" = { int = [1, 2] }\n"optimizer.lr" = { float = [-1, 1] }\n"model.n_layer" = { int = [0, 2] }',
        [(24, "train.stepz"), (25, "optimizer.lr"), (26, "model.n_layer")],
    ),
}


@pytest.mark.parametrize("mistake", UNFIT)
def test_values_that_make_no_experiment_are_told_with_the_line_of_the_space(mistake: str, tmp_path: Path) -> None:
    text, expected = UNFIT[mistake]
    for fault, one in zip(faults_of(tmp_path, text), expected, strict=True):
        if one[1] == "model.":  # its key ends in a dot
            assert fault.key == "model."
        else:
            check_fault(fault, tmp_path, one)


def test_many_faults_are_counted(tmp_path: Path) -> None:
    layers = ", ".join(map(str, range(2, -20, -1)))
    found = faults(tmp_path, f'"model.n_layer" = {{ choice = [{layers}] }}')
    assert len(found) == MAX_FAULTS + 1
    assert found[-1] == "and 12 more"


OUTSIDE: dict[str, tuple[str, Expected]] = {
    "a number": (
        '"optimizer.lr" = { float = [4e-3, 1e-2] }',
        (24, "optimizer.lr", "optimizer.lr", "0.003", "float", "[0.004, 0.01]"),
    ),
    "a default": (
        '"train.grad_clip" = { float = [2, 4] }',
        (24, "train.grad_clip", "train.grad_clip", "1.0", "float", "2.0"),
    ),
    "a number between two steps": (
        '"train.steps" = { int = [5, 25], step = 10 }',
        (24, "train.steps", "train.steps", "20", "int", "[5, 25]"),
    ),
    "a component": (
        '"optimizer.use" = { choice = ["sgd", "muon"] }',
        (24, "optimizer.use", "optimizer.use", "adamw", "choice"),
    ),
    "a slot": (
        '"model.norm" = { choice = ["rmsnorm", { use = "layernorm", eps = 1e-3 }] }',
        (24, "model.norm", "model.norm.use", "layernorm"),
    ),
    "a list": (
        '"optimizer.betas" = { choice = [[0.8, 0.95], [0.8, 0.9]] }',
        (24, "optimizer.betas", "optimizer.betas", "[0.9, 0.95]"),
    ),
    "what is not set": (
        '"train.micro_batch_size" = { choice = [1, "auto"] }',
        (24, "train.micro_batch_size", "0", "choice", '[1, "auto"]'),
    ),
    "two choices that are one": (
        '"model.norm" = { choice = ["layernorm", { use = "layernorm" }, "rmsnorm"] }',
        (24, "model.norm", '{"use": "layernorm"}', "choice"),
    ),
    "a setting": (
        (
            '[sweep.space."optimizer.use".choice.adamw]\n'
            '"model.norm" = "rmsnorm"\n'
            '[sweep.space."optimizer.use".choice.sgd]\n'
            '"model.norm" = "layernorm"'
        ),
        (25, "model.norm", "rmsnorm", "optimizer.use", "adamw", "0"),
    ),
}


@pytest.mark.parametrize("mistake", OUTSIDE)
def test_an_experiment_outside_of_its_space_is_told(mistake: str, tmp_path: Path) -> None:
    text, expected = OUTSIDE[mistake]
    (fault,) = faults_of(tmp_path, text)
    check_fault(fault, tmp_path, expected, "sweep.space.")


def test_an_experiment_may_be_outside_of_a_branch_that_it_is_not_in(tmp_path: Path) -> None:
    checked(tmp_path, EXAMPLE)
    (found,) = faults(tmp_path, EXAMPLE, "optimizer.lr=0.01")
    assert found.startswith("exp.toml:26: sweep.space.optimizer.lr: ")
    assert "optimizer.lr = 0.01" in found


def test_all_keys_that_the_experiment_is_outside_of_are_told_at_once(tmp_path: Path) -> None:
    found = faults(tmp_path, '"optimizer.lr" = { float = [1, 2] }\n"train.steps" = { int = [1, 2] }')
    assert [fault.split(": ")[1] for fault in found] == ["sweep.space.optimizer.lr", "sweep.space.train.steps"]


def test_parts_that_cannot_be_put_together_are_told(tmp_path: Path) -> None:
    text = '"model.n_head" = { choice = [3, 8] }\n"model.position" = { choice = ["learned", "rope"] }'
    found = faults(tmp_path, text)  # rope turns pairs of a head's channels: 24 / 8 is odd
    assert len(found) == 1
    assert "rope" in found[0] or "even" in found[0]
    assert "model.n_head = 8" in found[0]


# The machine

ELSEWHERE: dict[str, tuple[str, Expected]] = {  # what this machine cannot do, on a CPU
    "an attention": ('"model.attention" = { choice = ["sdpa", "flex"] }', (24, "model.attention", "flex", "cpu")),
    "an attention in a branch": (
        (
            '[sweep.space."model.n_layer".choice.2]\n'
            '[sweep.space."model.n_layer".choice.3]\n'
            '"model.attention" = { use = "flex", window = 4 }'
        ),
        (26, "model.attention", "flex", "cpu", "(with model.n_layer = 3)"),
    ),
    "an attention's kernel": (
        '"model.n_head" = { choice = [2, 3] }\n"model.attention.backend" = { choice = ["auto", "cudnn"] }',
        (25, "model.attention", "'cudnn'", "cuda", "cpu", "auto", "math", "(with model.attention.backend = cudnn)"),
    ),
    "an evaluator of a split that is not there": (
        '"evaluator" = { choice = [["loss", "bits_per_byte"], ["loss", { use = "loss", split = "test" }]] }',
        (24, "evaluator.1", "'test'", "Allowed: train, val."),
    ),
    "a precision": ('"train.precision" = { choice = ["auto", "tf32"] }', (24, "train.precision", "'tf32'", "cpu")),
    "a device": ('"train.device" = { choice = ["cpu", "mps"] }', (24, "train.device", "'mps'")),
}


@pytest.mark.parametrize("mistake", ELSEWHERE)
def test_what_this_machine_cannot_do_is_told_with_the_line_that_chose_it(mistake: str, tmp_path: Path) -> None:
    if mistake == "a device" and torch.backends.mps.is_available():
        pytest.skip("this machine has it")
    text, expected = ELSEWHERE[mistake]
    (fault,) = faults_of(tmp_path, text, "train.device=cpu")
    check_fault(fault, tmp_path, expected)


def test_what_the_experiment_itself_chose_is_not_blamed_on_the_space(tmp_path: Path) -> None:
    base = BASE.replace("block_size = 16", 'block_size = 16\nattention = { use = "flex", window = 4 }')
    text = '"model.n_layer" = { choice = [1, 2] }\n"model.attention.window" = { int = [4, 8] }'
    (found,) = faults(tmp_path, text, "train.device=cpu", base=base)
    assert found.startswith("exp.toml:12: model.attention: flex ")
    assert "with model" not in found


def test_a_trial_has_as_many_processes_as_it_is_started_with(tmp_path: Path) -> None:
    space = space_of(tmp_path, '"parallel" = { choice = ["ddp", "single"] }', "parallel=ddp", "train.device=cpu")
    check_endpoints(space)
    with pytest.raises(KitError) as refused:
        check_endpoints(space, nproc=2)
    (fault,) = refused.value.faults
    assert str(fault).startswith(f"{tmp_path / 'exp.toml'}:24: parallel: single ")
    assert "2" in fault.message


def test_a_part_that_was_found_right_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    check_context = Experiment.check_context
    monkeypatch.setattr(
        Experiment, "check_context", lambda self, ctx: asked.append(ctx.block_size) or check_context(self, ctx)
    )
    checked(tmp_path, '"train.steps" = { int = [10, 20], step = 5 }\n"model.block_size" = { choice = [16, 32] }')
    assert asked == [16, 32]


# Layers


def test_a_space_is_composed_from_base_and_child(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(BASE + '"optimizer.lr" = { float = [1e-3, 1e-2] }', encoding="utf-8")
    child = (
        'extends = "base.toml"\n[sweep.space]\n"model.n_layer" = { int = [1, 3] }\n"optimizer.lr" = { log = true }\n'
    )
    space = checked(tmp_path, child, base="")
    assert {one.key: (one.kind, one.log) for one in space.parameters} == {
        "optimizer.lr": ("float", True),
        "model.n_layer": ("int", False),
    }


def test_a_fault_of_a_composed_space_names_the_file_that_made_it(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(BASE + '"optimizer.lr" = { float = [1e-2, 1e-3] }', encoding="utf-8")
    child = 'extends = "base.toml"\n[sweep.space]\n"model.n_layer" = { int = [3, 1] }\n'
    found = faults(tmp_path, child, base="")
    assert [fault.split(": ")[:2] for fault in found] == [
        ["base.toml:24", "sweep.space.optimizer.lr"],
        ["exp.toml:3", "sweep.space.model.n_layer"],
    ]


def test_another_kind_in_the_child_is_told(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(BASE + '"optimizer.lr" = { float = [1e-3, 1e-2] }', encoding="utf-8")
    child = 'extends = "base.toml"\n[sweep.space]\n"optimizer.lr" = { choice = [1e-3, 3e-3] }\n'
    (found,) = faults(tmp_path, child, base="")
    assert found.startswith("exp.toml:3: sweep.space.optimizer.lr: ")
    assert "float and choice" in found


def test_a_key_that_base_and_child_write_differently_is_told_with_both_places(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(BASE + '"optimizer.lr" = { float = [1e-3, 1e-2] }', encoding="utf-8")
    child = 'extends = "base.toml"\n[sweep.space]\noptimizer.lr = { float = [1e-3, 1e-2] }\n'
    (found,) = faults(tmp_path, child, base="")
    assert found.startswith("exp.toml:3: sweep.space.optimizer.lr: ")
    assert "base.toml:24" in found


def test_a_child_may_try_other_components_with_the_rates_of_its_base(tmp_path: Path) -> None:
    table = '[sweep.space.optimizer]\nuse = { choice = ["adamw", "sgd"] }\nlr = { float = [1e-3, 1e-2] }\n'
    (tmp_path / "base.toml").write_text(BASE + table, encoding="utf-8")
    child = 'extends = "base.toml"\n[sweep.space.optimizer]\nuse = { choice = ["adamw", "muon"] }\n'
    space = checked(tmp_path, child, base="")
    assert [str(one) for one in space.parameters] == ['choice ["adamw", "muon"]', "float [0.001, 0.01]"]


@pytest.mark.parametrize("written", ["when = {}", "choice = [1, 2]", "choice = [1, 2, 3, 4, 5]"])
def test_a_child_may_put_branches_under_a_key_of_its_base(written: str, tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(BASE + f'"model.n_layer" = {{ {written} }}\n', encoding="utf-8")
    child = 'extends = "base.toml"\n[sweep.space."model.n_layer".choice]\n2 = {}\n4 = { "model.dropout" = 0.1 }\n'
    space = checked(tmp_path, child, base="")
    assert space.describe() == {"model.n_layer": "choice [2, 4]", "model.dropout, where model.n_layer is 4": "= 0.1"}


def test_a_space_may_be_changed_on_the_command_line(tmp_path: Path) -> None:
    space = checked(tmp_path, EXAMPLE, 'sweep.space."schedule.warmup_steps".int=[2, 5]')
    assert (space.parameters[0].low, space.parameters[0].high) == (2, 5)
    (found,) = faults(tmp_path, EXAMPLE, 'sweep.space."schedule.warmup_steps".int=[5, 2]')
    assert found.startswith("command line: sweep.space.schedule.warmup_steps: ")
    assert "[2, 5]" in found
    space = checked(tmp_path, EXAMPLE, 'sweep.space."schedule.warmup_steps".int.1=20')
    assert (space.parameters[0].low, space.parameters[0].high) == (5, 20)


# Large spaces

LARGE = """\
"optimizer.lr" = { float = [1e-4, 1e-2], log = true }
"optimizer.eps" = { float = [1e-9, 1e-7], log = true }
"optimizer.weight_decay" = { float = [0.0, 0.3] }
"optimizer.betas.0" = { float = [0.8, 0.95] }
"optimizer.betas.1" = { float = [0.9, 0.99] }
"schedule.warmup_steps" = { int = [1, 10] }
"schedule.final_fraction" = { float = [0.0, 0.5] }
"train.grad_clip" = { float = [0.5, 2.0] }
"train.steps" = { int = [10, 20], step = 5 }
"train.batch_tokens" = { int = [160, 480], step = 160 }
"evaluate.every_steps" = { int = [500, 1500] }
"model.dropout" = { float = [0.0, 0.2], step = 0.1 }
"model.bias" = { choice = [true, false] }
"model.n_layer" = { int = [1, 2] }
"model.n_head" = { choice = [1, 2, 3] }
"model.norm" = { choice = ["layernorm", "rmsnorm"] }
"model.mlp" = { choice = ["gelu", "swiglu"] }
"model.attention" = { choice = ["sdpa", "naive"] }
"model.attention.window" = { int = [4, 8], when = { "model.norm.eps" = 1e-4, "model.attention" = "sdpa" } }
"model.norm.eps" = { choice = [1e-5, 1e-4], when = { "model.mlp" = "swiglu" } }
"""
LARGE_BASE = BASE.replace("betas", "weight_decay = 0.1\nbetas")


@pytest.fixture
def fewer_combinations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Still more than enough for every pair of values."""
    monkeypatch.setattr(endpoints, "MAX_COMBINATIONS", 150)


@pytest.mark.usefixtures("fewer_combinations")
def test_a_space_of_twenty_keys_is_looked_at_from_every_endpoint(tmp_path: Path) -> None:
    space = checked(tmp_path, LARGE)
    assert space.points() is None
    assert len(space.parameters) == 20
    corners = list(EndpointCombinations(space))
    for one in space.parameters:
        for value in one.endpoints:
            assert any(one.is_active(corner) and is_same_value(corner[one.key], value) for corner in corners)
    pairs = itertools.combinations([("optimizer.lr", 1e-2), ("model.n_layer", 2), ("model.bias", False)], 2)
    assert all(any(corner[a] == x and corner[b] == y for corner in corners) for (a, x), (b, y) in pairs)


@pytest.mark.usefixtures("fewer_combinations")
def test_a_fault_in_a_large_space_is_told_with_just_the_values_that_it_takes(tmp_path: Path) -> None:
    (found,) = faults(tmp_path, LARGE.replace("160, 480", "160, 481").replace("step = 160 }", "step = 321 }"))
    assert found.startswith("exp.toml:33: train.batch_tokens: ")
    assert "481" in found
    assert "(with" not in found


@pytest.mark.usefixtures("fewer_combinations")
def test_what_hangs_on_a_chain_of_conditions_is_looked_at_in_a_large_space(tmp_path: Path) -> None:
    (found,) = faults(tmp_path, LARGE.replace("[4, 8]", "[4, -8]").replace("[4, -8]", "[-8, 4]"))
    assert found.startswith("exp.toml:42: model.attention.window: ")
    assert "-8" in found


# Whatever the values


EXAMPLES = settings().max_examples  # of hypothesis' profile
ALL_KINDS = ("choice", "int", "int log", "int step", "float", "float log", "float step")


@st.composite
def parameters(draw: st.DrawFn, kinds: tuple[str, ...] = ALL_KINDS, most: int = 10**4) -> Parameter:
    """A valid one, of at most so many steps."""
    kind = draw(st.sampled_from(kinds))
    table: dict[str, Any]
    if kind == "choice":
        scalars = st.integers(2, 10**6) | st.text(max_size=4) | st.lists(st.integers(0, 9), max_size=3)
        table = {"choice": draw(st.lists(scalars, min_size=2, max_size=5, unique_by=repr))}
    elif kind.startswith("int"):
        low = draw(st.integers(1, 10**6) if "log" in kind else st.integers(-(2**52), 2**52))
        step = draw(st.integers(1, 10**4))
        high = low + (step if "step" in kind else 1) * draw(st.integers(1, most))
        table = {"int": [low, high], **({"step": step} if "step" in kind else {"log": "log" in kind})}
    elif kind == "float step":
        scale = Decimal(10) ** -draw(st.integers(0, 9))
        start, step = draw(st.integers(-(10**4), 10**4)), draw(st.integers(1, 10**4))
        high = start + step * draw(st.integers(1, most))
        table = {"float": [float(start * scale), float(high * scale)], "step": float(step * scale)}
    else:
        magnitudes = st.floats(1e-30, 1e15) if "log" in kind else st.floats(-1e15, 1e15)
        bounds = sorted(draw(st.lists(magnitudes, min_size=2, max_size=2, unique=True)))
        table = {"float": bounds, "log": "log" in kind}
    one = read_parameter("a.b", table, (), "exp.toml:1")
    return Parameter(**{**vars(one), "name": "a.b"})


@settings(max_examples=4 * EXAMPLES)
@given(parameters(), st.floats(0, 1, exclude_max=True))
def test_a_share_of_a_range_is_held_by_it_and_by_optuna(one: Parameter, share: float) -> None:
    for value in (one.at_fraction(share), one.at_fraction(0.0), one.at_fraction(math.nextafter(1, 0)), *one.endpoints):
        assert one.contains(value)
        told = one.distribution().to_internal_repr(optuna_choice(value) if one.kind == "choice" else value)
        assert one.distribution()._contains(told)
        assert is_same_value(one.from_optuna(one.distribution().to_external_repr(told)), value)
    if one.kind == "float" and one.step is None:  # but for the last digits
        tiny = 1e-12 * max(abs(one.low), abs(one.high))
        assert math.isclose(one.at_fraction(0.0), one.low, rel_tol=1e-12, abs_tol=0 if one.log else tiny)
        assert math.isclose(
            one.at_fraction(math.nextafter(1, 0)), one.high, rel_tol=1e-12, abs_tol=0 if one.log else tiny
        )
        return
    assert is_same_value(one.at_fraction(0.0), one.endpoints[0])
    assert is_same_value(one.at_fraction(math.nextafter(1, 0)), one.endpoints[-1])


@settings(max_examples=2 * EXAMPLES)
@given(parameters(("int", "int step", "float step"), 100))
def test_every_value_of_a_finite_range_has_a_share_of_it(one: Parameter) -> None:
    values = list(one.values or ())
    count = len(values)
    assert [one.at_fraction((number + 0.5) / count) for number in range(count)] == values


PIECES = [
    '"optimizer.lr" = { float = [1e-3, 1e-2], log = true }',
    '"model.n_layer" = { int = [1, 3] }',
    '"model.n_layer" = { choice = [2, 1] }',
    '"model.dropout" = { float = [0.0, 0.3], step = 0.1 }',
    '"model.norm" = { choice = ["layernorm", "rmsnorm", { use = "rmsnorm", eps = 1e-3 }] }',
    '"schedule.warmup_steps" = { int = [5, 15], step = 5, when = { "model.n_layer" = [1, 2] } }',
    '"train.grad_clip" = { choice = [1.0, 0.0], when = { "model.dropout" = 0.3 } }',
    '"optimizer.betas" = { choice = [[0.9, 0.95], [0.8, 0.99]], when = { "optimizer.use" = "adamw" } }',
    '"optimizer.use".choice = { adamw = { train.steps = { int = [20, 40], step = 20 } }, sgd = { train.steps = 30 } }',
    '"optimizer.use" = { choice = ["muon", "adamw", "sgd"] }',
    '"schedule.use".choice = { cosine = {}, linear = { "schedule.warmup_steps" = { int = [1, 4], log = true } } }',
]


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=5, unique=True), st.integers(0, 9999))
def test_whatever_a_valid_space_gives_is_an_experiment_and_comes_back_from_optuna(pieces: list[str], seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            space = space_of(Path(folder), "\n".join(pieces))
            first = values_as_written(space)
        except KitError:  # a key twice, or a condition on one that is not there
            return
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        drawn: list[Config] = []
        for _ in range(3):
            trial = study.ask()
            drawn.append(space.suggest(trial))
            assert space.from_optuna(trial.params) == drawn[-1]
        for config in (
            first,
            *drawn,
            *itertools.islice(EndpointCombinations(space), 10),
            *itertools.islice(space.points() or [], 10),
        ):
            assert list(config) == [one.key for one in space.parameters if one.is_active(config)]
            assert space.from_optuna(space.to_optuna(config)) == config
            space.experiment(config)
        points = space.points()
        assert points is None or all(points.count(config) == 1 for config in (first, *drawn))


def test_optuna_is_asked_for_active_keys_only(tmp_path: Path) -> None:
    space = checked(tmp_path, EXAMPLE)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    seen = set()
    for _ in range(20):
        trial = study.ask()
        config = space.suggest(trial)
        assert list(config) == ["schedule.warmup_steps", "optimizer.use", "optimizer.lr"]
        assert len(trial.params) == 3
        low, high = (1e-4, 3e-3) if config["optimizer.use"] == "adamw" else (5e-3, 5e-2)
        assert low <= config["optimizer.lr"] <= high
        seen.add(config["optimizer.use"])
    assert seen == {"adamw", "muon"}


def test_trial_0_is_taken_from_the_queue_as_it_is(tmp_path: Path) -> None:
    space = space_of(
        tmp_path, EXAMPLE + '"model.dropout" = 0.1\n[sweep.space.train]\nsteps = { int = [10, 30], step = 10 }'
    )
    first = check_endpoints(space)
    study = optuna.create_study()
    study.enqueue_trial(space.to_optuna(first))
    assert space.experiment(space.suggest(study.ask())) == space.base


@settings(max_examples=2 * EXAMPLES)
@given(
    st.dictionaries(
        st.sampled_from(["float", "int", "choice", "log", "step", "when", "flaot"]),
        st.recursive(
            st.sampled_from([0, 1, 2, -1, 0.5, True, "", "adamw", "1979-05-27", float("nan"), float("inf"), 10**30]),
            lambda part: (
                st.lists(part, max_size=3) | st.dictionaries(st.sampled_from(["", "1", "[x", "a.b"]), part, max_size=2)
            ),
            max_leaves=4,
        ),
        max_size=4,
    )
)
def test_whatever_stands_in_the_table_is_read_or_told_with_its_place(table: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        told: list[Fault] = []
        try:
            checked(path, tomli_w.dumps({"sweep": {"space": {"optimizer.lr": table}}}), base=BASE.split("[sweep]")[0])
        except KitError as error:
            told.extend(error.faults)
        for fault in told:
            assert fault.location.startswith(str(path / "exp.toml")) or "more" in fault.message


CHOICE = """\
[sweep.space."model.attention"]
choice = ["sdpa", ["sdpa", { use = "sdpa", window = 8 }], [{ use = "sdpa", window = 8 }, "naive"]]
"""


def test_a_space_addresses_a_component_of_a_list_of_parts(tmp_path: Path) -> None:
    key = "model.attention.0.window"
    space = checked(tmp_path, f'"{key}" = {{ int = [2, 9] }}\n', 'model.attention=[{use="sdpa", window=8}, "sdpa"]')
    assert values_as_written(space) == {key: 8}
    first, second = space.experiment({key: 3}).resolved()["model"]["attention"]
    assert (first["window"], second.get("window")) == (3, None)


def test_a_choice_may_be_a_whole_list_of_parts(tmp_path: Path) -> None:
    space = checked(tmp_path, CHOICE)
    (parameter,) = space.parameters
    assert values_as_written(space) == {"model.attention": "sdpa"}
    assert [
        space.experiment({"model.attention": one}).resolved()["model"]["attention"] for one in parameter.choices
    ] == [
        {"use": "sdpa", "backend": "auto"},
        [{"use": "sdpa", "backend": "auto"}, {"use": "sdpa", "window": 8, "backend": "auto"}],
        [{"use": "sdpa", "window": 8, "backend": "auto"}, {"use": "naive"}],
    ]
    for choice in parameter.choices:  # it comes back from Optuna as it was
        assert space.from_optuna(space.to_optuna({"model.attention": choice})) == {"model.attention": choice}


def test_components_of_a_list_of_parts_make_branches(tmp_path: Path) -> None:
    text = """\
[sweep.space."model.attention.1.use".choice.sdpa]
"optimizer.lr" = { float = [1e-4, 1e-2], log = true }
[sweep.space."model.attention.1.use".choice.naive]
"model.attention.1.window" = { int = [2, 5] }
"""
    space = checked(tmp_path, text, 'model.attention=["naive", "sdpa"]')
    config = {"model.attention.1.use": "naive", "model.attention.1.window": 4}
    assert space.experiment(config).resolved()["model"]["attention"] == [
        {"use": "naive"},
        {"use": "naive", "window": 4},
    ]
