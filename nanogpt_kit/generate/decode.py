"""The sampling loop: the model's logits through the sampler chain, then a draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from nanogpt_kit.core.kinds import Sampler
from nanogpt_kit.nn.cache import KVCache


@torch.no_grad()
def generate(
    model: nn.Module,
    ids: Tensor,
    samplers: Sequence[Sampler],
    max_new_tokens: int,
    seeds: Sequence[int],
    block_size: int,
) -> Iterator[Tensor]:
    """Yields the next token of each row, (B,), up to `max_new_tokens` times; `ids` (B, T) are the prompts.

    Each row has a generator of its own, so a text does not depend on its neighbours. Beyond `block_size` the model
    sees the last `block_size` tokens, each of them at a new position, so that no cache helps.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    cache = KVCache(block_size)
    for _ in range(max_new_tokens):
        if ids.size(1) <= block_size:
            logits = model(ids[:, cache.length :], cache=cache)[:, -1].float()  # (B, V)
        else:
            logits = model(ids[:, -block_size:])[:, -1].float()
        for sampler in samplers:
            logits = sampler.transform(logits, ids)
        likelihoods = logits.softmax(dim=-1).cpu()
        drawn = [torch.multinomial(row, 1, generator=own) for row, own in zip(likelihoods, generators, strict=True)]
        token = torch.cat(drawn)  # (B,)
        yield token
        ids = torch.cat([ids, token[:, None].to(ids.device)], dim=1)
