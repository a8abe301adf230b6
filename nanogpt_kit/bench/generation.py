"""Measures how fast a model generates on this machine, and how close that is to the memory bandwidth.

Each new token reads every weight and the whole cache, so memory bandwidth is the limit. It is measured by copying,
counting both the bytes read and the bytes written.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Encoder
from nanogpt_kit.generate.decode import Decoder
from nanogpt_kit.generate.generator import TextGenerator
from nanogpt_kit.generate.product_choice import DTYPES
from nanogpt_kit.generate.static_cache import StaticCache
from nanogpt_kit.generate.threads import ThreadedDecoder
from nanogpt_kit.nn.initial_weights import build_initialized

COPIED_BYTES = 1 << 28  # far more than the caches of a processor
COPIES = 8


@dataclass(frozen=True)
class GenerationTiming:
    """Measurements of repeatedly generating one batch of texts."""

    texts: int
    tokens: int  # per text
    seconds: list[float]  # per batch, averaged over each round
    precision: str
    step_bytes: float  # of weights and cache that a step reads, on average
    copy_bytes_per_second: float

    @property
    def rates(self) -> list[float]:
        """Tokens per second over all texts, by round."""
        return [self.texts * self.tokens / seconds for seconds in self.seconds]

    @property
    def bytes_per_second(self) -> list[float]:
        return [self.tokens * self.step_bytes / seconds for seconds in self.seconds]


def time_generation(
    experiment: Experiment, encoder: Encoder, device: str, texts: int, rounds: int, round_seconds: float
) -> GenerationTiming:
    """Generates texts of sample.max_new_tokens with an untrained model, which is as fast; end-of-text stops none.

    A round generates batches until `round_seconds` have passed.
    """
    torch.manual_seed(experiment.train.seed)
    model, _ = build_initialized(experiment, encoder.vocab_size)
    generator = TextGenerator(experiment, model.to(device).eval(), encoder, device)
    options, seconds = experiment.sample, []
    decoding_model = generator.get_decoding_model(texts, options)
    seeds = [options.seed + i for i in range(texts)]
    for _ in range(1 + rounds):  # the first round is not counted
        began, batches = time.perf_counter(), 0
        while not batches or time.perf_counter() - began < round_seconds:
            decoder = generator.build_decoder([[0]] * texts, seeds, options, experiment.sampler, decoding_model)
            for _ in range(options.max_new_tokens):
                decoder.draw_next()  # waits for the device
            batches += 1
        seconds.append((time.perf_counter() - began) / batches)
    return GenerationTiming(
        texts=texts,
        tokens=options.max_new_tokens,
        seconds=seconds[1:],
        precision=next(name for name, dtype in DTYPES.items() if dtype == decoding_model.dtype),
        step_bytes=decoding_model.caller_threads * decoding_model.weight_bytes + cache_bytes(decoder),
        copy_bytes_per_second=copy_bandwidth(device),
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


def copy_bandwidth(device: str) -> float:
    """Bytes per second, read and written, in the fastest of several copies."""
    source = torch.zeros(COPIED_BYTES, dtype=torch.uint8, device=device)
    target, best = torch.empty_like(source), 0.0
    for _ in range(COPIES):
        began = time.perf_counter()
        target.copy_(source)
        target[-1].item()  # waits for the device
        best = max(best, 2 * COPIED_BYTES / (time.perf_counter() - began))
    return best
