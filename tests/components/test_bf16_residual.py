"""The residual stream in bf16: which types the blocks get, how near the results stay, and where it is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nanogpt_kit.components.init.gpt2 import GPT2
from nanogpt_kit.components.model.gpt import GPT
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import ModelContext
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.nn.cache import KVCache
from nanogpt_kit.nn.parameter_shapes import parameter_shapes
from nanogpt_kit.train import session
from nanogpt_kit.train.precision import Precision

B, T, C, H, L, V = 2, 11, 24, 3, 4, 37
IDS = torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(1))
TARGETS = IDS.roll(-1, 1)
PARTS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "llama": {"norm": "rmsnorm", "mlp": "swiglu", "position": "rope", "bias": False, "qk_norm": True},
}
by_parts = pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)


def built(bf16_residual: bool = True, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    parts = GPT(n_layer=L, n_head=H, n_embd=C, block_size=13, bf16_residual=bf16_residual, **options)
    model = parts.build(ModelContext(vocab_size=V))
    GPT2().apply(model, parameter_shapes(model))
    return model


def stream_types(model: nn.Module, precision: str) -> set[torch.dtype]:
    """The types of what the blocks and the last norm get."""
    found: set[torch.dtype] = set()
    for part in [*model.get_submodule("h").children(), model.get_submodule("ln_f")]:
        part.register_forward_pre_hook(lambda module, inputs: found.add(inputs[0].dtype))
    with Precision(precision, "cpu").autocast():
        model(IDS, TARGETS)
    return found


@by_parts
def test_in_bf16_blocks_and_last_norm_get_bf16(parts: dict[str, Any]) -> None:
    assert stream_types(built(**parts), "bf16") == {torch.bfloat16}
    assert stream_types(built(bf16_residual=False, **parts), "bf16") == {torch.float32}


def test_a_part_that_returns_fp32_does_not_widen_it() -> None:
    model = built()
    model.get_submodule("h.1.mlp").register_forward_hook(lambda module, inputs, result: result.float())
    assert stream_types(model, "bf16") == {torch.bfloat16}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_outside_of_bf16_the_network_computes_as_without(precision: str) -> None:
    losses = []
    for bf16_residual in (True, False):
        model = built(bf16_residual)
        assert stream_types(model, precision) == {torch.float32}
        with Precision(precision, "cpu").autocast():
            losses.append(model(IDS, TARGETS))
    assert torch.equal(*losses)


def loss_and_gradients(model: nn.Module, precision: str, backend: str = "eager") -> list[Tensor]:
    with Precision(precision, "cpu").autocast():
        loss = torch.compile(model, backend=backend, fullgraph=True, disable=backend == "eager")(IDS, TARGETS)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert all(gradient.dtype == torch.float32 for gradient in (loss, *gradients))
    return [loss.detach(), torch.cat([gradient.flatten() for gradient in gradients])]


@by_parts
def test_loss_and_gradients_stay_near_those_in_fp32(parts: dict[str, Any]) -> None:
    exact = loss_and_gradients(built(**parts), "fp32")
    for found, expected, bound in zip(loss_and_gradients(built(**parts), "bf16"), exact, (1e-3, 2e-2), strict=True):
        assert 0 < float((found - expected).norm() / expected.norm()) < bound


@by_parts
def test_with_a_cache_logits_are_near_those_of_all_tokens_at_once(parts: dict[str, Any]) -> None:
    model = built(**parts).eval()
    cache = KVCache(13)
    with torch.no_grad(), Precision("bf16", "cpu").autocast():
        whole = model(IDS)
        steps = torch.cat([model(IDS[:, t : t + 1], cache=cache) for t in range(T)], dim=1)
    torch.testing.assert_close(steps.float(), whole.float(), rtol=0, atol=0.02)


@pytest.mark.slow
def test_compiled_it_computes_the_same() -> None:
    torch._dynamo.reset()
    plain = built()
    expected = loss_and_gradients(plain, "bf16")
    found = loss_and_gradients(plain, "bf16", backend="aot_eager")
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "tf32"])
def test_a_run_in_another_precision_is_refused_with_a_remedy(tiny: Path, precision: str) -> None:
    experiment = Experiment.load(tiny, ["model.bf16_residual=true"])
    context = RunContext(
        device="cuda", precision=precision, world_size=1, splits=experiment.dataset.splits, block_size=16
    )
    message = rf'model: bf16_residual .* bf16, .* {precision}; set train\.precision = "bf16"'
    with pytest.raises(KitError, match=message):
        experiment.check_context(context)


def test_a_run_in_fp32_is_refused_before_it_begins(tiny: Path, command: Callable[..., Any]) -> None:
    answer = command("run", tiny, "model.bf16_residual=true", "train.precision=fp32", "train.device=cpu")
    assert answer.code == 2
    assert "bf16_residual" in answer.err
    assert not (tiny.parent / "runs").exists()


def test_a_run_is_evaluated_sampled_and_exported(tiny: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    options = ["model.bf16_residual=true", "train.precision=bf16", "train.device=cpu", "callback=[]", "train.steps=3"]
    run = session.run(Experiment.load(tiny, [*options, "train.compile=off"]))
    assert command("eval", run.path).code == 0
    assert command("sample", run.path, "--prompt", "1", "--max-new-tokens", "4").code == 0
    assert command("export", run.path, tmp_path / "exported", "--format", "safetensors").code == 0
