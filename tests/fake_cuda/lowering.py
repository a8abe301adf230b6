"""Inductor's plan for an H100: how many kernels a compiled function has, and how many bytes they read and write.

Nothing is generated or measured, so choices that inductor makes by timing kernels are missing. It needs triton, which
torch's builds for CPUs do not bring.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo.device_interface
import torch._inductor.config
from compiling import compile_loss
from fake_device import H100
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd


def has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def lowered_loss(tokens: int) -> dict[str, float]:
    """Kernels, and gigabytes that they read and write, of GPT-2's compiled loss of so many tokens and its backward."""
    prepare_inductor()
    from torch._inductor.compile_fx import partition_fn
    from torch._inductor.decomposition import select_decomp_table

    totals = {"kernels": 0, "gigabytes": 0.0}

    def compiler(is_backward: bool) -> Callable[..., Any]:
        def lower(graph: torch.fx.GraphModule, example: list[Any]) -> Any:
            kernels, n_bytes = lowered(graph, example, is_backward)
            totals["kernels"] += kernels
            totals["gigabytes"] += n_bytes / 1e9
            return make_boxed_func(graph.forward)

        return lower

    backend = aot_autograd(
        fw_compiler=compiler(False),
        bw_compiler=compiler(True),
        decompositions=select_decomp_table(),
        partition_fn=partition_fn,
    )
    compile_loss(backend, tokens, {})
    return totals


def lowered(graph: torch.fx.GraphModule, example: list[Any], is_backward: bool) -> tuple[int, int]:
    """(kernels, bytes) of one graph."""
    from torch._inductor.compile_fx import _recursive_post_grad_passes
    from torch._inductor.debug import DebugContext
    from torch._inductor.fx_passes.post_grad import view_to_reshape
    from torch._inductor.graph import GraphLowering
    from torch._inductor.virtualized import V

    fake = torch._guards.detect_fake_mode(example)
    view_to_reshape(graph)
    with V.set_fake_mode(fake):
        _recursive_post_grad_passes(graph, is_inference=False)
        lowering = GraphLowering(graph, example_inputs=example, is_backward=is_backward)
        with V.set_debug_handler(DebugContext()), V.set_graph_handler(lowering):
            lowering.run(*example)
            lowering._update_scheduler()
            n_bytes, nodes, _ = lowering.count_bytes()
    return sum(type(node).__name__ != "NopKernelSchedulerNode" for node, _ in nodes), n_bytes


def prepare_inductor() -> None:
    """Answers what inductor asks about the GPU, beyond what fake_device answers."""
    device = torch._dynamo.device_interface.CudaInterface
    answers: dict[str, Any] = {
        "is_available": True,
        "current_device": 0,
        "get_compute_capability": 10 * H100.major + H100.minor,
        "get_device_properties": H100,
        "is_bf16_supported": True,
    }
    for name, answer in answers.items():
        setattr(device, name, staticmethod(lambda *args, _answer=answer, **options: _answer))
    device.Worker.get_device_properties = staticmethod(lambda *args: H100)  # type: ignore[method-assign, assignment]
    for name in ("_cuda_getDevice", "_cuda_setDevice", "_cuda_maybeExchangeDevice", "_cuda_exchangeDevice"):
        setattr(torch._C, name, lambda *args: 0)
    torch._inductor.config.compile_threads = 1
    torch._inductor.config.fx_graph_cache = False
    torch._inductor.config.joint_graph_constant_folding = False  # which computes constants on the device
