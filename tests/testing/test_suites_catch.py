"""The conformance suites fail where a component is broken: each break below is seen by the tests beside it."""

from __future__ import annotations

import functools
import random
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ConfigDict, PrivateAttr, field_validator
from torch import Tensor, nn

from nanogpt_kit.api import (
    MLP,
    Attention,
    Field,
    KVCache,
    LayerContext,
    ModelContext,
    Norm,
    Position,
    Positional,
    ResidualLinear,
    RunContext,
    TrainingLoss,
    View,
)
from nanogpt_kit.components.model.gpt import GPT
from nanogpt_kit.components.parallel.single import Single
from nanogpt_kit.components.position.rope import Rotary
from nanogpt_kit.nn import concurrent_calls
from nanogpt_kit.nn.thread_probe import training_hazard
from nanogpt_kit.testing.attention import AttentionConformance
from nanogpt_kit.testing.attention_scenes import HARDEST, plain_softmax
from nanogpt_kit.testing.callback import CallbackConformance
from nanogpt_kit.testing.causality import CHUNKS
from nanogpt_kit.testing.dataset import DatasetConformance
from nanogpt_kit.testing.evaluator import EvaluatorConformance
from nanogpt_kit.testing.mlp import MLPConformance
from nanogpt_kit.testing.model import ModelConformance
from nanogpt_kit.testing.norm import NormConformance
from nanogpt_kit.testing.optimizer import OptimizerConformance
from nanogpt_kit.testing.order import OrderConformance
from nanogpt_kit.testing.parallel import ParallelConformance
from nanogpt_kit.testing.position import PositionConformance
from nanogpt_kit.testing.sampler import SamplerConformance
from nanogpt_kit.testing.schedule import ScheduleConformance
from nanogpt_kit.testing.tokenizer import TokenizerConformance
from tests.testing.remedies import REMEDIES, assert_fails

Tests = list[tuple[Any, ...]]  # the name of a test and its arguments


def suite_of(suite: type, component: Any, **attributes: Any) -> Any:
    return type("Suite", (suite,), {"component": component, **attributes})()


def assert_caught(suite: Any, tests: Tests) -> None:
    for test, *arguments in tests:
        assert_fails(suite, test, *arguments)


class Function(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *arguments: Any) -> Any:
        return self.function(*arguments)


# --- attention --------------------------------------------------------------------------------------------------


class OneFunction(Attention):
    computed_function = "softmax"
    _function: Callable[..., Tensor] = PrivateAttr()

    def build(self, ctx: LayerContext) -> nn.Module:
        return Function(self._function)


