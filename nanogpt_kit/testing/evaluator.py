"""The suite for evaluators: named numbers, the same each time and for any batch size, and a model left as it was."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import ClassVar

import pytest
import torch

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.kinds import Evaluator
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.testing.component import ComponentConformance
from nanogpt_kit.testing.evaluation_context import Stopped, SuiteContext, Utf8Encoder, small_model
from nanogpt_kit.testing.remedy import errors_as_failures


class EvaluatorConformance(ComponentConformance):
    """Subclass it with `component = MyEvaluator(...)`. The model is small and random; a token is a byte of UTF-8."""

    component: ClassVar[Evaluator]
    block_size: ClassVar[int] = 32  # context length of the model
    tolerance: ClassVar[float] = 1e-4  # relative difference between batch sizes

    def context(self, batch_size: int = 3, stops: bool = False) -> SuiteContext:
        return SuiteContext(small_model(self.block_size), self.block_size, batch_size, stops)

    def run_context(self, splits: tuple[str, ...]) -> RunContext:
        return RunContext(device="cpu", precision="fp32", world_size=1, splits=splits, block_size=self.block_size)

    def evaluate(self, ctx: SuiteContext) -> dict[str, float]:
        """What the evaluator returns, called as an evaluation does."""
        claim = "it cannot evaluate a small model whose tokens are bytes"
        with torch.no_grad(), errors_as_failures(claim):
            found = self.component.evaluate(ctx)
        assert isinstance(found, dict), f"evaluate returns {found!r}: return a dict, as in {{'val/loss': 1.9}}"
        return found

    def test_it_accepts_a_small_model_and_its_vocabulary(self) -> None:
        reason = self.component.refusal_reason(self.run_context(("train", "val")))
        assert reason is None, f"it refuses a run that has train and val ({reason}): test with options that fit it"
        remedy = "set block_size here, or test with texts that fit"
        with errors_as_failures(f"check refuses {self.block_size} tokens of context and bytes as tokens: {remedy}"):
            self.component.check(Utf8Encoder(), self.block_size)

    def test_metrics_are_numbers_with_a_prefix(self) -> None:
        for name, value in self.evaluate(self.context()).items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            assert is_number, f"{name} is {value!r}, a {type(value).__name__}: return a float, as .item() gives"
            assert "/" in name, f"the metric {name!r} has no prefix: name it as in val/{name}"
            remedy = "divide by what cannot be 0, or set requires_finite = False in the component"
            assert math.isfinite(value) or not self.component.requires_finite, f"{name} is {value}: {remedy}"

    def test_its_metrics_are_known_before_the_run(self) -> None:
        """So that a misspelt metric of early stopping or of a sweep is found before training."""
        names, found = self.component.metric_names(), [*self.evaluate(self.context())]
        remedy = "return the keys of what evaluate returns, or None where they are not known"
        assert names is None or sorted(names) == sorted(found), (
            f"metric_names() is {names}, and evaluate returns {sorted(found)}: {remedy}"
        )
        others = [name for name in self.component.text_metrics() if name not in found]
        assert not others, f"text_metrics() names {others}, which evaluate does not return: name some of its metrics"

    def test_a_second_evaluation_gives_the_same(self) -> None:
        """Also on another rank, and whatever was drawn before."""
        ctx = self.context()
        torch.manual_seed(1)
        first = self.evaluate(ctx)
        shown = [*ctx.shown]
        torch.manual_seed(2)
        second = self.evaluate(ctx)
        remedy = "draw from a generator with its own seed, and keep no state"
        assert repr(first) == repr(second), f"a second evaluation gives {second} after {first}: {remedy}"
        assert ctx.shown == 2 * shown, f"a second evaluation shows other texts: {remedy}"

    def test_the_batch_size_changes_nothing(self) -> None:
        """Every token counts once and with equal weight."""
        by_one, by_five = (self.evaluate(self.context(batch_size)) for batch_size in (1, 5))
        for name, value in by_one.items():
            assert value == pytest.approx(by_five[name], rel=self.tolerance, nan_ok=True), (
                f"{name} is {value} in batches of 1 and {by_five[name]} in batches of 5: sum over tokens or questions, "
                "and divide once; no mean of means"
            )

    def test_the_model_is_left_as_it_was(self) -> None:
        ctx = self.context()
        before = {name: value.clone() for name, value in ctx.model.state_dict().items()}
        hooks = [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in ctx.model.modules()]
        self.evaluate(ctx)
        changed = [name for name, value in ctx.model.state_dict().items() if not torch.equal(value, before[name])]
        assert not changed, f"{changed[0]} of the model is changed: copy what you change, and load it back"
        assert not any(module.training for module in ctx.model.modules()), (
            "the model is left in training mode: leave its mode alone, it is in eval mode already"
        )
        assert not any(parameter.grad is not None for parameter in ctx.model.parameters()), (
            "the parameters have gradients afterwards: compute without them, or set them to None"
        )
        after = [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in ctx.model.modules()]
        assert after == hooks, "a hook is left on a module: remove it in a `finally`"

    def test_the_model_computes_in_the_precision_of_the_run(self) -> None:
        ctx = self.context()
        self.evaluate(ctx)
        assert all(ctx.calls), "the model is called outside of ctx.autocast(): wrap the call in `with ctx.autocast():`"

    def test_it_reads_the_splits_that_it_names(self) -> None:
        ctx, named = self.context(), self.component.splits_read()
        self.evaluate(ctx)
        others = sorted(ctx.splits_opened - set(named))
        assert not others, f"it reads {', '.join(others)}, and splits_read() is {named}: name every split there"
        if named:
            reason = self.component.refusal_reason(self.run_context(("train",)))
            assert reason, f"it accepts a dataset without {', '.join(named)}: leave refusal_reason to the base class"

    def test_it_ends_where_the_user_stops_the_run(self) -> None:
        ctx = self.context(batch_size=1)
        self.evaluate(ctx)
        if len(ctx.calls) < 2 and not ctx.stop_checks:
            return  # it is a single pass, or only uses what the context computes
        remedy = "call ctx.check_stop() before each batch"
        assert ctx.stop_checks, f"it calls the model {len(ctx.calls)} times and never asks whether to stop: {remedy}"
        try:
            with torch.no_grad():
                self.component.evaluate(self.context(stops=True))
        except Stopped:
            return
        raise AssertionError("it continues after ctx.check_stop() has raised: do not catch what that raises")

    def test_a_closed_test_split_stays_closed(self) -> None:
        """Only `compare --open-test` opens it; an evaluator that measures on it says so in `splits_read`."""
        splits = ("train", "val", "test")
        if "test" in self.component.splits_read():
            assert self.component.refusal_reason(self.run_context(splits)), (
                "it accepts a run whose test split is closed: leave refusal_reason to the base class"
            )
            return
        ctx = self.context()
        with torch.no_grad(), suppress(KitError):
            self.component.evaluate(ctx)
        assert "test" not in ctx.splits_opened, "it opens the test split: measure on val"
