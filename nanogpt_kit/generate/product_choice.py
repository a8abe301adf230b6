"""Which way of multiplying each linear layer of a model uses when it decodes: the fastest here, else by rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import cycle

import torch
from torch import Tensor, nn

from nanogpt_kit.core.machine_choices import NO_CHOICES, MachineChoices, Task
from nanogpt_kit.generate.products import Way, has_fbgemm_fp16, ways_to_multiply
from nanogpt_kit.generate.thread_count import thread_limit
from nanogpt_kit.nn.arithmetic import multiplies_bf16
from nanogpt_kit.nn.measured_choices import with_measured
from nanogpt_kit.nn.parts import HeadLinear

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MIN_PRODUCTS_PER_THREAD = 16_000_000  # of several vectors: at 9 million (0.14 ms) a second thread cost, at 38 it gained
MAX_MEASURED_WEIGHTS = 2_400_000  # of a candidate: FBGEMM takes 20 ns to pack one (Zen 4)
MAX_OTHER_BYTES = 1 << 27  # more than caches hold: 32 MiB here (Zen 4), 105 of the largest Xeons with AMX
PARTS = 4  # in which they are read; a task has about as many candidates or more
MIN_MEASURED_SIZE = 1_000_000  # weights of a layer; at 590,000 ten calibrations named four products (Zen 4)

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
    others = OtherWeights(2 * sum(layer.weight.numel() for layer in layers))  # in 16 bits
    tasks = {
        shape: product_task(shape, ways, rows, others)
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


class OtherWeights:
    """Those that a step reads between two uses of a layer: they displace its weights from the caches.

    One thread reads a part of them before each product. Meanwhile the others fall asleep, as in a step, whose small
    operations are between two products; else waking them would look cheap.
    """

    def __init__(self, size: int) -> None:
        self.size = min(size, MAX_OTHER_BYTES)

    @cached_property
    def parts(self) -> Iterator[Tensor]:
        return cycle(torch.ones(self.size // 8, dtype=torch.int64).tensor_split(PARTS))

    def read(self) -> object:
        with thread_limit(1):
            return next(self.parts).sum()


def product_task(shape: torch.Size, ways: Mapping[str, Way], rows: int, others: OtherWeights) -> Task:
    """The time of a layer's product, or of its first results' where it is large, with weights from where they are while
    a model decodes."""
    results, features = shape
    measured = torch.Size([min(results, max(1, MAX_MEASURED_WEIGHTS // features)), features])
    types = " or ".join(dict.fromkeys(str(way.dtype).removeprefix("torch.") for way in ways.values()))
    threads = max(way.threads for way in ways.values())
    name = f"decoding, {rows} x {features} features to {results} by {types} on {threads} threads"
    name += f" after {others.size / 1e6:.0f} MB"
    return Task(name, {key: partial(product_call, way, measured, rows) for key, way in ways.items()}, others.read)


@torch.inference_mode()
def product_call(way: Way, shape: torch.Size, rows: int) -> Callable[[], object]:
    x, product = torch.ones(rows, 1, shape[1]), way.product(torch.full(shape, 0.01), None, rows)

    def call() -> object:
        with torch.inference_mode():
            return product(x)

    return call
