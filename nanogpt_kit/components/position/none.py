"""No position information: a causal decoder can infer positions from the number of tokens that each one attends to.

Source: Haviv et al. 2022, arXiv:2203.16634; Kazemnejad et al. 2023, arXiv:2305.19466.
"""

from __future__ import annotations

from nanogpt_kit.api import LayerContext, Position, Positional


class None_(Position):
    relative = True

    def build(self, ctx: LayerContext) -> Positional:
        return Positional()
