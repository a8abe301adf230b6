"""The suite of models, with adapters on every layer and on some."""

from __future__ import annotations

from typing import Any, ClassVar

from nanogpt_kit_lora.lora import LoRA

import nanogpt_kit.testing.model as suite

BASE: dict[str, Any] = {
    "use": "gpt",
    "n_layer": 2,
    "n_head": 6,
    "n_kv_head": 3,
    "n_embd": 24,
    "block_size": 13,
    "position": "rope",
    "mlp": "swiglu",
}


class TestLoRAOfAllLayers(suite.ModelConformance):
    component: ClassVar[LoRA] = LoRA.model_validate({"base": BASE, "rank": 3})


class TestLoRAOfQueriesAndValues(suite.ModelConformance):
    compiles = False
    component: ClassVar[LoRA] = LoRA.model_validate(
        {"base": BASE | {"position": "learned"}, "rank": 2, "match": r"c_attn\.[02]$", "also_train": "ln_"}
    )
