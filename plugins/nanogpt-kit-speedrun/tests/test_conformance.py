"""The suites of models and inits, for the parts that change what is computed."""

from __future__ import annotations

from typing import Any

from nanogpt_kit_speedrun.model import Speedrun

from nanogpt_kit.api import Init, Options, slot
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


MODEL: dict[str, Any] = {"use": "speedrun", "window_pattern": "L"}


class Chosen(Options):
    """Finds an init by its name."""

    init: Init = slot("gpt2")


class TestEverything(ModelConformance):
    """A layer of each kind: short, long and with value embeddings."""

    component = Speedrun(**{**SIZES, "n_layer": 2})


class TestNothing(ModelConformance):
    compiles = False
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


class TestGPT2Init(InitConformance):
    component = Chosen().init
    model = MODEL


class TestZeroResidual(InitConformance):
    component = Chosen(init="zero_residual").init
    model = MODEL


class TestMuP(InitConformance):
    component = Chosen(init={"use": "mup", "base_width": 32}).init
    model = MODEL
