"""What each shell gets for a command that is being typed, and what bash makes of it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from nanogpt_kit.cli import main
from nanogpt_kit.cli.completion import COMPLETE, LINE, SCRIPTS, WORD
from nanogpt_kit.cli.shell_words import split_command
from nanogpt_kit.core.shipped import shipped_experiments

STRANGE = ["$(touch pwned)", "a b", "it's", 'a"b', "`touch pwned`", "*", "~x", "a;b", "a\\b", "!x", "#x", "é"]
Complete = Callable[[str, list[str], str], str]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def run(tmp_path: Path) -> None:
    """A run of the experiment `first`."""
    folder = tmp_path / "runs/first/20260101-000000000-s1-aaaaaa"
    folder.mkdir(parents=True)
    shutil.copy(shipped_experiments()["quickstart"], folder / "experiment.toml")


@given(
    st.lists(st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1), min_size=1)
)
def test_a_command_splits_as_the_shell_does(given_words: list[str]) -> None:
    line = shlex.join(given_words)
    assert split_command(line) == (given_words, "")
    assert split_command(f"{line} ") == ([*given_words, ""], "")
    assert split_command(f"{line} 'a \"b") == ([*given_words, 'a "b'], "'")
    assert split_command(f"{line} \"it's a") == ([*given_words, "it's a"], '"')


def answer_of(shell: str, line: str, word: str = "") -> subprocess.CompletedProcess[str]:
    """The answer of the command to the script of a shell, in a process of its own."""
    environment = {**os.environ, COMPLETE: f"{shell}_complete", LINE: line, WORD: word}
    command = [sys.executable, "-P", "-m", "nanogpt_kit"]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True)


def test_each_shell_gets_what_its_script_reads() -> None:
    line = "nanogpt-kit run quickstart train.st"
    assert answer_of("bash", line, "train.st").stdout == "nospace\ntrain.steps=\n"
    assert answer_of("zsh", line).stdout.startswith("none\n-train.steps=:number of optimizer updates")
    assert answer_of("fish", line).stdout.startswith("train.steps=\tnumber of optimizer updates")
    assert answer_of("bash", "nanogpt-kit run quickstart train.compile=de", "de").stdout == "\ndefault\n"
    assert answer_of("zsh", "nanogpt-kit run quickstart train.compile=de").stdout == "=\n+default\n"
    assert answer_of("zsh", "nanogpt-kit plugins show norm:r").stdout == "none\n+norm\\:rmsnorm:norm\n"


def test_completion_is_silent_whatever_happens() -> None:
    for line in ("", "nanogpt-kit", "nanogpt-kit nothing here ", "nanogpt-kit run 'a", "nanogpt-kit run a\\"):
        assert answer_of("bash", line).stderr == ""
    environment = {**os.environ, COMPLETE: "fish_complete", LINE: "nanogpt-kit run quickst"}
    removed = 'mkdir gone && cd gone && rmdir ../gone && exec "$@"'
    command = ["sh", "-c", removed, "sh", sys.executable, "-P", "-m", "nanogpt_kit"]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert answer.stderr == ""
    assert answer.stdout.startswith("quickstart\t")


def test_what_an_import_prints_is_not_offered() -> None:
    code = """
import os, sys
from nanogpt_kit import __main__
from nanogpt_kit.cli import option_cache, output
from nanogpt_kit.core.kinds import load_entry
def load_loudly(entry):
    print("loud")
    print("loud", file=sys.stderr)
    os.write(1, b"loud")
    os.write(2, b"loud")
    return load_entry(entry)
option_cache.load_entry = load_loudly
__main__.main()
"""
    environment = {**os.environ, COMPLETE: "bash_complete", LINE: "nanogpt-kit run quickstart optimizer.l"}
    command = [sys.executable, "-Pc", code]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert (answer.stdout, answer.stderr) == ("nospace\nr=\n", "")  # without COMP_WORD only what follows


@pytest.mark.parametrize(
    ("heavy", "lines"),
    [
        (("torch", "pydantic"), ("ru", "run quickst", "run ./", "plugins show r")),
        (("torch",), ("sample f", "run quickstart train.st", "run quickstart model.attention=na")),
    ],
)
def test_heavy_packages_are_not_imported(heavy: tuple[str, ...], lines: tuple[str, ...], run: None) -> None:
    """One process for all lines: what one of them imported would be found after it."""
    Path("mine.toml").write_text('extends = "quickstart"\n')
    code = f"""
