"""`experiments list`: what is shipped, what to expect of it, and what is in the current folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_quickstart_comes_first_with_what_it_is_and_what_to_expect(command: Command) -> None:
    answer = command("experiments", "list")
    assert answer.code == 0
    group, what, expected = answer.out.splitlines()[:3]
    assert group == "First steps"
    assert what.split(maxsplit=1) == [
        "quickstart",
        "A first run: the sources of the installed Python, byte by byte, offline.",
    ]
    assert expected.startswith(
        what[: what.index("A first")].replace("quickstart", " " * 10) + "Expected: 2.08 bits per byte"
    )
    assert "current folder" not in answer.out


def test_experiments_of_the_current_folder_come_last(command: Command) -> None:
    Path("mine.toml").write_text('# Mine\u202e, made wider.\nextends = "quickstart"\n')
    Path("bare.toml").write_text('extends = "quickstart"\n')
    Path("pyproject.toml").write_text('[project]\nname = "x"\n')
    lines = command("experiments", "list").out.splitlines()
    assert lines[-3:] == ["In the current folder", "  bare", r"  mine                   Mine\u202e, made wider."]


def test_json_has_every_experiment_with_its_file(command: Command) -> None:
    Path("mine.toml").write_text('# Mine.\n# Expected: 3.\nextends = "quickstart"\n')
    records = json.loads(command("experiments", "list", "--json").out)
    assert [record["name"] for record in records[:2]] == ["quickstart", "my_text"]
    assert all(record["purpose"] and record["expected"] and Path(record["file"]).is_file() for record in records)
    own = {"name": "mine", "group": "In the current folder", "purpose": "Mine.", "expected": "3.", "file": "mine.toml"}
    assert records[-1] == own
    assert len(records) == len({record["name"] for record in records})


@pytest.mark.parametrize("columns", [60, 80, 160])
def test_on_a_terminal_no_line_is_wider_than_it_and_no_word_is_broken(
    columns: int, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = command("experiments", "list").out.split()
    monkeypatch.setattr(sys.modules["nanogpt_kit.cli.experiments"], "terminal_width", lambda: columns)
    answer = command("experiments", "list")
    assert max(map(len, answer.out.splitlines())) <= columns
    assert answer.out.split() == words
