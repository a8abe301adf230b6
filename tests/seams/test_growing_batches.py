"""A batch that doubles, by a schedule as a plugin author would write it: trained, resumed and sampled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.testing.schedule import ScheduleConformance
from nanogpt_kit.train import session
from nanogpt_kit.train.trainer import Trainer
from tests.seams.components.doubling import Doubling

pytestmark = pytest.mark.usefixtures("with_dropout")
FILE = Path(__file__).parent / "components" / "doubling.py"
GROWING = "schedule=[{use='constant'}, {use='doubling', doublings=2, target='train.batch_tokens'}]"
TOKENS = [32, 64, 128]  # of a step: a quarter of the batch, half of it, all


class TestDoubling(ScheduleConformance):
    component = Doubling()


def train(tiny: Path, *more: str, resume: str | None = None) -> RunFolder:
    options = [f"components=['{FILE}']", GROWING, "train.batch_tokens=128", "checkpoint.every_steps=3", "callback=[]"]
    return session.run(Experiment.load(tiny, [*options, "train.steps=9", *more], trust_code=True), resume=resume)


def logged(folder: RunFolder) -> list[tuple[int, float]]:
    return [(line["tokens"], line["train/loss"]) for line in read_metrics(folder.metrics) if "train/loss" in line]


def test_a_batch_doubles_also_in_a_run_that_is_interrupted(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(tiny, "name=whole", "sample.num_samples=0")
    assert [tokens for tokens, _ in logged(whole)] == [sum(TOKENS[s // 3] for s in range(n)) for n in range(1, 10)]
    update = Trainer.update

    def interrupted(self: Trainer, batch: Any) -> Any:
        if self.step == 4:
            raise KeyboardInterrupt
        return update(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(tiny)
    resumed = train(tiny, resume="")
    assert logged(resumed) == logged(whole)
    assert len(load_run(resumed.path, trust_code=True).generate("1", max_new_tokens=5)[0]) > 0


def test_a_budget_of_tokens_counts_the_doublings(tiny: Path) -> None:
    """A third of the tokens is for each stage, and the run ends before the step that would exceed them."""
    folder = train(tiny, "train.steps=1000", "train.max_tokens=600")
    assert [tokens for tokens, _ in logged(folder)] == [32, 64, 96, 128, 160, 192, 224, 288, 352, 416, 544]
    assert folder.status().ended_by == "max_tokens"


def test_the_example_of_the_page_trains(tiny: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "guide" / "schedules.md").read_text(encoding="utf-8")
    section = text.partition("## Batch size and sequence length")[2]
    example = section.partition("```toml\n")[2].partition("```")[0]
    (tiny.parent / "example.toml").write_text(example.replace('"quickstart"', f'"{tiny}"'), encoding="utf-8")
    options = ["train.steps=10", "train.batch_tokens=128", "schedule.0.warmup_steps=2", "callback=[]"]
    experiment = Experiment.load(tiny.parent / "example.toml", options)
    batches = [experiment.step_plan.at(step) for step in range(10)]
    assert [batch.n_windows for batch in batches] == [2, 3, 4, 5, 6, 8, 8, 8, 8, 8]
    assert [batch.length for batch in batches] == [4, 4, 8, 8, 16, 16, 16, 16, 16, 16]
    folder = session.run(experiment)
    assert [tokens for tokens, _ in logged(folder)] == [experiment.tokens(step) for step in range(1, 11)]