import os, sys
from contextlib import suppress
from nanogpt_kit.__main__ import run_command
for line in {lines}:
    os.environ["{LINE}"] = "nanogpt-kit " + line
    with suppress(SystemExit):
        run_command()
    print(f"\\n{{line}}:", *(name for name in {heavy} if name in sys.modules))
"""
    environment = {**os.environ, COMPLETE: "fish_complete"}
    command = [sys.executable, "-c", code]
    if any("=" in line for line in lines):  # the first time fills the cache
        subprocess.run(command, env=environment, capture_output=True, check=True)
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    completed = re.split("|".join(f"^{re.escape(line)}:\n" for line in lines), answer.stdout, flags=re.MULTILINE)
    assert answer.stderr == ""
    assert len(completed) == len(lines) + 1, answer.stdout  # each line ended with nothing heavy
    assert all(text.strip() for text in completed[:-1]), "each line has completions"


def test_the_scripts_are_printed() -> None:
    for shell, file in SCRIPTS.items():
        assert CliRunner().invoke(main, ["completion", shell]).output == file.read_text()
        if shutil.which(shell):
            subprocess.run([shell, "-n", file], check=True)


@pytest.fixture
def complete_in_bash(tmp_path: Path) -> Complete:
    """The line after TAB, where there is just one candidate, as an interactive bash has it."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "nanogpt-kit"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m nanogpt_kit "$@"\n')
    program.chmod(0o755)

    def complete(line: str, words: list[str], replaced: str) -> str:
        """`words` are COMP_WORDS, as bash splits the line; `replaced` is the part of it that COMPREPLY replaces."""
        script = """
source "$SCRIPT"
compopt() { :; }  # outside of a completion it fails
COMP_WORDS=("${@:3}") COMP_CWORD=$(($# - 3)) COMP_LINE=$1 COMP_POINT=${#1}
_nanogpt_kit_completion nanogpt-kit "$2" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
        environment = {
            **os.environ,
            "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
            "SCRIPT": str(SCRIPTS["bash"]),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        command = ["bash", "--norc", "-ic", script, "bash", line, replaced, *words]
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        [reply] = answer.stdout.splitlines()
        return line.removesuffix(replaced) + reply

    return complete


def test_bash_completes_behind_the_characters_at_which_it_splits_words(complete_in_bash: Complete, run: None) -> None:
    line = "nanogpt-kit run quickstart train.compile=de"
    split = ["nanogpt-kit", "run", "quickstart", "train.compile", "=", "de"]
    assert complete_in_bash(line, split, "de") == "nanogpt-kit run quickstart train.compile=default"
    line, split = "nanogpt-kit plugins show norm:r", ["nanogpt-kit", "plugins", "show", "norm", ":", "r"]
    assert complete_in_bash(line, split, "r") == "nanogpt-kit plugins show norm:rmsnorm"
    line, split = "nanogpt-kit sample first@b", ["nanogpt-kit", "sample", "first", "@b"]
    assert complete_in_bash(line, split, "@b") == "nanogpt-kit sample first@best"
    line, split = (
        'nanogpt-kit run quickstart "train.compile=de',
        ["nanogpt-kit", "run", "quickstart", '"train.compile=de'],
    )
    assert complete_in_bash(line, split, "train.compile=de").endswith(' "train.compile=default')


@pytest.mark.parametrize("name", STRANGE)
def test_a_completed_name_is_one_word_for_bash(name: str, complete_in_bash: Complete) -> None:
    Path(f"dir/{name}").mkdir(parents=True)
    line = complete_in_bash("nanogpt-kit sample dir/", ["nanogpt-kit", "sample", "dir/"], "dir/")
    printed = line.replace("nanogpt-kit sample", "printf %s")
    answer = subprocess.run(["bash", "-c", printed], check=True, capture_output=True, text=True)
    assert answer.stdout == f"dir/{name}/"
    assert not Path("pwned").exists()
