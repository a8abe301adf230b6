"""A copy of the model for decoding: it shares the weights, except that its linear layers are packed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from nanogpt_kit.generate.model_copy import call_without_hooks, copy_with_replacements, is_plain_linear
from nanogpt_kit.generate.packed_linear import CastLinear, PackedLinear, has_fbgemm_fp16
from nanogpt_kit.generate.static_cache import StaticCache
from nanogpt_kit.nn.arithmetic import multiplies_bf16
from nanogpt_kit.nn.cache import KVCache

logger = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MIN_PRODUCTS_PER_THREAD = 16_000_000  # of one layer: at 9 million (0.14 ms) a second thread cost, at 38 it gained


class DecodingModel(nn.Module):
    """Called with ids and a cache, like the model; `rows` is the number of texts in a call.

    In a 16-bit precision the weights and the products have that type. On a CPU everything else stays in fp32, where
    small operations and attention of one token are faster.

    `compile` applies to steps of one token with a static cache: "graph" records the step once and replays it (CUDA),
    "default" compiles it; with "off" no static cache is used.
    """

    def __init__(self, model: nn.Module, precision: str, rows: int, compile: str = "off") -> None:
        super().__init__()
        first = next(model.parameters(), torch.empty(0))
        self.device = first.device.type
        self.dtype = decoding_dtype(precision, self.device)
        self.compile_mode = compile
        can_copy = first.dtype == torch.float32
        self.model = copy_with_replacements(model, partial(self.decoding_substitute, rows=rows)) if can_copy else model
        self.is_copy = self.model is not model  # then only decoding computes in it
        if self.is_copy and self.compile_mode == "off":
            call_without_hooks(self.model)
        self.mean_products, products = count_linear_multiplications(model)
        self.weight_bytes = products * self.dtype.itemsize  # read for each token; norms and embeddings not counted
        self.caller_threads = 1  # threads that call it at once
        self.idle_caches: list[StaticCache] = []  # compiled for, and not in use
        if not self.is_copy and self.compile_mode == "graph":
            self.compile_mode = "off"  # a model sharded over processes communicates, which no graph records

    def decoding_substitute(self, part: nn.Module, rows: int) -> nn.Module:
        """The module to use in place of a part of the model; the part itself where it is not replaced."""
        if type(part) is nn.Dropout:
            return nn.Identity()  # saves 4 us a call
        if not isinstance(part, nn.Linear) or not is_plain_linear(part):
            return part
        if self.device != "cpu" or self.compile_mode != "off":
            return CastLinear(part, self.dtype, returns_input_dtype=self.device == "cpu")
        return PackedLinear(part, self.dtype, rows)

    def forward(self, ids: Tensor, cache: KVCache | StaticCache) -> Tensor:
        uses_autocast = self.device == "cuda" and self.dtype != torch.float32
        threads = torch.get_num_threads()
        useful = int(ids.numel() * self.mean_products / MIN_PRODUCTS_PER_THREAD)
        torch.set_num_threads(max(1, min(threads // self.caller_threads, useful)))
        try:
            # Without autocast's cache: the weights are cast already, and a recorded graph must not refer to other casts
            with torch.autocast("cuda", self.dtype, cache_enabled=False) if uses_autocast else nullcontext():
                return self.run_compiled(ids, cache) if isinstance(cache, StaticCache) else self.run_eager(ids, cache)
        finally:
            torch.set_num_threads(threads)

    def run_eager(self, ids: Tensor, cache: KVCache | StaticCache) -> Tensor:
        logits: Tensor = self.model(ids, cache=cache)
        return logits

    def run_compiled(self, ids: Tensor, cache: StaticCache) -> Tensor:
        """One more token of each row (B, 1); eager where it cannot be compiled."""
        eager = partial(self.run_eager, cache=cache)
        try:
            if cache.compiled_step is None:
                with cache.preserved_states():
                    cache.compiled_step = self.compile_step(eager, ids)
            logits = cache.compiled_step(ids)
        except Exception as error:  # of the compiler, of C++, or of a part that cannot be recorded
            reason = str(error).strip().partition("\n")[0] or repr(error)
            logger.warning("decoding continues uncompiled: %s", reason)
            cache.compiled_step = eager
            logits = eager(ids)
        cache.count_token()
        return logits

    def compile_step(self, step: Callable[[Tensor], Tensor], ids: Tensor) -> Callable[[Tensor], Tensor]:
        if self.compile_mode == "graph":
            return record_cuda_graph(step, ids)
        return torch.compile(step, dynamic=False, mode="reduce-overhead" if self.device == "cuda" else "default")

    def borrow_cache(self, cache: KVCache, capacity: int) -> StaticCache:
        """A static cache with the same content, preferably one with a compiled step; give it back to `return_cache`."""
        rows = len(next(cache.tensors()))
        fitting = [idle for idle in self.idle_caches if (len(idle.starts), idle.capacity) == (rows, capacity)]
        static = fitting[-1] if fitting else StaticCache(cache, capacity)
        self.idle_caches.clear()  # each takes as much memory as a cache in use
        static.copy_from(cache)
        return static

    def return_cache(self, cache: StaticCache) -> None:
        self.idle_caches.append(cache)


def decoding_dtype(precision: str, device: str) -> torch.dtype:
    """The type of the weights for decoding; "auto" is the fastest type on the device."""
    if precision != "auto":
        return DTYPES[precision]
    if device == "cpu" and has_fbgemm_fp16():
        return torch.float16
    return torch.bfloat16 if multiplies_bf16(device) else torch.float32


def count_linear_multiplications(model: nn.Module) -> tuple[float, int]:
    """Multiplications for a token in linear layers: the mean of a layer, and the sum."""
    sizes = [layer.weight.numel() for layer in model.modules() if isinstance(layer, nn.Linear)]
    return sum(sizes) / max(1, len(sizes)), sum(sizes)


def record_cuda_graph(function: Callable[[Tensor], Tensor], like: Tensor) -> Callable[[Tensor], Tensor]:
    """Records the kernels of a call as one CUDA graph. Each replay overwrites the result of the one before.

    Source: torch.cuda.CUDAGraph's documentation, also for the warm-up calls on another stream.
    """
    inputs = like.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function(inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = function(inputs)

    def replay(ids: Tensor) -> Tensor:
        inputs.copy_(ids)
        graph.replay()
        return outputs

    return replay
