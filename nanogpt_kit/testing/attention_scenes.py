"""Arrangements of queries and keys for the suite of attentions, and what attends to what in them, in float64.

Source of the formula: Vaswani et al. 2017, arXiv:1706.03762; of the slopes: Press et al. 2021, arXiv:2108.12409.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from nanogpt_kit.nn.view import View
from nanogpt_kit.testing.remedy import result_of

SQUARE, ALL, LATE = torch.arange(5)[None], torch.arange(9)[None], torch.arange(4, 9)[None]  # positions (1, T or S)
PADDED_QUERIES = torch.stack([torch.arange(2, 7), torch.arange(5)])  # (B, T)
PADDED_KEYS = torch.stack([torch.arange(9), torch.tensor([-1, -1, 0, 1, 2, 3, 4, 5, 6])])  # (B, S)
SLOPES = 0.7 ** torch.arange(64)  # by head


@dataclass(frozen=True, eq=False)
class Scene:
    """The contents of a View, before they are on a device."""

    queries: Tensor  # positions (1 or B, T)
    keys: Tensor  # (1 or B, S)
    query_segments: Tensor | None = None
    key_segments: Tensor | None = None
    slopes: bool = False
    causal_square: bool = False

    def view(self, n_head: int, device: str) -> View:
        def on_device(rows: Tensor | None) -> Tensor | None:
            return None if rows is None else rows.to(device)

        slopes = SLOPES[:n_head].to(device) if self.slopes else None
        segments = on_device(self.query_segments), on_device(self.key_segments)
        return View(self.queries.to(device), self.keys.to(device), self.causal_square, *segments, slopes)


DOCUMENTS = torch.tensor([[0, 0, 1, 1, 2], [3, 3, 3, 4, 4]])
SCENES = {
    "the causal square": Scene(SQUARE, SQUARE, causal_square=True),
    "a square by positions": Scene(SQUARE, SQUARE),
    "queries after a cache": Scene(LATE, ALL),
    "one query": Scene(LATE[:, -1:], ALL),
    "queries among the keys": Scene(PADDED_QUERIES[:1], ALL),
    "a cache that is not full": Scene(SQUARE, torch.tensor([[0, 1, 2, 3, 4, -1, -1, -1, -1]])),
    "keys in a ring by row": Scene(LATE, torch.cat([ALL.roll(4), ALL.roll(7)]), slopes=True),
    "left padding by row": Scene(PADDED_QUERIES, PADDED_KEYS),
    "rows that attend to nothing": Scene(
        PADDED_QUERIES - torch.tensor([[4], [0]]), torch.stack([PADDED_KEYS[1], -ALL[0] - 1])
    ),
    "segments": Scene(SQUARE, SQUARE, DOCUMENTS, DOCUMENTS),
    "segments after a cache": Scene(
        LATE, ALL, torch.tensor([[1, 1, 2, 2, 7]]), torch.tensor([[0, 0, 1, 1, 1, 1, 2, 2, 2]])
    ),
    "slopes over the causal square": Scene(SQUARE, SQUARE, slopes=True, causal_square=True),
    "slopes after a cache": Scene(LATE, ALL, slopes=True),
    "slopes, segments and left padding": Scene(
        PADDED_QUERIES,
        PADDED_KEYS,
        torch.tensor([[1, 1, 2, 2, 2], [5, 5, 5, 5, 6]]),
        torch.tensor([[0, 1, 1, 1, 1, 2, 2, 2, 2], [5, 5, 5, 5, 5, 5, 5, 5, 6]]),
        slopes=True,
    ),
}
HARDEST = "slopes, segments and left padding"
by_scene = pytest.mark.parametrize("scene", SCENES)
by_some_scenes = pytest.mark.parametrize("scene", ["the causal square", "queries after a cache", HARDEST])
by_groups = pytest.mark.parametrize("groups", [1, 2, 6])  # query heads that share a key and value head


def attention_mask(view: View, window: int | None) -> Tensor:
    """(1 or B, 1, T, S): which keys each query attends to, by the definition of a View."""
    query, key = view.query_positions[:, None, :, None], view.key_positions[:, None, None, :]
    seen = (key >= 0) & (key <= query)
    if window is not None:
        seen = seen & (key > query - window)
    if view.query_segments is not None and view.key_segments is not None:
        seen = seen & (view.query_segments[:, None, :, None] == view.key_segments[:, None, None, :])
    return seen


def plain_softmax(q: Tensor, k: Tensor, v: Tensor, view: View, window: int | None = None) -> Tensor:
    """Attention as in the paper, in float64: (B, H, T, D); zero for a row that attends to nothing."""
    query_heads = torch.arange(q.size(1), device=q.device) // (q.size(1) // k.size(1))  # (H,): the key head of each
    q, k, v = q.double(), k.double()[:, query_heads], v.double()[:, query_heads]
    scores = torch.einsum("bhtd,bhsd->bhts", q, k) / math.sqrt(q.size(-1))
    if view.slopes is not None:
        distance = view.query_positions[:, None, :, None] - view.key_positions[:, None, None, :]
        scores = scores - view.slopes.double()[:, None, None] * distance
    seen = attention_mask(view, window)
    scores = torch.where(seen, scores, -torch.inf)
    highest = scores.amax(dim=-1, keepdim=True).clamp(min=-1e300).detach()  # a row that attends to nothing has none
    weights = torch.exp(scores - highest)
    total = weights.sum(dim=-1, keepdim=True)
    return torch.einsum("bhts,bhsd->bhtd", weights / total.clamp(min=1e-300), v)


def each_query_alone(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, view: View, attends: Tensor) -> Tensor:
    """What an attention gives each query by itself, with no keys but those that it `attends` to: (B, H, T, D).

    Source: the definition of a View.
    """
    seen = attends.expand(len(q), 1, -1, -1)[:, 0]  # (B, T, S)
    queries, keys = (positions.expand(len(q), -1) for positions in (view.query_positions, view.key_positions))
    rows = []
    for row in range(len(q)):
        results = []
        for t in range(q.size(2)):
            used = seen[row, t].nonzero().flatten()
            if not len(used):  # no model calls an attention without keys
                results.append(torch.zeros_like(q[row : row + 1, :, :1]))  # (1, H, 1, D)
                continue
            alone = View(queries[row, t].view(1, 1), keys[row, used][None], causal_square=False, slopes=view.slopes)
            one, (k_used, v_used) = slice(row, row + 1), (x[row : row + 1, :, used] for x in (k, v))
            results.append(result_of("attention", module(q[one, :, t : t + 1], k_used, v_used, alone)))
        rows.append(torch.cat(results, dim=2))
    return torch.cat(rows)
