"""Compiled, the gradient of a token embedding is added into that of the output head."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Graph

from nanogpt_kit.api import linear_cross_entropy
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.testing.conformance import ignore_torch_warnings
from nanogpt_kit.train.compile import CompileChoice
from nanogpt_kit.train.embedding_gradient import add_rows_in_place_of_sums, embedding_gradient_pass

pytestmark = ignore_torch_warnings

ROWS, WIDTH, WORDS = 64, 8, 60
CPU = RunContext(device="cpu", precision="fp32", world_size=1, splits=("train", "val"), block_size=16)


class Head(nn.Module):
    """An embedding, a layer, and the loss; `tied`: of the logits that the embedding's weight gives."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.wte = nn.Embedding(ROWS, WIDTH)
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.head = self.wte if tied else nn.Embedding(ROWS, WIDTH)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        return linear_cross_entropy(self.layer(self.wte(ids)), self.head.weight, targets, WORDS)


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def tied(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=[2**25, 2**9], ids=["whole", "chunks"])
def batch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor]:
    """Ids and targets (2, 16), with ids that are repeated; the loss takes all logits at once, or chunks of them."""
    monkeypatch.setattr("nanogpt_kit.nn.loss.CHUNK_LOGITS", request.param)
    torch.manual_seed(0)
    return torch.randint(0, 10, (2, 16)), torch.randint(0, WORDS, (2, 16))


def gradients(module: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    module.zero_grad()
    (module(*batch) / batch[1].numel()).backward()  # of the mean, so that all are below 1
    return {name: parameter.grad.clone() for name, parameter in module.named_parameters() if parameter.grad is not None}


@pytest.mark.slow
def test_compiled_gradients_are_those_of_uncompiled_training_and_no_sum_with_zeros_is_left(
    tied: bool, batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def counted(graph: Graph) -> int:
        seen.append(add_rows_in_place_of_sums(graph))
        sums = graph.find_nodes(op="call_function", target=torch.ops.aten.add.Tensor)
        assert not any("index_put" in str(argument) for node in sums for argument in node.args)
        return seen[-1]

    monkeypatch.setattr("nanogpt_kit.train.embedding_gradient.add_rows_in_place_of_sums", counted)
    module = Head(tied)
    expected = gradients(module, batch)
    torch._dynamo.reset()
    no_caches = (
        torch._inductor.config.patch(fx_graph_cache=False),
        torch._functorch.config.patch(enable_autograd_cache=False),
    )
    with no_caches[0], no_caches[1]:  # a graph of the cache skips all passes
        CompileChoice("default", "").apply(module, CPU, micro_steps=1, equal_steps=True, options_change=False)
        found = gradients(module, batch)
    assert seen == [0, int(tied)]  # of the forward pass and the backward pass
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-6)


ADD_ROWS = torch.ops.aten._unsafe_masked_index_put_accumulate.default


def sum_of_rows(filled: float = 0.0, shape: tuple[int, ...] = (4, 2), uses: int = 1, swapped: bool = False) -> Graph:
    """A graph of (gradient (4, 2), mask, ids, values) that adds `filled` with rows of `values` to the gradient."""
    graph = Graph()
    gradient, mask, ids, values = map(graph.placeholder, ("gradient", "mask", "ids", "values"))
    base = graph.call_function(torch.ops.aten.full.default, ([4, 2], filled))
    rows = graph.call_function(ADD_ROWS, (base, mask, [ids], values))
    gradient.meta["val"], rows.meta["val"] = torch.empty(shape), torch.empty(4, 2)
    total = graph.call_function(torch.ops.aten.add.Tensor, (rows, gradient) if swapped else (gradient, rows))
    graph.output((total, rows) if uses > 1 else (total,))
    return graph


def computed(graph: Graph, gradient: Tensor) -> Any:
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    module = torch.fx.GraphModule(nn.Module(), graph)
    return module(gradient, torch.ones(3, 1, dtype=torch.bool), torch.tensor([1, 3, 1]), values)


@pytest.mark.parametrize("swapped", [False, True])
def test_the_rows_are_added_to_the_gradient_itself(swapped: bool) -> None:
    graph = sum_of_rows(swapped=swapped)
    assert add_rows_in_place_of_sums(graph) == 1
    assert not graph.find_nodes(op="call_function", target=torch.ops.aten.add.Tensor)
    gradient = torch.ones(4, 2)
    (total,) = computed(graph, gradient)
    assert total.tolist() == [[1, 1], [7, 9], [1, 1], [4, 5]]
    assert gradient.tolist() == [[1, 1]] * 4


@pytest.mark.parametrize(
    "changes", [{"filled": 1.0}, {"shape": (1, 2)}, {"uses": 2}], ids=["not zeros", "broadcast", "used elsewhere"]
)
def test_other_sums_are_left_as_they_are(changes: dict[str, Any]) -> None:
    graph = sum_of_rows(**changes)
    gradient = torch.ones(changes.get("shape", (4, 2)))
    before = computed(sum_of_rows(**changes), gradient)
    assert add_rows_in_place_of_sums(graph) == 0
    assert [value.tolist() for value in computed(graph, gradient)] == [value.tolist() for value in before]


def test_without_torchs_private_names_there_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch._inductor.custom_graph_pass", None)
    assert embedding_gradient_pass() is None


def test_the_pass_keeps_compiled_code_in_the_cache() -> None:
    first, second = embedding_gradient_pass(), embedding_gradient_pass()
    assert first.uuid() == second.uuid() is not None
