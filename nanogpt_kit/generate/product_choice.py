"""Which way of multiplying each linear layer of a model uses when it decodes: the fastest here, else by rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle

import torch
from torch import nn

from nanogpt_kit.core.machine_choices import NO_CHOICES, MachineChoices, Task
from nanogpt_kit.generate.products import Way, has_fbgemm_fp16, ways_to_multiply
from nanogpt_kit.nn.arithmetic import multiplies_bf16
from nanogpt_kit.nn.measured_choices import with_measured
from nanogpt_kit.nn.parts import HeadLinear

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MIN_PRODUCTS_PER_THREAD = 16_000_000  # of several vectors: at 9 million (0.14 ms) a second thread cost, at 38 it gained
MEASURED_WEIGHTS = 16_000_000  # at most, of a candidate: 32 MB in 16 bits, beyond what most caches hold
MIN_MEASURED_SIZE = 65_536  # weights of a layer: smaller ones take a few us in any way

Ways = Mapping[torch.Size, Way]  # by the shape of the weight


def decoding_dtypes(precision: str, device: str) -> tuple[torch.dtype, ...]:
    """The types of weights that decoding may use, the one that a rule chooses first.

    In "auto" a CPU takes fp16 where torch has fast products for it. Another type is used for layers where it is
    measured to be faster, as on a Xeon with AMX, whose FBGEMM reads 6 GB/s and whose bf16 product 11 to 20.
    """
    if precision != "auto":
        return (DTYPES[precision],)
    short = (torch.bfloat16,) if multiplies_bf16(device) else ()
    if device != "cpu":
        return (*short, torch.float32)[:1]
    return (*((torch.float16,) if has_fbgemm_fp16() else ()), *short, torch.float32)


def choose_ways(layers: Sequence[nn.Linear], dtypes: Sequence[torch.dtype], rows: int, threads: int) -> Ways:
    """The way for each shape of weights among `layers`."""
    shapes = {layer.weight.shape: isinstance(layer, HeadLinear) for layer in layers}
    possible = {shape: possible_ways(shape, is_head, dtypes, rows, threads) for shape, is_head in shapes.items()}
    total = sum(layer.weight.numel() for layer in layers)
    tasks = {
        shape: product_task(shape, ways, rows, total)
        for shape, ways in possible.items()
        if len(ways) > 1 and shape.numel() >= MIN_MEASURED_SIZE
    }
    choices = MachineChoices.current()
    if choices is NO_CHOICES:  # else a run is training, and its record of choices is written
        choices = with_measured(choices, tasks.values())
    chosen = {}
    for shape, ways in possible.items():
        rule = next(iter(ways))
        chosen[shape] = ways[choices.choice(tasks[shape].name, rule, ways) if shape in tasks else rule]
    return chosen


def possible_ways(
    shape: torch.Size, is_head: bool, dtypes: Sequence[torch.dtype], rows: int, threads: int
) -> dict[str, Way]:
    size = shape.numel()
    useful = threads if rows == 1 else max(1, min(threads, rows * size // MIN_PRODUCTS_PER_THREAD))
    ways = ways_to_multiply(dtypes, size, rows, useful)
    rule = next(iter(ways))
    return {name: way for name, way in ways.items() if name == rule or not (is_head and way.rounds_results)}


def product_task(shape: torch.Size, ways: Mapping[str, Way], rows: int, total: int) -> Task:
    """The time of a layer's product, in a model of `total` weights in such layers: what is read after all others."""
    copies = max(1, min(total, MEASURED_WEIGHTS) // shape.numel())
    types = " or ".join(dict.fromkeys(str(way.dtype).removeprefix("torch.") for way in ways.values()))
    threads = max(way.threads for way in ways.values())
    name = f"decoding, {shape[1]} features to {shape[0]} in {types}: {rows} rows, {threads} threads, {copies} layers"
    return Task(name, {key: product_call(way, shape, rows, copies) for key, way in ways.items()})


def product_call(way: Way, shape: torch.Size, rows: int, copies: int) -> Callable[[], Callable[[], object]]:
    def make() -> Callable[[], object]:
        weight = torch.full(shape, 0.01)
        x = torch.ones(rows, 1, shape[1])
        with torch.inference_mode():
            products = cycle([way.product(weight, None, rows) for _ in range(copies)])

        def call() -> object:
            with torch.inference_mode():
                return next(products)(x)

        return call

    return make
