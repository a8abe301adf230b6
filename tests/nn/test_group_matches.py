"""Which parameters a group of the optimizer matches, and the faults of those that match none."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.nn.group_matches import match_groups, nearest_parameters
from nanogpt_kit.nn.initial_weights import build_initialized
from nanogpt_kit.nn.optimizers import build_optimizer
from nanogpt_kit.nn.parameter_groups import load_optimizer_state
from nanogpt_kit.nn.parameter_shapes import parameter_shapes
from nanogpt_kit.nn.uninitialized import build_on_meta
from nanogpt_kit.sweep.session import check_sweep
from nanogpt_kit.train.before_data import check_without_running


def experiment_of(tiny: Path, groups: str, *more: str) -> Experiment:
    return Experiment.load(tiny, [f"optimizer.group=[{groups}]", *more])


def matched(tiny: Path, groups: str, *more: str) -> dict[str, int]:
    experiment = experiment_of(tiny, groups, *more)
    module = build_on_meta(experiment.model, 257)
    assert module is not None
    return match_groups(experiment, module)


def names_of(found: dict[str, int], index: int) -> list[str]:
    return [name for name, group in found.items() if group == index]


def test_a_parameter_is_in_the_first_group_that_matches_its_name_or_its_role(tiny: Path) -> None:
    found = matched(tiny, "{match='h.1.mlp'}, {match='^wte'}, {match='matrix'}, {match='.'}", "model.bias=true")
    assert names_of(found, 0) == [
        f"h.1.mlp.{part}.{kind}" for part in ("c_fc", "c_proj") for kind in ("weight", "bias")
    ]
    assert names_of(found, 1) == ["wte.weight"]
    weights = ("h.0.attn.c_attn", "h.0.attn.c_proj", "h.0.mlp.c_fc", "h.0.mlp.c_proj", "h.1.attn.c_attn")
    assert names_of(found, 2) == [f"{name}.weight" for name in (*weights, "h.1.attn.c_proj")]
    assert len(found) == len(set(found)) == 4 + 1 + 6 + len(names_of(found, 3))


def test_a_role_is_not_searched_in_names_and_a_tied_weight_has_both_names(tiny: Path) -> None:
    assert matched(tiny, "{match='lm_head'}") == {"wte.weight": 0}
    assert names_of(matched(tiny, "{match='head'}", "model.weight_tying=false"), 0) == ["lm_head.weight"]


def test_a_pattern_may_have_roles_beside_names(tiny: Path) -> None:
    found = matched(
        tiny, "{match='embedding|h.0.mlp'}, {match='(vector|matrix)'}, {match='hea.*'}", "model.weight_tying=false"
    )
    mlp = ["h.0.mlp.c_fc.weight", "h.0.mlp.c_proj.weight"]
    assert names_of(found, 0) == ["wte.weight", "position.wpe.weight", *mlp]
    assert names_of(found, 2) == ["lm_head.weight"]
    assert "ln_f.weight" in names_of(found, 1)
    assert "h.1.mlp.c_fc.weight" in names_of(found, 1)
    assert "wpe" not in "".join(matched(tiny, "{match='vec|wte'}"))  # a part of a role is none


FAULTS = {
    "{match='c_atn'}": ("0.match", "'c_atn' is found in no parameter name; the nearest: h.0.attn.c_attn.weight"),
    "{match='h.7.mlp'}": ("0.match", "'h.7.mlp' is found in no parameter name; the nearest: h.0.mlp.c_fc.weight"),
    "{match='wte'}, {match='lm_head'}": (
        "1.match",
        "only parameters that earlier groups have: wte.weight (tied: lm_head.weight) of optimizer.group.0",
    ),
    "{match='head'}": (
        "0.match",
        "of no parameter; wte.weight (tied: lm_head.weight) is an embedding. Roles here: embedding, matrix, vector.",
    ),
    "{match='wpe', freeze=true}, {match='.', freeze=true}": ("1.freeze", "all parameters are frozen"),
    "{match='wte'}, {match='wte|wpe|mlp', momentum=0.5}": (
        "1.momentum",
        "adamw has no momentum for position.wpe.weight: it has lr, weight_decay, betas; leave momentum out, or let",
    ),
    "{match='wpe', betas=[0.5]}": ("0.betas", "should have 2 values, as in [0.9, 0.95], got [0.5]"),
    "{match='(wte'}": ("0.match", "'(wte' is not a regular expression: missing )"),
    "{match='wte', lr=1e-3, freeze=true}": ("0.", "frozen parameters are not updated, so they have no lr; leave out"),
}


@pytest.mark.parametrize("groups", FAULTS)
def test_a_group_that_does_not_suit_is_refused_before_the_data_is_touched(tiny: Path, groups: str) -> None:
    key, message = FAULTS[groups]
    with pytest.raises(KitError) as refused:
        check_without_running(experiment_of(tiny, groups, "dataset.source=/nowhere"), 1)
    faults = [fault for fault in refused.value.faults if fault.key.startswith("optimizer.group")]
    assert len(faults) == 1
    assert faults[0].key.startswith(f"optimizer.group.{key}")
    assert faults[0].location == "command line"
    assert message in faults[0].message


def test_the_fault_of_a_file_names_its_line(tiny: Path) -> None:
    tiny.write_text(tiny.read_text() + '\n[[optimizer.group]]\nlr = 1e-3\nmatch = "wqe"\n')
    with pytest.raises(KitError, match=rf"tiny\.toml:{len(tiny.read_text().splitlines())}: optimizer\.group\.0\.match"):
        check_without_running(Experiment.load(tiny), 1)


def test_only_the_outer_optimizer_has_groups(tiny: Path) -> None:
    with pytest.raises(
        KitError, match=r"optimizer\.others\.group: an optimizer within another has no groups"
    ) as refused:
        Experiment.load(tiny, ["optimizer={use='muon', others={use='adamw', group=[{match='wte'}]}}"])
    assert "[[optimizer.group]]" in str(refused.value)


def test_the_nearest_names_are_of_parts_and_one_of_each_layer() -> None:
    names = {f"h.{layer}.{part}": (f"h.{layer}.{part}",) for layer in (0, 1) for part in ("attn.c_attn", "mlp.up_proj")}
    assert nearest_parameters(r"mlp\.upproj", names) == ["h.0.mlp.up_proj"]
    assert nearest_parameters("c_atn", names)[0] == "h.0.attn.c_attn"


def test_values_are_set_before_the_first_step_and_frozen_parameters_are_in_no_group(tiny: Path) -> None:
    experiment = experiment_of(tiny, "{match='mlp', lr=7e-3, betas=[0.5, 0.6]}, {match='wpe', freeze=true}")
    model, shapes = build_initialized(experiment, 257)
    optimizer = build_optimizer(experiment, model, shapes)
    parameters = dict(model.named_parameters())
    assert [name for name, p in parameters.items() if not p.requires_grad] == ["position.wpe.weight"]
    held = {name: group for group in optimizer.param_groups for name in group["names"]}
    assert sorted(held) == sorted(set(parameters) - {"position.wpe.weight"})
    for name, group in held.items():
        expected = (7e-3, (0.5, 0.6), 0) if "mlp" in name else (3e-3, (0.9, 0.95), None)
        assert (group["lr"], group["betas"], group["group"]) == expected, name
        assert [parameters[one] is p for one, p in zip(group["names"], group["params"], strict=True)]


def test_a_resumed_optimizer_keeps_what_it_knows_of_its_parameters(tiny: Path) -> None:
    def built(*more: str) -> tuple[nn.Module, Any]:
        experiment = experiment_of(tiny, "{match='mlp', lr=7e-3}", *more)
        model = experiment.model.build(experiment.model_context(257))
        return model, build_optimizer(experiment, model, parameter_shapes(model))

    model, before = built("train.steps=20")
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before.step()
    saved = copy.deepcopy(before.state_dict())
    for group in saved["param_groups"]:
        group |= {"names": ["x"], "group": 5, "eps": 0.25}
    _, after = built("train.steps=30")
    load_optimizer_state(after, saved)
    assert {group["total_steps"] for group in after.param_groups} == {30}
    assert {group["eps"] for group in after.param_groups} == {0.25}
    assert [group["names"] for group in after.param_groups] == [group["names"] for group in before.param_groups]
    assert [group["group"] for group in after.param_groups] == [group["group"] for group in before.param_groups]
    assert len(after.state) == len(before.state) > 0


def test_patterns_are_those_of_python(tiny: Path) -> None:
    names = [name for name, _ in build_initialized(Experiment.load(tiny), 257)[0].named_parameters()]
    pattern = r"(?i)H\.(0|1)\..*C_"
    assert [*matched(tiny, f"{{match='{pattern}'}}")] == [name for name in names if re.search(pattern, name)]


def test_a_group_has_its_index_on_the_command_line_and_in_the_space_of_a_sweep(tiny: Path) -> None:
    text = "\n[[optimizer.group]]\nmatch = 'wte'\n\n[[optimizer.group]]\nmatch = 'mlp'\nlr = 1e-3\n"
    space = '\n[sweep]\ntrials = 1\n\n[sweep.space]\n"optimizer.group.1.lr" = { float = [1e-4, 1e-2], log = true }\n'
    tiny.write_text(tiny.read_text(encoding="utf-8") + text + space, encoding="utf-8")
    experiment = Experiment.load(tiny, ["optimizer.group.1.lr=7e-4", "optimizer.group.0.freeze=true"])
    assert [(one.match, one.lr, one.freeze) for one in experiment.optimizer.group] == [
        ("wte", None, True),
        ("mlp", 7e-4, False),
    ]
    check_sweep(experiment, 1)
    with pytest.raises(KitError, match=r"optimizer\.group\.1\.lr"):
        check_sweep(experiment.with_({"sweep.space": {"optimizer.group.1.lr": {"choice": [-1.0, 1.0]}}}), 1)
