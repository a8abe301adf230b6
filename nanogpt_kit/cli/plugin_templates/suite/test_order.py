"""EvenOrder passes the suite of its kind, and trains by its name in an experiment."""

from pathlib import Path

from nanogpt_kit.cli.plugin_templates.component.order import EvenOrder
from nanogpt_kit.testing.order import OrderConformance
from nanogpt_kit.testing.training import resume_briefly

EXPERIMENT = Path(__file__).parents[1] / "experiment" / "order.toml"


class TestEvenOrder(OrderConformance):
    component = EvenOrder()


class TestEvenOrderWithOptions(OrderConformance):
    component = EvenOrder(stride=0.3)


def test_a_training_of_the_experiment_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    resume_briefly(tmp_path, experiment=EXPERIMENT)
