"""What a format's own table of options says of the model itself."""

from __future__ import annotations

from typing import Any

import pytest

from nanogpt_kit.components.model.gpt import GPT
from nanogpt_kit.core.kinds.expressible import inexpressible
from nanogpt_kit.core.kinds.network import Multipliers

EXPERIMENT: dict[str, Any] = {"model": {"use": "gpt"}, "init": {"use": "gpt2"}}


@pytest.mark.parametrize(
    ("allowed", "sentences"),
    [
        ({"use": ("gpt",)}, []),
        ({"use": None}, []),
        ({"use": ("bert",)}, ["toy cannot express model.use = 'gpt'; expected 'bert'"]),
        ({}, ["toy cannot express model.use = 'gpt'; what its format allows names no model by \"use\""]),
    ],
)
def test_the_model_is_one_that_the_format_names(allowed: Any, sentences: list[str]) -> None:
    assert list(inexpressible("toy", allowed, GPT(), EXPERIMENT, Multipliers())) == sentences


def test_a_model_without_a_document_mask_has_none_to_express() -> None:
    model = {**EXPERIMENT["model"], "document_mask": False}
    assert not list(inexpressible("toy", {"use": None}, GPT(), {**EXPERIMENT, "model": model}, Multipliers()))
    (fault,) = inexpressible(
        "toy", {"use": None}, GPT(), {**EXPERIMENT, "model": {**model, "document_mask": True}}, Multipliers()
    )
    assert fault == "toy cannot express model.document_mask = True; expected False"
