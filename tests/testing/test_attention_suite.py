"""The suite for attention passes honest attentions that are no softmax, and fails broken ones by their own measure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import PrivateAttr
from torch import Tensor, nn

from nanogpt_kit.api import Attention, LayerContext, View
from nanogpt_kit.cli.plugin_templates.component.attention import SquaredAttention
from nanogpt_kit.testing.attention import AttentionConformance
from nanogpt_kit.testing.attention_scenes import HARDEST


class ReLU(Attention):
    """Positive scores as weights, divided by the number of keys that a query attends to.

    Source: Wortsman et al. 2023, arXiv:2309.08586.
    """

    def build(self, ctx: LayerContext) -> nn.Module:
        return ReLUAttention(ctx.dropout)


class ReLUAttention(nn.Module):
    def __init__(self, dropout: float, window: int | None = None) -> None:
        super().__init__()
        self.drop, self.window = nn.Dropout(dropout), window

    def forward(self, q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
        k, v = (x.repeat_interleave(q.size(1) // k.size(1), dim=1) for x in (k, v))
        attends = view.mask(self.window)
        weights = (q @ k.mT / q.size(-1) ** 0.5).relu() * attends / attends.sum(-1, keepdim=True).clamp(min=1)
        return self.drop(weights).type_as(v) @ v


class WindowedReLU(Attention):
    def build(self, ctx: LayerContext) -> nn.Module:
        return ReLUAttention(ctx.dropout, window=3)


class Cosine(Attention):
    """Softmax of the angles between queries and keys by a learnt scale, with the weights' entropy as auxiliary loss.

    Source: Henry et al. 2020, arXiv:2010.04245.
    """

    def build(self, ctx: LayerContext) -> nn.Module:
        return CosineAttention(ctx)


class CosineAttention(nn.Module):
    def __init__(self, ctx: LayerContext) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((ctx.n_head, 1, 1), 3.0))
        self.drop = nn.Dropout(ctx.dropout)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, view: View) -> tuple[Tensor, Tensor]:
        k, values = (x.repeat_interleave(q.size(1) // k.size(1), dim=1) for x in (k, v))
        scores = F.normalize(q.float(), dim=-1) @ F.normalize(k.float(), dim=-1).mT * self.scale
        if view.slopes is not None:
            scores = scores + view.penalty()
        attends = view.mask()
        weights = scores.masked_fill(~attends, -1e30).softmax(dim=-1) * attends
        return self.drop(weights).type_as(v) @ values, (weights * (weights + 1e-9).log()).float().sum()


class OneMore(Attention):
    """A softmax with one more score, of 0, whose weight is not used.

    Source: Miller 2023, "Attention Is Off By One".
    """

    def build(self, ctx: LayerContext) -> nn.Module:
        module = ReLUAttention(ctx.dropout)
        module.forward = one_more  # type: ignore[method-assign]
        return module


def one_more(q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
    k, v = (x.repeat_interleave(q.size(1) // k.size(1), dim=1) for x in (k, v))
    scores = (q @ k.mT / 2).float().masked_fill(~view.mask(), -torch.inf)
    largest = scores.amax(dim=-1, keepdim=True).clamp(min=0)  # there is none without keys
    weights = (scores - largest).exp()
    return (weights / (weights.sum(-1, keepdim=True) + (-largest).exp())).type_as(v) @ v


class WindowAndFirst(Attention):
    """A window of two positions, and the first position in addition.

    Source: Xiao et al. 2023, arXiv:2309.17453.
    """

    def build(self, ctx: LayerContext) -> nn.Module:
        module = ReLUAttention(ctx.dropout)
        module.forward = lambda q, k, v, view: relu_with(q, k, v, window_and_first(view))  # type: ignore[method-assign]
        return module


def window_and_first(view: View) -> Tensor:
    return view.mask(2) | view.mask() & (view.key_positions == 0)[:, None, None]


class WindowAndFirstSuite(AttentionConformance):
    component = WindowAndFirst()
    __test__ = False

    def attends(self, view: View) -> Tensor:
        return window_and_first(view)


def test_what_reduces_over_keys_is_never_called_without_any() -> None:
    suite = type("Suite", (AttentionConformance,), {"component": OneMore()})()
    for scene in ("rows that attend to nothing", "segments after a cache"):
        suite.test_it_computes_what_is_expected(scene)
        suite.test_its_gradients_are_those_of_what_is_expected(scene)


def test_an_author_may_say_what_attends_to_what() -> None:
    for scene in ("the causal square", "queries after a cache", HARDEST):
        WindowAndFirstSuite().test_it_computes_what_is_expected(scene)
        WindowAndFirstSuite().test_a_later_key_never_changes_an_earlier_row(scene)
    plain = type("Suite", (AttentionConformance,), {"component": WindowAndFirst()})()
    with pytest.raises(AssertionError, match="if it attends to others, override `attends`"):
        plain.test_a_later_key_never_changes_an_earlier_row("queries after a cache")


class TestSquaredScoresOfTheDocumentation(AttentionConformance):
    component = SquaredAttention()
    compiles = False


class TestReLU(AttentionConformance):
    component = ReLU()
    gradcheck_step = 1e-6  # which crosses no kink
    fast_gradcheck = True
    compiles = False


class TestReLUWithAWindow(AttentionConformance):
    component = WindowedReLU()
    window = 3
    gradcheck_step = 1e-6
    fast_gradcheck = True
    compiles = False


class TestCosineWithAnAuxiliaryLoss(AttentionConformance):
    component = Cosine()
    fast_gradcheck = True


class ReLUByAFormula(TestReLU):
    """With an oracle of its author, for one head after the other."""

    __test__ = False

    def expected(self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
        return torch.stack([self.of_head(h, q, k, v, view.mask()[:, 0]) for h in range(q.size(1))], dim=1).float()

    def of_head(self, head: int, q: Tensor, k: Tensor, v: Tensor, attends: Tensor) -> Tensor:
        key_head = head * k.size(1) // q.size(1)
        scores = torch.einsum("btd,bsd->bts", q[:, head], k[:, key_head]) / 2  # the root of 4 features
        weights = torch.where(attends & (scores > 0), scores, 0.0) / attends.sum(-1, keepdim=True).clamp(min=1)
        return torch.einsum("bts,bsd->btd", weights, v[:, key_head])


def test_an_author_may_give_a_formula() -> None:
    suite = ReLUByAFormula()
    suite.test_it_computes_what_is_expected("left padding by row")
    suite.test_its_gradients_are_those_of_what_is_expected("segments")
    suite.test_queries_share_keys_and_values_in_groups("the causal square", 2)
    suite.of_head = lambda *arguments: 1.01 * ReLUByAFormula.of_head(suite, *arguments)  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="something else than `expected`"):
        suite.test_it_computes_what_is_expected("left padding by row")


# --- broken ones, of which nothing declares what they compute ---------------------------------------------------------


class Broken(Attention):
    _function: Callable[..., Tensor] = PrivateAttr()

    def build(self, ctx: LayerContext) -> nn.Module:
        module = ReLUAttention(0.0)
        module.forward = self._function  # type: ignore[method-assign]
        return module


def relu_with(q: Tensor, k: Tensor, v: Tensor, attends: Tensor) -> Tensor:
    k, v = (x.repeat_interleave(q.size(1) // k.size(1), dim=1) for x in (k, v))
    return (q @ k.mT).relu() * attends @ v


def no_segments(q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
    keys, queries = view.key_positions[:, None, None], view.query_positions[:, None, :, None]
    return relu_with(q, k, v, (keys >= 0) & (keys <= queries))


def padding_attended(q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
    return relu_with(q, k, v, view.key_positions[:, None, None] <= view.query_positions[:, None, :, None])


def by_order_of_keys(q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
    return relu_with(q, k, v, torch.ones(q.size(2), k.size(2), dtype=torch.bool).tril())


def looks_ahead(q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
    return relu_with(q, k, v, view.mask().new_ones(()))


def divided_by_the_length_of_the_cache(q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
    return relu_with(q, k, v, view.mask()) / k.size(2)


def tiled_heads(q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
    groups = q.size(1) // k.size(1)
    return relu_with(q, k.repeat(1, groups, 1, 1), v.repeat(1, groups, 1, 1), view.mask())


def nothing_gives_one(q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
    return relu_with(q, k, v, view.mask()).masked_fill(~view.mask().any(-1, keepdim=True), 1.0)


def fp32_out_of_bf16(q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
    return relu_with(q, k, v, view.mask()).float()


def another_backward(q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
    """Its gradient depends on the other queries, its result does not."""
    out = relu_with(q, k, v, view.mask())
    return out if q.size(2) == 1 else out.detach() * 0.5 + out * 0.5


def rows_of_heads(q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
    return relu_with(q, k, v, view.mask()).transpose(1, 2)


def mean_extra(q: Tensor, k: Tensor, v: Tensor, view: View) -> Any:
    return relu_with(q, k, v, view.mask()), q.float().square().mean()


EXPECTED, AHEAD = "test_it_computes_what_is_expected", "test_a_later_key_never_changes_an_earlier_row"
HEADS, MASK = "test_a_head_of_keys_belongs_to_consecutive_heads_of_queries", "view.mask"
NOTHING = "test_a_row_that_attends_to_nothing_is_zero_and_gives_no_gradient"
BROKEN: dict[Callable[..., Tensor], list[tuple[str, list[Any], str]]] = {
    no_segments: [(EXPECTED, ["segments"], f"segments: .*{MASK}"), (EXPECTED, ["segments after a cache"], MASK)],
    padding_attended: [(EXPECTED, ["left padding by row"], MASK), (EXPECTED, ["a cache that is not full"], MASK)],
    by_order_of_keys: [(EXPECTED, ["queries after a cache"], MASK), (AHEAD, ["queries after a cache"], "key 5 .*mask")],
    looks_ahead: [(EXPECTED, ["the causal square"], MASK), (AHEAD, ["the causal square"], f"must not.*{MASK}")],
    divided_by_the_length_of_the_cache: [(EXPECTED, ["a cache that is not full"], "alone with the keys")],
    tiled_heads: [(HEADS, [2], "heads \\[0, 3\\], not of \\[0, 1\\]: use k.repeat_interleave")],
    nothing_gives_one: [(NOTHING, [], "gives 1, not 0: set the weights of such rows to zero")],
    fp32_out_of_bf16: [("test_bfloat16_stays_near_what_is_expected", ["the causal square"], "type_as")],
    rows_of_heads: [
        (EXPECTED, ["the causal square"], r"^the result is \(2, 5, 6, 4\), not \(2, 6, 5, 4\): return one")
    ],
    mean_extra: [("test_extras_of_rows_add_up_and_so_do_their_gradients", [], "^the extra 'attention' .*return a sum")],
    another_backward: [
        ("test_its_gradients_are_those_of_what_is_expected", ["segments"], "gradient of q .*differentiable = False")
    ],
}


@pytest.mark.parametrize("function", BROKEN)
def test_a_broken_attention_that_declares_nothing_is_caught(function: Callable[..., Tensor]) -> None:
    component = Broken()
    component._function = function
    suite = type("Suite", (AttentionConformance,), {"component": component})()
    for test, arguments, remedy in BROKEN[function]:
        with pytest.raises(AssertionError, match=remedy):
            getattr(suite, test)(*arguments)


def test_one_that_declares_the_softmax_is_held_to_it() -> None:
    class Declared(ReLU):
        computed_function = "softmax"

    suite = type("Suite", (AttentionConformance,), {"component": Declared()})()
    with pytest.raises(AssertionError, match=r"computed_function declares.*leave computed_function out"):
        suite.test_it_computes_what_is_expected("the causal square")
    # in the first layer no earlier one can be the reason
    with pytest.raises(AssertionError, match=r"^slopes.*computed_function declares.*add view.penalty"):
        suite.test_layers_may_share_a_view()
