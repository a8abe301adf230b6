"""`--vary KEY=VALUE,VALUE`."""

from __future__ import annotations

from typing import Any

import pytest

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.sweep.arms.vary_option import parse_vary


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("model.mlp=gelu,swiglu", ["gelu", "swiglu"]),
        ("model.mlp=gelu, swiglu ,relu2", ["gelu", "swiglu", "relu2"]),
        ("optimizer.lr=1e-3,0.5,7", [1e-3, 0.5, 7]),
        ("model.bias=true", [True]),
        ("optimizer.betas=[0.9, 0.95],[0.8, 0.99]", [[0.9, 0.95], [0.8, 0.99]]),
        ('model.mlp={use="swiglu", width=2.0},relu2', [{"use": "swiglu", "width": 2.0}, "relu2"]),
        ('sample.prompt="a,b",it\'s,"say \\"x,y\\""', ["a,b", "it's", 'say "x,y"']),
        ("sample.prompt='[',']'", ["[", "]"]),
        ("a=[[1, 2], [3]],4", [[[1, 2], [3]], 4]),
    ],
)
def test_commas_separate_values_except_in_brackets_and_quotes(text: str, values: list[Any]) -> None:
    assert parse_vary([text]) == {text.partition("=")[0]: values}


def test_texts_of_one_key_add_up() -> None:
    assert parse_vary(["model.mlp=gelu", "train.steps=3", "model.mlp=relu2"]) == {
        "model.mlp": ["gelu", "relu2"],
        "train.steps": [3],
    }


def test_every_mistake_is_reported_with_what_to_write() -> None:
    with pytest.raises(KitError) as caught:
        parse_vary(["gelu,swiglu", "model.mlp=", "a b=1", "model.mlp=gelu,,relu2", "optimizer.betas=[a]", "x=1"])
    faults = caught.value.faults
    assert [fault.location for fault in faults] == ["command line"] * 5
    assert [fault.key for fault in faults] == ["", "model.mlp", "", "model.mlp", "optimizer.betas"]
    assert "as in --vary model.mlp=gelu,swiglu, got 'gelu,swiglu'" in faults[0].message
    assert "write --vary model.mlp=VALUE,VALUE" in faults[1].message
    assert "'gelu,,relu2'" in faults[3].message
    assert "in '[a]'" in faults[4].message
