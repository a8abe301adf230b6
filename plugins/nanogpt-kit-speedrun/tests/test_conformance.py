"""The suites of models and inits, for the parts that change what is computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nanogpt_kit_speedrun.model import Speedrun

from nanogpt_kit.api import Init, Model, Options, slot
from nanogpt_kit.testing.init import InitConformance
from nanogpt_kit.testing.model import ModelConformance

SIZES: dict[str, Any] = {"n_layer": 3, "n_head": 2, "n_embd": 16, "block_size": 13, "short_window": 3}
OFF: dict[str, Any] = {
    "embedding_norm": False,
    "qk_norm": False,
    "logit_softcap": 0.0,
    "residual_lambdas": False,
    "x0_lambdas": False,
    "value_embeddings": "none",
    "smear": False,
    "backout": False,
    "window_pattern": "L",
}


class Chosen(Options):
    """Finds an init by its name."""

    init: Init = slot("gpt2")


class TestEverything(ModelConformance):
    component = Speedrun(**SIZES)


class TestNothing(ModelConformance):
    component = Speedrun(**SIZES, **OFF)


class TestOtherComponents(ModelConformance):
    """Values without gates for fewer heads, positions in the embeddings and in the scores, a tied head."""

    compiles = False
    component = Speedrun(
        **{**SIZES, "n_layer": 2, "n_head": 4, "n_kv_head": 2},
        value_embeddings="plain",
        weight_tying=True,
        residual_lambdas=False,
        attention="naive",
        position="learned",
        norm="layernorm",
        mlp="swiglu",
    )


class TestOneLayer(ModelConformance):
    compiles = False
    component = Speedrun(**{**SIZES, "n_layer": 1}, position="alibi", qk_norm=False, logit_softcap=0.0)


class OfSpeedrun(InitConformance):
    """An init on this model, with those parts of the suite that it has."""

    def model_of(self, parts: Mapping[str, Any]) -> Model:
        known = {name: value for name, value in parts.items() if name in Speedrun.model_fields}
        single = {name: value for name, value in known.items() if not isinstance(value, list)}
        return Speedrun(**{**SIZES, "n_head": 4, "n_embd": 48, "window_pattern": "L", **single})


class TestGPT2Init(OfSpeedrun):
    component = Chosen().init


class TestZeroResidual(OfSpeedrun):
    component = Chosen(init="zero_residual").init


class TestMuP(OfSpeedrun):
    component = Chosen(init={"use": "mup", "base_width": 32}).init
