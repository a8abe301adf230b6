"""Measures how fast a model generates on this machine, and how close that is to the memory bandwidth.

Each new token reads every weight and the whole cache, so the rate at which memory can be read is the limit. It is
measured with the threads that generate; beside it stands the rate of copies, which counts bytes read and bytes written.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Encoder
from nanogpt_kit.generate.decode import Decoder
from nanogpt_kit.generate.generator import ASampler, TextGenerator
from nanogpt_kit.generate.product_choice import DTYPES
from nanogpt_kit.generate.static_cache import StaticCache
from nanogpt_kit.generate.threads import ThreadedDecoder
from nanogpt_kit.nn.initial_weights import build_initialized

MOVED_BYTES = 1 << 28  # far more than the caches of a processor
TRIALS = 8


@dataclass(frozen=True)
class GenerationTiming:
    """Measurements of repeatedly generating one batch of texts."""

    texts: int
    tokens: int  # per text
    rates: list[float]  # tokens per second over all texts, by round
    precision: str
    step_bytes: float  # of weights and cache that a step reads, on average
    read_bytes_per_second: float  # of the memory, by the same threads
    copy_bytes_per_second: float  # read and written

    @property
    def bytes_per_second(self) -> list[float]:
        """Of weights and cache, by round."""
        return [self.step_bytes * rate / self.texts for rate in self.rates]

    @property
    def read_fraction(self) -> float:
        """How much of the rate of a plain read generating reaches; above 1 where caches of the processor help."""
        return statistics.median(self.bytes_per_second) / self.read_bytes_per_second


class TimedGenerator:
    """An untrained model of an experiment, which is as fast as a trained one, ready to generate batches of texts.

    Texts have sample.max_new_tokens tokens after one of id 0; end-of-text stops none.
    """

    def __init__(
        self, experiment: Experiment, encoder: Encoder, device: str, texts: int, samplers: Sequence[ASampler]
    ) -> None:
        torch.manual_seed(experiment.train.seed)
        model, _ = build_initialized(experiment, encoder.vocab_size)
        self.generator = TextGenerator(experiment, model.to(device).eval(), encoder, device)
        self.texts, self.device = texts, device
        self.samplers = self.generator.resolve_samplers(samplers)
        self.decoding_model = self.generator.get_decoding_model(texts, experiment.sample)
        decoder = self.generate_batch(experiment.sample.max_new_tokens)  # not timed: allocates memory
        self.step_bytes = self.decoding_model.caller_threads * self.decoding_model.weight_bytes + cache_bytes(decoder)

    @property
    def precision(self) -> str:
        return next(name for name, dtype in DTYPES.items() if dtype == self.decoding_model.dtype)

    def time_round(self, seconds: float) -> float:
        """Tokens/s over all texts, of as many batches as reach `seconds`."""
        count = self.generator.experiment.sample.max_new_tokens
        began, tokens = time.perf_counter(), 0
        while not tokens or time.perf_counter() - began < seconds:
            self.generate_batch(count)
            tokens += self.texts * count
        return tokens / (time.perf_counter() - began)

    def generate_batch(self, count: int) -> Decoder | ThreadedDecoder:
        options = self.generator.experiment.sample
        seeds = [options.seed + i for i in range(self.texts)]
        prompts = [[0]] * self.texts
        decoder = self.generator.build_decoder(prompts, seeds, options, self.samplers, self.decoding_model)
        for _ in range(count):
            decoder.draw_next()  # waits for the device
        return decoder

    def greedy_tokens(self, count: int) -> list[int]:
        """The most probable tokens after one of id 0, in a separate text."""
        options = self.generator.experiment.sample
        model = self.generator.get_decoding_model(1, options)
        greedy = self.generator.resolve_samplers({"use": "top_k", "k": 1})
        decoder = self.generator.build_decoder([[0]], [options.seed], options, greedy, model)
        return [decoder.draw_next().tokens[0] for _ in range(count)]

    def timing(self, rates: list[float]) -> GenerationTiming:
        """What was measured, and the speed of the memory."""
        return GenerationTiming(
            texts=self.texts,
            tokens=self.generator.experiment.sample.max_new_tokens,
            rates=rates,
            precision=self.precision,
            step_bytes=self.step_bytes,
            read_bytes_per_second=read_bandwidth(self.device),
            copy_bytes_per_second=copy_bandwidth(self.device),
        )


def cache_bytes(decoder: Decoder | ThreadedDecoder) -> float:
    """Bytes of the cache that a step reads on average: half of the final size where the cache grows."""
    if isinstance(decoder, ThreadedDecoder):
        return sum(map(cache_bytes, decoder.decoders))
    cache = decoder.cache
    assert cache is not None, "tokens were generated"
    if isinstance(cache, StaticCache):
        return float(sum(buffer.numel() * buffer.element_size() for buffer in cache.buffers()))
    states = sum(tensor.numel() * tensor.element_size() for tensor in cache.states.values())
    columns = sum(tensor.numel() * tensor.element_size() for tensor in cache.tensors()) - states
    return states + columns * (1.0 if cache.length > cache.capacity else 0.5)


def read_bandwidth(device: str) -> float:
    """Bytes per second in the fastest of several sums over memory that no cache holds.

    Sums of int64 are the fastest reads that torch has: 28.9 GB/s by two threads of an AMD EPYC (Zen 4), where sums of
    fp32 reach 27.9, dot products 25.0 and products with a matrix 17.6.
    """
    source = torch.zeros(MOVED_BYTES // 8, dtype=torch.int64, device=device)
    return MOVED_BYTES / fastest(lambda: source.sum().item())


def copy_bandwidth(device: str) -> float:
    """Bytes per second, read and written, in the fastest of several copies."""
    source = torch.zeros(MOVED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        target[-1].item()  # waits for the device

    return 2 * MOVED_BYTES / fastest(copy)


def fastest(call: Callable[[], object]) -> float:
    """The seconds of the fastest of several calls."""
    best = math.inf
    for _ in range(TRIALS):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return best
