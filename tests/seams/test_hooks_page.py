"""The examples of docs/hooks.md are the components that the tests run, and work in a run as they are printed there."""

from __future__ import annotations

import json
import re
from pathlib import Path

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.train import session

PAGE = Path(__file__).parents[2] / "docs" / "hooks.md"
COMPONENTS = Path(__file__).parent / "components"


def test_every_example_of_the_page_works(tiny: Path) -> None:
    examples = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    names = ["gradient_noise", "data_noising", "moments", "config_json"]
    for name, example in zip(names, examples, strict=True):
        tiny.with_name(f"{name}.py").write_text(example, encoding="utf-8")
    for name in names[:2]:
        assert tiny.with_name(f"{name}.py").read_text() == (COMPONENTS / f"{name}.py").read_text(), name
    options = [f"components={[f'{name}.py' for name in names]}", f"callback={names}", "train.steps=4"]
    experiment = Experiment.load(tiny, [*options, "evaluate.every_steps=2", "sample.num_samples=0"])
    folder = session.run(experiment).path
    assert json.loads((folder / "config.json").read_text()) == experiment.resolved()
    lines = [line.split(",") for line in (folder / "moments.csv").read_text().splitlines()]
    assert {(step, role) for step, role, *_ in lines} == {
        (step, role) for step in ("2", "4") for role in ("embedding", "matrix", "vector")
    }
    assert all(float(size) > 0 for *_, size in lines)
