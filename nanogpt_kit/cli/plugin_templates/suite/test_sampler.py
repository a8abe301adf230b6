"""LocallyTypical passes the suite of its kind, and trains by its name in an experiment."""

from pathlib import Path

from nanogpt_kit.cli.plugin_templates.component.sampler import LocallyTypical
from nanogpt_kit.testing.sampler import SamplerConformance
from nanogpt_kit.testing.training import train_briefly

EXPERIMENT = Path(__file__).parents[1] / "experiment" / "sampler.toml"


class TestLocallyTypical(SamplerConformance):
    component = LocallyTypical()


class TestLocallyTypicalWithOptions(SamplerConformance):
    component = LocallyTypical(mass=0.5)


def test_a_run_of_the_experiment_samples_with_it(tmp_path: Path) -> None:
    assert train_briefly(tmp_path, experiment=EXPERIMENT).folder.samples.read_text(encoding="utf-8")
