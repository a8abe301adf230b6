"""A model as decoding reads it: each new token goes through every weight once, so that memory is what it waits for.

Linear layers keep a copy of their weights in the order and the type in which they are read fastest; all else is the
model's own. Microseconds for one vector on one core of an AMD EPYC (Zen 4; 15 to 23 GB/s are all that its memory
gives), of fp32 by rows, by columns, and bf16 packed by oneDNN: 258, 130, 90 (384 to 1536 features), 761, 461, 336 (768
to 3072), 11,879, 6,593, 4,904 (768 to 50,304), but where there are more features than results 166, 268, 88 (1536 to
384). For 16 vectors, by rows, packed, and bf16 packed: 495, 297, 137 (384 to 1536), 1,688, 932, 537 (768 to 3072).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from contextlib import nullcontext
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt_kit.generate.fixed import FixedCache
from nanogpt_kit.nn.cache import KVCache

logger = logging.getLogger(__name__)

WORTH_A_THREAD = 16_000_000  # products of one layer: at 9 million (0.14 ms) a second thread cost, at 38 it gained


class Packed(nn.Module):
    """Called with ids and a cache, as the model itself. `rows` is how many texts will be written at a time.

    In bf16 the weights and the products are; on a CPU everything between them stays in fp32, where small operations
    and attention of one token are faster. `compile` says what becomes of the steps of caches that `fix` has made:
    "graph", recorded once and replayed (CUDA), or "default", compiled.
    """

    fixed: FixedCache | None

    def __init__(self, model: nn.Module, precision: str, rows: int, compile: str = "off") -> None:
        super().__init__()
        first = next(model.parameters(), torch.empty(0))
        self.device = first.device.type
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.compile_mode = compile
        self.model = with_parts(model, lambda part: self.part(part, rows))
        sizes = [layer.weight.numel() for layer in model.modules() if isinstance(layer, nn.Linear)]
        self.products = sum(sizes) / max(1, len(sizes))  # of a layer, for one token
        self.weight_bytes = sum(sizes) * self.dtype.itemsize  # that a token reads, all but a few
        self.fixed = None
        self.fast: Callable[[Tensor], Tensor] | None = None  # a step of the fixed cache

    def part(self, part: nn.Module, rows: int) -> nn.Module:
        """What takes its place."""
        if type(part) is nn.Dropout:
            return nn.Identity()  # as which it costs 4 us less a call
        return self.linear(part, rows) if isinstance(part, nn.Linear) and is_plain(part) else part

    def linear(self, layer: nn.Linear, rows: int) -> nn.Module:
        weight, bias = layer.weight.detach(), layer.bias
        on_cpu, short = self.device == "cpu", self.dtype == torch.bfloat16
        if on_cpu and (short or rows > 1) and self.compile_mode == "off" and torch.backends.mkldnn.is_available():
            return PackedLinear(weight, bias, self.dtype, rows)
        if short:
            return Linear(weight.to(self.dtype), bias, as_before=on_cpu)
        by_columns = on_cpu and rows == 1 and layer.out_features > layer.in_features
        return Linear(weight.t().contiguous().t() if by_columns else weight, bias)

    def forward(self, ids: Tensor, cache: KVCache | FixedCache) -> Tensor:
        on_gpu = self.device == "cuda" and self.dtype == torch.bfloat16
        before = torch.get_num_threads()
        useful = int(ids.numel() * self.products / WORTH_A_THREAD)
        torch.set_num_threads(max(1, min(before, useful)))
        try:
            # The weights are short already, and a recorded graph must not hold on to casts of others
            with torch.autocast("cuda", self.dtype, cache_enabled=False) if on_gpu else nullcontext():
                logits: Tensor = self.step(ids) if cache is self.fixed else self.model(ids, cache=cache)
            return logits
        finally:
            torch.set_num_threads(before)

    def fix(self, cache: KVCache, capacity: int) -> FixedCache:
        """What the cache holds, in one whose steps are fast; a later call takes it from whoever had it before."""
        rows = len(next(iter(cache.layers.values()))[0])
        if self.fixed is None or (len(self.fixed.begins), self.fixed.capacity) != (rows, capacity):
            self.fixed, self.fast = FixedCache(cache, capacity), None
        self.fixed.take(cache)
        return self.fixed

    def step(self, ids: Tensor) -> Tensor:
        """A token more of each row (B, 1) of the fixed cache. What cannot be compiled is computed as it is written."""
        assert self.fixed is not None, "`fix` has made it"
        try:
            if self.fast is None and self.compile_mode == "graph":
                self.fast = recorded(self.written, ids)
            elif self.fast is None:
                mode = "reduce-overhead" if self.device == "cuda" else "default"
                self.fast = torch.compile(self.written, dynamic=False, mode=mode)
            logits = self.fast(ids)
        except Exception as error:  # of the compiler, of C++, or of a part that cannot be recorded
            told = str(error).strip().partition("\n")[0] or repr(error)
            logger.warning("decoding goes on as it is written, since it cannot be compiled: %s", told)
            self.fast = self.written
            logits = self.written(ids)
        self.fixed.move()
        return logits

    def written(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.model(ids, cache=self.fixed)
        return logits


def recorded(function: Callable[[Tensor], Tensor], like: Tensor) -> Callable[[Tensor], Tensor]:
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


class Linear(nn.Module):
    """With a weight that lies in memory as it may, or is short; then the result may get the input's type back."""

    def __init__(self, weight: Tensor, bias: Tensor | None, as_before: bool = False) -> None:
        super().__init__()
        self.weight, self.bias = weight, None if bias is None else bias.detach().to(weight.dtype)
        self.as_before = as_before

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x.to(self.weight.dtype), self.weight, self.bias)
        return y.to(x.dtype) if self.as_before else y


class PackedLinear(nn.Module):
    """Computed by oneDNN with a weight in its own order, as torch's compiler packs those that are frozen."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, rows: int) -> None:
        super().__init__()
        self.dtype = dtype
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype).contiguous(), rows)
        self.bias = None if bias is None else bias.detach().to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x.to(self.dtype), self.weight, self.bias, "none", [], "")
        return y.to(x.dtype)


def is_plain(module: nn.Linear) -> bool:
    """Whether it computes what nn.Linear does, and nobody looks on."""
    if type(module).forward is not nn.Linear.forward:
        return False
    hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    return not hooked and type(module.weight) is nn.Parameter  # no shard of one, as fsdp keeps


def with_parts(model: nn.Module, change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """A model that shares all weights with the other, some of its modules changed; itself where it cannot be copied."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    try:
        new = copy.deepcopy(model, shared)
    except Exception as error:  # of a component that holds what cannot be copied
        logger.info("the model is read as it is, since it cannot be copied: %r", error)
        return model
    replace(new, change)
    return new


def replace(module: nn.Module, change: Callable[[nn.Module], nn.Module]) -> None:
    """In place, from the outside in."""
    for name, part in module.named_children():
        changed = change(part)
        if changed is part:
            replace(part, change)
        else:
            setattr(module, name, changed)
