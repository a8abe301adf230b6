"""Compiled code on a CPU gives the same bits each time, also where several threads compute a window together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._inductor.utils import run_and_get_code

from nanogpt_kit.api import linear_cross_entropy
from nanogpt_kit.testing.conformance import ignore_torch_warnings
from nanogpt_kit.train.determinism import add_in_one_order, restored_determinism

ROWS, WIDTH, WORDS, T = 64, 96, 60, 256  # as large as it takes for the compiler to use two threads
ATOMIC = "atomic_add"  # in C++, an addition whose order is that in which threads arrive


class TiedHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(ROWS, WIDTH)
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        return linear_cross_entropy(self.layer(self.wte(ids)), self.wte.weight, targets, WORDS)


def compiled_code(exact: bool) -> str:
    """The code of the forward and backward pass over one window whose tokens occur several times."""
    torch._dynamo.reset()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    module, ids, targets = TiedHead(), torch.randint(0, 10, (1, T)), torch.randint(0, WORDS, (1, T))
    module.compile(options={"fx_graph_cache": False})

    def step() -> Tensor:
        module.zero_grad()
        (module(ids, targets) / T).backward()
        assert module.wte.weight.grad is not None
        return module.wte.weight.grad.clone()

    with restored_determinism():
        if exact:
            add_in_one_order()
        first, code = run_and_get_code(step)
        assert not exact or all(torch.equal(first, step()) for _ in range(20))
    return "".join(code)


@pytest.fixture(autouse=True)
def unchanged_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@ignore_torch_warnings
def test_compiled_gradients_have_the_same_bits_each_time() -> None:
    assert ATOMIC in compiled_code(exact=False)  # else this test could not fail
    assert ATOMIC not in compiled_code(exact=True)


def test_the_setting_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    deterministic: Any = torch.utils.deterministic
    monkeypatch.setattr(deterministic, "fill_uninitialized_memory", True)
    before = torch.are_deterministic_algorithms_enabled()
    with restored_determinism():
        add_in_one_order()
        assert torch.are_deterministic_algorithms_enabled()
        assert not deterministic.fill_uninitialized_memory
    assert torch.are_deterministic_algorithms_enabled() == before
    assert deterministic.fill_uninitialized_memory
