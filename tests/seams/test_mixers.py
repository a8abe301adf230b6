"""Mixers that a plugin author would write: gated and differential attention, and a recurrence, within `gpt`."""

from __future__ import annotations

from nanogpt_kit.testing.mixer import MixerConformance
from tests.seams.components.differential import Differential
from tests.seams.components.gated_attention import GatedAttention
from tests.seams.components.mingru import MinGRU


class TestGatedAttention(MixerConformance):
    component = GatedAttention()


class TestDifferential(MixerConformance):
    component = Differential()


class TestMinGRU(MixerConformance):
    component = MinGRU(expansion=2)
