"""Sums passes the suite of its kind, and trains by its name in an experiment."""

from pathlib import Path

from nanogpt_kit.cli.plugin_templates.component.dataset import Sums
from nanogpt_kit.testing.dataset import DatasetConformance
from nanogpt_kit.testing.training import resume_briefly

EXPERIMENT = Path(__file__).parents[1] / "experiment" / "dataset.toml"


class TestSums(DatasetConformance):
    component = Sums()


class TestSumsWithOptions(DatasetConformance):
    component = Sums(bound=30)


def test_a_training_of_the_experiment_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    resume_briefly(tmp_path, experiment=EXPERIMENT)
