"""Bits per byte of text: the loss in a unit that is independent of the tokenizer, and used for compressors too.

Source: Shannon 1951, "Prediction and Entropy of Printed English"; Gao et al. 2020, arXiv:2101.00027, section 3.1.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from nanogpt_kit.api import EvaluateContext, Evaluator, Field


class BitsPerByte(Evaluator):
    measures_sources: ClassVar[bool] = True
    split: Literal["val", "test"] = Field(
        "val", description="split to evaluate; test is opened only by compare --open-test"
    )

    def splits_read(self) -> tuple[str, ...]:
        return (self.split,)

    def metric_names(self) -> tuple[str, ...]:
        return (f"{self.split}/bits_per_byte",)

    def text_metrics(self) -> tuple[str, ...]:
        return self.metric_names()

    def evaluate(self, ctx: EvaluateContext) -> dict[str, float]:
        total = ctx.split_loss(self.split)
        return {f"{self.split}/bits_per_byte": total.nats / math.log(2) / total.text_bytes}
