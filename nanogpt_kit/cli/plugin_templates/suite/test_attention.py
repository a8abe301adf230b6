"""SquaredAttention passes the suite of its kind, and trains by its name in an experiment."""

from pathlib import Path

from nanogpt_kit.cli.plugin_templates.component.attention import SquaredAttention
from nanogpt_kit.testing.attention import AttentionConformance
from nanogpt_kit.testing.training import resume_briefly

EXPERIMENT = Path(__file__).parents[1] / "experiment" / "attention.toml"


class TestSquaredAttention(AttentionConformance):
    component = SquaredAttention()


class TestSquaredAttentionWithOptions(AttentionConformance):
    component = SquaredAttention(eps=1e-3)


def test_a_training_of_the_experiment_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    resume_briefly(tmp_path, experiment=EXPERIMENT)
