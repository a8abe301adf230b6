"""Cached decoding on a fake CUDA device: once for each token the host waits, for the token."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from tests.fake_cuda.test_training_steps import built_in
from tests.pairwise import covering

pytestmark = pytest.mark.slow

Call = Callable[..., Any]

MODELS = {
    "grouped heads": ["model.n_kv_head=1"],
    "window": ["model.attention.use=sdpa", "model.attention.window=5"],
    "modern": ["model.norm=rmsnorm", "model.qk_norm=true", "model.mlp=swiglu", "model.logit_softcap=15.0"],
}
CACHES = ["dynamic", "static"]
PADDINGS = ["padded", "even"]
BY_PARTS = [*itertools.product(built_in("attention"), built_in("position"), CACHES, PADDINGS)]


def check_tokens(found: dict[str, Any], cache: str) -> None:
    assert found["devices"] == ["cuda"]
    assert found["cache"] == {"dynamic": "KVCache", "static": "StaticCache"}[cache]
    for waits in found["steps"]:
        assert [wait.partition(":")[0] for wait in waits] == [".tolist() at generate/decode.py"], waits


@pytest.mark.parametrize(("attention", "position", "cache", "padding"), covering(BY_PARTS))
def test_a_token_is_all_that_is_waited_for(
    attention: str, position: str, cache: str, padding: str, on_fake_cuda: Call, fake_experiment: str
) -> None:
    overrides = ["model.dropout=0", f"model.attention={attention}", f"model.position={position}"]
    check_tokens(decoded(on_fake_cuda, fake_experiment, overrides, ["temperature", "top_k"], cache, padding), cache)


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("overrides", MODELS.values(), ids=MODELS)
def test_other_models_decode_on_the_device(
    overrides: list[str], cache: str, on_fake_cuda: Call, fake_experiment: str
) -> None:
    check_tokens(decoded(on_fake_cuda, fake_experiment, overrides, ["top_k"], cache, "padded"), cache)


@pytest.mark.parametrize("sampler", built_in("sampler"))
def test_a_sampler_and_the_draw_after_it_stay_on_the_device(
    sampler: str, on_fake_cuda: Call, fake_experiment: str
) -> None:
    check_tokens(decoded(on_fake_cuda, fake_experiment, [], [sampler], "dynamic", "even"), "dynamic")


def decoded(
    on_fake_cuda: Call, experiment: str, overrides: list[str], samplers: list[str], cache: str, padding: str
) -> dict[str, Any]:
    return on_fake_cuda(
        "decoding.decoded_tokens",
        experiment=experiment,
        overrides=overrides,
        samplers=samplers,
        padded=padding == "padded",
        static=cache == "static",
    )
