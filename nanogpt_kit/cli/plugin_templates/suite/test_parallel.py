"""OneReduce passes the suite of its kind, and trains by its name in an experiment."""

from pathlib import Path

import pytest

from nanogpt_kit.cli.plugin_templates.component.parallel import OneReduce
from nanogpt_kit.testing.parallel import ParallelConformance
from nanogpt_kit.testing.training import resume_briefly, train_briefly

EXPERIMENT = Path(__file__).parents[1] / "experiment" / "parallel.toml"


class TestOneReduce(ParallelConformance):
    component = OneReduce()


def test_a_training_of_the_experiment_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    resume_briefly(tmp_path, experiment=EXPERIMENT)


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    losses = [train_briefly(tmp_path / str(ranks), experiment=EXPERIMENT, ranks=ranks).metrics() for ranks in (1, 2)]
    one, two = (table["train/loss"].dropna().tolist() for table in losses)
    assert two == pytest.approx(one, rel=1e-4)
