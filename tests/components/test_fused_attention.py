"""Which kernels torch may choose from on CUDA: seen on fake tensors, since only the choice matters here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from nanogpt_kit.api import LayerContext, View
from nanogpt_kit.components.attention import flex as flex_module
from nanogpt_kit.components.attention.flex import Flex
from nanogpt_kit.components.attention.sdpa import SDPA
from nanogpt_kit.testing.attention import AttentionConformance
from nanogpt_kit.testing.attention_scenes import SCENES, plain_softmax

B, H, HKV, T, D = 2, 6, 3, 8, 4
LAYER = LayerContext(
    n_embd=H * D, n_head=H, n_kv_head=HKV, head_dim=D, n_layer=1, block_size=16, dropout=0.0, bias=False
)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What torch's function got, and whether it could choose cuDNN's kernel; all tensors are fake meanwhile."""
    seen: list[dict[str, Any]] = []

    def watched(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        cudnn = torch.backends.cuda.cudnn_sdp_enabled()
        seen.append({**options, "heads": (k.size(1), v.size(1)), "cudnn": cudnn})
        return torch.empty_like(q)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    with FakeTensorMode():
        yield seen


def attend(
    options: Any, device: str, queries: int, keys: int, dtype: torch.dtype = torch.bfloat16, **view: Any
) -> None:
    q = torch.empty(B, H, queries, D, device=device, dtype=dtype)
    k, v = (torch.empty(B, HKV, keys, D, device=device, dtype=dtype) for _ in range(2))
    positions = torch.arange(keys)[None]  # on the CPU: without CUDA few operations take fake tensors of it
    square = queries == keys and not view
    options.build(LAYER).eval()(q, k, v, View(positions[:, -queries:], positions, square, **view))


@pytest.mark.parametrize(
    ("queries", "gradients", "cudnn"), [(T, True, True), (T, False, False), (1, True, False), (1, False, False)]
)
def test_lengths_that_change_get_no_kernel_that_plans_each_of_them(
    calls: list[dict[str, Any]], queries: int, gradients: bool, cudnn: bool
) -> None:
    with nullcontext() if gradients else torch.no_grad():
        attend(SDPA(), "cuda", queries, T, torch.bfloat16, **({} if queries == T else {"unmasked": True}))
    assert [call["cudnn"] for call in calls] == [cudnn]
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_a_single_new_token_needs_no_mask(calls: list[dict[str, Any]]) -> None:
    attend(SDPA(), "cuda", 1, T, unmasked=True)
    attend(SDPA(window=T - 1), "cuda", 1, T, unmasked=True)
    assert [call["attn_mask"] is None for call in calls] == [True, False]
    assert not any(call["is_causal"] for call in calls)


@pytest.mark.parametrize(
    ("device", "window", "dtype", "heads"),
    [
        ("cuda", None, torch.bfloat16, HKV),
        ("cuda", None, torch.float16, HKV),
        ("cuda", None, torch.float32, H),
        ("cuda", 3, torch.bfloat16, H),
        ("cpu", None, torch.float32, HKV),
        ("cpu", 3, torch.float32, HKV),
    ],
)
def test_shared_keys_are_repeated_on_cuda_for_a_mask_and_in_fp32(
    calls: list[dict[str, Any]], device: str, window: int | None, dtype: torch.dtype, heads: int
) -> None:
    attend(SDPA(window=window, backend="auto"), device, T, T, dtype)
    assert [(call["heads"], call["enable_gqa"]) for call in calls] == [((heads, heads), heads == HKV)]


@pytest.mark.parametrize("window", [None, 3])
def test_flex_compiles_nothing_for_lengths_that_change(
    calls: list[dict[str, Any]], window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flex_module, "attend", lambda *args, **kw: pytest.fail("it uses FlexAttention"))
    attend(Flex(window=window), "cuda", 1, T, unmasked=True)
    with torch.no_grad():
        attend(Flex(window=window), "cuda", T, T)
    assert [call["cudnn"] for call in calls] == [False, False]


def test_flex_trains_by_flex_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *args, **kw: pytest.fail("it uses fused kernels"))
    suite = AttentionConformance()
    view = suite.view("the causal square")
    Flex().build(suite.context)(*suite.inputs(view), view)


@torch.no_grad()
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("scene", SCENES)
def test_evaluation_by_flex_is_the_same_softmax(scene: str, window: int | None) -> None:
    suite = AttentionConformance()
    view = suite.view(scene)
    q, k, v = suite.inputs(view)
    found = Flex(window=window).build(suite.context).eval()(q, k, v, view)
    torch.testing.assert_close(found, plain_softmax(q, k, v, view, window).float(), rtol=0, atol=2e-6)