def right(q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
    return plain_softmax(q, k, v, view).to(q.dtype)


def seen_as(view: View, **changes: Any) -> View:
    return replace(view, causal_square=False, results=[], **changes)


def one_key_ahead(q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
    return right(q, k, v, seen_as(view, query_positions=view.query_positions + 1))


def triangle_from_the_corner(q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
    """As torch's is_causal has it."""
    T, S = torch.arange(q.size(2))[None], torch.arange(k.size(2))[None]
    return right(q, k, v, seen_as(view, query_positions=T, key_positions=S))


def first_rows_positions_for_all(q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
    return right(q, k, v, seen_as(view, query_positions=view.query_positions[:1], key_positions=view.key_positions[:1]))


def no_segments(q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
    return right(q, k, v, seen_as(view, query_segments=None, key_segments=None))


def no_slopes(q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
    return right(q, k, v, seen_as(view, slopes=None))


def slopes_by_order_of_keys(q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
    """Which is the same wherever positions count up from 0."""
    distance = torch.arange(k.size(2) - q.size(2), k.size(2))[:, None] - torch.arange(k.size(2))  # (T, S)
    slopes = torch.zeros(1) if view.slopes is None else view.slopes
    scores = (
        q @ k.repeat_interleave(q.size(1) // k.size(1), 1).mT / q.size(-1) ** 0.5 - slopes[:, None, None] * distance
    )
    weights = scores.masked_fill(~view.mask(), -torch.inf).softmax(-1).nan_to_num()
    return weights @ v.repeat_interleave(q.size(1) // v.size(1), 1)


def twice_the_scale(q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
    return right(2 * q, k, v, view)


def nan_for_nothing(q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
    return right(q, k, v, view).masked_fill(~view.mask().any(-1, keepdim=True), torch.nan)


def mean_for_nothing(q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
    """As -1e9 in place of minus infinity makes it."""
    values = v.repeat_interleave(q.size(1) // v.size(1), 1).mean(2, keepdim=True)
    return torch.where(view.mask().any(-1, keepdim=True), right(q, k, v, view), values)


def tiled_heads(q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
    """Heads 0 1 2 0 1 2 where 0 0 1 1 2 2 are wanted."""
    k, v = (x.repeat(1, q.size(1) // x.size(1), 1, 1) for x in (k, v))
    return right(q, k, v, view)


def part_of_a_gradient(q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
    return right(q, 0.1 * k.detach() + 0.9 * k, v, view)


def fp32_out_of_bf16(q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
    return right(q.float(), k, v, view)


def exponentials_of_large_scores(q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
    k, v = (x.repeat_interleave(q.size(1) // x.size(1), 1) for x in (k, v))
    weights = (q @ k.mT / q.size(-1) ** 0.5).exp() * view.mask()
    return weights / weights.sum(-1, keepdim=True).clamp(min=1e-30) @ v


def keys_of_the_first_layer(q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
    return right(q, view.cached("keys", lambda: k), v, view)


def dropout_in_eval_mode(q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
    return F.dropout(right(q, k, v, view), 0.5)


def chance(q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
    return right(q, k, v, view) + 1e-4 * torch.rand(())


def another_when_compiled(q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
    return right(q * 2 if torch.compiler.is_compiling() else q, k, v, view)


PLAIN, SEEN_BY = "test_it_computes_what_is_expected", "test_a_later_key_never_changes_an_earlier_row"
NOTHING = "test_a_row_that_attends_to_nothing_is_zero_and_gives_no_gradient"
DROPOUT = "test_dropout_is_refused_or_for_training_only"
ATTENTIONS: dict[Callable[..., Tensor], Tests] = {
    one_key_ahead: [
        (PLAIN, "the causal square"),
        (SEEN_BY, "the causal square"),
        (SEEN_BY, "queries after a cache"),
        (SEEN_BY, HARDEST),
    ],
    triangle_from_the_corner: [
        (PLAIN, "queries after a cache"),
        (PLAIN, "one query"),
        (PLAIN, "queries among the keys"),
        (PLAIN, "left padding by row"),
    ],
    first_rows_positions_for_all: [(PLAIN, "left padding by row"), (PLAIN, "rows that attend to nothing")],
    no_segments: [(PLAIN, "segments"), (PLAIN, "segments after a cache"), (PLAIN, HARDEST), (SEEN_BY, HARDEST)],
    no_slopes: [(PLAIN, "slopes over the causal square"), (PLAIN, "slopes after a cache"), (PLAIN, HARDEST)],
    slopes_by_order_of_keys: [(PLAIN, "keys in a ring by row")],
    twice_the_scale: [(PLAIN, "a cache that is not full"), ("test_bfloat16_stays_near_what_is_expected", HARDEST)],
    nan_for_nothing: [(PLAIN, "rows that attend to nothing"), (NOTHING,)],
    mean_for_nothing: [(PLAIN, "rows that attend to nothing"), (NOTHING,)],
    tiled_heads: [
        ("test_queries_share_keys_and_values_in_groups", "the causal square", 2),
        ("test_gradients_of_shared_keys_and_values_add_up", 2),
    ],
    part_of_a_gradient: [
        ("test_its_gradients_are_those_of_what_is_expected", "the causal square"),
        ("test_gradients_pass_gradcheck",),
    ],
    fp32_out_of_bf16: [("test_bfloat16_stays_near_what_is_expected", "the causal square")],
    exponentials_of_large_scores: [
        ("test_large_scores_stay_finite", "the causal square", torch.float32),
        ("test_extreme_features_stay_finite", 1e4, torch.float32),
    ],
    keys_of_the_first_layer: [("test_layers_may_share_a_view",)],
    dropout_in_eval_mode: [(DROPOUT,), ("test_eval_mode_is_deterministic",)],
    right: [(DROPOUT,)],  # which knows no dropout
    chance: [("test_eval_mode_is_deterministic",)],
    another_when_compiled: [("test_compiled_it_computes_the_same", "aot_eager")],
}


@pytest.mark.parametrize("function", ATTENTIONS)
def test_a_broken_attention_is_caught(function: Callable[..., Tensor]) -> None:
    component = OneFunction()
    component._function = function
    assert_caught(suite_of(AttentionConformance, component), ATTENTIONS[function])


def test_a_window_that_is_not_there_is_caught() -> None:
    component = OneFunction()
    component._function = right
    assert_caught(suite_of(AttentionConformance, component, window=3), [(PLAIN, "queries after a cache")])


# --- position ---------------------------------------------------------------------------------------------------


class Sound(Positional):
    """A learnt vector and a rotation, which those below break."""

    def __init__(self, ctx: LayerContext) -> None:
        super().__init__()
        self.wpe = nn.Embedding(ctx.block_size, ctx.n_embd)
        self.rotary = Rotary(ctx.head_dim, 100.0)

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        return x + self.wpe(positions)

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        return self.rotary.rotate(x, positions)

    def crop(self, block_size: int) -> None:
        self.wpe.weight = nn.Parameter(self.wpe.weight[:block_size].detach())


class CountsFromZero(Sound):
    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        return super().rotate(x, torch.arange(x.size(2))[None])


class TurnsSingleTokensBack(Sound):
    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        return super().rotate(x, positions if x.size(2) > 1 else -positions)


class EmbedsTheFirstRowsPositions(Sound):
    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        return super().embed(x, positions[:1])


class ForgetsTheToken(Sound):
    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        return self.wpe(positions)


class Stretches(Sound):
    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        return 1.001 * super().rotate(x, positions)


class TurnsFasterAndFaster(Sound):
    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        return super().rotate(x, positions * positions)


class TurnsNothing(Sound):
    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        return x


class MakesQueriesLong(Sound):
    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        return super().rotate(x.float(), positions)


class KeepsTheLast(Sound):
    def crop(self, block_size: int) -> None:
        self.wpe.weight = nn.Parameter(self.wpe.weight[-block_size:].detach())


class OneSlopeForAll(Sound):
    def slopes(self) -> Tensor:
        return torch.ones(())


PIECEWISE, DISTANCE = "test_tokens_fed_in_chunks_get_the_same", "test_scores_depend_on_distance_alone"
POSITIONS: dict[type[Sound], Tests] = {
    CountsFromZero: [(PIECEWISE,)],
    TurnsSingleTokensBack: [(PIECEWISE,)],
    EmbedsTheFirstRowsPositions: [("test_each_row_may_have_its_own_positions",)],
    ForgetsTheToken: [("test_shapes_are_kept",)],
    Stretches: [("test_a_rotation_keeps_lengths",)],
    TurnsFasterAndFaster: [(DISTANCE,)],
    TurnsNothing: [(DISTANCE,)],
    MakesQueriesLong: [("test_dtypes_are_kept", torch.bfloat16)],
    KeepsTheLast: [("test_cropped_it_is_a_shorter_one",)],
    OneSlopeForAll: [("test_slopes_are_one_for_each_head",)],
}


class OfClass(Position):
    acts_in_mixers = True
    _module: type[Sound] = PrivateAttr()

    def build(self, ctx: LayerContext) -> Positional:
        return self._module(ctx)


@pytest.mark.parametrize("module", POSITIONS)
def test_a_broken_position_is_caught(module: type[Sound]) -> None:
    component = OfClass()
    component._module = module
    assert_caught(suite_of(PositionConformance, component, relative=True), POSITIONS[module])
    component._module = Sound
    for test, *arguments in POSITIONS[module]:
        getattr(suite_of(PositionConformance, component, relative=True), test)(*arguments)


def test_a_position_that_does_not_declare_that_it_rotates_is_caught() -> None:
    component = OfClass()
    component._module = Sound
    OfClass.acts_in_mixers = False
    try:
        assert_caught(suite_of(PositionConformance, component), [("test_it_declares_whether_it_acts_in_mixers",)])
    finally:
        OfClass.acts_in_mixers = True
    suite_of(PositionConformance, component).test_it_declares_whether_it_acts_in_mixers()


def test_a_table_that_is_never_cropped_is_caught() -> None:
    class Cropless(Sound):
        def crop(self, block_size: int) -> None: ...

    component = OfClass()
    component._module = Cropless
    assert_caught(suite_of(PositionConformance, component), [("test_cropped_it_is_a_shorter_one",)])


# --- norm and mlp -----------------------------------------------------------------------------------------------


class Normal(Norm):
    _module: Callable[[], nn.Module] = PrivateAttr()

    def build(self, ctx: LayerContext) -> nn.Module:
        return self._module()


def over_all_positions() -> nn.Module:
    return Function(lambda x: x / (x.square().mean((1, 2), keepdim=True) + 1e-5).sqrt())


def without_eps() -> nn.Module:
    return Function(lambda x: x / x.square().mean(2, keepdim=True).sqrt())


def fp32_whatever_comes() -> nn.Module:
    return Function(lambda x: F.rms_norm(x.float(), x.shape[2:]))


def coarse_sum() -> nn.Module:
    return Function(lambda x: x / ((x.square().mean(2, keepdim=True) + 100) - 100 + 1e-5).sqrt())


def half_a_gradient() -> nn.Module:
    return Function(lambda x: x / (x.detach().square().mean(2, keepdim=True) + 1e-5).sqrt())


def over_the_batch() -> nn.Module:
    return nn.BatchNorm1d(5, affine=False)


def fp32_in_the_middle() -> nn.Module:
    return Function(lambda x: F.rms_norm(x.float(), x.shape[2:]).type_as(x))


def over_heads_and_features() -> nn.Module:
    return Function(lambda x: F.rms_norm(x, x.shape[2:]))


def by_values_of_tensors() -> nn.Module:
    return Function(lambda x: F.rms_norm(x, x.shape[2:]) * (1.0 if x.sum() > 0 else 2.0))


def in_place() -> nn.Module:
    return Function(lambda x: x.mul_(2))


NORMS: dict[Callable[[], nn.Module], Tests] = {
    in_place: [("test_its_inputs_are_not_modified",)],
    over_all_positions: [("test_positions_are_independent",)],
    without_eps: [("test_extreme_features_stay_finite", 0.0, torch.float32)],
    fp32_whatever_comes: [("test_shape_and_dtype_are_kept", torch.bfloat16)],
    coarse_sum: [("test_shape_and_dtype_are_kept", torch.bfloat16)],
    half_a_gradient: [("test_gradients_pass_gradcheck",)],
    over_heads_and_features: [("test_heads_are_normalised_like_positions",)],
    by_values_of_tensors: [("test_compiled_it_computes_the_same", "aot_eager")],
    over_the_batch: [("test_without_dropout_training_mode_computes_the_same",)],
}


@pytest.mark.parametrize("module", NORMS)
def test_a_broken_norm_is_caught(module: Callable[[], nn.Module]) -> None:
    component = Normal()
    component._module = module
    assert_caught(suite_of(NormConformance, component), NORMS[module])


def test_a_gradcheck_that_fails_by_rounding_alone_names_the_step() -> None:
    component = Normal()
    component._module = fp32_in_the_middle
    suite_of(NormConformance, component).test_gradients_pass_gradcheck()
    fine = suite_of(NormConformance, component, gradcheck_step=1e-6)
    with pytest.raises(AssertionError, match=r"fp32 whatever its input; set gradcheck_step = 0\.001 here"):
        fine.test_gradients_pass_gradcheck()


def test_a_gradcheck_names_the_weight_whose_gradient_is_wrong() -> None:
    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain, self.shift = nn.Parameter(torch.ones(24)), nn.Parameter(torch.zeros(24))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.gain + 0.5 * self.shift + 0.5 * self.shift.detach()

    component = Normal()
    component._module = Wrong
    with pytest.raises(AssertionError, match=r"^the gradient of shift differs from finite differences: "):
        suite_of(NormConformance, component).test_gradients_pass_gradcheck()


def test_rows_of_nan_are_not_called_random(tmp_path: Path) -> None:
    component = Normal()
    component._module = lambda: Function(lambda x: x / 0 - x / 0)
    suite = suite_of(NormConformance, component)
    suite.test_eval_mode_is_deterministic()
    suite.test_weights_survive_being_saved(tmp_path)
    assert_caught(suite, [("test_extreme_features_stay_finite", 1e4, torch.float32)])


def test_a_weight_that_no_checkpoint_holds_is_caught(tmp_path: Path) -> None:
    component = Normal()
    component._module = lambda: Function(functools.partial(torch.mul, torch.randn(24)))
    assert_caught(suite_of(NormConformance, component), [("test_weights_survive_being_saved", tmp_path)])
    component._module = lambda: Function(functools.partial(F.linear, weight=torch.randn(24, 24)))
    with pytest.raises(
        AssertionError, match=r"^in torch.bfloat16 it fails: hold every tensor as a parameter or buffer"
    ):
        suite_of(NormConformance, component).test_shape_and_dtype_are_kept(torch.bfloat16)


# --- what two threads must not call at once ---------------------------------------------------------------------


class Counts(nn.Linear):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


class CountsInADict(nn.Linear):
    def __init__(self, *features: int) -> None:
        super().__init__(*features)
        self.stats = {"calls": [0]}

    def forward(self, x: Tensor) -> Tensor:
        self.stats["calls"][0] += 1
        return super().forward(x)


class KeepsItsInput(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        self.last = x
        return super().forward(self.last)


class AveragesInABuffer(nn.Linear):
    mean: Tensor

    def __init__(self, *features: int) -> None:
        super().__init__(*features)
        self.register_buffer("mean", torch.zeros(features[0]))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.lerp_(x.detach().mean((0, 1)), 0.1)
        return super().forward(x)


class BatchStatistics(nn.Module):
    def __init__(self, *features: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(features[0])

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class AddsNoise(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.1 * torch.randn_like(x) if self.training else x)


class AddsNoiseOfItsOwn(nn.Linear):
    generator = torch.Generator()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.1 * torch.rand(x.shape, generator=self.generator) if self.training else x)


class AddsPythonsNoise(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + random.random() if self.training else x)


WORKSPACE = torch.zeros(2, 5, 24)


class SharesMemory(nn.Linear):
    """All modules compute in one tensor, which no module holds."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            WORKSPACE.copy_(x)
        return super().forward(x) + WORKSPACE


class SharesAName(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        SharesAName.scale = x.detach().mean()
        y = super().forward(x)
        return y * SharesAName.scale


class Doubled(torch.autograd.Function):
    saved: list[Tensor]

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        Doubled.saved = [x]  # and not in ctx
        return x.square()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient * Doubled.saved[0]


class SavesForBackwardElsewhere(nn.Module):
    def __init__(self, *features: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return Doubled.apply(x)


class SetsTheDefaultDtype(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        torch.set_default_dtype(torch.float64)
        try:
            return super().forward(x)
        finally:
            torch.set_default_dtype(torch.float32)


UNSAFE = {
    Counts: r"forward pass changes (h\.0\.mlp\.)?calls",
    CountsInADict: "stats.calls.0",
    KeepsItsInput: "last",
    AveragesInABuffer: "mean",
    BatchStatistics: r"norm\.",
    AddsNoise: "random",
    AddsNoiseOfItsOwn: "random",
    AddsPythonsNoise: "random",
    SharesMemory: "results differ",
    SharesAName: "results differ",
    SavesForBackwardElsewhere: "results differ",
    SetsTheDefaultDtype: "settings of the whole process",
}


@pytest.mark.parametrize("module", UNSAFE)
def test_what_two_threads_must_not_call_at_once_is_caught(module: type[nn.Module]) -> None:
    """By the suites of its kind and of a model that holds it, and by the probe of a run, every time."""

    class Unsafe(MLP):
        def build(self, ctx: LayerContext) -> nn.Module:
            return module(ctx.n_embd, ctx.n_embd)

    model = GPT(n_layer=1, n_head=3, n_embd=24, block_size=13, mlp=Unsafe())
    for suite in (suite_of(MLPConformance, Unsafe()), suite_of(ModelConformance, model)):
        if module is not SharesMemory or suite.component is not model:  # its memory has the size of a suite's batch
            with pytest.raises(AssertionError, match=UNSAFE[module]):
                suite.test_two_threads_may_call_it_at_once()
    ctx = RunContext(device="cpu", precision="fp32", world_size=1, splits=("train", "val"), block_size=13)
    assert training_hazard(model, Single(), ctx) is not None


def test_waiting_for_the_other_thread_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrent_calls, "PATIENCE_SECONDS", 0.2)

    class Locked(nn.Linear):
        lock = threading.Lock()

        def forward(self, x: Tensor) -> Tensor:
            with self.lock:
                return super().forward(x).relu()

    class Waiting(MLP):
        def build(self, ctx: LayerContext) -> nn.Module:
            return Locked(ctx.n_embd, ctx.n_embd)

    with pytest.raises(AssertionError, match="wait for each other"):
        suite_of(MLPConformance, Waiting()).test_two_threads_may_call_it_at_once()


def test_one_module_for_all_layers_is_caught() -> None:
    component, module = Normal(), nn.LayerNorm(24)
    component._module = lambda: module
    assert_caught(suite_of(NormConformance, component), [("test_modules_share_no_weights",)])


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_dropout_at_the_wrong_time_is_caught(share: float) -> None:
    class Stubborn(MLP):
        def build(self, ctx: LayerContext) -> nn.Module:
            dropped = share if ctx.dropout else 0.0
            return nn.Sequential(ResidualLinear(24, 24), Function(lambda x: F.dropout(x, dropped, training=True)))

    assert_caught(suite_of(MLPConformance, Stubborn()), [("test_dropout_is_for_training_only",)])


# --- auxiliary losses -------------------------------------------------------------------------------------------


class Penalizes(nn.Module):
    calls = 0

    def __init__(self, penalty: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.c_proj, self.penalty = ResidualLinear(24, 24), penalty

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        y = self.c_proj(x)
        return y, {"penalty": self.penalty(self, y)}


def sum_in_fp32(module: nn.Module, y: Tensor) -> Tensor:
    return y.float().square().sum()


def sum_in_bf16(module: nn.Module, y: Tensor) -> Tensor:
    return y.square().sum()


def mean_over_tokens(module: nn.Module, y: Tensor) -> Tensor:
    return y.float().square().mean()


def grows_with_each_pass(module: nn.Module, y: Tensor) -> Tensor:
    module.calls += 1
    return module.calls * y.float().square().sum()


def another_penalty_when_compiled(module: nn.Module, y: Tensor) -> Tensor:
    return (1.1 if torch.compiler.is_compiling() else 1.0) * y.float().square().sum()


EXTRAS: dict[Callable[[nn.Module, Tensor], Tensor], Tests] = {
    sum_in_bf16: [("test_extras_are_scalars_in_fp32", torch.bfloat16)],
    mean_over_tokens: [("test_extras_of_rows_add_up_and_so_do_their_gradients",)],
    grows_with_each_pass: [("test_extras_depend_on_the_tokens_alone",)],
    another_penalty_when_compiled: [("test_compiled_in_training_it_gives_the_same_extras", "aot_eager")],
}


class WithPenalty(MLP):
    _penalty: Callable[[nn.Module, Tensor], Tensor] = PrivateAttr()

    def build(self, ctx: LayerContext) -> nn.Module:
        return Penalizes(self._penalty)


@pytest.mark.parametrize("penalty", EXTRAS)
def test_a_broken_auxiliary_loss_is_caught(penalty: Callable[[nn.Module, Tensor], Tensor]) -> None:
    component, sound = WithPenalty(), WithPenalty()
    component._penalty, sound._penalty = penalty, sum_in_fp32
    assert_caught(suite_of(MLPConformance, component), EXTRAS[penalty])
    for test, *arguments in EXTRAS[penalty]:
        getattr(suite_of(MLPConformance, sound), test)(*arguments)


def test_a_batch_statistic_that_is_not_weighted_is_caught() -> None:
    component = WithPenalty()
    component._penalty = mean_over_tokens
    suite = suite_of(MLPConformance, component, batch_statistics=("penalty",))
    suite.test_extras_of_rows_add_up_and_so_do_their_gradients()
    assert_caught(suite, [("test_batch_statistics_are_weighted_by_the_tokens",)])


# --- options ----------------------------------------------------------------------------------------------------


class Undescribed(Norm):
    eps: float = Field(1e-5)

    def build(self, ctx: LayerContext) -> nn.Module:
        return nn.RMSNorm(ctx.n_embd, self.eps)


class Thawed(Undescribed):
    model_config = ConfigDict(frozen=False)


class Lax(Undescribed):
    model_config = ConfigDict(extra="ignore")


class Halving(Undescribed):
    @field_validator("eps")
    @classmethod
    def _half(cls, eps: float) -> float:
        return eps / 2


@pytest.mark.parametrize(
    ("component", "test"),
    [
        (Undescribed(), "test_every_option_has_a_description"),
        (Thawed(), "test_options_are_frozen"),
        (Lax(), "test_unknown_options_are_refused"),
        (Halving(eps=1.0), "test_options_survive_toml"),
    ],
)
def test_broken_options_are_caught(component: Norm, test: str) -> None:
    assert_caught(suite_of(NormConformance, component), [(test,)])


def test_an_option_that_is_a_list_is_caught() -> None:
    class Listed(Undescribed):
        sizes: list[int] = Field([1], description="which could be appended to")

    assert_caught(suite_of(NormConformance, Listed()), [("test_options_are_frozen",)])


def test_a_file_without_a_docstring_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "__doc__", None)
    assert_caught(suite_of(NormConformance, Undescribed()), [("test_the_class_or_its_file_has_a_docstring",)])


# --- model ------------------------------------------------------------------------------------------------------

Forward = Callable[..., Tensor]


class Bent(GPT):
    """A GPT whose forward pass is `bend(module, forward)(ids, targets, cache)`."""

    _bend: Callable[[Any, Forward], Forward] = PrivateAttr()

    def build(self, ctx: ModelContext) -> nn.Module:
        module = super().build(ctx)
        module.forward = self._bend(module, module.forward)
        return module


class ShiftedCache(KVCache):
    """Its queries see one key too few."""

    def view(self, T: int, device: torch.device, slopes: Tensor | None = None) -> View:
        view = super().view(T, device, slopes)
        shifted = view.query_positions - 1
        return replace(view, query_positions=shifted, causal_square=False, unmasked=False) if self.length else view


def cache_off_by_one(module: Any, forward: Forward) -> Forward:
    def bent(ids: Tensor, targets: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        if cache is not None:
            cache.__class__ = ShiftedCache
        return forward(ids, targets, cache)

    return bent


def tokens_not_counted(module: Any, forward: Forward) -> Forward:
    def bent(ids: Tensor, targets: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        out = forward(ids, targets, cache)
        if cache is not None:
            cache.length -= 1
        return out

    return bent


def remembers_the_last_text(module: Any, forward: Forward) -> Forward:
    def bent(ids: Tensor, targets: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        if cache is not None and cache.length:
            cache.layers = module.layers
        out = forward(ids, targets, cache)
        if cache is not None:
            module.layers = cache.layers
        return out

    return bent


def a_trace_of_all_tokens(module: Any, forward: Forward) -> Forward:
    def bent(ids: Tensor, targets: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        out = forward(ids, targets, cache)
        return out if targets is not None else out + 1e-3 * ids.float().mean(1)[:, None, None]

    return bent


def on_the_loss(change: Callable[..., Tensor]) -> Callable[[Any, Forward], Forward]:
    def bend(module: Any, forward: Forward) -> Forward:
        def bent(ids: Tensor, targets: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
            return forward(ids, None, cache) if targets is None else change(module, forward, ids, targets)

        return bent

    return bend


@on_the_loss
def mean_of_losses(module: Any, forward: Forward, ids: Tensor, targets: Tensor) -> Tensor:
    return forward(ids, targets) / (targets >= 0).sum().clamp(min=1)


@on_the_loss
def unwanted_counts(module: Any, forward: Forward, ids: Tensor, targets: Tensor) -> Tensor:
    return forward(ids, targets.clamp(min=0))


@on_the_loss
def padding_counts(module: Any, forward: Forward, ids: Tensor, targets: Tensor) -> Tensor:
    module.vocab_size = module.wte.num_embeddings
    loss = forward(ids, targets)
    module.vocab_size = 37
    return loss


@on_the_loss
def short_loss(module: Any, forward: Forward, ids: Tensor, targets: Tensor) -> Tensor:
    return forward(ids, targets).bfloat16()


@on_the_loss
def part_of_the_losses_gradient(module: Any, forward: Forward, ids: Tensor, targets: Tensor) -> Tensor:
    loss = forward(ids, targets)
    return 0.01 * loss.detach() + 0.99 * loss


@on_the_loss
def objective_without_the_loss(module: Any, forward: Forward, ids: Tensor, targets: Tensor) -> Any:
    loss = forward(ids, targets)
    return TrainingLoss(0.5 * loss, loss.detach(), {}) if module.training else loss


@on_the_loss
def penalty_without_a_name(module: Any, forward: Forward, ids: Tensor, targets: Tensor) -> Tensor:
    loss = forward(ids, targets)
    return loss + 0.1 * module.wte.weight.square().sum() if module.training else loss


@on_the_loss
def targets_in_place(module: Any, forward: Forward, ids: Tensor, targets: Tensor) -> Tensor:
    return forward(ids, targets.clamp_(min=0))


def part_of_the_logits_gradient(module: Any, forward: Forward) -> Forward:
    attention = module.h[0].attn.attention
    module.h[0].attn.attention = Function(lambda q, k, v, view: attention(q, k.detach(), v, view))
    return forward


def logits_of_padding(module: Any, forward: Forward) -> Forward:
    module.vocab_size = module.wte.num_embeddings
    return forward


def idle_weight(module: Any, forward: Forward) -> Forward:
    module.idle = nn.Linear(3, 5)
    return forward


def head_without_a_role(module: Any, forward: Forward) -> Forward:
    module.lm_head = nn.Linear(24, module.lm_head.out_features, bias=False)
    return forward


def crops_the_count_alone(module: Any, forward: Forward) -> Forward:
    module.position.crop = lambda block_size: None
    return forward


def another_loss_when_compiled(module: Any, forward: Forward) -> Forward:
    def bent(ids: Tensor, targets: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        return forward(ids, targets, cache) * (1.01 if targets is not None and torch.compiler.is_compiling() else 1)

    return bent


LOSS = "test_the_loss_is_the_cross_entropy_of_the_logits_and_so_are_its_gradients"
CACHED, UNEVEN = "test_cached_logits_are_those_of_one_pass", CHUNKS["in uneven chunks"]
MODELS: dict[Callable[[Any, Forward], Forward], Tests] = {
    cache_off_by_one: [
        (CACHED, UNEVEN),
        (CACHED, CHUNKS["token by token"]),
        ("test_cached_logits_stay_near_in_bfloat16",),
    ],
    tokens_not_counted: [(CACHED, CHUNKS["at once"])],
    remembers_the_last_text: [("test_two_caches_used_in_turn_stay_independent",)],
    a_trace_of_all_tokens: [
        ("test_a_later_token_never_changes_an_earlier_logit",),
        ("test_a_later_token_never_changes_an_earlier_logit_through_a_cache", UNEVEN),
    ],
    mean_of_losses: [(LOSS,), ("test_losses_of_rows_add_up_and_so_do_their_gradients",)],
    unwanted_counts: [(LOSS,), ("test_without_targets_the_loss_is_zero",)],
    padding_counts: [(LOSS,), ("test_the_initial_loss_is_near_uniform_guessing",)],
    short_loss: [("test_the_loss_is_in_fp32_under_autocast_too",)],
    part_of_the_losses_gradient: [(LOSS,)],
    penalty_without_a_name: [("test_in_training_the_objective_is_the_loss_of_evaluation_and_the_extras",)],
    targets_in_place: [("test_its_inputs_are_not_modified",)],
    objective_without_the_loss: [("test_in_training_the_objective_is_the_loss_of_evaluation_and_the_extras",)],
    part_of_the_logits_gradient: [("test_gradients_are_finite_differences",)],
    logits_of_padding: [("test_logits_are_one_row_for_each_token_and_none_for_padding",)],
    idle_weight: [("test_every_parameter_has_one_role_and_a_gradient",)],
    head_without_a_role: [("test_only_embedding_and_head_grow_with_the_vocabulary",)],
    another_loss_when_compiled: [("test_compiled_it_computes_the_same", "aot_eager")],
}


def bent(bend: Callable[[Any, Forward], Forward]) -> Any:
    component = Bent(n_layer=1, n_head=3, n_embd=24, block_size=13)
    component._bend = bend
    return suite_of(ModelConformance, component)


@pytest.mark.parametrize("bend", MODELS)
def test_a_broken_model_is_caught(bend: Callable[[Any, Forward], Forward]) -> None:
    assert_caught(bent(bend), MODELS[bend])


def test_multipliers_that_a_model_only_claims_to_apply_are_caught() -> None:
    class Deaf(GPT):
        def build(self, ctx: ModelContext) -> nn.Module:
            return super().build(ModelContext(vocab_size=ctx.vocab_size))

    suite = suite_of(ModelConformance, Deaf(n_layer=1, n_head=3, n_embd=24, block_size=13))
    assert_caught(suite, [("test_it_applies_multipliers_where_it_says_so",)])


def test_a_model_that_keeps_its_positions_when_cropped_is_caught() -> None:
    assert_caught(bent(crops_the_count_alone), [("test_a_cropped_model_is_a_shorter_one",)])


def test_the_suites_pass_a_model_that_is_not_broken() -> None:
    suite = bent(lambda module, forward: forward)
    for test, *arguments in (call for calls in MODELS.values() for call in calls):
        getattr(suite, test)(*arguments)


def test_the_failures_of_all_suites_are_checked_for_a_remedy() -> None:
    suites = (AttentionConformance, PositionConformance, NormConformance, MLPConformance, ModelConformance)
    others = (DatasetConformance, TokenizerConformance, OrderConformance, OptimizerConformance, SamplerConformance)
    newer = (ScheduleConformance, ParallelConformance, EvaluatorConformance, CallbackConformance)
    tests = {name for suite in (*suites, *others, *newer) for name in dir(suite) if name.startswith("test_")}
    assert tests == REMEDIES.keys()
