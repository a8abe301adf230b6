"""Draws tokens by the seed of each text alone, almost independently of how the logits were rounded.

Possible tokens race: each one's arrival time is drawn from an exponential distribution and divided by its probability,
and the first to arrive wins, with exactly its probability. (A single random number in the running sum of probabilities
would do as well; but in a vocabulary of 50,257 tokens 0.4% of such draws changed when logits were rounded differently,
as they are from one batch size to another: measured on a random model, where of 1,500 races none changed.)

The times are a hash of seed, index in the text and token, so that they are the same on any device.

Source: the exponential race is Efraimidis & Spirakis 2006, "Weighted random sampling with a reservoir", Gumbel-max in
other words (Maddison, Tarlow & Minka 2014, arXiv:1411.0030); the hash is splitmix64 (Steele, Lea & Flood 2014).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from nanogpt_kit.nn.device_copy import copy_to_device
from nanogpt_kit.nn.splitmix import GOLDEN, splitmix64

LARGE_VOCABULARY = 4096  # tokens from which it pays on a CPU to select the possible ones first


def draw_tokens(logits: Tensor, seeds: Sequence[int], index: int) -> Tensor:
    """(B, V) to (B, 1): the new token at `index` of each text; -1 where none is possible."""
    device = logits.device
    if device.type == "mps":  # which has no float64
        logits = logits.cpu()
    strides = state_increments(logits.size(-1), str(logits.device))  # (V,)
    possible = None
    if device.type == "cpu" and len(strides) > LARGE_VOCABULARY:  # elsewhere this would wait for the device
        is_possible = (logits > float("-inf")).any(dim=0)
        possible = torch.from_numpy(np.flatnonzero(is_possible.numpy()))  # 7 times as fast as nonzero on a Zen 4
        logits, strides = logits[:, possible], strides[possible]
    if not len(strides):
        return torch.full((len(logits), 1), -1, device=device)
    best = (logits - arrival_times(seeds, index, strides).log_()).max(dim=-1, keepdim=True)
    tokens = best.indices if possible is None else possible[best.indices]
    return tokens.where(best.values > float("-inf"), -1).to(device)  # false for NaN as well


@cache
def state_increments(count: int, device: str) -> Tensor:
    """(count,) int64: 1 to count times GOLDEN, wrapping around: what splitmix64 adds to its state for each number."""
    return torch.arange(1, count + 1, device=device) * as_int64(GOLDEN)


def arrival_times(seeds: Sequence[int], index: int, strides: Tensor) -> Tensor:
    """(B, V) fp32, from an exponential distribution: for each text and possible token at `index`."""
    states = [as_int64(splitmix64(seed + (index + 1) * GOLDEN)) for seed in seeds]  # one for each text and index
    x = copy_to_device(states, strides.device)[:, None] + strides  # (B, V) int64
    x = xor_shift_right(x, 30).mul_(as_int64(0xBF58476D1CE4E5B9))
    x = xor_shift_right(x, 27).mul_(as_int64(0x94D049BB133111EB))
    x = xor_shift_right(x, 31)
    minus_uniform = x.double().mul_(2.0**-64).sub_(0.5).clamp_(2.0**-24 - 1, -(2.0**-54))  # in (-1, 0)
    return minus_uniform.float().log1p_().neg_()


def xor_shift_right(x: Tensor, by: int) -> Tensor:
    """x ^ x >> by, in place, zeros coming in from the left."""
    return x.bitwise_xor_((x >> by).bitwise_and_((1 << (64 - by)) - 1))


def as_int64(x: int) -> int:
    """The int64 of the same bits."""
    return x - (1 << 64) if x >= 1 << 63 else x
