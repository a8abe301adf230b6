"""The examples of docs/extending/hooks.md and docs/guide/scheduled-options.md work as they are printed there."""

from __future__ import annotations

import json
import re
from pathlib import Path

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.part_options import driven_options
from nanogpt_kit.train import session
from nanogpt_kit.train.model_options import targets_of_parts

DOCS = Path(__file__).parents[2] / "docs"
COMPONENTS = Path(__file__).parent / "components"


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_every_callback_of_the_page_works(tiny: Path) -> None:
    examples = blocks("extending/hooks.md", "python")
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


def test_the_ramp_of_the_page_is_what_its_comments_say(tmp_path: Path) -> None:
    (example,) = blocks("guide/scheduled-options.md", "toml")
    (tmp_path / "ramp.toml").write_text(example, encoding="utf-8")
    experiment = Experiment.load(tmp_path / "ramp.toml")
    (option,) = driven_options(experiment.model, targets_of_parts(experiment))["model.attention.window"]
    schedule = experiment.schedule_of("model.attention.window")
    assert schedule is not None
    assert [option.scaled(schedule.multiplier(step, 100)) for step in (0, 25, 50, 99)] == [16, 40, 64, 64]


def test_the_component_of_the_page_is_the_one_that_is_tested() -> None:
    (example,) = blocks("guide/scheduled-options.md", "python")
    assert example == (COMPONENTS / "warm_gelu.py").read_text()
