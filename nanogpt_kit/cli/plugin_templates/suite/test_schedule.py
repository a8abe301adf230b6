"""Halving passes the suite of its kind, and trains by its name in an experiment."""

from pathlib import Path

from nanogpt_kit.cli.plugin_templates.component.schedule import Halving
from nanogpt_kit.testing.schedule import ScheduleConformance
from nanogpt_kit.testing.training import resume_briefly

EXPERIMENT = Path(__file__).parents[1] / "experiment" / "schedule.toml"


class TestHalving(ScheduleConformance):
    component = Halving()


class TestHalvingWithOptions(ScheduleConformance):
    component = Halving(interval_steps=3)


def test_a_training_of_the_experiment_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    resume_briefly(tmp_path, experiment=EXPERIMENT)
