"""A draw for each text that depends on its own seed alone, and hardly on how the logits were rounded.

Each possible token runs a race: its time is drawn from an exponential distribution and divided by its probability, and
the first one wins, as often as its probability says. (Running sums of probabilities, on which a single random number
falls, would do as well; but in a vocabulary of 50,000 tokens every hundredth text or so changes where a logit moves by
1e-6, as it does from one size of a batch to another.)

The times are a hash of seed, place in the text and token, so that they are the same on any device.

Source: the exponential race is Efraimidis & Spirakis 2006, "Weighted random sampling with a reservoir", Gumbel-max in
other words (Maddison, Tarlow & Minka 2014, arXiv:1411.0030); the hash is splitmix64 (Steele, Lea & Flood 2014).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15
BITS = 53  # of a random number: as many as a double has
FEW = 4096  # tokens from which a CPU looks which of them are possible, before it lets all run


def drawn(logits: Tensor, seeds: Sequence[int], number: int) -> Tensor:
    """(B, V) to (B, 1): token `number` of each text; -1 where none is possible."""
    device = logits.device
    if device.type == "mps":  # which has no doubles
        logits = logits.cpu()
    tokens = torch.arange(logits.size(-1), device=logits.device)  # (V,)
    if device.type == "cpu" and len(tokens) > FEW:  # elsewhere the count would have to be waited for
        tokens = tokens[(logits > float("-inf")).any(dim=0)]
        logits = logits[:, tokens]
    if not len(tokens):
        return torch.full((len(logits), 1), -1, device=device)
    winners = (logits - times(seeds, number, tokens).log().to(logits.dtype)).max(dim=-1, keepdim=True)
    found = tokens[winners.indices].where(winners.values > float("-inf"), -1)  # false for what is no number, too
    return found.to(device)


def times(seeds: Sequence[int], number: int, tokens: Tensor) -> Tensor:
    """(B, V) double, from an exponential distribution: of each text, for its token `number` to be one of `tokens`."""
    states = [signed(hashed(seed + (number + 1) * GOLDEN)) for seed in seeds]  # a text's own at this place
    streams = torch.tensor(states, device=tokens.device)[:, None]  # (B, 1) int64
    x = streams + (tokens + 1) * signed(GOLDEN)  # wraps around
    x = (x ^ shifted(x, 30)) * signed(0xBF58476D1CE4E5B9)
    x = (x ^ shifted(x, 27)) * signed(0x94D049BB133111EB)
    x = x ^ shifted(x, 31)
    uniform = (shifted(x, 64 - BITS).double() + 0.5) * 2.0**-BITS  # in (0, 1)
    return -torch.log1p(-uniform)


def shifted(x: Tensor, by: int) -> Tensor:
    """To the right, zeros coming in."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def hashed(x: int) -> int:
    """splitmix64's finaliser, of 64 bits."""
    x &= (1 << 64) - 1
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & (1 << 64) - 1
    x = (x ^ x >> 27) * 0x94D049BB133111EB & (1 << 64) - 1
    return x ^ x >> 31


def signed(x: int) -> int:
    """The int64 of the same bits."""
    return x - (1 << 64) if x >= 1 << 63 else x
