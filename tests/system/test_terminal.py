"""Lines are wrapped at words, their rest indented."""

from __future__ import annotations

import sys

import pytest

from nanogpt_kit.system.terminal import terminal_width, wrap_line, wrap_lines

PATH = "/a/path/that-is-longer/than/the/terminal.toml"


def test_lines_are_wrapped_at_words_and_hang() -> None:
    text = (
        f"command line: train.precision: should be 'auto' or 'bf16'\n  indented text that is long\n\n{PATH}: is missing"
    )
    assert wrap_lines(text, 30).splitlines() == [
        "command line: train.precision:",
        "    should be 'auto' or 'bf16'",
        "  indented text that is long",
        "",
        f"{PATH}:",
        "    is missing",
    ]


def test_a_text_hangs_beside_its_label_or_below_it() -> None:
    text = "no GPU: this machine has none, so it is off"
    assert wrap_line(text, 44, "  CUDA  off  ").splitlines() == [
        "  CUDA  off  no GPU: this machine has none,",
        "             so it is off",
    ]
    assert wrap_line(text, 42, "  CUDA  off  ").splitlines() == [
        "  CUDA  off",
        "        no GPU: this machine has none, so",
        "        it is off",
    ]


def test_spaces_inside_a_line_stay() -> None:
    assert wrap_lines("optimizer.lr=0.1  model.mlp=gelu", 80) == "optimizer.lr=0.1  model.mlp=gelu"


def test_the_width_is_that_of_columns_else_80(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "77")
    assert terminal_width(sys.stdout) == 77
    monkeypatch.setenv("COLUMNS", "0")
    assert terminal_width(None) == 80
