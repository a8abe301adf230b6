"""A dataset of a plugin that consists of sources and chooses their proportions: languages, sampled by their sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nanogpt_kit.components.dataset.text import Text
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.data.prepare import prepare
from nanogpt_kit.data.proportions import Proportions
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.testing.dataset import DatasetConformance
from nanogpt_kit.train import session
from tests.data.mixtures import sentences, write_lines
from tests.seams.components.languages import Languages

COMPONENT = Path(__file__).parent / "components" / "languages.py"
PROSE = str(Path(__file__).parents[1] / "data" / "prose.txt")


class TestLanguages(DatasetConformance):
    component = Languages(language=(Text(source=PROSE), Text(source=str(COMPONENT), val_fraction=0.3)), alpha=0.5)


@pytest.fixture
def spoken(tiny: Path) -> Experiment:
    files = [write_lines(tiny.parent / f"{word}.jsonl", sentences(word, n)) for word, n in (("much", 200), ("few", 25))]
    tables = [{"use": "text", "source": str(file)} for file in files]
    dataset = {"use": "languages", "language": tables}
    plugin = {"components": [str(COMPONENT)], "callback": [], "schedule": "constant", "dataset": dataset}
    return Experiment.load(tiny).with_(plugin)


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_the_proportions_are_sizes_to_the_power_of_alpha(alpha: float, spoken: Experiment) -> None:
    experiment = spoken.with_({"dataset.alpha": alpha})
    data = prepare(experiment)
    windows = np.array([(source.n_tokens - 1) // 16 for source in data.sources_of("train")])
    found = list(Proportions.of_data(experiment, data).fractions.values())
    assert found == pytest.approx(windows**alpha / (windows**alpha).sum(), abs=1e-4)  # of whole windows in a period
    assert prepare(spoken).path == data.path  # the proportions are not part of it


def test_it_trains_resumes_and_samples(spoken: Experiment) -> None:
    """With the loss of each language."""
    whole = session.run(spoken)
    run = session.run(spoken.with_({"name": "resumed", "train.steps": 10}))
    again: RunFolder = session.run(spoken.with_({"name": "resumed"}), resume=run.path)
    losses = [[row["train/loss"] for row in read_metrics(one.metrics) if "train/loss" in row] for one in (whole, again)]
    assert len(losses[1]) == 20
    assert losses[0] == losses[1]
    assert {"val/loss", "val/loss/language-0", "val/loss/language-1"} <= list(read_metrics(whole.metrics))[-1].keys()
    assert len(load_run(whole).generate("", max_new_tokens=5)) > 0
