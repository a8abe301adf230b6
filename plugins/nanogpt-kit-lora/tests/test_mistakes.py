"""Each mistake is a sentence with its key, its value and a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanogpt_kit import Experiment, KitError
from nanogpt_kit.api import ModelContext

UNCALLED = '''\
"""An MLP that uses its weight without calling the layer."""
import torch.nn.functional as F
from torch import nn
from nanogpt_kit.api import MLP

class Direct(MLP):
    def build(self, ctx):
        return DirectModule(ctx.n_embd)

class DirectModule(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.used = nn.Linear(width, width)
    def forward(self, x):
        return F.linear(x, self.used.weight)
'''


def message(file: Path, *overrides: str) -> str:
    with pytest.raises(KitError) as caught:
        Experiment.load(file, ["name=mistaken", *overrides]).run()
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.match=c_atn", ("model.match", "'c_atn'", "h.0.attn.c_attn.0")),
        ("optimizer.group=[{match='lora',freeze=true}]", ("optimizer.group.0.freeze", "all parameters are frozen")),
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


def test_layers_that_are_not_called_have_no_adapters_which_would_be_ignored(adapted_file: Path) -> None:
    (adapted_file.parent / "direct.py").write_text(UNCALLED, encoding="utf-8")
    overrides = ['components=["direct.py"]', "model.base.mlp=direct"]
    model = Experiment.load(adapted_file, overrides, trust_code=True).model
    adapted = [name for name, _ in model.build(ModelContext(vocab_size=9)).named_parameters() if "lora" in name]
    assert adapted
    assert not [name for name in adapted if "mlp" in name]
    only = Experiment.load(adapted_file, [*overrides, "model.match=used", "name=mistaken"], trust_code=True)
    with pytest.raises(KitError, match=r"model\.match = 'used' is found in no name of a linear layer"):
        only.model.build(ModelContext(vocab_size=9))


def test_the_context_of_the_base_is_written_once(adapted_file: Path) -> None:
    model = Experiment.load(adapted_file).model
    assert (model.block_size, model.base.block_size) == (16, 16)
    longer = Experiment.load(adapted_file).resolved()["model"]
    assert longer["block_size"] == longer["base"]["block_size"] == 16
