"""Every built-in format passes the suite, as a plugin's would."""

from __future__ import annotations

from nanogpt_kit.components.format.huggingface import HuggingFace
from nanogpt_kit.components.format.nanogpt import NanoGPT
from nanogpt_kit.components.format.safetensors import Safetensors
from nanogpt_kit.core.kinds import load_entry
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION
from nanogpt_kit.testing.format import FormatConformance


class TestHuggingFace(FormatConformance):
    component = HuggingFace()


class TestNanoGPT(FormatConformance):
    component = NanoGPT()


class TestSafetensors(FormatConformance):
    component = Safetensors()


def test_every_built_in_format_passes_the_suite() -> None:
    tested = {type(case.component) for name, case in globals().items() if name.startswith("Test")}
    entries = [one for one in Registry.installed().of_kind("format") if one.distribution == KIT_DISTRIBUTION]
    assert {load_entry(entry) for entry in entries} == tested
