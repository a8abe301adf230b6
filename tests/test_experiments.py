"""Every experiment file that is shipped is valid and trains; the documentation's own example does, too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs.metrics import read
from nanogpt_kit.train import session

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "experiments").glob("*.toml"))
SHRUNKEN = [
    *("train.steps=2", "train.micro_batch_size=1", "train.batch_tokens=32", "model.block_size=16"),
    *("model.n_layer=1", "model.n_embd=12", "model.n_head=2", "sample.max_new_tokens=5"),
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_experiment_takes_two_shrunken_steps(path: Path, shakespeare: Path) -> None:
    source = [f"dataset.source={shakespeare}"] if needs_source(path) else []
    folder = session.run(Experiment.load(path, [*SHRUNKEN, *source]))
    assert folder.status()["state"] == "finished"
    assert len([line for line in read(folder.metrics) if "train/loss" in line]) == 2


def needs_source(path: Path) -> bool:
    return 'use = "shakespeare"' in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_experiment_says_at_its_top_what_to_expect(path: Path) -> None:
    header = path.read_text(encoding="utf-8").split("\nname = ")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    assert re.search(r"Expected: .*\d", header), "the loss, the time and the device"


def test_the_documented_component_trains_from_a_local_file(tiny: Path) -> None:
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "components.md").read_text(encoding="utf-8"), re.DOTALL)
    tiny.with_name("glu.py").write_text(code[0], encoding="utf-8")
    options = ["components=['glu.py']", 'model.mlp={use="glu", width=3.0}', "callback=[]", "train.steps=2"]
    folder = session.run(Experiment.load(tiny, options))
    assert 'use = "glu"' in folder.experiment.read_text(encoding="utf-8")
    assert (folder.path / "components" / "glu.py").exists()


def test_the_component_of_the_readme_trains(tiny: Path) -> None:
    code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (component,) = (block for block in code if "class Leaky(MLP)" in block)
    tiny.with_name("leaky.py").write_text(component, encoding="utf-8")
    options = ['components=["leaky.py"]', "model.mlp.use=leaky", "model.mlp.slope=0.05", "callback=[]", "train.steps=2"]
    assert session.run(Experiment.load(tiny, options)).status()["state"] == "finished"
