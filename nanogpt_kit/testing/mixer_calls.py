"""How the suite of mixers builds and calls them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nanogpt_kit.core.kinds import Attention, LayerContext, Mixer, MixerContext, Norm, Position
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.nn.cache import KVCache
from nanogpt_kit.nn.parts import Positional
from nanogpt_kit.nn.view import View
from nanogpt_kit.testing.conformance import B, T, standard_normal
from nanogpt_kit.testing.extras import ExtrasConformance
from nanogpt_kit.testing.remedy import assert_same, errors_as_failures, result_of


class MixerCalls(ExtrasConformance):
    """Builds a mixer with the parts that it uses, and calls it as a model does, with views and caches of the kit."""

    component: ClassVar[Mixer]
    position: ClassVar[str] = "rope"  # the component whose rotation the mixer uses, where it uses positions

    def build_part(self, ctx: LayerContext) -> nn.Module:
        uses = ", ".join(self.component.uses) or "nothing"
        with errors_as_failures(f"build fails with what `uses` names ({uses}): name all that it uses of the model"):
            return self.component.build(self.mixer_context(ctx))

    def mixer_context(self, ctx: LayerContext, **changes: Any) -> MixerContext:
        """The context with what the mixer uses: the default parts of a model."""
        installed, uses = Registry.installed(), self.component.uses
        heads = {} if "n_kv_head" in uses else {"n_kv_head": ctx.n_head}
        attention = installed.load(Attention, "sdpa")() if "attention" in uses else None
        parts = MixerContext(**vars(ctx) | heads, norm=installed.load(Norm, "layernorm")(), attention=attention)
        return dataclasses.replace(parts, **changes)

    @cached_property
    def usual_position(self) -> Positional:
        return self.positional(self.position if "position" in self.component.uses else "none")

    def positional(self, name: str) -> Positional:
        module = Registry.installed().load(Position, name)().build(self.context).to(self.device)
        assert isinstance(module, Positional)
        return module

    def inputs(self) -> tuple[Tensor, ...]:
        return (self.features(),)

    def features(self, *leading: int, seed: int = 3) -> Tensor:
        """Features (B, T, C), or with other leading sizes."""
        return standard_normal(*(leading or (B, T)), self.context.n_embd, seed=seed).to(self.device)

    def apply(self, module: nn.Module, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return self.mix(module, x)

    def mix(
        self,
        module: nn.Module,
        x: Tensor,
        cache: KVCache | None = None,
        segments: Tensor | None = None,
        position: Positional | None = None,
        advance: bool = True,
    ) -> Tensor:
        """y (B, T, C) of x, as a layer of a model computes it; `advance`: it is the last layer."""
        position = position or self.usual_position
        if cache is None:
            view = View.causal(torch.arange(x.size(1), device=x.device)[None], segments)
        else:
            view = cache.view(x.size(1), x.device)
        y = result_of("mixer", module(x, position, view.with_slopes(position.slopes()), cache))
        if cache is not None and advance:
            cache.advance(x.size(1))
        return y

    @torch.no_grad()
    def mix_chunks(self, module: nn.Module, x: Tensor, cache: KVCache, lengths: Sequence[int]) -> Tensor:
        claim = f"it fails in chunks of {list(lengths)} tokens: attend to the keys and values that cache.extend returns"
        with errors_as_failures(claim):
            return torch.cat([self.mix(module, chunk, cache) for chunk in x.split(list(lengths), dim=1)], dim=1)

    def returned(self, module: nn.Module, *inputs: Tensor) -> Any:
        (x,) = inputs
        view = View.causal(torch.arange(x.size(1), device=x.device)[None], slopes=self.usual_position.slopes())
        return module(x, self.usual_position, view, None)

    def assert_close(self, found: Tensor, expected: Tensor, claim: str) -> None:
        assert_same(found, expected, claim, atol=1e-5)


class ZeroAttention(Attention):
    """An attention whose result is zero."""

    def build(self, ctx: LayerContext) -> nn.Module:
        return Zeros()


class Zeros(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
        return q.new_zeros(*q.shape[:3], v.size(3))
