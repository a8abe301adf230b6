"""Output that nobody reads, and output on a full disk."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import rich
from rich.console import Console
from rich.live import Live

from nanogpt_kit.__main__ import ConsoleHandler
from nanogpt_kit.runs.find import find_run

PROGRAM = [sys.executable, "-m", "nanogpt_kit"]
SLOW = pytest.mark.slow
full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")


def unread(*words: object, stderr: bool = False) -> tuple[int, str]:
    """The exit code, and what stands on stderr, of a command whose output's reader has gone before it writes."""
    read, write = os.pipe()
    os.close(read)
    to = write if stderr else subprocess.PIPE
    done = subprocess.run([*PROGRAM, *map(str, words)], stdout=write, stderr=to, text=True, check=False)
    os.close(write)
    return done.returncode, done.stderr or ""


def on_a_full_disk(*words: object) -> tuple[int, str]:
    with open("/dev/full", "w") as device:
        done = subprocess.run(
            [*PROGRAM, *map(str, words)], stdout=device, stderr=subprocess.PIPE, text=True, check=False
        )
    return done.returncode, done.stderr


@pytest.mark.parametrize("words", ["--help", "plugins list", pytest.param("check TINY --explain", marks=SLOW)])
def test_a_command_whose_reader_goes_away_ends_quietly(words: str, tiny: Path) -> None:
    assert unread(*words.replace("TINY", str(tiny)).split(" ")) == (0, "")


def test_a_mistake_is_one_also_where_nobody_reads_of_it(tmp_path: Path) -> None:
    assert unread("check", tmp_path / "missing.toml", stderr=True)[0] == 2


@full
def test_a_command_that_cannot_print_fails_and_names_where() -> None:
    code, words = on_a_full_disk("plugins", "list")
    assert code == 1
    assert words.startswith("standard output: No space left on device")
    assert len(words.splitlines()) == 1


@full
@pytest.mark.parametrize("unreadable", ["closed", "full"])
def test_a_run_ends_as_its_training_does_whatever_becomes_of_its_output(tiny: Path, unreadable: str) -> None:
    options = ["train.steps=3", "train.compile=off", "callback=['console']"]
    if unreadable == "closed":
        code, words = unread("run", tiny, *options, stderr=True)
    else:
        code, words = on_a_full_disk("run", tiny, *options)
        assert "standard output: No space left on device" in words.splitlines()[-1]
    assert code == 0
    assert find_run("tiny").folder.status().state == "finished"


@SLOW
def test_a_run_that_fails_fails_also_where_nobody_reads(tiny: Path) -> None:
    options = ["train.steps=3", "optimizer.lr=1e38", "callback=[]", "schedule=constant"]
    assert unread("run", tiny, *options, stderr=True)[0] == 1


@SLOW
def test_a_preparation_is_finished_although_nobody_reads(tiny: Path, tmp_path: Path) -> None:
    assert unread("prepare", tiny, "--stats", stderr=True)[0] == 0
    assert list((tmp_path / "data").glob("*/manifest.json"))


def test_a_log_line_leaves_the_table_that_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rich, "_console", Console(stderr=True))
    record = logging.LogRecord("nanogpt_kit", logging.INFO, __file__, 1, "stopping 2 runs", None, None)
    with Live("table", console=rich.get_console(), auto_refresh=False):
        ConsoleHandler().emit(record)
    assert "stopping 2 runs" in capsys.readouterr().err
