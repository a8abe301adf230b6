"""What is measured at each place of a network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nanogpt_kit.bench.feature_scales import FeatureProbe
from nanogpt_kit.nn.parts import HeadLinear

WIDTH, VOCABULARY = 12, 7


class Half(nn.Module):
    """Multiplies by a matrix that is 0.5 on its diagonal; returns an auxiliary loss in training."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.5 * torch.eye(WIDTH))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x @ self.weight, x.sum()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.part = Half()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.part(x)[0]  # type: ignore[no-any-return]


class Planted(nn.Module):
    """Its features are known: all embeddings are 2, and each block multiplies by 1.5."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(VOCABULARY, WIDTH)
        nn.init.constant_(self.wte.weight, 2.0)
        self.h = nn.ModuleList([Block(), Block()])
        self.ln_f = nn.Linear(WIDTH, WIDTH, bias=False)
        nn.init.eye_(self.ln_f.weight)
        self.drop = nn.Dropout(0.5)
        self.lm_head = HeadLinear(WIDTH, VOCABULARY, bias=False)
        nn.init.constant_(self.lm_head.weight, 1.0)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.wte(ids)
        for block in self.h:
            x = block(x)
        logits: Tensor = self.lm_head(self.drop(self.ln_f(x)))
        return logits


def test_each_place_has_the_magnitude_and_the_change_of_its_features() -> None:
    model = Planted()
    model.train()
    ids = torch.arange(10).view(2, 5) % VOCABULARY
    probe = FeatureProbe(model, (ids, ids, None))
    probe.measure()
    with torch.no_grad():
        model.h[1].part.weight.mul_(3.0)  # type: ignore[union-attr]
    probe.measure()
    sizes = {
        "input": [2.0, 2.0],
        "h.0.part": [1.0, 1.0],
        "h.0": [3.0, 3.0],
        "h.1.part": [1.5, 4.5],
        "h.1": [4.5, 7.5],
        "ln_f": [4.5, 7.5],
        "logits": [4.5 * WIDTH, 7.5 * WIDTH],
    }
    found = probe.trajectory
    losses = found.sizes.pop("loss")
    assert list(found.sizes) == list(sizes), "in the order of the computation, without norms and embeddings"
    for place, (before, after) in sizes.items():
        assert found.sizes[place] == pytest.approx([before, after])
        assert found.changes[place] == pytest.approx([0.0, after - before])
    assert losses == pytest.approx([torch.tensor(VOCABULARY).log().item()] * 2), "all logits are equal"


def test_a_measurement_leaves_the_model_as_it_was() -> None:
    model = Planted()
    ids = torch.zeros(1, 3, dtype=torch.int64)
    state = torch.get_rng_state()
    FeatureProbe(model, (ids, ids, None)).measure()
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())
