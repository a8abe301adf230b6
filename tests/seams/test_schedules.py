"""A schedule as a plugin author would write it, of several options at once: trained, resumed and sampled."""

from __future__ import annotations

import math
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.comparison.budgets import planned_faults
from nanogpt_kit.comparison.question import Arm, Question
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.testing.schedule import ScheduleConformance
from nanogpt_kit.train import session
from nanogpt_kit.train.trainer import Trainer
from tests.seams.components.restarts import Restarts

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "schedules.md"
FILE = Path(__file__).parent / "components" / "restarts.py"
STEPS = 12
SCHEDULES = [
    "{use='restarts', warmup_steps=0, cycles=2}",
    "{use='restarts', warmup_steps=0, cycles=3, low=0.5, target='optimizer.weight_decay'}",
    "{use='piecewise', knots=[[0, 0.9], [0.5, 1]], target='optimizer.betas.0'}",
]


class TestRestarts(ScheduleConformance):
    component = Restarts()


class TestRestartsAfterAWarmup(ScheduleConformance):
    component = Restarts(warmup_steps=7, cycles=5, low=0.0)


def experiment_of(tiny: Path, *more: str) -> Experiment:
    files = f"components=['{FILE}']"
    options = [files, f"schedule=[{', '.join(SCHEDULES)}]", f"train.steps={STEPS}", "checkpoint.every_steps=4"]
    return Experiment.load(tiny, [*options, "callback=[]", *more], trust_code=True)


def scheduled(folder: RunFolder) -> list[dict[str, float]]:
    names = ("optim/lr", "schedule/optimizer.weight_decay", "schedule/optimizer.betas.0", "train/loss")
    return [{name: line[name] for name in names} for line in read_metrics(folder.metrics) if "optim/lr" in line]


def test_each_option_follows_its_own_schedule(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resumed in the middle as well; then the run is sampled, with the component that it has stored."""
    whole = scheduled(session.run(experiment_of(tiny, "name=whole", "sample.num_samples=0")))
    for step, line in enumerate(whole):
        cosine = 0.5 * (1 + math.cos(math.pi * (step % 6) / 6))  # two cycles in 12 steps
        other = 0.5 * (1 + math.cos(math.pi * (step % 4) / 4))  # three
        assert line["optim/lr"] == pytest.approx(3e-3 * (0.1 + 0.9 * cosine))
        assert line["schedule/optimizer.weight_decay"] == pytest.approx(0.5 + 0.5 * other)
        assert line["schedule/optimizer.betas.0"] == pytest.approx(0.9 + 0.1 * min(1, step / 6))

    update = Trainer.update

    def interrupted(self: Trainer, batch: Any) -> Any:
        if self.step == 6:
            raise KeyboardInterrupt
        return update(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.run(experiment_of(tiny))
    resumed = session.run(experiment_of(tiny), resume="")
    assert scheduled(resumed) == whole
    assert len(load_run(resumed.path, trust_code=True).generate("1", max_new_tokens=5)[0]) > 0


def examples() -> tuple[str, str, str]:
    """The experiments of the page, and the contender of its comparison."""
    text = PAGE.read_text(encoding="utf-8")
    smallest, *_, cooldown = re.findall(r"^```toml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (command,) = re.findall(r"^nanogpt-kit compare .*$", text, re.MULTILINE)
    return smallest, cooldown, shlex.split(command)[3]


def test_the_smallest_example_of_the_page_trains(tiny: Path) -> None:
    (tiny.parent / "example.toml").write_text(examples()[0].replace('"quickstart"', f'"{tiny}"'), encoding="utf-8")
    options = ["train.steps=8", "schedule.0.warmup_steps=2", "callback=[]", "sample.num_samples=0"]
    folder = session.run(Experiment.load(tiny.parent / "example.toml", options))
    lines = [line for line in read_metrics(folder.metrics) if "optim/lr" in line]
    assert [line["schedule/optimizer.weight_decay"] for line in lines] == [1, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    assert lines[-1]["optim/lr"] < lines[2]["optim/lr"] == 3e-3


def test_the_arms_of_the_page_compare(tmp_path: Path) -> None:
    _, cooldown, change = examples()
    (tmp_path / "cooldown.toml").write_text(cooldown, encoding="utf-8")
    base = Experiment.load(tmp_path / "cooldown.toml")
    arms = Arm("base", base), Arm("cooldown", base.with_(change))
    assert list(planned_faults(Question("compare", arms))) == []
