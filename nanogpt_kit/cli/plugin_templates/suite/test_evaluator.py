"""DistinctPairs passes the suite of its kind, and trains by its name in an experiment."""

from pathlib import Path

from nanogpt_kit.cli.plugin_templates.component.evaluator import DistinctPairs
from nanogpt_kit.testing.evaluator import EvaluatorConformance
from nanogpt_kit.testing.training import train_briefly

EXPERIMENT = Path(__file__).parents[1] / "experiment" / "evaluator.toml"


class TestDistinctPairs(EvaluatorConformance):
    component = DistinctPairs()


class TestDistinctPairsWithOptions(EvaluatorConformance):
    component = DistinctPairs(num_samples=1)


def test_a_run_of_the_experiment_logs_its_metric(tmp_path: Path) -> None:
    finished = train_briefly(tmp_path, experiment=EXPERIMENT)
    assert "samples/distinct_pairs" in finished.metrics()
