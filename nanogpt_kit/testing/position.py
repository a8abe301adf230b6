"""The suite for positions: results depend on a token's position alone, however the tokens are fed."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from nanogpt_kit.core.kinds import Position
from nanogpt_kit.nn.parts import Positional
from nanogpt_kit.testing.conformance import B, PartConformance, by_dtype, standard_normal
from nanogpt_kit.testing.remedy import assert_same, errors_as_failures

CROP = "override crop(block_size) to keep the first block_size rows of each table"


class PositionConformance(PartConformance):
    """Subclass it with `component = MyPosition(...)`.

    `relative = True` states that scores of rotated queries and keys depend on their distance only.
    """

    component: ClassVar[Position]
    relative: ClassVar[bool] = False  # whether scores of rotated queries and keys depend on their distance only

    def inputs(self) -> tuple[Tensor, ...]:
        """Features (B, T, C) and queries (B, H, T, D) at every position of a block."""
        T, C, H, D = self.context.block_size, self.context.n_embd, self.context.n_head, self.context.head_dim
        return standard_normal(B, T, C, seed=3).to(self.device), standard_normal(B, H, T, D, seed=4).to(self.device)

    def apply(self, module: Any, *inputs: Tensor) -> Tensor:
        x, q = inputs
        positions = self.positions()
        return torch.cat([module.embed(x, positions).flatten(), module.rotate(q, positions).flatten()])

    def positional(self) -> Positional:
        module = self.build()
        assert isinstance(module, Positional), (
            f"build returns a {type(module).__name__}, which does not derive from api.Positional"
        )
        return module

    def positions(self) -> Tensor:
        return torch.arange(self.context.block_size, device=self.device)[None]  # (1, T)

    def test_shapes_are_kept(self) -> None:
        module, (x, q) = self.positional(), self.inputs()
        keys = q[:, : self.context.n_kv_head]
        for method, of in ((module.embed, x), (module.rotate, q), (module.rotate, keys)):
            found = method(of, self.positions()).shape
            remedy = "return as many features as come in; there may be fewer heads of keys than of queries"
            assert found == of.shape, f"{method.__name__}: {tuple(of.shape)} gives {tuple(found)}: {remedy}"

    @by_dtype
    def test_dtypes_are_kept(self, dtype: torch.dtype) -> None:
        """Under autocast the module stays in fp32 and rotates queries in bf16."""
        module, (x, q) = self.positional(), self.inputs()
        expected = module.rotate(q, self.positions())
        turned = module.rotate(q.to(dtype), self.positions())
        assert turned.dtype == dtype, f"rotate: {dtype} gives {turned.dtype}: convert the result with .type_as(x)"
        assert_same(turned.float(), expected, f"rotate: {dtype} is far from fp32: compute angles in fp32", atol=0.03)
        embedded = module.to(dtype).embed(x.to(dtype), self.positions()).dtype
        assert embedded == dtype, f"embed: {dtype} gives {embedded}: convert the result with .type_as(x)"

    def test_each_row_may_have_its_own_positions(self) -> None:
        module, (x, q), same = self.positional(), self.inputs(), self.positions()
        for method, of in ((module.embed, x), (module.rotate, q)):
            name, remedy = method.__name__, "positions are (1 or B, T): use each row's own"
            with errors_as_failures(f"{name} cannot take positions of each row: {remedy}"):
                expanded = method(of, same.expand(B, -1))
            assert_same(expanded, method(of, same), f"{name}: equal rows of positions differ from one: {remedy}")
            rows = torch.cat([same, same.flip(1)])  # (B, T)
            alone = [method(of[[row]], rows[[row]]) for row in range(B)]
            assert_same(method(of, rows), torch.cat(alone), f"{name}: a row differs from itself alone: {remedy}", 1e-6)

    def test_tokens_fed_in_chunks_get_the_same(self) -> None:
        module, (x, q), positions = self.positional(), self.inputs(), self.positions()
        once = module.embed(x, positions), module.rotate(q, positions)
        for chunk in (slice(0, 5), slice(5, 9), slice(9, 10), slice(10, self.context.block_size)):
            at = positions[:, chunk]
            claim = f"tokens {chunk.start} to {chunk.stop} alone differ: use `positions`, never the number of tokens"
            assert_same(module.embed(x[:, chunk], at), once[0][:, chunk], f"embed: {claim}", atol=1e-6)
            assert_same(module.rotate(q[:, :, chunk], at), once[1][:, :, chunk], f"rotate: {claim}", atol=1e-6)

    def test_a_rotation_keeps_lengths(self) -> None:
        _, q = self.inputs()
        turned = self.positional().rotate(q, self.positions())
        claim = "rotate changes the length of a vector: turn pairs of features by cosine and sine of one angle"
        assert_same(turned.norm(dim=-1), q.norm(dim=-1), claim, rtol=1e-5, atol=1e-5)

    def test_scores_depend_on_distance_alone(self) -> None:
        if not self.relative:
            pytest.skip(f"{type(self).__name__}: relative = False")
        _, q = self.inputs()
        module, positions = self.positional(), self.positions()
        turned, keys = (
            module.rotate(x[:, :, :1].expand_as(q).contiguous(), positions) for x in (q, q.flip(2))
        )  # one query and one key, at every position
        scores = turned @ keys.mT  # (B, H, T, T)
        remedy = "turn by angles proportional to the position, or leave out relative = True here and in the component"
        claim = f"scores of one query and one key differ at the same distance: {remedy}"
        assert_same(scores[..., 1:, 1:], scores[..., :-1, :-1], claim, atol=2e-5)
        moves = (scores[..., 1:, 0] - scores[..., :-1, 0]).abs().amax() > 1e-2
        assert moves, "scores are the same at all distances: rotate must depend on positions; or relative = False here"

    def test_it_declares_whether_it_acts_in_mixers(self) -> None:
        """A position that does is refused in a model whose mixers would ignore it."""
        module, kind = self.positional(), type(self.component)
        acts = type(module).rotate is not Positional.rotate or module.slopes() is not None
        remedy = f"set acts_in_mixers = {acts} in {kind.__name__}"
        assert kind.acts_in_mixers == acts, f"it {'rotates or has slopes' if acts else 'only embeds'}: {remedy}"

    def test_slopes_are_one_for_each_head(self) -> None:
        slopes = self.positional().slopes()
        if slopes is not None:
            expected = (self.context.n_head,)
            assert slopes.shape == expected, (
                f"slopes are {tuple(slopes.shape)}, not {expected}: return one for each head"
            )
            assert slopes.dtype == torch.float32, f"slopes are {slopes.dtype}: return float32"
            assert slopes.isfinite().all(), "slopes are not finite: return finite numbers, 0 for no effect"

    def test_cropped_it_is_a_shorter_one(self) -> None:
        module, short = self.positional(), self.context.block_size - 4
        x, q = (part.narrow(-2, 0, short) for part in self.inputs())
        at = self.positions()[:, :short]
        before = module.embed(x, at), module.rotate(q, at)
        module.crop(short)
        self.assert_unchanged(module, before, x, q, at)
        built = self.component.build(dataclasses.replace(self.context, block_size=short)).to(self.device)
        with errors_as_failures(f"cropped to {short} positions it is not one built for them: {CROP}"):
            built.load_state_dict(module.state_dict())
        self.assert_unchanged(built, before, x, q, at)

    def assert_unchanged(
        self, module: nn.Module, before: tuple[Tensor, Tensor], x: Tensor, q: Tensor, at: Tensor
    ) -> None:
        assert isinstance(module, Positional)
        claim = f"cropped it computes something else at the positions that are left: {CROP}"
        assert_same(module.embed(x, at), before[0], f"embed: {claim}")
        assert_same(module.rotate(q, at), before[1], f"rotate: {claim}")
