"""The last lines of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nanogpt_kit.cli.outcome import outcome_text
from nanogpt_kit.runs.folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A finished run of an experiment whose name has a space."""
    folder = RunFolder(tmp_path / "runs" / "my text" / "20261128-125635898-s1337-6fb559")
    folder.path.mkdir(parents=True)
    records = [{"step": 500, "val/loss": 1.7}, {"step": 1500, "train/loss": 1.2}, {"step": 1500, "val/loss": 1.44184}]
    folder.metrics.write_text("".join(json.dumps(record) + "\n" for record in records))
    folder.set_status("finished", ended_by="steps", step=1500, total_steps=1500, seconds=33.4)
    return folder


def test_the_end_of_a_run_is_three_lines(folder: RunFolder) -> None:
    assert outcome_text(folder).splitlines() == [
        f"finished: {folder}",
        "val/loss 1.4418 after 1,500 steps, 33 s of training",
        "more text: nanogpt-kit sample 'my text'",
    ]
    assert outcome_text(folder, with_next=False).splitlines() == outcome_text(folder).splitlines()[:2]


def test_a_run_that_ended_early_says_why(folder: RunFolder) -> None:
    folder.metrics.unlink()
    folder.set_status("finished", ended_by="callback", reason="no gain", step=700, total_steps=1500, seconds=7300.0)
    assert outcome_text(folder).splitlines()[1] == "700 of 1,500 steps (no gain), 2.0 h of training"


def test_a_run_elsewhere_is_named_by_its_folder(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOGPT_KIT_RUNS", "elsewhere")
    assert outcome_text(folder).splitlines()[2] == f"more text: nanogpt-kit sample '{folder}'"
