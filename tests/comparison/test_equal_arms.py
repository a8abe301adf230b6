"""Real comparisons of arms that compute the same with other rounding: few may be called better or worse."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanogpt_kit.comparison.finished import compare_finished
from nanogpt_kit.comparison.question import Arm, Question
from nanogpt_kit.comparison.record import Result
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.train import session

COMPARISONS, SEEDS = 100, 3
# In bf16, gradients that are added in other groups end in losses that differ visibly after 20 steps.
OPTIONS = (
    *("callback=[]", "evaluator=['loss']", "sample.num_samples=0", "model.dropout=0.0", "model.n_layer=1"),
    *("train.precision=bf16", "train.compile=off", "train.threads=1", "train.log_every_steps=20"),
    *("evaluate.every_steps=20", "checkpoint.every_steps=20"),
)
INERT = "train.micro_batch_size=5"  # all windows of a batch at once, and not two by two


def compare_once(index: int, base: Experiment, contender: Experiment) -> Result:
    """Trains both arms with seeds that no other comparison has, and compares the runs."""
    first = 1000 + SEEDS * index
    for arm in (base, contender):
        for seed in range(first, first + SEEDS):
            session.run(arm.with_({"train.seed": seed}))
    [result] = compare_finished(Question("compare", (Arm("tiny", base), Arm(INERT, contender)))).results
    return result


@pytest.mark.slow
def test_at_most_nine_of_a_hundred_comparisons_of_equal_arms_are_decided(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Experiment.load(tiny, OPTIONS)
    contender = base.with_(INERT)
    results = []
    for index in range(COMPARISONS):
        monkeypatch.setenv("NANOGPT_KIT_RUNS", str(tmp_path / f"ledger-{index}"))  # each is a first look
        results.append(compare_once(index, base, contender))
    decided = [result for result in results if result.verdict != "undecided"]
    assert len(decided) <= 9
    assert all(result.level == 0.95 and len(result.seeds) == SEEDS for result in results)
    assert sum(result.difference != 0 for result in results) > COMPARISONS / 2, "the option changes the rounding"
