"""FixedSinusoids passes the suite of its kind, and trains by its name in an experiment."""

from pathlib import Path

from nanogpt_kit.cli.plugin_templates.component.position import FixedSinusoids
from nanogpt_kit.testing.position import PositionConformance
from nanogpt_kit.testing.training import resume_briefly

EXPERIMENT = Path(__file__).parents[1] / "experiment" / "position.toml"


class TestFixedSinusoids(PositionConformance):
    component = FixedSinusoids()


class TestFixedSinusoidsWithOptions(PositionConformance):
    component = FixedSinusoids(longest=100.0)


def test_a_training_of_the_experiment_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    resume_briefly(tmp_path, experiment=EXPERIMENT)
