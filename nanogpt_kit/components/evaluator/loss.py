"""Mean loss over a whole split, in nats per token: each token that counts, except the first, with equal weight."""

from __future__ import annotations

from typing import ClassVar, Literal

from nanogpt_kit.api import EvaluateContext, Evaluator, Field


class Loss(Evaluator):
    measures_sources: ClassVar[bool] = True
    split: Literal["val", "test"] = Field(
        "val", description="split to evaluate; test is opened only by compare --open-test"
    )

    def splits_read(self) -> tuple[str, ...]:
        return (self.split,)

    def metric_names(self) -> tuple[str, ...]:
        return (f"{self.split}/loss",)

    def evaluate(self, ctx: EvaluateContext) -> dict[str, float]:
        total = ctx.split_loss(self.split)
        return {f"{self.split}/loss": total.nats / total.tokens}
