"""Mixers that a plugin author would write pass the suite, and so does the one on the page of the kind."""

from __future__ import annotations

from nanogpt_kit.cli.plugin_templates.component.mixer import DecayingMean
from nanogpt_kit.testing.mixer import MixerConformance
from tests.seams.components.differential import Differential
from tests.seams.components.gated_attention import GatedAttention
from tests.seams.components.mingru import MinGRU
from tests.seams.components.mla import MLA


class TestGatedAttention(MixerConformance):
    component = GatedAttention()
    fast_gradcheck = True


class TestDifferential(MixerConformance):
    component = Differential()
    fast_gradcheck = True


class TestMinGRU(MixerConformance):
    component = MinGRU(expansion=2)


class TestMLA(MixerConformance):
    component = MLA(latent=10)
    fast_gradcheck = True
    compiles = False


class TestDocumentedMixer(MixerConformance):
    component = DecayingMean()
    compiles = False
