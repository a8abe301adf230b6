"""A copy of the model for decoding: it shares the weights, except that its linear layers are packed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from nanogpt_kit.generate.model_copy import call_without_hooks, copy_with_replacements, is_plain_linear
from nanogpt_kit.generate.packed_linear import CastLinear, PackedLinear
from nanogpt_kit.generate.product_choice import MIN_PRODUCTS_PER_THREAD, Ways, choose_ways, decoding_dtypes
from nanogpt_kit.generate.static_cache import StaticCache
from nanogpt_kit.nn.cache import KVCache
from nanogpt_kit.nn.hashed_dropout import HashedDropout

logger = logging.getLogger(__name__)


class DecodingModel(nn.Module):
    """Called with ids and a cache, like the model; `rows` is the number of texts in a call.

    In a 16-bit precision the weights and the products have that type. On a CPU everything else stays in fp32, where
    small operations and attention of one token are faster.

    `compile` applies to steps of one token with a static cache: "graph" records the step once and replays it (CUDA),
    "default" compiles it; with "off" no static cache is used.
    """

    def __init__(
        self, model: nn.Module, precision: str, rows: int, compile: str = "off", caller_threads: int = 1
    ) -> None:
        super().__init__()
        first = next(model.parameters(), torch.empty(0))
        self.device = first.device.type
        dtypes = decoding_dtypes(precision, self.device)
        self.dtype = dtypes[0]
        self.compile_mode = compile
        self.caller_threads = caller_threads  # threads that call it at once
        self.rows = rows
        self.model = self.copy_of(model, dtypes) if first.dtype == torch.float32 else model
        self.is_copy = self.model is not model  # then only decoding computes in it
        if not self.is_copy:
            self.caller_threads = 1
        if self.is_copy and self.compile_mode == "off":
            call_without_hooks(self.model)
        self.mean_products, products = count_linear_multiplications(model)
        packed = [part for part in self.model.modules() if isinstance(part, PackedLinear)]
        self.weight_bytes = products * self.dtype.itemsize  # read for each token; norms and embeddings not counted
        for part in packed:
            self.weight_bytes += (part.way.dtype.itemsize - self.dtype.itemsize) * part.weight.numel()
        self.idle_caches: list[StaticCache] = []  # compiled for, and not in use
        if not self.is_copy and self.compile_mode == "graph":
            self.compile_mode = "off"  # a model sharded over processes communicates, which no graph records

    def copy_of(self, model: nn.Module, dtypes: Sequence[torch.dtype]) -> nn.Module:
        """A copy with the linear layers that this device reads fastest; the model itself where it cannot be copied."""
        if self.device != "cpu" or self.compile_mode != "off":
            return copy_with_replacements(model, lambda part: substitute(part, self.cast_linear))
        layers = [part for part in model.modules() if isinstance(part, nn.Linear) and is_plain_linear(part)]
        threads = max(1, torch.get_num_threads() // self.caller_threads)
        ways = choose_ways(layers, dtypes, self.rows, threads)
        return copy_with_replacements(model, lambda part: substitute(part, partial(self.packed_linear, ways=ways)))

    def cast_linear(self, layer: nn.Linear) -> nn.Module:
        return CastLinear(layer, self.dtype, returns_input_dtype=self.device == "cpu")

    def packed_linear(self, layer: nn.Linear, ways: Ways) -> nn.Module:
        return PackedLinear(layer, ways[layer.weight.shape], self.rows)

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


def substitute(part: nn.Module, linear: Callable[[nn.Linear], nn.Module]) -> nn.Module:
    """The module to use in place of a part of the model; the part itself where it is not replaced."""
    if type(part) in (nn.Dropout, HashedDropout):
        return nn.Identity()  # saves 4 us a call
    return linear(part) if isinstance(part, nn.Linear) and is_plain_linear(part) else part


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
    # By default calls of other threads, as that which pins the next batches, would end the recording
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        outputs = function(inputs)

    def replay(ids: Tensor) -> Tensor:
        inputs.copy_(ids)
        graph.replay()
        return outputs

    return replay
