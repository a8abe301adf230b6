"""The display of a run in a notebook, without Jupyter: what it sends to IPython's `display`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import rich

from nanogpt_kit.components.callback import notebook
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs.folder import runs_of_experiment, runs_root
from nanogpt_kit.train import session

QUICK = ("callback=['console']", "sample.num_samples=0", "train.steps=6", "evaluate.every_steps=2")


@dataclass
class Output:
    """What a cell shows: the first content, and those that took its place."""

    contents: list[dict[str, str]] = field(default_factory=list)
    displayed: int = 0

    def display(self, content: dict[str, str], *, raw: bool, display_id: bool) -> Output:
        assert raw
        assert display_id
        self.displayed += 1
        self.contents.append(content)
        return self

    def update(self, content: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.contents.append(content)


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> Output:
    """The output of the cell that runs now, as in a notebook."""
    output = Output()
    module: Any = ModuleType("IPython.display")
    module.display = output.display
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(rich.get_console(), "is_jupyter", True)
    return output


def test_a_cell_has_one_output_with_the_summary_the_evaluations_and_a_full_bar(tiny: Path, output: Output) -> None:
    folder = session.run(Experiment.load(tiny, QUICK))
    assert output.displayed == 1
    last = output.contents[-1]
    lines = last["text/plain"].splitlines()
    assert lines[0].startswith("device     cpu")
    assert any(line.startswith("folder ") and line.endswith(folder.path.name) for line in lines)
    assert [line.split(":")[0] for line in lines if "evaluated" in line] == [
        *("evaluated at step 2", "evaluated at step 4", "evaluated at step 6")
    ]
    assert lines[-1].startswith("step 6/6  loss ")
    assert '<progress value="6" max="6">' in last["text/html"]
    assert all(line in last["text/html"] for line in lines[:-1])
    assert "<progress" not in last["text/plain"]


def test_what_a_run_shows_cannot_be_html(tiny: Path, output: Output) -> None:
    session.run(Experiment.load(tiny, QUICK), into=tiny.parent / "<b>bold&")
    assert "<b>" in output.contents[-1]["text/plain"]
    assert "&lt;b&gt;bold&amp;" in output.contents[-1]["text/html"]
    assert "<b>" not in output.contents[-1]["text/html"]


def test_the_browser_gets_few_messages(tiny: Path, output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "SECONDS_BETWEEN_UPDATES", 1000.0)
    session.run(Experiment.load(tiny, [*QUICK, "train.steps=40", "train.log_every_steps=1", "evaluate.every_steps=40"]))
    assert len(output.contents) < 10
    assert output.contents[-1]["text/plain"].splitlines()[-1].startswith("step 40/40")


def test_only_the_newest_evaluations_are_shown(tiny: Path, output: Output) -> None:
    session.run(Experiment.load(tiny, [*QUICK, "train.steps=13", "evaluate.every_steps=1"]))
    shown = [line for line in output.contents[-1]["text/plain"].splitlines() if "evaluated" in line]
    assert len(shown) == 10
    assert shown[0].startswith("evaluated at step 4:")


STOPPING = """\
from nanogpt_kit.api import Callback, hookimpl

class Stopping(Callback):
    def build(self, run):
        return Hand()

class Hand:
    @hookimpl
    def step_finished(self, run, step):
        run.stop.signals.name = "SIGINT"
"""


def test_an_interrupted_run_says_how_it_continues(tiny: Path, output: Output) -> None:
    (tiny.parent / "stopping.py").write_text(STOPPING, encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        session.run(Experiment.load(tiny, [*QUICK, "components=['stopping.py']", "callback=['console', 'stopping']"]))
    expected = "interrupted at step 1; experiment.run(resume=True) continues the run"
    lines = output.contents[-1]["text/plain"].splitlines()
    assert expected in lines
    assert "left" not in lines[-1]
    assert runs_of_experiment(runs_root() / "tiny")[-1].status().state == "interrupted"
