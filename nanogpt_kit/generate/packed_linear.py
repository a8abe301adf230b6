"""Linear layers for decoding: a copy of the weights in the order and type that this CPU reads fastest.

Each new token goes through every weight once, so that decoding waits for memory. Microseconds on one core of an AMD
EPYC (Zen 4; 20 to 24 GB/s are all that its memory gives), from fp32 to fp32, for a layer from 384 to 1536 features, 768
to 3072, and 768 to 50,304:

    1 vector      fp32 by rows 269, 820, 12,425; by columns 130, 461, 6,593; bf16 (oneDNN) 122, 374, 5,073;
                  fp16 (FBGEMM) 60, 218, 3,134
    16 vectors    fp32 by rows 496, 1,923, 37,851; packed by oneDNN 297, 932, 16,329; bf16 177, 647, 8,801;
                  fp16 216, 903, 14,659

The results of fp16 are 11 to 21 times nearer to those of fp32 than those of bf16: texts written in a batch stay what
they are alone. Layers of more features than results are read by rows as fast as by columns, or faster (1536 to 384: 166
and 268).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_DIRECT_ROWS = 8  # vectors up to which one thread is as fast as several: 123 us and 140 from 384 to 1536 features

Product = Callable[[Tensor], Tensor]  # x (..., in) fp32 -> (..., out) fp32


class LinearSubstitute(nn.Module):
    """Takes the place of a linear layer, whose weight and sizes other modules may read."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.in_features, self.out_features = layer.in_features, layer.out_features


class CastLinear(LinearSubstitute):
    """Computes with a copy of the weight in `dtype`, and returns that type or the input's."""

    def __init__(self, layer: nn.Linear, dtype: torch.dtype, returns_input_dtype: bool) -> None:
        super().__init__(layer)
        self.cast_weight = layer.weight.detach().to(dtype)
        self.cast_bias = None if layer.bias is None else layer.bias.detach().to(dtype)
        self.returns_input_dtype = returns_input_dtype

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x.to(self.cast_weight.dtype), self.cast_weight, self.cast_bias)
        return y.to(x.dtype) if self.returns_input_dtype else y


class PackedLinear(LinearSubstitute):
    """A linear layer on a CPU, from fp32 to fp32, by packed weights.

    Prompts take the model's own weights, except in bf16: they wait for arithmetic and not for memory, and fp16 saves no
    arithmetic.
    """

    def __init__(self, layer: nn.Linear, dtype: torch.dtype, rows: int) -> None:
        super().__init__(layer)
        bias = None if layer.bias is None else layer.bias.detach()
        self.product = packed_product(layer.weight.detach(), bias, dtype, rows)
        self.packs_prompts = dtype == torch.bfloat16

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x) if x.size(-2) == 1 or self.packs_prompts else F.linear(x, self.weight, self.bias)


def packed_product(weight: Tensor, bias: Tensor | None, dtype: torch.dtype, rows: int) -> Product:
    """The product with a copy of the weight (out, in) that is laid out for `rows` vectors."""
    if dtype == torch.float16 and has_fbgemm_fp16():
        return fbgemm_fp16_product(weight, bias, rows)
    if dtype == torch.float32 and rows == 1:
        return fp32_column_product(weight, bias)
    if has_onednn_packing(dtype):
        return onednn_product(weight, bias, dtype, rows)
    return cast_product(weight, bias, dtype)


def fbgemm_fp16_product(weight: Tensor, bias: Tensor | None, rows: int) -> Product:
    """fp16 weights, which FBGEMM widens to fp32 as it reads them."""
    if rows <= MAX_DIRECT_ROWS and has_direct_fbgemm_fp16():
        direct = torch.fbgemm_pack_gemm_matrix_fp16(weight)
        return lambda x: torch.fbgemm_linear_fp16_weight_fp32_activation(x, direct, bias)
    packed = torch.ops.quantized.linear_prepack_fp16(weight, bias)
    product = torch.ops.quantized.linear_dynamic_fp16.default
    return lambda x: product(x, packed)


def fp32_column_product(weight: Tensor, bias: Tensor | None) -> Product:
    by_columns = weight.t().contiguous().t() if weight.size(0) > weight.size(1) else weight
    return lambda x: F.linear(x, by_columns, bias)


def onednn_product(weight: Tensor, bias: Tensor | None, dtype: torch.dtype, rows: int) -> Product:
    """oneDNN's own order, in which torch's compiler packs weights that are frozen."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype).contiguous(), rows)
    cast_bias = None if bias is None else bias.to(dtype)
    product = torch.ops.mkldnn._linear_pointwise.default
    if dtype == torch.float32:
        return lambda x: product(x, packed, cast_bias, "none", [], "")
    return lambda x: product(x.to(dtype), packed, cast_bias, "none", [], "").to(x.dtype)


def cast_product(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Product:
    cast_weight, cast_bias = weight.to(dtype), None if bias is None else bias.to(dtype)
    return lambda x: F.linear(x.to(dtype), cast_weight, cast_bias).to(x.dtype)


@cache
def has_fbgemm_fp16() -> bool:
    """Whether torch has FBGEMM's products of fp16 weights for this CPU."""
    try:
        packed = torch.ops.quantized.linear_prepack_fp16(torch.zeros(1, 1), None)
        torch.ops.quantized.linear_dynamic_fp16(torch.zeros(1, 1), packed)
    except (AttributeError, RuntimeError):
        return False
    return True


@cache
def has_direct_fbgemm_fp16() -> bool:
    """Whether torch has them without the quantized operators around them as well, which take 10 us a call or more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are deprecated
        try:
            packed = torch.fbgemm_pack_gemm_matrix_fp16(torch.zeros(1, 1))
            torch.fbgemm_linear_fp16_weight_fp32_activation(torch.zeros(1, 1), packed, None)
        except (AttributeError, RuntimeError):
            return False
    return True


def has_onednn_packing(dtype: torch.dtype) -> bool:
    """Whether oneDNN packs weights of a type here; bf16 requires AVX-512."""
    if not torch.backends.mkldnn.is_available() or dtype == torch.float16:
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
