"""The suite for MLPs: each position by itself, and dropout in training only."""

from __future__ import annotations

from typing import ClassVar

import torch

from nanogpt_kit.core.kinds import MLP
from nanogpt_kit.testing.conformance import FeatureConformance
from nanogpt_kit.testing.extras import ExtrasConformance


class MLPConformance(FeatureConformance, ExtrasConformance):
    """Subclass it with `component = MyMLP(...)`."""

    component: ClassVar[MLP]

    def test_dropout_is_for_training_only(self) -> None:
        module, plain = self.build(dropout=0.5), self.build(dropout=0.0)
        plain.load_state_dict(module.state_dict())
        torch.testing.assert_close(self.outputs(module), self.outputs(plain), rtol=0, atol=0)
        module.train()
        assert not torch.equal(self.outputs(module), self.outputs(module)), "dropout = 0.5 drops nothing in training"
