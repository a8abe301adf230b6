"""A model as decoding reads it: each new token goes through every weight once, so that memory is what it waits for.

Linear layers keep a copy of their weights in the order and the type in which they are read fastest; all else is the
model's own. On a CPU these are fp16 weights, which FBGEMM widens as it reads them. Microseconds on one core of an AMD
EPYC (Zen 4; 20 to 24 GB/s are all that its memory gives), from fp32 to fp32, for a layer from 384 to 1536 features, 768
to 3072, and 768 to 50,304:

    1 vector      fp32 by rows 269, 820, 12,425; by columns 130, 461, 6,593; bf16 (oneDNN) 122, 374, 5,073;
                  fp16 60, 218, 3,134
    16 vectors    fp32 by rows 496, 1,923, 37,851; packed by oneDNN 297, 932, 16,329; bf16 177, 647, 8,801;
                  fp16 216, 903, 14,659

The results of fp16 are 11 to 21 times nearer to those of fp32 than those of bf16: texts written together stay what they
are alone. Layers of more features than results are read by rows as fast as by columns, or faster (1536 to 384: 166 and
268).
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache, partial
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt_kit.generate.static_cache import StaticCache
from nanogpt_kit.nn.arithmetic import multiplies_bf16
from nanogpt_kit.nn.cache import KVCache

logger = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MAX_DIRECT_ROWS = 8  # vectors up to which one thread is as fast as several: 123 us and 140 from 384 to 1536 features
MIN_PRODUCTS_PER_THREAD = (
    16_000_000  # products of one layer: at 9 million (0.14 ms) a second thread cost, at 38 it gained
)


@cache
def has_fbgemm_fp16() -> bool:
    """Whether torch brings FBGEMM's products of fp16 weights for this CPU."""
    try:
        packed = torch.ops.quantized.linear_prepack_fp16(torch.zeros(1, 1), None)
        torch.ops.quantized.linear_dynamic_fp16(torch.zeros(1, 1), packed)
    except (AttributeError, RuntimeError):
        return False
    return True


