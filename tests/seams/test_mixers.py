"""Mixers that a plugin author would write pass the suite, and so does the one on the page of the kind."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

from nanogpt_kit.api import Mixer
from nanogpt_kit.testing.mixer import MixerConformance
from tests.seams.components.differential import Differential
from tests.seams.components.gated_attention import GatedAttention
from tests.seams.components.mingru import MinGRU
from tests.seams.components.mla import MLA

PAGE = Path(__file__).parents[2] / "docs" / "kinds" / "mixer.md"


def documented_component() -> Mixer:
    """The smallest example, as a module of that name."""
    (example,) = re.findall(r'^```python\n(""".*?)^```', PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    module = sys.modules["decay"] = ModuleType("decay")
    exec(compile(example, str(PAGE), "exec"), vars(module))
    component: Mixer = vars(module)["Decay"]()
    return component


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
    component = documented_component()
    compiles = False
