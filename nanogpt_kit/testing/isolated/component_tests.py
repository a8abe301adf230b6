"""The tests of one component, which `session` runs: the suite of its kind, and five steps of training with it."""

from __future__ import annotations

import importlib
from pathlib import Path

from nanogpt_kit.core.kinds import KINDS, Format
from nanogpt_kit.testing.component import ComponentConformance
from nanogpt_kit.testing.isolated.tested_component import TestedComponent
from nanogpt_kit.testing.training import train_briefly

TESTED = TestedComponent.read()
CLASS = TESTED.load()


def suite_of(kind: str) -> type[ComponentConformance]:
    """The suite that every component of a kind passes."""
    suite = getattr(importlib.import_module(f"nanogpt_kit.testing.{kind}"), f"{KINDS[kind].__name__}Conformance")
    assert issubclass(suite, ComponentConformance)
    return suite


if not TESTED.is_tested:

    class TestComponent(suite_of(CLASS.kind)):  # type: ignore[misc]
        component = TESTED.create(CLASS)


def test_five_steps_of_training(tmp_path: Path) -> None:
    """A component of a kind that no experiment names, a format, writes what was trained."""
    overrides = TESTED.overrides(CLASS)
    files = [Path(TESTED.file)] if TESTED.file else []
    if not issubclass(CLASS, Format):
        train_briefly(tmp_path, *overrides, files=files)
        return
