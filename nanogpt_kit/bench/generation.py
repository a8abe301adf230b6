"""How fast a model writes on this machine, and how much of its memory's speed that takes.

Each new token reads every weight and all that the cache holds, so that none comes faster than the memory gives them.
What the memory can do is measured by copying, where what is read and what is written both count.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Encoder, ModelContext
from nanogpt_kit.generate.decode import Decoder
from nanogpt_kit.generate.decoding_model import DTYPES
from nanogpt_kit.generate.generator import TextGenerator
from nanogpt_kit.generate.static_cache import StaticCache
from nanogpt_kit.generate.threads import ThreadedDecoder

COPIED_BYTES = 1 << 28  # far more than the caches of a processor hold
COPIES = 8


@dataclass(frozen=True)
class Writing:
    """Texts that were written at a time, in so many rounds."""

    texts: int
    tokens: int  # of each text
    seconds: list[float]  # of all texts, on the average of each round
    precision: str
    step_bytes: float  # of weights and cache that a step reads, on the average
    copy_bytes_per_second: float

    @property
    def rates(self) -> list[float]:
        """Tokens a second, of all texts together."""
        return [self.texts * self.tokens / seconds for seconds in self.seconds]

    @property
    def bytes_per_second(self) -> list[float]:
        return [self.tokens * self.step_bytes / seconds for seconds in self.seconds]


def write(
    experiment: Experiment, encoder: Encoder, device: str, texts: int, rounds: int, round_seconds: float
) -> Writing:
    """Texts of sample.max_new_tokens by a model that has learnt nothing, which is as fast; end-of-text ends none.

    They are written again and again until `round_seconds` are over.
    """
    torch.manual_seed(experiment.train.seed)
    model = experiment.model.build(ModelContext(vocab_size=encoder.vocab_size))
    experiment.init.apply(model)
    loaded = TextGenerator(experiment, model.to(device).eval(), encoder, device)
    wanted, seconds = experiment.sample, []
    decoding_model = loaded.decoding_model(texts, wanted)
    seeds = [wanted.seed + number for number in range(texts)]
    for _ in range(1 + rounds):  # the first is not counted
        began, times = time.perf_counter(), 0
        while not times or time.perf_counter() - began < round_seconds:
            decoder = loaded.decoder([[0]] * texts, seeds, wanted, experiment.sampler, decoding_model)
            for _ in range(wanted.max_new_tokens):
                decoder.draw()  # which waits for the device, since it gives numbers
            times += 1
        seconds.append((time.perf_counter() - began) / times)
    return Writing(
        texts=texts,
        tokens=wanted.max_new_tokens,
        seconds=seconds[1:],
        precision=next(name for name, dtype in DTYPES.items() if dtype == decoding_model.dtype),
        step_bytes=decoding_model.caller_threads * decoding_model.weight_bytes + cache_bytes(decoder),
        copy_bytes_per_second=copy_speed(device),
    )


def cache_bytes(decoder: Decoder | ThreadedDecoder) -> float:
    """That a step has read on the average: of a cache that grows half of what is in it at the end."""
    if isinstance(decoder, ThreadedDecoder):
        return sum(map(cache_bytes, decoder.decoders))
    cache = decoder.cache
    assert cache is not None, "something was written"
    if isinstance(cache, StaticCache):
        return float(sum(buffer.numel() * buffer.element_size() for buffer in cache.buffers()))
    held = sum(tensor.numel() * tensor.element_size() for layer in cache.layers.values() for tensor in layer)
    return held * (1.0 if cache.length > cache.capacity else 0.5)


def copy_speed(device: str) -> float:
    """Bytes a second, read and written, of the fastest of several copies."""
    source = torch.zeros(COPIED_BYTES, dtype=torch.uint8, device=device)
    target, best = torch.empty_like(source), 0.0
    for _ in range(COPIES):
        began = time.perf_counter()
        target.copy_(source)
        target[-1].item()  # waits for the device
        best = max(best, 2 * COPIED_BYTES / (time.perf_counter() - began))
    return best
