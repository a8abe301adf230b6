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
from nanogpt_kit.sweep.space.endpoints import MOST_FAULTS, Corners, written
from nanogpt_kit.sweep.space.parameters import Config, Parameter, label, parameter, same
from nanogpt_kit.sweep.space.space import Space, endpoints

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
    endpoints.check(space)
    return space


def faults(folder: Path, text: str, *overrides: str, base: str = BASE) -> list[str]:
    with pytest.raises(KitError) as refused:
        checked(folder, text, *overrides, base=base)
    return [str(fault).replace(f"{folder}/", "") for fault in refused.value.faults]


# What a space makes


def test_the_experiment_as_written_is_trial_0(tmp_path: Path) -> None:
    space = space_of(tmp_path, EXAMPLE)
    first = endpoints.check(space)
    assert first == {"schedule.warmup_steps": 5, "optimizer.use": "adamw", "optimizer.lr": 3e-3}
    assert space.experiment(first) == space.base


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
"callback" = { choice = [["console", "tensorboard"], []] }
"""
    space = checked(tmp_path, text)
    points = space.points()
    assert points is not None
    assert len(points) == 3 * 2 * 2 * 2 * 3 * 2
    windows = [space.experiment(point).resolved()["model"]["attention"].get("window") for point in points]
    assert windows.count(8) == len(points) / 3
    assert all(space.config(space.params(point)) == point for point in points)


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
    assert [sorted(config) for config in Corners(space)] == [
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
    assert ["optimizer.weight_decay" in config for config in Corners(space)] == [True] * 4 + [False]


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
    assert "model.dropout: is tried where model.n_layer is true, and it never is: int [1, 2]" in found


def test_a_whole_range_may_vary_an_option_that_takes_any_number(tmp_path: Path) -> None:
    space = space_of(tmp_path, '"train.grad_clip" = { int = [1, 4] }')
    assert endpoints.check(space) == {"train.grad_clip": 1}
    assert space.experiment({"train.grad_clip": 1}) == space.base


def test_steps_are_counted_in_decimals(tmp_path: Path) -> None:
    (one,) = space_of(tmp_path, '"model.dropout" = { float = [0.0, 0.3], step = 0.1 }').parameters
    assert one.values == [0.0, 0.1, 0.2, 0.3]
    assert one.at(0.99) == 0.3


def test_two_spaces_that_differ_are_described_differently(tmp_path: Path) -> None:
    def described(text: str) -> dict[str, str]:
        return space_of(tmp_path, text).described()

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

MISTAKES = {
    "nothing": (
        "",
        "23: sweep.space: is empty, so there is nothing to try; give it a key with its values, such as",
    ),
    "reversed bounds": (
        '"optimizer.lr" = { float = [1e-2, 1e-4] }',
        "24: sweep.space.optimizer.lr: the bounds are reversed: float = [0.01, 0.0001]; write [0.0001, 0.01]",
    ),
    "log over zero": (
        '"optimizer.lr" = { float = [0, 1e-2], log = true }',
        "24: sweep.space.optimizer.lr: log wants bounds above 0, and the lower one is 0.0; raise it, or leave out log",
    ),
    "log over a negative bound": ('"sample.seed" = { int = [-1, 2], log = true }', "log wants bounds above 0"),
    "equal bounds": (
        '"model.n_layer" = { int = [2, 2] }',
        "24: sweep.space.model.n_layer: both bounds are 2, so there is nothing to try; leave the key out and set ",
    ),
    "log and step": ('"model.n_layer" = { int = [1, 3], log = true, step = 1 }', "takes log or step, not both"),
    "a step that leads past the end": (
        '"model.n_layer" = { int = [1, 4], step = 2 }',
        "24: sweep.space.model.n_layer: from 1 in steps of 2 one does not come to 4; 3 is near",
    ),
    "a step that leads past the end by a little": (
        '"model.dropout" = { float = [0.0, 1.0], step = 0.333333333333 }',
        "from 0.0 in steps of 0.333333333333 one does not come to 1.0; 0.999999999999 is near",
    ),
    "a step that is too large": (
        '"model.n_layer" = { int = [1, 4], step = 5 }',
        "step should be above 0 and at most high - low (3), got 5",
    ),
    "a step of nothing": ('"model.n_layer" = { int = [1, 4], step = 0 }', "step should be above 0"),
    "a step backwards": ('"model.n_layer" = { int = [1, 4], step = -1 }', "step should be above 0"),
    "half a step": ('"model.n_layer" = { int = [1, 4], step = 0.5 }', "step should be above 0"),
    "a step of no number": ('"model.dropout" = { float = [0.0, 0.5], step = nan }', "step should be above 0"),
    "a step in words": ('"model.n_layer" = { int = [1, 4], step = "1" }', 'got "1"'),
    "log in words": ('"optimizer.lr" = { float = [1e-3, 1e-2], log = "yes" }', 'should be true or false, got "yes"'),
    "bounds in words": (
        '"optimizer.lr" = { float = ["1e-3", 1e-2] }',
        '24: sweep.space.optimizer.lr: float should be two numbers, [low, high], got ["1e-3", 0.01]',
    ),
    "one bound": ('"optimizer.lr" = { float = [1e-3] }', "float should be two numbers, [low, high], got [0.001]"),
    "three bounds": (
        '"optimizer.lr" = { float = [1, 2, 3] }',
        "float should be two numbers, [low, high], got [1, 2, 3]",
    ),
    "no list": ('"optimizer.lr" = { float = 1e-3 }', "float should be two numbers, [low, high], got 0.001"),
    "booleans for bounds": (
        '"model.n_layer" = { int = [true, 3] }',
        "int should be two whole numbers, [low, high], got [true, 3]",
    ),
    "fractions for whole numbers": (
        '"model.n_layer" = { int = [1.0, 3.0] }',
        "int should be two whole numbers, [low, high], got [1.0, 3.0]",
    ),
    "no number": ('"optimizer.lr" = { float = [nan, 1e-2] }', "float should be two numbers"),
    "infinity": ('"optimizer.lr" = { float = [1e-4, inf] }', "float should be two numbers"),
    "a date": (
        '"optimizer.lr" = { float = [1979-05-27, 1e-2] }',
        'float should be two numbers, [low, high], got ["1979',
    ),
    "more than Optuna tells apart": (
        f'"sample.seed" = {{ int = [1, {2**53 + 1}] }}',
        "int should be two whole numbers, [low, high], got [1, 9007199254740993]",
    ),
    "more than a float": (
        f'"optimizer.lr" = {{ float = [1, {10**400}] }}',
        "float.1: should be a whole number of at most 64 bits",
    ),
    "a misspelt kind": (
        '"optimizer.lr" = { flaot = [1e-3, 1e-2] }',
        (
            "24: sweep.space.optimizer.lr.flaot: should be { float = [1e-4, 1e-2], log = true }, { int = [2, 8] } or "
            "{ choice = [...] }, got [0.001, 0.01]; did you mean 'float'?"
        ),
    ),
    "a misspelt kind with log": (
        '"optimizer.lr" = { flaot = [1e-3, 1e-2], log = true }',
        "24: sweep.space.optimizer.lr: unknown 'flaot'; did you mean 'float'? Allowed: choice, float, int, log, step",
    ),
    "a plural": ('"optimizer.use" = { choices = ["adamw", "sgd"] }', "did you mean 'choice'?"),
    "a misspelt log": (
        '"optimizer.lr" = { float = [1e-3, 1e-2], lgo = true }',
        "24: sweep.space.optimizer.lr: unknown 'lgo'; did you mean 'log'? Allowed: choice, float, int, log, step",
    ),
    "two kinds": (
        '"optimizer.lr" = { float = [1e-3, 1e-2], choice = [1e-3, 3e-3] }',
        "24: sweep.space.optimizer.lr: should have one of float, int and choice, has float and choice",
    ),
    "no kind": ('"optimizer.lr" = { log = true }', "should have one of float, int and choice, has none"),
    "an empty table": ('"optimizer.lr" = {}', "24: sweep.space.optimizer.lr: should be { float = [1e-4, 1e-2]"),
    "an empty slot": ("[sweep.space.optimizer]", "24: sweep.space.optimizer: should be { float = [1e-4, 1e-2]"),
    "a bare value": (
        '"optimizer.lr" = 1e-3',
        "got 0.001; a value that never varies belongs in the experiment",
    ),
    "a bare list": ('"optimizer.lr" = [1e-3, 1e-2]', "24: sweep.space.optimizer.lr: should be { float = "),
    "an array of tables": ('[[sweep.space."optimizer.lr"]]\nfloat = [1e-3, 1e-2]', "should be { float = [1e-4, 1e-2]"),
    "one choice": (
        '"optimizer.use" = { choice = ["adamw"] }',
        "a list of at least two values, or a table of branches, ",
    ),
    "no choice": ('"optimizer.use" = { choice = [] }', "choice should be a list of at least two values"),
    "a word for choices": ('"optimizer.use" = { choice = "adamw" }', "choice should be a list of at least two values"),
    "one branch": ('[sweep.space."optimizer.use".choice.adamw]', 'got ["adamw"]'),
    "a choice with log": ('"model.n_layer" = { choice = [1, 2], log = true }', "a choice has no log and no step"),
    "a choice twice": (
        '"model.n_layer" = { choice = [1, 2, 1] }',
        "24: sweep.space.model.n_layer: 1 is among the choices",
    ),
    "a table twice": (
        '"model.norm" = { choice = [{ use = "rmsnorm" }, { use = "rmsnorm" }] }',
        "is among the choices twice",
    ),
    "choices that are one to Optuna": ('"model.bias" = { choice = [1, true] }', "true is among the choices twice"),
    "a branch that is no table": (
        '[sweep.space."optimizer.use".choice]\nadamw = {}\nsgd = 3',
        "24: sweep.space.optimizer.use: the branch 'sgd' should be a table of keys, perhaps empty, got 3",
    ),
    "when in words": (
        ADAMW_OR_SGD + '"optimizer.lr" = { float = [1e-3, 1e-2], when = "adamw" }',
        '25: sweep.space.optimizer.lr: when should be a table such as { "optimizer.use" = "muon" }, got "adamw"',
    ),
    "when nothing": (
        ADAMW_OR_SGD + '"optimizer.lr" = { float = [1e-3, 1e-2], when = { "optimizer.use" = [] } }',
        "25: sweep.space.optimizer.lr: when names no value of optimizer.use, so it is never tried",
    ),
    "a condition on a missing key": (
        ADAMW_OR_SGD + '"optimizer.lr" = { float = [1e-3, 1e-2], when = { "optimzer.use" = "adamw" } }',
        (
            "25: sweep.space.optimizer.lr: is tried where optimzer.use has some value, and that is no key of the space"
            "; conditions name other keys of [sweep.space]; did you mean 'optimizer.use'? Allowed: optimizer.use."
        ),
    ),
    "a condition on a value that never is": (
        ADAMW_OR_SGD + '"optimizer.lr" = { float = [1e-3, 1e-2], when = { "optimizer.use" = "adam" } }',
        '25: sweep.space.optimizer.lr: is tried where optimizer.use is adam, and it never is: choice ["adamw", "sgd"]',
    ),
    "a condition on a date": (
        ADAMW_OR_SGD + '"optimizer.lr" = { float = [1e-3, 1e-2], when = { "optimizer.use" = 1979-05-27 } }',
        "and it never is",
    ),
    "a condition on one of endless values": (
        (
            '"optimizer.lr" = { float = [1e-3, 1e-2] }\n'
            '"model.n_layer" = { int = [1, 2], when = { "optimizer.lr" = 3e-3 } }'
        ),
        "25: sweep.space.model.n_layer: is tried where optimizer.lr is 0.003, and it never is: float [0.001, 0.01]",
    ),
    "a condition on itself": (
        '"model.n_layer" = { int = [1, 3], when = { "model.n_layer" = 3 } }',
        "is no key of the space; conditions name other keys of [sweep.space], and there are none",
    ),
    "a condition on an option that is not tried": (
        '"optimizer.lr" = { float = [1e-3, 1e-2], when = { "optimizer.use" = "adamw" } }',
        (
            "24: sweep.space.optimizer.lr: is tried where optimizer.use has some value, and that is no key of the space"
            "; conditions name other keys of [sweep.space], and there are none"
        ),
    ),
    "conditions that exclude each other": (
        (
            '[sweep.space."optimizer.use".choice.adamw]\n'
            '"optimizer.lr" = { float = [1e-3, 1e-2], when = { "optimizer.use" = "sgd" } }\n'
            '[sweep.space."optimizer.use".choice.sgd]'
        ),
        "25: sweep.space.optimizer.lr: is never tried: nowhere in the space optimizer.use is adamw and optimizer",
    ),
    "a circle": (
        (
            '"model.n_layer" = { int = [1, 3], when = { "model.n_head" = 3 } }\n'
            '"model.n_head" = { int = [1, 3], when = { "model.n_layer" = 2 } }'
        ),
        "24: sweep.space: these wait for each other in a circle: model.n_layer, model.n_head",
    ),
    "a key twice": (
        '"optimizer.lr" = { float = [1e-3, 1e-2] }\noptimizer.lr = { float = [1e-3, 1e-2] }',
        "25: sweep.space.optimizer.lr: is there twice, also at exp.toml:24, with no condition that keeps the two apart",
    ),
    "a key in a branch too": (
        (
            '"optimizer.lr" = { float = [1e-3, 1e-2] }\n'
            '[sweep.space."optimizer.use".choice.adamw]\n"optimizer.lr" = 3e-3\n'
            '[sweep.space."optimizer.use".choice.sgd]'
        ),
        "26: sweep.space.optimizer.lr: is there twice, also at exp.toml:24",
    ),
    "a slot and its use": (
        (
            '"model.norm" = { choice = ["layernorm", "rmsnorm"] }\n'
            '"model.norm.use" = { choice = ["layernorm", "rmsnorm"] }'
        ),
        "25: sweep.space.model.norm.use: is there twice, also at exp.toml:24",
    ),
    "a key of the sweep": (
        '"sweep.trials" = { int = [1, 20] }',
        "24: sweep.space.sweep.trials: cannot be varied: a sweep",
    ),
    "the name": ('"name" = { choice = ["x", "y"] }', "24: sweep.space.name: cannot be varied: all trials have the"),
    "component files": ('"components" = { choice = [[], ["a.py"]] }', "24: sweep.space.components: cannot be varied"),
    "the base": ('"extends" = { choice = ["a.toml", "b.toml"] }', "24: sweep.space.extends: cannot be varied"),
    "the seed": (
        '"train.seed" = { int = [1, 2000] }',
        "cannot be varied: each trial runs with train.seed, train.seed + 1",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_table_is_told_with_line_key_and_remedy(mistake: str, tmp_path: Path) -> None:
    text, told = MISTAKES[mistake]
    (found,) = faults(tmp_path, text)
    assert found.startswith("exp.toml:2")
    assert told in found


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

UNFIT = {
    "an unknown key": (
        '"train.stepz" = { int = [10, 20] }',
        ["24: train.stepz: unknown key; did you mean 'steps'? Allowed: activation_checkpointing, "],
    ),
    "an unknown table": ('"modl.n_layer" = { int = [1, 2] }', ["24: modl: unknown key; did you mean 'model'?"]),
    "an empty part": ('"model..n_layer" = { int = [1, 2] }', ["24: model.: unknown key"]),
    "an empty key": ('"" = { int = [1, 2] }', ["24: unknown key. Allowed: callback"]),
    "a dot at the end": (
        '"model.n_layer." = { int = [1, 2] }',
        ["24: model.n_layer: should be a whole number, got {'': 1}", "got {'': 2}"],
    ),
    "a key that is not ASCII": (
        '"modèle.n_layer" = { int = [1, 2] }',
        ["24: modèle: unknown key; did you mean 'model'?"],
    ),
    "a part of a number": ('"train.steps.x" = { choice = [1, 2] }', ["24: train.steps: should be a whole number"] * 2),
    "a part of a default": ('"train.precision.x" = { choice = [1, 2] }', ["24: train.precision: should be 'auto'"] * 2),
    "an element that is not there": (
        '"optimizer.betas.7" = { float = [0.9, 0.99] }',
        ["24: optimizer.betas: is a list, so the next part of the key should be a number from 0 to 1, got '7'"],
    ),
    "a table that is not there": ('"sampler.7.k" = { int = [1, 2] }', ["24: sampler: is a list, so the next part"]),
    "a word for an element": ('"sampler.k" = { int = [1, 2] }', ["a number from 0 to 1, got 'k'"]),
    "a component that is not installed": (
        '"optimizer.use" = { choice = ["adamw", "adamq"] }',
        ["24: optimizer.use: unknown optimizer 'adamq'; did you mean 'adamw'? Allowed: adamw, "],
    ),
    "a branch of a component that is not installed": (
        '[sweep.space."optimizer.use".choice.adamw]\n[sweep.space."optimizer.use".choice."[sgd"]',
        ["24: optimizer.use: unknown optimizer '[sgd'; did you mean 'sgd'?"],
    ),
    "slots of all sorts": (
        '"model.attention" = { choice = ["sdpa", "niave", { use = "sdpa", wndow = 8 }, 3] }',
        [
            "24: model.attention.use: unknown attention 'niave'; did you mean 'naive'?",
            "24: model.attention.wndow: unknown key; did you mean 'window'?",
            "24: model.attention: should be the name of a component of kind attention, or a table with `use`, got 3",
        ],
    ),
    "fractions for a whole number": (
        '"model.n_layer" = { float = [1, 3] }',
        [
            "24: model.n_layer: should be a whole number, got 1.0",
            "24: model.n_layer: should be a whole number, got 3.0",
        ],
    ),
    "below the option's own bounds": (
        '"model.n_layer" = { int = [0, 4] }',
        ["24: model.n_layer: should be greater than or equal to 1, got 0"],
    ),
    "above an element's own bounds": (
        '"optimizer.betas.1" = { float = [0.9, 1.5] }',
        ["24: optimizer.betas.1: should be less than 1, got 1.5"],
    ),
    "no number among choices": ('"optimizer.lr" = { choice = [nan, 3e-3] }', ["should be a finite number, got nan"]),
    "a date among choices": (
        '"optimizer.lr" = { choice = [3e-3, 1979-05-27] }',
        ["should be a number, got 1979-05-27"],
    ),
    "heads that do not share": (
        '"model.n_embd" = { int = [24, 25] }\n"model.n_head" = { choice = [3, 4] }',
        [
            "24: model.n_embd: should be a multiple of n_head (3), got 25",
            "24: model.n_embd: should be a multiple of n_head (4), got 25 (with model.n_head = 4)",
        ],
    ),
    "a batch of broken windows": (
        '"model.block_size" = { choice = [16, 32, 64] }\n"model.dropout" = { float = [0.0, 0.1] }',
        ["21: train.batch_tokens: should be a multiple of model.block_size (64), got 480; the nearest is 512 ("],
    ),
    "an endpoint of one branch": (
        (
            '[sweep.space."optimizer.use".choice.adamw]\n"optimizer.lr" = { float = [0.0, 1e-2] }\n'
            '[sweep.space."optimizer.use".choice.sgd]\n"optimizer.lr" = { float = [-1.0, 1.0] }'
        ),
        ["25: optimizer.lr: should be greater than 0, got 0.0", "27: optimizer.lr: should be greater than 0, got -1.0"],
    ),
    "a setting of one branch": (
        '[sweep.space."optimizer.use".choice.adamw]\n[sweep.space."optimizer.use".choice.sgd]\n"optimizer.betas" = 3',
        ["26: optimizer.betas: unknown key"],
    ),
    "a misspelt kind in a branch": (
        (
            '[sweep.space."optimizer.use".choice.adamw]\n"optimizer.lr" = { flaot = [1e-3, 1e-2] }\n'
            '[sweep.space."optimizer.use".choice.sgd]'
        ),
        ["25: optimizer.lr: should be a number, got {'flaot': [0.001, 0.01]}"],
    ),
    "what is tried between two endpoints": (
        '"model.n_layer" = { int = [1, 4] }\n"optimizer.rl" = { float = [0.1, 1], when = { "model.n_layer" = 3 } }',
        ["25: optimizer.rl: unknown key"],
    ),
    "several at once": (
        '"train.stepz" = { int = [1, 2] }\n"optimizer.lr" = { float = [-1, 1] }\n"model.n_layer" = { int = [0, 2] }',
        ["24: train.stepz: ", "25: optimizer.lr: ", "26: model.n_layer: "],
    ),
}


@pytest.mark.parametrize("mistake", UNFIT)
def test_values_that_make_no_experiment_are_told_with_the_line_of_the_space(mistake: str, tmp_path: Path) -> None:
    text, told = UNFIT[mistake]
    found = sorted(faults(tmp_path, text))
    assert len(found) == len(told)
    for line, words in zip(found, sorted(told), strict=True):
        assert words in line
        assert line.startswith("exp.toml:2")


def test_many_faults_are_counted(tmp_path: Path) -> None:
    layers = ", ".join(map(str, range(2, -20, -1)))
    found = faults(tmp_path, f'"model.n_layer" = {{ choice = [{layers}] }}')
    assert len(found) == MOST_FAULTS + 1
    assert found[-1] == "and 12 more"


OUTSIDE = {
    "a number": (
        '"optimizer.lr" = { float = [4e-3, 1e-2] }',
        (
            "24: sweep.space.optimizer.lr: the experiment says optimizer.lr = 0.003, which float [0.004, 0.01] does "
            "not hold; trial 0 is the experiment as written: add its value, or change it"
        ),
    ),
    "a default": (
        '"train.grad_clip" = { float = [2, 4] }',
        "the experiment says train.grad_clip = 1.0, which float [2.0,",
    ),
    "a number between two steps": (
        '"train.steps" = { int = [5, 25], step = 10 }',
        "train.steps = 20, which int [5, 25], step",
    ),
    "a component": ('"optimizer.use" = { choice = ["sgd", "muon"] }', "says optimizer.use = adamw, which choice ["),
    "a slot": (
        '"model.norm" = { choice = ["rmsnorm", { use = "layernorm", eps = 1e-3 }] }',
        "model.norm.use = layernorm, ",
    ),
    "a list": (
        '"optimizer.betas" = { choice = [[0.8, 0.95], [0.8, 0.9]] }',
        "says optimizer.betas = [0.9, 0.95], which",
    ),
    "what is not set": (
        '"train.micro_batch_size" = { choice = [1, "auto"] }',
        (
            "24: sweep.space.train.micro_batch_size: trial 0 is the experiment as written, which does not set it; set "
            'it to one of choice [1, "auto"]'
        ),
    ),
    "two choices that are one": (
        '"model.norm" = { choice = ["layernorm", { use = "layernorm" }, "rmsnorm"] }',
        (
            '24: sweep.space.model.norm: "layernorm" and {"use": "layernorm"} are one and the same, since options that '
            "a choice does not name stay as the experiment has them; name them"
        ),
    ),
    "a setting": (
        (
            '[sweep.space."optimizer.use".choice.adamw]\n"model.norm" = "rmsnorm"\n'
            '[sweep.space."optimizer.use".choice.sgd]\n"model.norm" = "layernorm"'
        ),
        (
            "25: sweep.space.model.norm: is rmsnorm where optimizer.use is adamw, as in the experiment, and the "
            "experiment says otherwise; trial 0 is the experiment as written: make the two the same"
        ),
    ),
}


@pytest.mark.parametrize("mistake", OUTSIDE)
def test_an_experiment_outside_of_its_space_is_told(mistake: str, tmp_path: Path) -> None:
    text, told = OUTSIDE[mistake]
    (found,) = faults(tmp_path, text)
    assert found.startswith("exp.toml:2")
    assert told in found


def test_an_experiment_may_be_outside_of_a_branch_that_it_is_not_in(tmp_path: Path) -> None:
    checked(tmp_path, EXAMPLE)
    (found,) = faults(tmp_path, EXAMPLE, "optimizer.lr=0.01")
    assert "exp.toml:26: sweep.space.optimizer.lr: the experiment says optimizer.lr = 0.01" in found


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

ELSEWHERE = {  # what this machine cannot do, on a CPU
    "an attention": (
        '"model.attention" = { choice = ["sdpa", "flex"] }',
        "exp.toml:24: model.attention: flex has no backward pass on cpu; ",
        "",
    ),
    "an attention in a branch": (
        (
            '[sweep.space."model.n_layer".choice.2]\n[sweep.space."model.n_layer".choice.3]\n'
            '"model.attention" = { use = "flex", window = 4 }'
        ),
        "exp.toml:26: model.attention: flex has no backward pass on cpu; ",
        "(with model.n_layer = 3)",
    ),
    "an attention's kernel": (
        '"model.n_head" = { choice = [2, 3] }\n"model.attention.backend" = { choice = ["auto", "cudnn"] }',
        "exp.toml:25: model.attention: backend = 'cudnn' requires cuda, and the device is cpu; use auto or math ",
        "(with model.attention.backend = cudnn)",
    ),
    "an evaluator of a split that is not there": (
        '"evaluator" = { choice = [["loss", "bits_per_byte"], ["loss", { use = "loss", split = "test" }]] }',
        "exp.toml:24: evaluator.1: the dataset has no split 'test'",
        "Allowed: train, val.",
    ),
    "a precision": (
        '"train.precision" = { choice = ["auto", "tf32"] }',
        "exp.toml:24: train.precision: 'tf32' is arithmetic of CUDA devices, and this is cpu",
        "",
    ),
    "a device": (
        '"train.device" = { choice = ["cpu", "mps"] }',
        "exp.toml:24: train.device: is 'mps', but torch finds none here",
        "",
    ),
}


@pytest.mark.parametrize("mistake", ELSEWHERE)
def test_what_this_machine_cannot_do_is_told_with_the_line_that_chose_it(mistake: str, tmp_path: Path) -> None:
    if mistake == "a device" and torch.backends.mps.is_available():
        pytest.skip("this machine has it")
    text, begin, end = ELSEWHERE[mistake]
    (found,) = faults(tmp_path, text, "train.device=cpu")
    assert found.startswith(begin)
    assert found.endswith(end)


def test_what_the_experiment_itself_chose_is_not_blamed_on_the_space(tmp_path: Path) -> None:
    base = BASE.replace("block_size = 16", 'block_size = 16\nattention = { use = "flex", window = 4 }')
    text = '"model.n_layer" = { choice = [1, 2] }\n"model.attention.window" = { int = [4, 8] }'
    (found,) = faults(tmp_path, text, "train.device=cpu", base=base)
    assert found.startswith("exp.toml:12: model.attention: flex has no backward pass on cpu; ")
    assert "with model" not in found


def test_each_experiment_is_held_against_its_own_splits(tmp_path: Path) -> None:
    base = BASE.replace('"python_stdlib"', '"huggingface"\nsource = "x"\ntest_fraction = 0.1')
    base = 'evaluator = ["loss", { use = "loss", split = "test" }]\n' + base
    (found,) = faults(tmp_path, '"dataset.test_fraction" = { choice = [0.0, 0.1] }', base=base)
    assert found.startswith("exp.toml:1: evaluator.1: the dataset has no split 'test'")
    assert found.endswith("(with dataset.test_fraction = 0.0)")


def test_a_trial_has_as_many_processes_as_it_is_started_with(tmp_path: Path) -> None:
    space = space_of(tmp_path, '"parallel" = { choice = ["ddp", "single"] }', "parallel=ddp", "train.device=cpu")
    endpoints.check(space)
    with pytest.raises(KitError) as refused:
        endpoints.check(space, nproc=2)
    (fault,) = refused.value.faults
    assert str(fault).startswith(f"{tmp_path / 'exp.toml'}:24: parallel: single is for one process, and 2 were started")


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
    assert found.startswith(
        "exp.toml:3: sweep.space.optimizer.lr: should have one of float, int and choice, has float and"
    )


def test_a_key_that_base_and_child_write_differently_is_told_with_both_places(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(BASE + '"optimizer.lr" = { float = [1e-3, 1e-2] }', encoding="utf-8")
    child = 'extends = "base.toml"\n[sweep.space]\noptimizer.lr = { float = [1e-3, 1e-2] }\n'
    (found,) = faults(tmp_path, child, base="")
    assert found.startswith("exp.toml:3: sweep.space.optimizer.lr: is there twice, also at base.toml:24")


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
    assert space.described() == {"model.n_layer": "choice [2, 4]", "model.dropout, where model.n_layer is 4": "= 0.1"}


def test_a_space_may_be_changed_on_the_command_line(tmp_path: Path) -> None:
    space = checked(tmp_path, EXAMPLE, 'sweep.space."schedule.warmup_steps".int=[2, 5]')
    assert (space.parameters[0].low, space.parameters[0].high) == (2, 5)
    (found,) = faults(tmp_path, EXAMPLE, 'sweep.space."schedule.warmup_steps".int=[5, 2]')
    assert found.startswith("command line: sweep.space.schedule.warmup_steps: the bounds are reversed")
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


def test_a_space_of_twenty_keys_is_looked_at_from_every_endpoint(tmp_path: Path) -> None:
    space = checked(tmp_path, LARGE)
    assert space.points() is None
    assert len(space.parameters) == 20
    corners = list(Corners(space))
    for one in space.parameters:
        for value in one.endpoints:
            assert any(one.is_active(corner) and same(corner[one.key], value) for corner in corners)
    pairs = itertools.combinations([("optimizer.lr", 1e-2), ("model.n_layer", 2), ("model.bias", False)], 2)
    assert all(any(corner[a] == x and corner[b] == y for corner in corners) for (a, x), (b, y) in pairs)


def test_a_fault_in_a_large_space_is_told_with_just_the_values_that_it_takes(tmp_path: Path) -> None:
    (found,) = faults(tmp_path, LARGE.replace("160, 480", "160, 481").replace("step = 160 }", "step = 321 }"))
    assert found.startswith(
        "exp.toml:33: train.batch_tokens: should be a multiple of model.block_size (16), got 481; 480"
    )
    assert "with" not in found


def test_what_hangs_on_a_chain_of_conditions_is_looked_at_in_a_large_space(tmp_path: Path) -> None:
    (found,) = faults(tmp_path, LARGE.replace("[4, 8]", "[4, -8]").replace("[4, -8]", "[-8, 4]"))
    assert found.startswith("exp.toml:42: model.attention.window: should be greater than or equal to 1, got -8")


# Whatever the values


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
    one = parameter("a.b", table, (), "exp.toml:1")
    return Parameter(**{**vars(one), "name": "a.b"})


@settings(max_examples=300)
@given(parameters(), st.floats(0, 1, exclude_max=True))
def test_a_share_of_a_range_is_held_by_it_and_by_optuna(one: Parameter, share: float) -> None:
    for value in (one.at(share), one.at(0.0), one.at(math.nextafter(1, 0)), *one.endpoints):
        assert one.holds(value)
        told = one.distribution().to_internal_repr(label(value) if one.kind == "choice" else value)
        assert one.distribution()._contains(told)
        assert same(one.value(one.distribution().to_external_repr(told)), value)
    if one.kind == "float" and one.step is None:  # but for the last digits
        tiny = 1e-12 * max(abs(one.low), abs(one.high))
        assert math.isclose(one.at(0.0), one.low, rel_tol=1e-12, abs_tol=0 if one.log else tiny)
        assert math.isclose(one.at(math.nextafter(1, 0)), one.high, rel_tol=1e-12, abs_tol=0 if one.log else tiny)
        return
    assert same(one.at(0.0), one.endpoints[0])
    assert same(one.at(math.nextafter(1, 0)), one.endpoints[-1])


@settings(max_examples=100)
@given(parameters(("int", "int step", "float step"), 100))
def test_every_value_of_a_finite_range_has_a_share_of_it(one: Parameter) -> None:
    values = list(one.values or ())
    count = len(values)
    assert [one.at((number + 0.5) / count) for number in range(count)] == values


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


@settings(max_examples=60)
@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=5, unique=True), st.integers(0, 9999))
def test_whatever_a_valid_space_gives_is_an_experiment_and_comes_back_from_optuna(pieces: list[str], seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            space = space_of(Path(folder), "\n".join(pieces))
            first = written(space)
        except KitError:  # a key twice, or a condition on one that is not there
            return
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        drawn: list[Config] = []
        for _ in range(3):
            trial = study.ask()
            drawn.append(space.suggest(trial))
            assert space.config(trial.params) == drawn[-1]
        for config in (
            first,
            *drawn,
            *itertools.islice(Corners(space), 10),
            *itertools.islice(space.points() or [], 10),
        ):
            assert list(config) == [one.key for one in space.parameters if one.is_active(config)]
            assert space.config(space.params(config)) == config
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
    first = endpoints.check(space)
    study = optuna.create_study()
    study.enqueue_trial(space.params(first))
    assert space.experiment(space.suggest(study.ask())) == space.base


@settings(max_examples=150)
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
