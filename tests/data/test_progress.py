"""Preparing data shows how far it is."""

from __future__ import annotations

import io
import logging

import pytest
import rich
from rich.console import Console

from nanogpt_kit.components.tokenizer.bpe import BPE
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.data import progress
from nanogpt_kit.data.encoders import make_encoder


@pytest.mark.parametrize("width", [60, 80])
def test_the_bar_fits_the_terminal_and_is_removed_at_the_end(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    console = Console(file=io.StringIO(), width=width, height=20, force_terminal=True)
    monkeypatch.setattr(rich, "get_console", lambda: console)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_UPDATES", 0.0)
    with progress.ProgressReport(1_212_000_000, "tokenizing") as report:
        report.add(606_000_000, processed=True)
        assert report.bar is not None
        [line] = console.render_lines(report.bar.get_renderable(), pad=False)
    text = "".join(segment.text for segment in line).strip()
    assert text.startswith("tokenizing ")
    assert "0.6/1.2 GB" in text
    assert text.endswith(" left")
    assert len(text) <= width
    assert console.file.getvalue().endswith("\x1b[2K"), "the last it does is to erase its line"  # type: ignore[attr-defined]


def test_reading_for_the_tokenizer_is_logged(
    tiny: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "nanogpt_kit.data.progress")
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    make_encoder(BPE(vocab_size=300), Experiment.load(str(tiny)).dataset)
    assert {record.message.partition(":")[0] for record in caplog.records} == {"reading train for the tokenizer"}
