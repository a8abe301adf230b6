"""The suites of formats and positions."""

from __future__ import annotations

from typing import Any, ClassVar

from nanogpt_kit_llama.llama import Llama
from nanogpt_kit_llama.llama3_rope import Llama3RoPE

import nanogpt_kit.testing.format as format_suite
import nanogpt_kit.testing.position as position_suite

MODEL: dict[str, Any] = {
    **format_suite.GPT2,
    "bias": False,
    "position": "rope",
    "norm": "rmsnorm",
    "mlp": "swiglu",
}


class TestLlama(format_suite.FormatConformance):
    tolerance = 1e-4  # of logits of about 10; kernels of attention round differently
    component: ClassVar[Llama] = Llama()
    model = MODEL


class TestMistral(format_suite.FormatConformance):
    tolerance = 1e-4  # of logits of about 10; kernels of attention round differently
    component: ClassVar[Llama] = Llama()
    model: ClassVar[dict[str, Any]] = {**MODEL, "attention": {"use": "sdpa", "window": 5}, "weight_tying": False}


class TestLlamaWithBiasesAndSlowedPositions(format_suite.FormatConformance):
    tolerance = 1e-4  # of logits of about 10; kernels of attention round differently
    component: ClassVar[Llama] = Llama()
    model: ClassVar[dict[str, Any]] = {
        **MODEL,
        "bias": True,
        "position": {"use": "llama3_rope", "original_context": 8, "high_freq_factor": 3.0},
    }


class TestLlama3RoPE(position_suite.PositionConformance):
    component: ClassVar[Llama3RoPE] = Llama3RoPE(original_context=8)
