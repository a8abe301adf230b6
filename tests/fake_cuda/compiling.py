"""What torch's compiler makes of the model and of its loss for the fake device, up to the code of the kernels."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch._dynamo
import torch._dynamo.testing
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses.fake_tensor import FakeTensorMode
from waits import move_model

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import ModelContext
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.nn.loss import linear_cross_entropy, regularized_cross_entropy
from nanogpt_kit.nn.training_loss import TrainingLoss
from nanogpt_kit.train.compile import CompileChoice

VOCAB_SIZE, ROWS, FEATURES = 50_257, 50_304, 768  # of GPT-2 124M


def tensors_without_values() -> AbstractContextManager[object]:
    FakeTensorMode.avoid_device_init = True  # type: ignore[assignment, method-assign]
    return FakeTensorMode(allow_non_fake_inputs=True)


def compiled_graphs(experiment: str, overrides: list[str], world_size: int, segments: bool) -> dict[str, Any]:
    """How many graphs a run of `world_size` processes compiles for two passes of its model, and where they break."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    one = Experiment.load(Path(experiment), overrides)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")

    def compile_module(module: nn.Module, options: object = None, dynamic: bool | None = None) -> None:
        module._compiled_call_impl = torch.compile(module._call_impl, backend=counter, dynamic=dynamic)

    with tensors_without_values(), patch.object(nn.Module, "compile", compile_module):
        model = move_model(one.model.build(ModelContext(vocab_size=64)), "cuda").train()
        ctx = RunContext(device="cuda", precision="bf16", world_size=world_size, splits=(), block_size=1)
        CompileChoice("default", "").apply(model, ctx, 1, equal_steps=True, options_change=False)
        ids = torch.zeros(2, one.model.block_size, dtype=torch.int64, device="cuda")
        for _ in range(2):
            with torch.autocast("cuda", torch.bfloat16):
                loss = TrainingLoss.of(model(ids, ids, segments=ids if segments else None))
            loss.objective.backward()
    breaks = torch._dynamo.utils.counters["graph_break"]
    return {"graphs": counter.frame_count, "breaks": [reason.partition("\n")[0] for reason in breaks]}


def traced_loss(tokens: int, penalties: dict[str, float], softcap: float | None) -> int:
    """The nodes of the graphs of GPT-2's loss and of its backward pass."""
    nodes: list[int] = []

    def count(graph: torch.fx.GraphModule, example: object) -> Any:
        nodes.append(len(graph.graph.nodes))
        return make_boxed_func(graph.forward)

    compile_loss(aot_autograd(fw_compiler=count, bw_compiler=count), tokens, penalties, softcap)
    return sum(nodes)


def compile_loss(
    backend: Callable[..., Any], tokens: int, penalties: dict[str, float], softcap: float | None = None
) -> None:
    """Compiles GPT-2's loss of so many tokens in bf16, and its backward pass."""

    def loss(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        if penalties:
            return regularized_cross_entropy(x, weight, targets, VOCAB_SIZE, softcap, **penalties).objective
        return linear_cross_entropy(x, weight, targets, VOCAB_SIZE, softcap)

    torch._dynamo.reset()
    with tensors_without_values(), torch.autocast("cuda", torch.bfloat16):
        x = torch.empty(tokens, FEATURES, device="cuda", requires_grad=True)
        weight = torch.empty(ROWS, FEATURES, device="cuda", requires_grad=True)
        targets = torch.zeros(tokens, dtype=torch.int64, device="cuda")
        torch.compile(loss, backend=backend, dynamic=False, fullgraph=True)(x, weight, targets).backward()


def uncompiled_loss(tokens: int, penalties: dict[str, float], softcap: float | None) -> dict[str, list[str]]:
    """What GPT-2's loss of so many tokens in bf16, and its backward pass, wait for and copy."""
    from waits import fake_tensors

    with fake_tensors() as log, torch.autocast("cuda", torch.bfloat16):
        x = torch.empty(tokens, FEATURES, device="cuda", requires_grad=True)
        weight = torch.empty(ROWS, FEATURES, device="cuda", requires_grad=True)
        targets = torch.zeros(tokens, dtype=torch.int64, device="cuda")
        loss = regularized_cross_entropy(x, weight, targets, VOCAB_SIZE, softcap, **penalties).objective
        loss.backward()
        assert x.grad is not None
        assert x.grad.device.type == "cuda"
        return log.end()
