"""The suite for evaluators fails where one is broken: each break is seen by the test beside it."""

from __future__ import annotations

import math
from contextlib import nullcontext, suppress
from typing import Any

import pytest
import torch

from nanogpt_kit.api import Encoder, EvaluateContext, Evaluator, KitError, RunContext
from nanogpt_kit.testing.evaluator import EvaluatorConformance
from tests.testing.remedies import assert_fails


class Broken(Evaluator):
    """The mean loss of seven windows, except in the way that `how` says."""

    how: str = "not"

    def check(self, encoder: Encoder, block_size: int) -> None:
        if self.how == "picky":
            raise KitError("no token for a smile")

    def refusal_reason(self, ctx: RunContext) -> str | None:
        return {"refuses": "it is tired", "accepts all": None, "opens test": None}.get(self.how) or (
            None if self.how in ("accepts all", "opens test") else super().refusal_reason(ctx)
        )

    def metric_names(self) -> tuple[str, ...] | None:
        return ("val/other",) if self.how == "other names" else ("val/seven",)

    def text_metrics(self) -> tuple[str, ...]:
        return ("val/bits",) if self.how == "unknown text metric" else ()

    def splits_read(self) -> tuple[str, ...]:
        return ("test",) if self.how == "opens test" else () if self.how == "reads val" else ("val",)

    def evaluate(self, ctx: EvaluateContext) -> dict[str, float]:
        if self.how == "raises":
            raise IndexError("seventh")
        if self.how == "opens test in secret":
            ctx.split_loss("test")
        ctx.split_loss("val")
        ids = torch.arange(7 * 8).view(7, 8)
        losses, counts = [], []
        for batch in ids.split(ctx.batch_size):
            if self.how != "never stops":
                with suppress(Exception) if self.how == "catches all" else nullcontext():
                    ctx.check_stop()
            with nullcontext() if self.how == "in fp32" else ctx.autocast():
                losses.append(ctx.model(batch[:, :-1], batch[:, 1:]).item())
            counts.append(batch[:, 1:].numel())
        loss = sum(losses) / sum(counts)
        if self.how == "mean of means":
            loss = sum(a / b for a, b in zip(losses, counts, strict=True)) / len(counts)
        if self.how == "by chance":
            loss += torch.rand(()).item()
        if self.how == "shows by chance":
            ctx.show([str(torch.rand(()).item())])
        if self.how == "changes weights":
            with torch.no_grad():
                next(ctx.model.parameters()).add_(1.0)
        if self.how == "trains":
            ctx.model.train()
        if self.how == "leaves gradients":
            with torch.enable_grad():
                ctx.model(ids[:, :-1], ids[:, 1:]).backward()
        if self.how == "leaves a hook":
            ctx.model.register_forward_hook(lambda *_: None)
        if self.how == "returns nothing":
            return None  # type: ignore[return-value]
        value: Any = {"infinite": math.inf, "tensor": torch.tensor(loss)}.get(self.how, loss)
        return {"seven" if self.how == "no prefix" else "val/seven": value}


CAUGHT = {
    "refuses": "test_it_accepts_a_small_model_and_its_vocabulary",
    "picky": "test_it_accepts_a_small_model_and_its_vocabulary",
    "raises": "test_metrics_are_numbers_with_a_prefix",
    "infinite": "test_metrics_are_numbers_with_a_prefix",
    "returns nothing": "test_metrics_are_numbers_with_a_prefix",
    "tensor": "test_metrics_are_numbers_with_a_prefix",
    "no prefix": "test_metrics_are_numbers_with_a_prefix",
    "other names": "test_its_metrics_are_known_before_the_run",
    "unknown text metric": "test_its_metrics_are_known_before_the_run",
    "by chance": "test_a_second_evaluation_gives_the_same",
    "shows by chance": "test_a_second_evaluation_gives_the_same",
    "mean of means": "test_the_batch_size_changes_nothing",
    "changes weights": "test_the_model_is_left_as_it_was",
    "trains": "test_the_model_is_left_as_it_was",
    "leaves gradients": "test_the_model_is_left_as_it_was",
    "leaves a hook": "test_the_model_is_left_as_it_was",
    "in fp32": "test_the_model_computes_in_the_precision_of_the_run",
    "reads val": "test_it_reads_the_splits_that_it_names",
    "accepts all": "test_it_reads_the_splits_that_it_names",
    "never stops": "test_it_ends_where_the_user_stops_the_run",
    "catches all": "test_it_ends_where_the_user_stops_the_run",
    "opens test": "test_a_closed_test_split_stays_closed",
    "opens test in secret": "test_a_closed_test_split_stays_closed",
}


class Undefined(Broken):
    requires_finite = False

    def evaluate(self, ctx: EvaluateContext) -> dict[str, float]:
        return {"val/seven": math.nan}


def test_a_metric_without_a_value_may_stay_so() -> None:
    type("Suite", (EvaluatorConformance,), {"component": Undefined()})().test_a_second_evaluation_gives_the_same()


def suite(how: str) -> Any:
    return type("Suite", (EvaluatorConformance,), {"component": Broken(how=how)})()


@pytest.mark.parametrize("how", CAUGHT)
def test_a_broken_evaluator_is_caught(how: str) -> None:
    getattr(suite("not"), CAUGHT[how])()
    assert_fails(suite(how), CAUGHT[how])
