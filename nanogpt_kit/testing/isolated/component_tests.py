"""The tests of one component, which `session` runs: the suite of its kind, and five steps of training with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanogpt_kit.core.kinds import Format, Parallel
from nanogpt_kit.core.override_text import inline_toml
from nanogpt_kit.interop.exporting import export_model
from nanogpt_kit.interop.formats import can_write
from nanogpt_kit.testing.format import GPT2
from nanogpt_kit.testing.isolated.suites import suite_of
from nanogpt_kit.testing.isolated.tested_component import TestedComponent
from nanogpt_kit.testing.training import resume_briefly, train_briefly

RANKS = 2  # of a training with a layout over processes
TESTED = TestedComponent.read()
CLASS = TESTED.load()


if not TESTED.is_tested:

    class TestComponent(suite_of(CLASS.kind)):  # type: ignore[misc]
        component = TESTED.create(CLASS)


def test_it_trains_and_resumes(tmp_path: Path) -> None:
    """Five steps in an experiment that names it, and the last ones once more, as after a kill."""
    files = [Path(TESTED.file)] if TESTED.file else []
    if issubclass(CLASS, Format):
        export_trained(tmp_path, files)
    elif issubclass(CLASS, Parallel):
        train_briefly(tmp_path, *TESTED.overrides(CLASS), files=files, ranks=RANKS)
    else:
        resume_briefly(tmp_path, *TESTED.overrides(CLASS), files=files)


def export_trained(folder: Path, files: list[Path]) -> None:
    """No experiment names a format: a model that was trained is written in it."""
    if not can_write(TESTED.create(CLASS)):  # type: ignore[arg-type]  # a Format
        pytest.skip("it only reads")
    finished = train_briefly(folder, f"model={inline_toml(TESTED.model or GPT2)}")
    options = [f"format.{name}={inline_toml(value)}" for name, value in TESTED.options.items()]
    trained, name = finished.generator(), TESTED.file or TESTED.name
    export_model(trained.experiment, trained.model, trained.encoder, name, folder / "exported", options)
    assert any((folder / "exported").iterdir()), "write wrote no file"
