"""A window that a schedule changes is a variable of the compiled model, not a reason to compile it again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch._dynamo
from torch._dynamo.utils import counters

from nanogpt_kit.api import ModelContext
from nanogpt_kit.components.attention import causal_blocks
from nanogpt_kit.components.model.gpt import GPT
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.testing.conformance import ignore_torch_warnings
from nanogpt_kit.train import compile as compiling
from nanogpt_kit.train.compile import CompileChoice

pytestmark = ignore_torch_warnings
T = 12
SLOW = ("naive", "sdpa in blocks")
CPU = RunContext(device="cpu", precision="fp32", world_size=1, splits=("train", "val"), block_size=T)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    with torch._dynamo.config.patch(allow_unspec_int_on_nn_module=False):  # as it was before, on exit
        yield


@pytest.mark.parametrize("attention", ["sdpa", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
@pytest.mark.usefixtures("fresh_compiler")
def test_ten_windows_are_compiled_for_three_times(attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first value, at the second, and at the one that is the whole context; each gives the uncompiled loss."""
    monkeypatch.setattr(causal_blocks, "BLOCK", 2)
    name, _, in_blocks = attention.partition(" ")
    part = {"use": name, "window": 2} | ({"backend": "math"} if in_blocks else {})
    options = GPT(n_layer=1, n_head=2, n_embd=8, block_size=T, attention=part)
    torch.manual_seed(1)
    model, plain = (options.build(ModelContext(vocab_size=11)) for _ in range(2))
    plain.load_state_dict(model.state_dict())
    whole: Any = torch.nn.Module.compile

    def compile_for_autograd(module: Any, options: Any, dynamic: bool | None) -> None:
        whole(module, backend="aot_eager", dynamic=dynamic)  # inductor takes minutes

    monkeypatch.setattr(torch.nn.Module, "compile", compile_for_autograd)
    monkeypatch.setattr(compiling, "all_instructions_work", lambda: False)
    CompileChoice("default", "").apply(model, CPU, micro_steps=2, equal_steps=True, options_change=True)
    ids = torch.arange(3 * T).view(3, T) % 11
    for window in (2, 3, 4, 5, 6, 7, 8, 9, 12, 13):
        for module in (*model.modules(), *plain.modules()):
            if hasattr(module, "window"):
                module.window = window
        torch.testing.assert_close(model(ids, ids), plain(ids, ids))
    assert counters["stats"]["unique_graphs"] <= 3
