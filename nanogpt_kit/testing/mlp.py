"""The suite for MLPs: each position by itself, and dropout in training only."""

from __future__ import annotations

from typing import ClassVar

import torch

from nanogpt_kit.core.kinds import MLP
from nanogpt_kit.testing.extras import ExtrasConformance
from nanogpt_kit.testing.features import FeatureConformance
from nanogpt_kit.testing.remedy import assert_same


class MLPConformance(FeatureConformance, ExtrasConformance):
    """Subclass it with `component = MyMLP(...)`."""

    component: ClassVar[MLP]

    def test_dropout_is_for_training_only(self) -> None:
        module, plain = self.build(dropout=0.5), self.build(dropout=0.0)
        plain.load_state_dict(module.state_dict())
        claim = (
            "in eval mode dropout = 0.5 changes the result: use nn.Dropout, or F.dropout(..., training=self.training)"
        )
        assert_same(self.outputs(module), self.outputs(plain), claim)
        module.train()
        remedy = "apply nn.Dropout(ctx.dropout) to the result"
        same = torch.equal(self.outputs(module), self.outputs(module))
        assert not same, f"dropout = 0.5 drops nothing in training: {remedy}"
