"""A fault between two options is reported at the one that was written last, in a sentence that names both."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.nn.uninitialized import check_model_parts

BASE = """\
name = "exp"
dataset = "python_stdlib"
tokenizer = "byte"
optimizer = "adamw"
schedule = "constant"
[model]
use = "gpt"
n_layer = 1
n_head = 3
n_embd = 24
block_size = 16
[train]
steps = 20
batch_tokens = 80
[checkpoint]
every_steps = 10
"""


def only_fault(folder: Path, text: str, *overrides: str) -> Fault:
    (folder / "base.toml").write_text(BASE, encoding="utf-8")
    path = folder / "exp.toml"
    path.write_text(f'extends = "base.toml"\n{text}', encoding="utf-8")
    with pytest.raises(KitError) as refused:
        Experiment.load(path, overrides)
    (fault,) = refused.value.faults
    return fault


HUB = 'dataset = { use = "huggingface", source = "x"'
RELATIONS = {  # what is in the file, the overrides -> the key that is blamed, and what the sentence contains
    "the width": ("", ["model.n_embd=25"], "model.n_embd", "n_embd (25)", "n_head (3)"),
    "the heads": ("", ["model.n_head=5"], "model.n_head", "n_embd (24)", "n_head (5)"),
    "both": ("", ["model.n_head=5", "model.n_embd=26"], "model.n_embd", "n_embd (26)", "n_head (5)"),
    "shared heads": ("", ["model.n_kv_head=2"], "model.n_kv_head", "n_head (3)", "n_kv_head (2)"),
    "heads that are shared": (
        "[model]\nn_kv_head = 3",
        ["model.n_head=4"],
        "model.n_head",
        *("n_head (4)", "n_kv_head (3)"),
    ),
    "the batch": ("", ["train.batch_tokens=81"], "train.batch_tokens", "train.batch_tokens (81)", "80"),
    "the window": ("", ["model.block_size=32"], "model.block_size", "train.batch_tokens (80)", "model.block_size (32)"),
    "a checkpoint between others": (
        "",
        ["checkpoint.keep_every_steps=15"],
        "checkpoint.keep_every_steps",
        *("keep_every_steps (15)", "every_steps (10)"),
    ),
    "checkpoints that miss one": (
        "[checkpoint]\nkeep_every_steps = 20",
        ["checkpoint.every_steps=15"],
        "checkpoint.every_steps",
        *("keep_every_steps (20)", "every_steps (15)"),
    ),
    "a budget below a step": ("", ["train.max_tokens=79"], "train.max_tokens", "(79)", "train.batch_tokens (80)"),
    "a step above the budget": (
        "[train]\nmax_tokens = 320",
        ["train.batch_tokens=640"],
        "train.batch_tokens",
        *("train.max_tokens (320)", "train.batch_tokens (640)"),
    ),
    "rolling without relative positions": ("", ["sample.on_overflow=rolling"], "sample.on_overflow", "'rolling'"),
    "positions that cannot roll": (
        '[model]\nposition = "rope"\n[sample]\non_overflow = "rolling"',
        ["model.position=learned"],
        "model.position",
        "'rolling'",
    ),
    "too much validation text": (
        'dataset = { use = "text", source = "x", test_fraction = 0.5 }',
        ["dataset.val_fraction=0.6"],
        "dataset.val_fraction",
        *("val_fraction (0.6)", "test_fraction (0.5)"),
    ),
    "too much test text": (
        'dataset = { use = "text", source = "x", val_fraction = 0.5 }',
        ["dataset.test_fraction=0.6"],
        "dataset.test_fraction",
        *("val_fraction (0.5)", "test_fraction (0.6)"),
    ),
    "a test split without val": (HUB + " }", ["dataset.test=t"], "dataset.test", "'t'", "val"),
    "a fraction beside a split": (
        HUB + ', val = "v" }',
        ["dataset.test_fraction=0.1"],
        "dataset.test_fraction",
        *("test_fraction (0.1)", "'v'"),
    ),
    "a split beside a fraction": (
        HUB + ", test_fraction = 0.1 }",
        ["dataset.val=v"],
        "dataset.val",
        *("test_fraction (0.1)", "'v'"),
    ),
    "one split under two names": (HUB + ', val = "v" }', ["dataset.train=v"], "dataset.train", "train and val", "'v'"),
}


@pytest.mark.parametrize("relation", RELATIONS)
def test_it_is_reported_at_what_the_command_line_set(relation: str, tmp_path: Path) -> None:
    text, overrides, key, *parts = RELATIONS[relation]
    fault = only_fault(tmp_path, text, *overrides)
    assert (fault.location, fault.key) == ("command line", key)
    assert [part for part in parts if part not in fault.message] == []


@pytest.mark.parametrize("relation", ["heads that are shared", "checkpoints that miss one", "the window"])
def test_a_file_is_blamed_before_what_it_extends(relation: str, tmp_path: Path) -> None:
    text, (override,), key, *_ = RELATIONS[relation]
    table, _, option = key.partition(".")
    value = override.partition("=")[2]
    text = text.replace(f"[{table}]", f"[{table}]\n{option} = {value}") or f"[{table}]\n{option} = {value}"
    fault = only_fault(tmp_path, text)
    if relation == "the window":
        assert (fault.location, fault.key) == (f"{tmp_path / 'exp.toml'}:3", key)
    else:  # both in one file: at the option that the sentence is about
        assert fault.location == f"{tmp_path / 'exp.toml'}:4"


def test_an_option_of_the_file_is_blamed_before_a_default(tmp_path: Path) -> None:
    fault = only_fault(tmp_path, "[checkpoint]\nkeep_every_steps = 15\n")
    assert (fault.location, fault.key) == (f"{tmp_path / 'exp.toml'}:3", "checkpoint.keep_every_steps")


@pytest.mark.parametrize(
    ("text", "overrides", "key", "location"),
    [
        ('[model]\nposition = "rope"', ["model.n_head=8"], "model.n_head", "command line"),
        ("[model]\nn_head = 8", ["model.position=rope"], "model.position", "command line"),
        ("", ["model.position=rope", "model.n_head=8"], "model", "command line"),
        ('[model]\nn_head = 8\nposition = "rope"', [], "model", "exp.toml:2"),
        ('[model]\nuse = "gpt"\nn_head = 8\nposition = "rope"', [], "model", "exp.toml:3"),
        ("[model]\ndropout = 0.5", ["model.attention=flex"], "model.attention", "command line"),
    ],
)
def test_parts_that_do_not_fit_are_reported_at_what_was_written_last(
    text: str, overrides: list[str], key: str, location: str, tmp_path: Path
) -> None:
    (tmp_path / "base.toml").write_text(BASE, encoding="utf-8")
    (tmp_path / "exp.toml").write_text(f'extends = "base.toml"\n{text}', encoding="utf-8")
    with pytest.raises(KitError) as refused:
        check_model_parts(Experiment.load(tmp_path / "exp.toml", overrides))
    (fault,) = refused.value.faults
    assert (fault.key, fault.location.removeprefix(f"{tmp_path}/")) == (key, location)


def test_a_local_components_relation_names_its_partners_too(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from nanogpt_kit.api import Schedule, model_validator, option_error\n"
        "class Mine(Schedule):\n"
        "    low: float = 0.0\n"
        "    high: float = 1.0\n"
        "    @model_validator(mode='after')\n"
        "    def ordered(self):\n"
        "        if self.low > self.high:\n"
        "            raise option_error('low', f'low ({self.low}) exceeds high ({self.high})', 'high')\n"
        "        return self\n"
        "    def multiplier(self, step, total_steps):\n"
        "        return 1.0\n"
    )
    overrides = ["components=['mine.py']", "schedule=mine"]
    fault = only_fault(tmp_path, "", *overrides, "schedule.low=0.5", "schedule.high=0.25")
    assert (fault.location, fault.key) == ("command line", "schedule.low")
    text = 'schedule = { use = "mine", low = 0.5 }'
    fault = only_fault(tmp_path, text, overrides[0], "schedule.high=0.25")
    assert (fault.key, fault.message) == ("schedule.high", "low (0.5) exceeds high (0.25)")
