"""An order that reads the text: it passes the suite, its windows go from easy to hard, and it trains and resumes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanogpt_kit.api import OrderContext
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.testing.order import OrderConformance
from nanogpt_kit.train import session
from tests.seams.components import easy_first
from tests.seams.components.easy_first import EasyFirst

FILE = Path(__file__).parent / "components" / "easy_first.py"
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "kinds" / "order.md"
(EXAMPLE,) = re.findall(r"^```python\n(import numpy.*?)^```", PAGE.read_text(encoding="utf-8"), re.S | re.M)
documented: dict[str, Any] = {"__name__": __name__}
exec(compile(EXAMPLE, str(PAGE), "exec"), documented)


class TestEasyFirst(OrderConformance):
    component = EasyFirst()
    reads_tokens = True

    def epoch(self, ctx: OrderContext) -> int:
        return (ctx.n_tokens - 1) // ctx.block_size


class TestTheDocumentedOrder(TestEasyFirst):
    component = documented["RepetitiveFirst"]()
    varies = True

    def test_windows_differ_by_step_and_by_seed(self) -> None:
        ctx = self.context(1000, 10)
        starts = np.concatenate([self.starts(step, ctx) for step in range(9)])
        varied = [len(set(ctx.tokens[start : start + 10].tolist())) for start in starts.tolist()]
        assert varied == sorted(varied)
        assert len(set(varied)) > 3


@pytest.mark.parametrize("chunk_tokens", [10**6, 20])
def test_windows_go_from_frequent_to_rare_tokens(chunk_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(easy_first, "CHUNK_TOKENS", chunk_tokens)
    tokens = np.random.default_rng(2).zipf(1.5, 1000).clip(max=70_000).astype(np.uint32)
    ctx = OrderContext(n_tokens=1000, block_size=9, first_window=0, batch_windows=111, seed=1, tokens=tokens)
    frequent = sorted(set(tokens.tolist()), key=lambda token: (-tokens.tolist().count(token), token))[:3]
    starts = EasyFirst(frequent=3, noise=0).starts(0, ctx).tolist()
    easy = [sum(token in frequent for token in tokens[start : start + 9].tolist()) for start in starts]
    assert sorted(starts) == list(range(0, 999, 9))
    assert easy == sorted(easy, reverse=True)
    assert EasyFirst(frequent=3, noise=0.3).starts(0, ctx).tolist() != starts


def test_a_run_is_resumed_to_the_bit(tiny: Path) -> None:
    options = [f"components=['{FILE}']", "order={use='easy_first', frequent=4}", "callback=[]", "schedule=constant"]

    def trained(*more: str, resume: str | None = None) -> tuple[str, list[float]]:
        experiment = Experiment.load(tiny, [*options, "sample.num_samples=0", *more], trust_code=True)
        run = session.run(experiment, resume=resume)
        return str(run.path), [line["train/loss"] for line in read_metrics(run.metrics) if "train/loss" in line]

    begun, _ = trained("train.steps=10")
    assert trained(resume=begun)[1] == trained()[1]
