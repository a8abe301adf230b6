"""How `check --explain` writes an option and its comment on a terminal."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nanogpt_kit.cli.explained import layers_text, option_values, with_comment
from nanogpt_kit.core.experiment import Experiment

LIST = 'model.attention=[{use="sdpa", window=8}, "naive"]'
COMMENT = "my.toml:27; default: 0.001"


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        (sys.maxsize, f"optimizer.lr = 0.003      # {COMMENT}"),
        (54, f"optimizer.lr = 0.003      # {COMMENT}"),
        (53, f"optimizer.lr = 0.003  # {COMMENT}"),
        (50, f"optimizer.lr = 0.003  # {COMMENT}"),
        (30, "optimizer.lr = 0.003\n    # my.toml:27; default:\n    #     0.001"),
    ],
)
def test_a_comment_is_beside_its_option_where_both_fit(
    monkeypatch: pytest.MonkeyPatch, columns: int, text: str
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert with_comment("optimizer.lr = 0.003", COMMENT, 24, columns) == text


def test_each_component_of_a_list_of_parts_is_printed_with_its_layers(tiny: Path) -> None:
    values = {one.key: one for one in option_values(Experiment.load(tiny, [LIST, "model.n_layer=5"]))}
    first, second = values["model.attention.0.use"], values["model.attention.1.use"]
    assert first.comment == "command line; layers 0, 2, 4"
    assert second.comment == 'command line; layers 1, 3; default: "sdpa"'
    assert second.record == {"value": "naive", "from": "command line", "default": "sdpa", "layers": [1, 3]}
    assert values["model.attention.0.window"].comment == "command line; default: not set"
    assert "layers" not in values["model.norm.use"].record


def test_of_many_layers_the_first_and_the_last_are_printed() -> None:
    assert layers_text(range(1, 2)) == "layer 1"
    assert layers_text(range(0, 12, 2)) == "layers 0, 2, 4, 6, 8, 10"
    assert layers_text(range(1, 99, 2)) == "layers 1, 3, 5, 7, 9, ..., 97"
