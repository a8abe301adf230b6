"""Texts shared among threads, which meet once a token.

OpenMP's threads would meet after each operation, and those of decoding are small. Measured with 16 texts of the baby
GPT (6 layers, 384 wide) on two cores of an AMD EPYC: 10.5 ms for a token of each with fp16 weights, 7.9 in two shares;
11.5 and 9.9 in fp32.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import chain

import torch

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.options import components_in, is_thread_safe
from nanogpt_kit.generate.decode import Decoder, Drawn

MOST_SHARES = 4  # their Python code takes turns; more than two were not measured
LEAST_TEXTS = 4  # of a share
WORTH_A_SHARE = 4_000_000  # products of a layer for all texts: 7 million at 384 wide; at 0.8 million Python is the most


class Shares:
    """Decoders as one, each with some of the texts."""

    def __init__(self, decoders: Sequence[Decoder]) -> None:
        self.decoders = list(decoders)
        self.pool = ThreadPoolExecutor(len(self.decoders), "texts")

    def draw(self) -> Drawn:
        """As Decoder.draw."""
        first, *others = self.decoders
        coming = [self.pool.submit(decoder.draw) for decoder in others]
        try:
            found = [first.draw()]
        finally:
            wait(coming)
        found += [one.result() for one in coming]
        logprobs = [one.logprobs for one in found if one.logprobs is not None]
        return Drawn([*chain(*(one.tokens for one in found))], [*chain(*logprobs)] if logprobs else None)

    def keep(self, rows: Sequence[int]) -> None:
        """As Decoder.keep; the rows in ascending order."""
        kept, begin = [], 0
        for decoder in self.decoders:
            end = begin + len(decoder.ids)
            own = [row - begin for row in rows if begin <= row < end]
            if own:
                decoder.keep(own)
                kept.append(decoder)
            begin = end
        self.decoders = kept


def shares_of(experiment: Experiment, texts: int, products: float) -> int:
    """How many threads of a CPU share so many texts, whose tokens need so many products in a layer."""
    model = experiment.model
    if "dropout" in type(model).model_fields:
        model = model.model_copy(update={"dropout": 0.0})  # nothing is dropped here, so that nothing is drawn for it
    safe = all(is_thread_safe(component) for component in (model, *(part for _, part in components_in(model))))
    if not safe or texts * products < WORTH_A_SHARE:
        return 1
    return max(1, min(MOST_SHARES, torch.get_num_threads(), texts // LEAST_TEXTS))
