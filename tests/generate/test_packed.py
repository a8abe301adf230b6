"""A model as decoding reads it computes what the model does, and leaves the model as it is."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt_kit.api import KVCache, ModelContext
from nanogpt_kit.components.init.gpt2 import GPT2
from nanogpt_kit.components.model.gpt import GPT
from nanogpt_kit.generate import product_choice, products
from nanogpt_kit.generate.decoding_model import DecodingModel
from nanogpt_kit.generate.packed_linear import PackedLinear
from nanogpt_kit.nn.parameter_shapes import parameter_shapes
from nanogpt_kit.train.recomputation import checkpoint_activations

PARTS = [
    {},
    {"bias": False, "mlp": "swiglu", "position": "rope", "norm": "rmsnorm", "n_kv_head": 2},
    {"weight_tying": False, "qk_norm": True, "position": "alibi", "mlp": "relu2", "dropout": 0.5},
]


def model_of(**options: Any) -> Any:
    torch.manual_seed(0)
    model = GPT(n_layer=2, n_head=4, n_embd=32, block_size=16, **options).build(ModelContext(vocab_size=41))
    GPT2(std=0.2).apply(model, parameter_shapes(model))
    return model.eval()


def fed(model: Any, rows: int) -> Tensor:
    """Logits of a prompt at once, then of tokens one by one."""
    ids = torch.randint(0, 41, (rows, 12), generator=torch.Generator().manual_seed(1))
    cache = KVCache(16)
    return torch.cat([model(piece, cache=cache) for piece in ids.split([7, 1, 1, 1, 1, 1], dim=1)], dim=1)


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("parts", PARTS, ids=str)
def test_in_fp32_it_computes_the_same(parts: dict[str, Any], rows: int) -> None:
    model = model_of(**parts)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    packed = DecodingModel(model, "fp32", rows)
    torch.testing.assert_close(fed(packed, rows), fed(model, rows), rtol=0, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(isinstance(module, PackedLinear) for module in model.modules())


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize(("precision", "near"), [("auto", 0.03), ("bf16", 0.03), ("fp16", 0.002)])
@pytest.mark.parametrize("parts", PARTS, ids=str)
def test_in_short_types_it_computes_nearly_the_same(
    parts: dict[str, Any], precision: str, near: float, rows: int
) -> None:
    model = model_of(**parts)
    packed = DecodingModel(model, precision, rows)
    assert any(isinstance(module, PackedLinear) for module in packed.modules())
    expected = fed(model, rows)
    found = fed(packed, rows)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=float(near * expected.abs().max()))
    assert (found - expected).abs().max() > 1e-4, "the weights are not short"


@pytest.mark.parametrize(
    ("fp16", "bf16", "dtype"),
    [(True, True, torch.float16), (False, True, torch.bfloat16), (False, False, torch.float32)],
)
def test_auto_takes_the_short_type_that_the_processor_reads(
    fp16: bool, bf16: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(product_choice, "multiplies_bf16", lambda device: bf16)
    monkeypatch.setattr(product_choice, "has_fbgemm_fp16", lambda: fp16)
    assert product_choice.decoding_dtypes("auto", "cpu")[0] == dtype


@torch.no_grad()
@pytest.mark.parametrize("precision", ["auto", "bf16", "fp16"])
def test_without_the_products_of_a_library_another_computes_the_same(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (product_choice, products):
        monkeypatch.setattr(module, "has_fbgemm_fp16", lambda: False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    model = model_of()
    expected = fed(model, 3)
    found = fed(DecodingModel(model, precision, 3), 3)
    torch.testing.assert_close(found, expected, rtol=0, atol=float(0.03 * expected.abs().max()))


def test_all_but_the_linear_layers_is_shared() -> None:
    model = model_of()
    packed = DecodingModel(model, "fp32", 1)
    ours = {id(parameter) for parameter in model.parameters()}
    assert packed.model.wte.weight is model.wte.weight
    assert packed.model.h[0].ln_1.weight is model.h[0].ln_1.weight
    assert all(id(parameter) in ours for parameter in packed.parameters())


class Tripled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * super().forward(x)


@torch.no_grad()
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_what_only_looks_like_a_linear_layer_stays(precision: str) -> None:
    model = model_of()
    model.h[0].mlp.c_fc = Tripled(32, 128)
    model.h[1].mlp.c_fc.register_forward_hook(lambda module, args, output: output + 1)
    model.h[0].mlp.c_proj = nn.utils.parametrizations.weight_norm(model.h[0].mlp.c_proj)
    packed, expected = DecodingModel(model, precision, 5), fed(model, 5)
    torch.testing.assert_close(fed(packed, 5), expected, rtol=0, atol=float(0.05 * expected.abs().max()))
    assert isinstance(packed.model.h[0].mlp.c_fc, Tripled)


@torch.no_grad()
def test_a_model_that_cannot_be_copied_is_read_as_it_is() -> None:
    model = model_of()
    model.h[0].lock = threading.Lock()
    packed = DecodingModel(model, "bf16", 1)
    assert packed.model is model
    assert torch.equal(fed(packed, 1), fed(model, 1))


def test_threads_are_as_before() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.no_grad():
            fed(DecodingModel(model_of(), "fp32", 1), 1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


class Reads(nn.Module):
    """Asks about its linear layers, as nn.MultiheadAttention does."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(32, 48), nn.Linear(48, 32)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.up.weight, self.up.bias), self.down.weight) / self.down.in_features


