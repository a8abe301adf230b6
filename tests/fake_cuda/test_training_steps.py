"""Steps of the real trainer on a fake CUDA device, which has no values: an operation on tensors of two devices fails,
and the host must not wait for the device within a step, nor send it more than the batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION
from tests.pairwise import covering

pytestmark = pytest.mark.slow

Call = Callable[..., Any]


def built_in(kind: str) -> list[str]:
    return [entry.name for entry in Registry.installed().of_kind(kind) if entry.distribution == KIT_DISTRIBUTION]


PARTS = (built_in("optimizer"), ["fp32", "tf32", "bf16", "fp16"], built_in("attention"), built_in("position"))
FUSED = ("adamw",)  # optimizers whose whole update is one kernel
OTHERS = {
    "dropout": ["model.dropout=0.2"],
    "grouped heads and a window": ["model.n_kv_head=1", "model.attention.use=sdpa", "model.attention.window=7"],
    "a modern network": ["model.norm=rmsnorm", "model.mlp=swiglu", "model.qk_norm=true", "model.weight_tying=false"],
    "soft-capped logits": ["model.logit_softcap=15.0"],
    "penalties": ["model.loss.use=cross_entropy", "model.loss.label_smoothing=0.1", "model.loss.z_loss=1e-4"],
    "activation checkpointing": ["train.activation_checkpointing=true", "model.dropout=0.2"],
    "several micro-batches in fp16": ["train.micro_batch_size=1", "train.precision=fp16"],
    "no clipping": ["train.grad_clip=0", "model.dropout=0"],
}


def check_steps(found: dict[str, Any], tensors_of_a_batch: int = 2, reads_overflow: bool = False) -> None:
    assert found["devices"] == ["cuda"]
    for step in found["steps"]:
        waits = [wait.partition(":")[0] for wait in step["waits"]]
        assert waits == ([".item() at train/trainer.py"] if reads_overflow else []), step["waits"]
        copies = [copy for copy in step["copies"] if "nn/hashed_dropout.py" not in copy]  # a key for each window
        sent = [copy for copy in copies if copy.startswith("cpu to cuda")]
        assert len(sent) == tensors_of_a_batch, sent
        assert all("data/batches.py" in copy for copy in sent), sent
        received = [copy for copy in copies if copy not in sent]
        assert all("train/pending.py" in copy for copy in received), received


@pytest.mark.parametrize(("optimizer", "precision", "attention", "position"), covering([*itertools.product(*PARTS)]))
def test_a_step_neither_waits_for_the_device_nor_mixes_devices(
    optimizer: str, precision: str, attention: str, position: str, on_fake_cuda: Call, fake_experiment: str
) -> None:
    overrides = [f"optimizer.use={optimizer}", f"train.precision={precision}", f"model.attention={attention}"]
    overrides += [f"model.position={position}", "model.dropout=0"]  # flex has none
    found = on_fake_cuda("training.training_steps", experiment=fake_experiment, overrides=overrides)
    # Torch's scaler reads whether the gradient has overflowed, unless the optimizer's kernel does
    check_steps(found, reads_overflow=precision == "fp16" and optimizer not in FUSED)


@pytest.mark.parametrize("overrides", OTHERS.values(), ids=OTHERS)
def test_other_options_neither_wait_nor_mix_devices(
    overrides: list[str], on_fake_cuda: Call, fake_experiment: str
) -> None:
    overrides = ["train.precision=bf16", *overrides]
    check_steps(on_fake_cuda("training.training_steps", experiment=fake_experiment, overrides=overrides))


@pytest.mark.parametrize("attention", built_in("attention"))
def test_masks_of_documents_are_made_on_the_device(attention: str, on_fake_cuda: Call, fake_experiment: str) -> None:
    overrides = ["model.document_mask=true", f"model.attention={attention}", "model.dropout=0", "train.precision=bf16"]
    found = on_fake_cuda("training.training_steps", experiment=fake_experiment, overrides=overrides)
    check_steps(found, tensors_of_a_batch=3)  # with the segments


def test_a_logged_step_waits_for_its_metrics(on_fake_cuda: Call, fake_experiment: str) -> None:
    found = on_fake_cuda("training.training_steps", experiment=fake_experiment, overrides=["train.precision=fp16"])
    what = [wait.partition(":")[0] for wait in found["logged"]]
    loss, metrics, scale = "train/pending.py", "train/trainer.py", "train/finite.py"
    assert what == [f"an event that was recorded last at {loss}", *[f".item() at {metrics}"] * 2, f".item() at {scale}"]


@pytest.mark.parametrize("penalties", [{}, {"label_smoothing": 0.1, "z_loss": 1e-4}], ids=["plain", "penalties"])
@pytest.mark.parametrize("softcap", [None, 15.0])
def test_the_loss_of_a_large_batch_stays_on_the_device(
    penalties: dict[str, float], softcap: float | None, on_fake_cuda: Call
) -> None:
    found = on_fake_cuda("compiling.uncompiled_loss", tokens=32_768, penalties=penalties, softcap=softcap)
    assert found == {"waits": [], "copies": []}
