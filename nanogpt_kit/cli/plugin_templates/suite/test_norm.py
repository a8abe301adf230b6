"""L2Norm passes the suite of its kind, and trains by its name in an experiment."""

from pathlib import Path

from nanogpt_kit.cli.plugin_templates.component.norm import L2Norm
from nanogpt_kit.testing.norm import NormConformance
from nanogpt_kit.testing.training import resume_briefly

EXPERIMENT = Path(__file__).parents[1] / "experiment" / "norm.toml"


class TestL2Norm(NormConformance):
    component = L2Norm()


class TestL2NormWithOptions(NormConformance):
    component = L2Norm(eps=1e-3)


def test_a_training_of_the_experiment_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    resume_briefly(tmp_path, experiment=EXPERIMENT)
