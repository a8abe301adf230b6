"""Data noising: each input token is replaced with some probability by another token of its window; targets stay.

The draws of a window are a function of the seed, the step and its tokens, so that they are the same on any number of
ranks and in a resumed run, without a state.

Source: Xie et al. 2017, "Data Noising as Smoothing in Neural Network Language Models", arXiv:1703.02573, which draws
from the frequencies of tokens in the whole text.
"""

import zlib

import numpy as np
import torch

from nanogpt_kit.api import Callback, Field, LiveRun, TrainingBatch, hookimpl


class DataNoising(Callback):
    fraction: float = Field(0.1, ge=0, le=1, description="fraction of the input tokens that are replaced")
    seed: int = Field(1337, ge=0, lt=2**63, description="seed for the replacements")

    def build(self, run: LiveRun) -> object:
        return Noising(self)


class Noising:
    def __init__(self, options: DataNoising) -> None:
        self.options = options

    @hookimpl
    def batch_ready(self, step: int, batch: TrainingBatch) -> None:
        for ids in batch.ids:
            draws = np.random.default_rng([self.options.seed, step, zlib.crc32(ids.numpy().tobytes())])
            is_replaced = torch.from_numpy(draws.random(len(ids)) < self.options.fraction)
            others = ids[torch.from_numpy(draws.integers(len(ids), size=len(ids)))]
            ids.copy_(torch.where(is_replaced, others, ids))