@cache
def has_direct_fbgemm_fp16() -> bool:
    """Whether it brings them without the quantized operators around them, too, which take 10 us a call and more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said once: they will go some day
        try:
            packed = torch.fbgemm_pack_gemm_matrix_fp16(torch.zeros(1, 1))
            torch.fbgemm_linear_fp16_weight_fp32_activation(torch.zeros(1, 1), packed, None)
        except (AttributeError, RuntimeError):
            return False
    return True


def weight_dtype(precision: str, device: str) -> torch.dtype:
    """Of the weights."""
    if precision != "auto":
        return DTYPES[precision]
    if device == "cpu" and has_fbgemm_fp16():
        return torch.float16
    return torch.bfloat16 if multiplies_bf16(device) else torch.float32


class DecodingModel(nn.Module):
    """Called with ids and a cache, as the model itself. `rows` is how many texts a call will go on with.

    In short types the weights and the products are; on a CPU everything between them stays in fp32, where small
    operations and attention of one token are faster. `compile` says what becomes of the steps of caches that were
    borrowed: "graph", recorded once and replayed (CUDA), or "default", compiled.
    """

    def __init__(self, model: nn.Module, precision: str, rows: int, compile: str = "off") -> None:
        super().__init__()
        first = next(model.parameters(), torch.empty(0))
        self.device = first.device.type
        self.dtype = weight_dtype(precision, self.device)
        self.compile_mode = compile
        self.model = (
            model if first.dtype != torch.float32 else copy_with_parts(model, lambda part: self.part(part, rows))
        )
        self.products, every = linear_products(model)
        self.weight_bytes = every * self.dtype.itemsize  # that a step reads, all but a few
        self.shares = 1  # threads that call it at a time
        self.own = self.model is not model  # a copy, in which nobody but decoding computes
        self.idle: list[StaticCache] = []  # that nobody uses, and steps are compiled for
        if not self.own and self.compile_mode == "graph":
            self.compile_mode = "off"  # a model in parts on several processes talks meanwhile

    def part(self, part: nn.Module, rows: int) -> nn.Module:
        """What takes its place."""
        if type(part) is nn.Dropout:
            return nn.Identity()  # as which it costs 4 us less a call
        if not isinstance(part, nn.Linear) or not is_plain_linear(part):
            return part
        if self.device != "cpu" or self.compile_mode != "off":
            return CastLinear(part, self.dtype, as_before=self.device == "cpu")
        return PackedLinear(part, self.dtype, rows)

    def forward(self, ids: Tensor, cache: KVCache | StaticCache) -> Tensor:
        short = self.device == "cuda" and self.dtype != torch.float32
        before = torch.get_num_threads()
        useful = int(ids.numel() * self.products / MIN_PRODUCTS_PER_THREAD)
        torch.set_num_threads(max(1, min(before // self.shares, useful)))
        try:
            # The weights are short already, and a recorded graph must not hold on to casts of others
            with torch.autocast("cuda", self.dtype, cache_enabled=False) if short else nullcontext():
                return self.step(ids, cache) if isinstance(cache, StaticCache) else self.written(ids, cache)
        finally:
            torch.set_num_threads(before)

    def borrow(self, cache: KVCache, capacity: int) -> StaticCache:
        """What the cache holds, in one whose steps are compiled; to be put back among the idle ones."""
        rows = len(next(iter(cache.layers.values()))[0])
        fitting = [one for one in self.idle if (len(one.starts), one.capacity) == (rows, capacity)]
        fixed = fitting[-1] if fitting else StaticCache(cache, capacity)
        self.idle.clear()  # each is as large as a cache
        fixed.take(cache)
        return fixed

    def step(self, ids: Tensor, cache: StaticCache) -> Tensor:
        """A token more of each row (B, 1). What cannot be compiled is computed as it is written."""
        written = partial(self.written, cache=cache)
        try:
            if cache.step is None and self.compile_mode == "graph":
                cache.step = record_cuda_graph(written, ids)
            elif cache.step is None:
                mode = "reduce-overhead" if self.device == "cuda" else "default"
                cache.step = torch.compile(written, dynamic=False, mode=mode)
            logits = cache.step(ids)
        except Exception as error:  # of the compiler, of C++, or of a part that cannot be recorded
            told = str(error).strip().partition("\n")[0] or repr(error)
            logger.warning("decoding goes on as it is written, since it cannot be compiled: %s", told)
            cache.step = written
            logits = written(ids)
        cache.move()
        return logits

    def written(self, ids: Tensor, cache: KVCache | StaticCache) -> Tensor:
        logits: Tensor = self.model(ids, cache=cache)
        return logits


def linear_products(model: nn.Module) -> tuple[float, int]:
    """That a token costs: of a linear layer on the average, and of all of them."""
    sizes = [layer.weight.numel() for layer in model.modules() if isinstance(layer, nn.Linear)]
    return sum(sizes) / max(1, len(sizes)), sum(sizes)


def record_cuda_graph(function: Callable[[Tensor], Tensor], like: Tensor) -> Callable[[Tensor], Tensor]:
    """The kernels of a call as one CUDA graph. Its answer is overwritten by the next.

    Source: torch.cuda.CUDAGraph's documentation, for the calls on another stream that come before.
    """
    given = like.clone()
    other = torch.cuda.Stream()
    other.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(other):
        for _ in range(3):
            function(given)
    torch.cuda.current_stream().wait_stream(other)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answer = function(given)

    def replay(ids: Tensor) -> Tensor:
        given.copy_(ids)
        graph.replay()
        return answer

    return replay


class LinearSubstitute(nn.Module):
    """Of a linear layer, for those who ask about its weight and its size."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.in_features, self.out_features = layer.in_features, layer.out_features


class CastLinear(LinearSubstitute):
    """With a weight that may be short; then the result may get the input's type back."""

    def __init__(self, layer: nn.Linear, dtype: torch.dtype, as_before: bool) -> None:
        super().__init__(layer)
        self.short = layer.weight.detach().to(dtype)
        self.short_bias = None if layer.bias is None else layer.bias.detach().to(dtype)
        self.as_before = as_before

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x.to(self.short.dtype), self.short, self.short_bias)
        return y.to(x.dtype) if self.as_before else y