@torch.no_grad()
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_module_may_read_the_weights_of_its_layers(precision: str) -> None:
    model = model_of()
    model.h[0].mlp, model.h[1].mlp = Reads(), nn.TransformerEncoderLayer(32, 2, 16, batch_first=True).eval()
    packed, expected = DecodingModel(model, precision, 5), fed(model, 5)
    torch.testing.assert_close(fed(packed, 5), expected, rtol=0, atol=float(0.05 * expected.abs().max()))


class Listener:
    def __init__(self) -> None:
        self.heard = 0

    def hear(self, *_: object) -> None:
        self.heard += 1


@torch.no_grad()
def test_who_listens_to_a_module_hears_the_copy() -> None:
    model, listener = model_of(), Listener()
    for module in (model, model.h[1], model.h[0].mlp.c_fc):
        module.register_forward_hook(listener.hear)
    fed(DecodingModel(model, "fp32", 1), 1)
    assert listener.heard == 3 * 6


@torch.no_grad()
def test_blocks_that_are_computed_again_in_training_are_packed_too() -> None:
    model, plain = model_of(), model_of()
    checkpoint_activations(model)
    packed, expected = DecodingModel(model, "fp16", 1), fed(DecodingModel(plain, "fp16", 1), 1)
    assert torch.equal(fed(packed, 1), expected)
    assert "forward" in vars(model.h[0])


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 3, 12])
@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (131, 24)], ids=str)
def test_every_way_to_multiply_computes_what_a_linear_layer_does(shape: tuple[int, int], rows: int) -> None:
    torch.manual_seed(0)
    weight, bias, x = torch.randn(shape), torch.randn(shape[0]), 1000 * torch.randn(rows, 1, shape[1])
    expected, threads = F.linear(x.double(), weight.double(), bias.double()), torch.get_num_threads()
    ways = products.ways_to_multiply([torch.float16, torch.bfloat16, torch.float32], weight.numel(), rows, 2)
    assert {way.dtype for way in ways.values()} == {torch.float16, torch.bfloat16, torch.float32}
    for name, way in ways.items():
        found = way.product(weight, bias, rows)(x)
        near = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[way.dtype]
        assert found.dtype == torch.float32
        assert found.shape == expected.shape
        assert (found - expected).abs().max() < near * expected.abs().max(), name
        assert torch.get_num_threads() == threads, name


@torch.no_grad()
def test_a_hook_that_is_registered_later_needs_a_new_copy() -> None:
    model, listener = model_of(), Listener()
    before = DecodingModel(model, "fp32", 1)
    model.h[0].register_forward_hook(listener.hear)
    fed(before, 1)
    assert listener.heard == 0
    fed(DecodingModel(model, "fp32", 1), 1)
    assert listener.heard == 6


@torch.no_grad()
def test_modules_of_the_copy_are_of_their_own_classes() -> None:
    model = model_of()
    kinds = {name: type(module) for name, module in model.named_modules()}
    packed = DecodingModel(model, "fp32", 1)
    assert {name: type(module) for name, module in model.named_modules()} == kinds
    assert all(isinstance(module, kinds[name]) for name, module in packed.model.named_modules() if "norm" in name)
