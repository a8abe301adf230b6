"""CSVLog passes the suite of its kind, and trains by its name in an experiment."""

from pathlib import Path

from nanogpt_kit.cli.plugin_templates.component.callback import CSVLog
from nanogpt_kit.testing.callback import CallbackConformance
from nanogpt_kit.testing.training import resume_briefly

EXPERIMENT = Path(__file__).parents[1] / "experiment" / "callback.toml"


class TestCSVLog(CallbackConformance):
    component = CSVLog()


class TestCSVLogWithOptions(CallbackConformance):
    component = CSVLog(columns=("train/loss", "optim/grad_norm"))


def test_a_training_of_the_experiment_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    resume_briefly(tmp_path, experiment=EXPERIMENT)
