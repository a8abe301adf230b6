"""An option that a component calls schedulable, and that its module does not follow, is caught."""

from __future__ import annotations

from typing import Any

import pytest
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt_kit.api import LayerContext
from nanogpt_kit.components.attention.naive import Naive
from nanogpt_kit.testing.attention import AttentionConformance
from nanogpt_kit.testing.mlp import MLPConformance
from tests.seams.components.warm_gelu import WarmGELU
from tests.testing.remedies import assert_fails


class TestWarmGELU(MLPConformance):
    component = WarmGELU(mix=0.8)
    compiles = False


class Frozen(WarmGELU):
    def build(self, ctx: LayerContext) -> nn.Module:
        return FrozenMixture(self)


class FrozenMixture(nn.Module):
    def __init__(self, options: Frozen) -> None:
        super().__init__()
        self.options, self.mix, self.rest = options, options.mix, 1 - options.mix

    def forward(self, x: Tensor) -> Tensor:
        return self.mix * F.gelu(x) + self.rest * x


class Deaf(WarmGELU):
    def build(self, ctx: LayerContext) -> nn.Module:
        return nn.GELU()


def suite(base: type, component: Any) -> Any:
    return type("Suite", (base,), {"component": component})()


@pytest.mark.parametrize("component", [Frozen(mix=0.8), Deaf(mix=0.8)])
def test_a_module_that_does_not_follow_its_option_is_caught(component: WarmGELU) -> None:
    assert_fails(suite(MLPConformance, component), "test_a_schedulable_option_may_change")


def test_windows_follow() -> None:
    suite(AttentionConformance, Naive(window=6)).test_a_schedulable_option_may_change()
