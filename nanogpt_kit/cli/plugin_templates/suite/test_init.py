"""UniformInit passes the suite of its kind, and trains by its name in an experiment."""

from pathlib import Path

from nanogpt_kit.cli.plugin_templates.component.init import UniformInit
from nanogpt_kit.testing.init import InitConformance
from nanogpt_kit.testing.training import resume_briefly

EXPERIMENT = Path(__file__).parents[1] / "experiment" / "init.toml"


class TestUniformInit(InitConformance):
    component = UniformInit()


class TestUniformInitWithOptions(InitConformance):
    component = UniformInit(bound=0.1)


def test_a_training_of_the_experiment_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    resume_briefly(tmp_path, experiment=EXPERIMENT)
