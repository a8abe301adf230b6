"""What torch's compiler makes for a fake CUDA device: how many graphs of the model, and how large a loss."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest

from tests.fake_cuda.test_training_steps import built_in

pytestmark = pytest.mark.slow

Call = Callable[..., Any]
TOKENS = 32_768  # of a micro-batch of 32 windows of GPT-2
LAYERS = "model.n_layer=12"


@pytest.mark.parametrize("position", built_in("position"))
def test_all_blocks_share_one_graph(position: str, on_fake_cuda: Call, fake_experiment: str) -> None:
    overrides = [LAYERS, f"model.position={position}", "model.dropout=0"]
    found = on_fake_cuda(
        "compiling.compiled_graphs", experiment=fake_experiment, overrides=overrides, world_size=2, segments=False
    )
    masks = position == "alibi"  # the first block makes what is added to the scores, and the others use it
    assert found == {"graphs": 2 if masks else 1, "breaks": []}


def test_with_masks_the_block_that_makes_them_has_another_graph(on_fake_cuda: Call, fake_experiment: str) -> None:
    overrides = [LAYERS, "model.document_mask=true"]
    found = on_fake_cuda(
        "compiling.compiled_graphs", experiment=fake_experiment, overrides=overrides, world_size=2, segments=True
    )
    assert found == {"graphs": 2, "breaks": []}


@pytest.mark.parametrize("attention", built_in("attention"))
def test_a_whole_model_is_one_graph(attention: str, on_fake_cuda: Call, fake_experiment: str) -> None:
    overrides = [f"model.attention={attention}", "model.dropout=0", "model.position=rope"]
    found = on_fake_cuda(
        "compiling.compiled_graphs", experiment=fake_experiment, overrides=overrides, world_size=1, segments=False
    )
    assert found == {"graphs": 1, "breaks": []}


@pytest.mark.parametrize("penalties", [{}, {"label_smoothing": 0.1, "z_loss": 1e-4}], ids=["plain", "penalties"])
@pytest.mark.parametrize("softcap", [None, 15.0])
def test_the_traced_loss_is_small(penalties: dict[str, float], softcap: float | None, on_fake_cuda: Call) -> None:
    most = 700 if penalties and softcap else 600  # with all at once 626; in chunks as small as a CPU's thousands
    assert on_fake_cuda("compiling.traced_loss", tokens=TOKENS, penalties=penalties, softcap=softcap) < most


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="triton is not installed: `pip install 'nanogpt-kit[triton]'` brings it to torch's builds for CPUs",
)
def test_the_compiled_loss_has_few_kernels_and_moves_few_bytes(on_fake_cuda: Call) -> None:
    found = on_fake_cuda("lowering.lowered_loss", tokens=TOKENS)
    assert found["kernels"] <= 60
    assert found["gigabytes"] <= 22
