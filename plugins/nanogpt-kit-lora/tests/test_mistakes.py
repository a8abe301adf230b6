"""Each mistake is a sentence with its key, its value and a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanogpt_kit import Experiment, KitError


def message(file: Path, *overrides: str) -> str:
    with pytest.raises(KitError) as caught:
        Experiment.load(file, ["name=mistaken", *overrides]).run()
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.match=c_atn", ("model.match", "'c_atn'", "h.0.attn.c_attn.0")),
        ("model.match='('", ("model.match", "'('", "not a regular expression")),
        ("model.also_train=lnf", ("model.also_train", "'lnf'", "ln_f.weight")),
        ("model.base.block_size=8", ("block_size (16)", "base (8)")),
        ("model.base.init_from=tiny", ("base.init_from", "[model]")),
        ("model.base.use=lora", ("model.base", "LoRA")),
        ("model.base.n_layer=3", ("model.base.n_layer=2",)),
        ("model.base.n_embd=18", ("model.base.n_embd=16",)),
    ],
)
def test_a_mistake_is_a_sentence(override: str, words: tuple[str, ...], adapted_file: Path) -> None:
    extra = ["model.block_size=16"] if override == "model.base.block_size=8" else []
    found = message(adapted_file, override, *extra)
    assert [word for word in words if word not in found] == [], found


def test_the_context_of_the_base_is_written_once(adapted_file: Path) -> None:
    model = Experiment.load(adapted_file).model
    assert (model.block_size, model.base.block_size) == (16, 16)
    longer = Experiment.load(adapted_file).resolved()["model"]
    assert longer["block_size"] == longer["base"]["block_size"] == 16
