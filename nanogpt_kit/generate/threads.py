"""Splits the texts of a batch among threads, which synchronize once for each token.

OpenMP's threads would synchronize after each operation, and the operations of decoding are small. Measured with 16
texts of the baby GPT (6 layers, 384 wide) on two cores of an AMD EPYC: 10.5 ms for a token of each with fp16 weights,
7.9 in two chunks; 11.5 and 9.9 in fp32.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import chain

import torch

from nanogpt_kit.core.kinds import Model
from nanogpt_kit.generate.decode import Decoder, DrawnTokens
from nanogpt_kit.nn.thread_probe import decoding_hazard

MAX_CHUNKS = 4  # their Python code takes turns; more than two were not measured
MIN_TEXTS_PER_CHUNK = 4
MIN_PRODUCTS = (
    4_000_000  # of a layer for all texts: 7 million at 384 wide; at 0.8 million Python takes most of the time
)


class ThreadedDecoder:
    """Several decoders as one: each has a consecutive part of the texts, and a thread."""

    def __init__(self, decoders: Sequence[Decoder]) -> None:
        self.decoders = list(decoders)
        self.pool = ThreadPoolExecutor(len(self.decoders), "texts")

    def draw_next(self) -> DrawnTokens:
        """As Decoder.draw_next."""
        first, *others = self.decoders
        pending = [self.pool.submit(decoder.draw_next) for decoder in others]
        try:
            drawn = [first.draw_next()]
        finally:
            wait(pending)
        drawn += [future.result() for future in pending]
        logprobs = [part.logprobs for part in drawn if part.logprobs is not None]
        return DrawnTokens([*chain(*(part.tokens for part in drawn))], [*chain(*logprobs)] if logprobs else None)

    def keep_rows(self, rows: Sequence[int]) -> None:
        """As Decoder.keep_rows; the rows in ascending order."""
        remaining, first = [], 0
        for decoder in self.decoders:
            end = first + len(decoder.ids)
            of_decoder = [row - first for row in rows if first <= row < end]
            if of_decoder:
                decoder.keep_rows(of_decoder)
                remaining.append(decoder)
            first = end
        self.decoders = remaining


def count_thread_chunks(model: Model, texts: int, products: float) -> int:
    """The number of CPU threads for `texts` texts; a token takes `products` multiplications in a layer."""
    most = min(MAX_CHUNKS, torch.get_num_threads(), texts // MIN_TEXTS_PER_CHUNK)
    if most < 2 or texts * products < MIN_PRODUCTS or decoding_hazard(model):
        return 1
    return most