class PackedLinear(LinearSubstitute):
    """A linear layer on a CPU, from fp32 to fp32. Prompts are multiplied with the model's own weights, unless in bf16.

    A prompt is arithmetic and not memory, of which fp16 spares none.
    """

    def __init__(self, layer: nn.Linear, dtype: torch.dtype, rows: int) -> None:
        super().__init__(layer)
        self.read = packed_product(
            layer.weight.detach(), None if layer.bias is None else layer.bias.detach(), dtype, rows
        )
        self.reads_prompts = dtype == torch.bfloat16

    def forward(self, x: Tensor) -> Tensor:
        return self.read(x) if x.size(-2) == 1 or self.reads_prompts else F.linear(x, self.weight, self.bias)


def onednn_packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN takes weights of a type here; it wants AVX-512 for short ones."""
    if not torch.backends.mkldnn.is_available() or dtype == torch.float16:
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def packed_product(weight: Tensor, bias: Tensor | None, dtype: torch.dtype, rows: int) -> Callable[[Tensor], Tensor]:
    """x (..., in) fp32 to (..., out) fp32, by a copy of the weight (out, in) that is laid out for `rows` vectors."""
    if dtype == torch.float16 and has_fbgemm_fp16():
        if rows <= MAX_DIRECT_ROWS and has_direct_fbgemm_fp16():
            half = torch.fbgemm_pack_gemm_matrix_fp16(weight)
            return lambda x: torch.fbgemm_linear_fp16_weight_fp32_activation(x, half, bias)
        halves = torch.ops.quantized.linear_prepack_fp16(weight, bias)
        widened = torch.ops.quantized.linear_dynamic_fp16.default
        return lambda x: widened(x, halves)
    if dtype == torch.float32 and rows == 1:
        laid = weight.t().contiguous().t() if weight.size(0) > weight.size(1) else weight  # by columns
        return lambda x: F.linear(x, laid, bias)
    if not onednn_packs(dtype):
        short, short_bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        return lambda x: F.linear(x.to(dtype), short, short_bias).to(x.dtype)
    # oneDNN's own order, in which torch's compiler packs weights that are frozen
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype).contiguous(), rows)
    own = None if bias is None else bias.to(dtype)
    product = torch.ops.mkldnn._linear_pointwise.default
    if dtype == torch.float32:
        return lambda x: product(x, packed, own, "none", [], "")
    return lambda x: product(x.to(dtype), packed, own, "none", [], "").to(x.dtype)


def is_plain_linear(module: nn.Linear) -> bool:
    """Whether it computes what nn.Linear does, and nobody looks on."""
    if type(module).forward is not nn.Linear.forward:
        return False
    hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    return not hooked and type(module.weight) is nn.Parameter  # no shard of one, as fsdp keeps


def copy_with_parts(model: nn.Module, change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """A model that shares all weights with the other, some of its modules changed; itself where it cannot be copied."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    for module in model.modules():  # who listens is the same, too, and no copy
        for listener in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
            owner = getattr(listener, "__self__", None)
            shared |= {} if owner is None or isinstance(owner, nn.Module) else {id(owner): owner}
    try:
        new = copy.deepcopy(model, shared)
    except Exception as error:  # of a component that holds what cannot be copied
        logger.debug("the model is read as it is, since it cannot be copied: %r", error)
        return model
    for module in new.modules():
        if getattr(vars(module).get("forward"), "recomputes", False):  # it leads back to the module that was copied
            del module.forward
    replace_parts(new, change)
    return new


def replace_parts(module: nn.Module, change: Callable[[nn.Module], nn.Module]) -> None:
    """In place, from the outside in."""
    for name, part in module.named_children():
        changed = change(part)
        if changed is part:
            replace_parts(part, change)
        else:
            setattr(module, name, changed)
