"""Schedules of an experiment: one table or a list, each of one option, and the message about a wrong target."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanogpt_kit.components.schedule.constant import Constant
from nanogpt_kit.components.schedule.cosine import Cosine
from nanogpt_kit.components.schedule.linear import Linear
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.pace import length_at_pace

BASE = """\
name = "base"
dataset = "python_stdlib"
tokenizer = "byte"
optimizer = "{optimizer}"
train = {{ steps = 400, batch_tokens = 32 }}
[model]
use = "gpt"
n_layer = 1
n_head = 2
n_embd = 8
block_size = 16
"""
ONE = '[schedule]\nuse = "cosine"\nwarmup_steps = 7\n'
LIST = (
    '[[schedule]]\nuse = "cosine"\nwarmup_steps = 7\n[[schedule]]\nuse = "linear"\ntarget = "optimizer.weight_decay"\n'
)
LINE = 17  # of the second target


def load(folder: Path, schedules: str, *overrides: str, optimizer: str = "adamw") -> Experiment:
    (folder / "base.toml").write_text(BASE.format(optimizer=optimizer) + schedules, encoding="utf-8")
    return Experiment.load(folder / "base.toml", overrides)


def faults(folder: Path, schedules: str, *overrides: str) -> list[str]:
    with pytest.raises(KitError) as refused:
        load(folder, schedules, *overrides)
    return [str(fault).removeprefix(f"{folder}/") for fault in refused.value.faults]


def test_a_table_drives_the_learning_rate_and_a_list_has_targets(tmp_path: Path) -> None:
    one, several = load(tmp_path, ONE), load(tmp_path, LIST)
    assert one.schedules == (Cosine(warmup_steps=7),)
    assert several.schedules == (Cosine(warmup_steps=7), Linear(target="optimizer.weight_decay"))
    assert several.schedule_of("optimizer.lr") == one.schedule
    assert several.schedule_of("optimizer.weight_decay") == several.schedules[1]
    assert several.schedule_of("optimizer.eps") is None


def test_a_list_of_one_is_the_table(tmp_path: Path) -> None:
    one, listed = load(tmp_path, ONE), load(tmp_path, ONE.replace("[schedule]", "[[schedule]]"))
    assert one == listed
    assert one.differences(listed) == {}
    assert (one.configuration(), one.fingerprint()) == (listed.configuration(), listed.fingerprint())
    assert [key for key, _ in one.parts()] == [key for key, _ in listed.parts()]
    assert listed.with_("schedule.0.warmup_steps=3") == one.with_("schedule.warmup_steps=3")


def test_lists_differ_by_element_or_as_a_whole(tmp_path: Path) -> None:
    one, several = load(tmp_path, ONE), load(tmp_path, LIST)
    changed = several.with_("schedule.linear.warmup_steps=9")
    assert several.differences(changed) == {"schedule.1.warmup_steps": (100, 9)}
    cosine, linear = {"use": "cosine", "warmup_steps": 7}, {"use": "linear", "target": "optimizer.weight_decay"}
    assert one.differences(several) == {"schedule": (cosine, [cosine, linear])}


WAYS = {  # override of LIST -> the schedules
    "schedule.0.warmup_steps=3": (Cosine(warmup_steps=3), Linear(target="optimizer.weight_decay")),
    "schedule.1.target=optimizer.eps": (Cosine(warmup_steps=7), Linear(target="optimizer.eps")),
    "schedule=constant": (Constant(),),
    "schedule={use='linear', warmup_steps=2}": (Linear(warmup_steps=2),),
}


@pytest.mark.parametrize("override", WAYS)
def test_overrides_address_schedules(override: str, tmp_path: Path) -> None:
    assert load(tmp_path, LIST, override).schedules == WAYS[override]


MISTAKES = {  # override of LIST -> the beginning of the message
    "schedule.1.target=optimizer.weigth_decay": (
        "schedule.1.target: 'optimizer.weigth_decay' is not an option that a schedule can change; "
        "did you mean 'optimizer.weight_decay'? Allowed: model.block_size, optimizer.betas.0, optimizer.betas.1, "
    ),
    "schedule.1.target=lr": (
        "schedule.1.target: 'lr' is not an option that a schedule can change; did you mean 'optimizer.lr'?"
    ),
    "schedule.1.target=optimizer.lr": (
        "schedule.1.target: schedule.0 has the target 'optimizer.lr', too; give one of them another target"
    ),
    "schedule.1.target=model.n_layer": "schedule.1.target: 'model.n_layer' is not an option that a schedule can change",
    "schedule.warmup_steps=3": (
        "schedule: is a list, so the next part of the key should be an index from 0 to 1, got 'warmup_steps'; "
        "write schedule.0.warmup_steps for the first component (cosine), or schedule=cosine first, without the others"
    ),
    "schedule=[]": "schedule: is an empty list; write a component of kind schedule, or a list of at least one",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_a_wrong_schedule_is_reported_with_key_and_remedy(override: str, tmp_path: Path) -> None:
    (found,) = faults(tmp_path, LIST, override)
    assert found.startswith(f"command line: {MISTAKES[override]}")


def test_every_wrong_target_of_a_file_is_reported_with_its_line(tmp_path: Path) -> None:
    wrong = LIST.replace("warmup_steps = 7", 'target = "optimizer.rate"').replace("weight_decay", "decay")
    found = [fault.split(": ")[:2] for fault in faults(tmp_path, wrong)]
    assert found == [["base.toml:14", "schedule.0.target"], [f"base.toml:{LINE}", "schedule.1.target"]]


def test_an_index_into_one_schedule_is_reported_with_both_ways(tmp_path: Path) -> None:
    (found,) = faults(tmp_path, ONE, "schedule.0.warmup_steps=3")
    assert found == (
        "command line: schedule: is one component (cosine), so it has no element 0; write schedule.warmup_steps, "
        'or give a list of components, as in ["cosine", "cosine"]'
    )


def test_the_targets_of_muon_include_those_of_the_optimizer_within_it(tmp_path: Path) -> None:
    targets = load(tmp_path, ONE, optimizer="muon").targets
    own = {"optimizer.lr", "optimizer.momentum", "optimizer.weight_decay", "train.grad_clip"}
    names = ("lr", "betas.0", "betas.1", "eps", "weight_decay")
    assert own | {f"optimizer.others.{name}" for name in names} <= targets.keys()
    assert targets["optimizer.momentum"].value == 0.95
    assert not targets["optimizer.momentum"].allows(1.0)
    assert targets["optimizer.others.betas.1"].allows(0.999)
    assert targets["optimizer.lr"].allows(1e9)


def test_each_group_of_parameters_that_is_trained_has_targets(tmp_path: Path) -> None:
    groups = "optimizer.group=[{match='wte', lr=0.5}, {match='mlp', freeze=true}, {match='attn'}]"
    targets = load(tmp_path, ONE, groups).targets
    of_groups = {key.split(".")[2] for key in targets if key.startswith("optimizer.group.")}
    assert of_groups == {"0", "2"}
    assert (targets["optimizer.group.0.lr"].value, targets["optimizer.group.2.lr"].value) == (0.5, 1e-3)
    assert not targets["optimizer.group.0.betas.0"].allows(1.0)


def test_a_note_about_a_schedule_names_its_key(tmp_path: Path) -> None:
    (note,) = load(tmp_path, LIST, "train.steps=50").notes
    assert note.startswith("schedule.1: warmup_steps = 100 is not less than the 50 steps of the run: ")
    assert note.endswith("optimizer.weight_decay does not reach its peak")


def test_a_schedule_of_what_is_zero_is_noted(tmp_path: Path) -> None:
    zero = "optimizer.weight_decay=0.0"
    assert "schedule.1: optimizer.weight_decay is 0, which no multiplier changes" in load(tmp_path, LIST, zero).notes
    group = "optimizer.group=[{match='wte', weight_decay=0.5}]"
    assert not any("is 0" in note for note in load(tmp_path, LIST, zero, group).notes)
    assert not any("is 0" in note for note in load(tmp_path, LIST).notes)


def test_a_schedule_that_changes_a_value_of_some_parameters_is_not_noted(tmp_path: Path) -> None:
    """Of `muon` the decay of the matrices alone may be 0."""
    for others, is_noted in {"0.1": False, "0.0": True}.items():
        muon = f"optimizer={{use='muon', weight_decay=0.0, others={{use='adamw', weight_decay={others}}}}}"
        notes = load(tmp_path, LIST, muon).notes
        assert ("schedule.1: optimizer.weight_decay is 0, which no multiplier changes" in notes) is is_noted


@pytest.mark.parametrize(
    ("targets", "is_noted"),
    [
        (["optimizer.eps"], True),
        (["optimizer.lr", "optimizer.eps"], False),
        (["optimizer.eps", "optimizer.group.0.lr"], False),
    ],
)
def test_a_learning_rate_without_a_schedule_is_noted(tmp_path: Path, targets: list[str], is_noted: bool) -> None:
    """As where a list replaces that of the file which it extends."""
    schedules = "".join(f'[[schedule]]\nuse = "constant"\ntarget = "{target}"\n' for target in targets)
    notes = load(tmp_path, schedules, "optimizer.group=[{match='wte'}]").notes
    expected = ("schedule: no schedule has the target optimizer.lr, so the learning rate is constant",)
    assert notes == expected * is_noted


def test_the_length_of_a_run_is_exact_where_steps_or_tokens_end_it(tmp_path: Path) -> None:
    experiment = load(tmp_path, ONE)
    assert length_at_pace(experiment, 399, 1e9) is experiment.total_steps
    limited = load(tmp_path, ONE, "train.max_tokens=4200", "train.max_seconds=90")
    assert {length_at_pace(limited, step, 0.5 * step) for step in range(131)} == {131}


def test_where_seconds_end_a_run_its_length_is_that_at_the_pace_so_far(tmp_path: Path) -> None:
    experiment = load(tmp_path, ONE, "train.max_seconds=30")
    assert length_at_pace(experiment, 0, 0.0) == 400
    assert length_at_pace(experiment, 7, 10.0) == pytest.approx(21)
    assert length_at_pace(experiment, 100, 5.0) == 400  # 100 of 400 steps are more than 5 of 30 seconds
    assert length_at_pace(experiment, 100, 7.5) == 400
