"""Ways to multiply one vector, or some, by a weight matrix on a CPU, each with its own copy of the weights.

Decoding waits for memory, so the layout of the weights decides, and whether one core reads as fast as all. GB/s of
weights on two cores of an AMD EPYC (Zen 4; a plain read 26 to 33 on one core, 29 to 32 on two) for one vector, layers
from 768 to 2304 features, 768 to 768, 3072 to 768, and 768 to 50,304; threads that sleep while they wait:

    one thread    fp16: fbgemm 25, 26, 23, 28    bf16 mv 4, 4, 9, 5
                  fp32: rows 11, 10, 15, 11; columns 17, 12, 13, 21; onednn 15, 14, 19, 16
    two threads   fp16: fbgemm on threads 20, 12, 23, 31
                  fp32: rows 11, 11, 15, 12; columns 17, 13, 14, 22; parts 23, 16, 20, 29; onednn 22, 16, 23, 26

On two cores of a Xeon with AMX (a plain read 10 and 14 to 15) fbgemm reads 6, 7 and 10 (768 to 2304, 3072 to 768, and
768 to 50,304), fp32 by rows 16, 18 and 23 on two threads, bf16 11, 11 and 21.

16 vectors on one core of the EPYC, microseconds from 384 to 1536 features, 768 to 3072, and 768 to 50,304: fp32 by rows
496, 1,923, 37,851; onednn 297, 932, 16,329; bf16 177, 647, 8,801; fp16 216, 903, 14,659.

The results of fbgemm are 11 to 21 times nearer to those of fp32 than those of bf16: texts written in a batch stay what
they are alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_DIRECT_ROWS = 8  # vectors up to which one thread is as fast as several: 123 us and 140 from 384 to 1536 features

MIN_SIZE_OF_PARTS = 1_000_000  # weights from which two threads that sleep while they wait gain, not at 590,000 (Zen 4)

Product = Callable[[Tensor], Tensor]  # x (..., in) fp32 -> (..., out) fp32


@dataclass(frozen=True)
class Way:
    """A way to multiply."""

    name: str
    dtype: torch.dtype  # of the copy of the weights
    make: Callable[[Tensor, Tensor | None, int], Product]  # of a weight (out, in), a bias and the number of vectors
    threads: int  # that it uses
    rounds_results: bool = False  # to 16 bits, of which logits need more

    def product(self, weight: Tensor, bias: Tensor | None, rows: int) -> Product:
        """The product with a copy of the weight (out, in), laid out for `rows` vectors."""
        product = self.make(weight, bias, rows)
        return on_threads(product, self.threads) if self.threads > 1 else product


def on_threads(product: Product, threads: int) -> Product:
    """All else that a step computes is so small that waking a thread takes longer."""

    def call(x: Tensor) -> Tensor:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return product(x)
        finally:
            torch.set_num_threads(before)

    return call


def ways_to_multiply(dtypes: Sequence[torch.dtype], size: int, rows: int, threads: int) -> dict[str, Way]:
    """The ways that work here, by name, for `size` weights of one of these types; a rule chooses the first."""
    ways = [way for dtype in dtypes for way in ways_of_type(dtype, size, rows, threads)]
    return {way.name: way for way in ways}


def ways_of_type(dtype: torch.dtype, size: int, rows: int, threads: int) -> list[Way]:
    if dtype == torch.float16:
        if not has_fbgemm_fp16():
            return [Way("fp16", dtype, cast_product(dtype), threads, rounds_results=True)]
        direct = [Way("fbgemm", dtype, fbgemm_product, 1)] if rows <= MAX_DIRECT_ROWS and has_direct_fbgemm() else []
        on_all = [Way("fbgemm on threads", dtype, fbgemm_threads_product, threads)] if threads > 1 or not direct else []
        return [*direct, *on_all]
    is_short = dtype == torch.bfloat16
    name = "bf16" if is_short else "fp32"
    by_rows = Way(name, dtype, cast_product(dtype), threads, is_short)
    packed = (
        [Way(f"onednn {name}", dtype, onednn_product(dtype), threads, is_short)] if has_onednn_packing(dtype) else []
    )
    if rows > 1 or is_short:
        return [*packed, by_rows]
    by_columns = Way("fp32 by columns", dtype, fp32_column_product, 1)
    if threads == 1:
        return [by_columns, *packed, by_rows]
    in_parts = Way("fp32 in parts", dtype, fp32_parts_product(threads), threads)
    first = [in_parts, by_columns] if size >= MIN_SIZE_OF_PARTS else [by_columns, in_parts]
    return [*first, *packed, by_rows]


def fbgemm_product(weight: Tensor, bias: Tensor | None, rows: int) -> Product:
    """fp16 weights, which FBGEMM widens to fp32 as it reads them, on one thread."""
    packed = torch.fbgemm_pack_gemm_matrix_fp16(weight)
    return lambda x: torch.fbgemm_linear_fp16_weight_fp32_activation(x, packed, bias)


def fbgemm_threads_product(weight: Tensor, bias: Tensor | None, rows: int) -> Product:
    packed = torch.ops.quantized.linear_prepack_fp16(weight, bias)
    product = torch.ops.quantized.linear_dynamic_fp16.default
    return lambda x: product(x, packed)


def fp32_column_product(weight: Tensor, bias: Tensor | None, rows: int) -> Product:
    """Layers of more features than results are read by rows as fast as by columns, or faster."""
    by_columns = weight.t().contiguous().t() if weight.size(0) > weight.size(1) else weight
    return lambda x: F.linear(x, by_columns, bias)


def fp32_parts_product(threads: int) -> Callable[[Tensor, Tensor | None, int], Product]:
    """A batch of products, each with a part of the features, whose results are added: MKL's for one vector use one
    thread, but those in a batch are computed at once."""

    def make(weight: Tensor, bias: Tensor | None, rows: int) -> Product:
        results, features = weight.shape
        if features % threads:
            return fp32_column_product(weight, bias, rows)
        parts = weight.t().contiguous().view(threads, features // threads, results)

        def product(x: Tensor) -> Tensor:
            if x.numel() != features:
                return F.linear(x, weight, bias)
            y = torch.bmm(x.view(threads, 1, -1), parts).sum(dim=0).view(*x.shape[:-1], results)
            return y if bias is None else y.add_(bias)

        return product

    return make


def onednn_product(dtype: torch.dtype) -> Callable[[Tensor, Tensor | None, int], Product]:
    """oneDNN's own order, in which torch's compiler packs weights that are frozen."""

    def make(weight: Tensor, bias: Tensor | None, rows: int) -> Product:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype).contiguous(), rows)
        cast_bias = None if bias is None else bias.to(dtype)
        product = torch.ops.mkldnn._linear_pointwise.default
        if dtype == torch.float32:
            return lambda x: product(x, packed, cast_bias, "none", [], "")
        return lambda x: product(x.to(dtype), packed, cast_bias, "none", [], "").to(x.dtype)

    return make


def cast_product(dtype: torch.dtype) -> Callable[[Tensor, Tensor | None, int], Product]:
    def make(weight: Tensor, bias: Tensor | None, rows: int) -> Product:
        if dtype == torch.float32:
            return lambda x: F.linear(x, weight, bias)
        cast_weight, cast_bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        return lambda x: F.linear(x.to(dtype), cast_weight, cast_bias).to(x.dtype)

    return make


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
def has_direct_fbgemm() -> bool:
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
