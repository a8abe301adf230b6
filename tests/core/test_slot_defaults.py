"""A slot whose default is a component with options that differ from the component's own defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanogpt_kit.api import Norm, Options, slot
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment

GAIN_FREE = """\
from nanogpt_kit.api import MLP, Norm, slot

class GainFree(MLP):
    norm: Norm = slot({"use": "rmsnorm", "gain": False})

    def build(self, ctx): ...
"""
FILE = """\
name = "x"
components = ["gain_free.py"]
dataset = "python_stdlib"
tokenizer = "byte"
optimizer = "adamw"
schedule = "constant"
[train]
steps = 1
batch_tokens = 1024
[model]
use = "gpt"
mlp = { use = "gain_free" }
"""


class Holder(Options):
    norm: Norm = slot({"use": "rmsnorm", "gain": False})


def load(folder: Path, *overrides: str) -> Experiment:
    (folder / "gain_free.py").write_text(GAIN_FREE, encoding="utf-8")
    (folder / "exp.toml").write_text(FILE, encoding="utf-8")
    return Experiment.load(folder / "exp.toml", overrides, trust_code=True)


def test_a_table_is_the_default_of_a_slot_and_stays_as_it_is() -> None:
    for _ in range(2):
        assert dict(Holder().norm) == {"eps": 1e-5, "gain": False}
    assert dict(Holder(norm="rmsnorm").norm) == {"eps": 1e-5, "gain": True}


def test_the_resolved_experiment_has_its_options_and_can_be_loaded_again(tmp_path: Path) -> None:
    resolved = load(tmp_path).resolved()
    assert resolved["model"]["mlp"]["norm"] == {"use": "rmsnorm", "eps": 1e-5, "gain": False}
    changed = load(tmp_path, "model.mlp.norm.use=rmsnorm", "model.mlp.norm.eps=1e-6").resolved()
    assert changed["model"]["mlp"]["norm"] == {"use": "rmsnorm", "eps": 1e-6, "gain": True}


def test_options_without_a_name_are_refused_with_that_of_the_default(tmp_path: Path) -> None:
    with pytest.raises(KitError) as refused:
        load(tmp_path, "model.mlp.norm.eps=1e-6")
    message = str(refused.value)
    assert message.startswith("command line: model.mlp.norm: ")
    assert message.endswith("; the default is use = 'rmsnorm'")
