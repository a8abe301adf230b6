"""`--json`: every verb that has it prints one JSON value with the keys that docs/guide/agents.md lists."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from nanogpt_kit.bench import rounds
from nanogpt_kit.cli import main
from nanogpt_kit.cli.json_output import begin_json, reserve_stdout
from nanogpt_kit.cli.texts import print_records
from nanogpt_kit.core.errors import DONE, FAILED, UNDECIDED, WORSE
from nanogpt_kit.generate.generator import GeneratedToken
from nanogpt_kit.runs.folder import RunFolder

Command = Callable[..., Any]
PAGE = Path(__file__).parents[2] / "docs" / "guide" / "agents.md"
ROW = re.compile(r"^\| `([^`|]+)` \| ([a-z, ]+) \| (.+) \|$", re.MULTILINE)
SHORT = ("train.steps=2", "callback=[]", "sample.num_samples=0")
SWEEP = '\n[sweep]\ntrials = 1\n[sweep.space]\n"optimizer.lr" = { choice = [2e-3, 3e-3] }\n'
TIMED = ("--rounds", 1, "--seconds", 0.01)


def documented() -> dict[str, tuple[str, list[str]]]:
    """Of each command in the table: what it prints, and the keys of the objects."""
    _, _, section = PAGE.read_text(encoding="utf-8").partition("\n## Fields\n")
    return {command: (shape, re.findall(r"`([^`]+)`", keys)) for command, shape, keys in ROW.findall(section)}


TABLE = documented()
WORDS: dict[str, Callable[[Path, RunFolder], tuple[Any, ...]]] = {  # an experiment, a finished run -> an example
    "run": lambda tiny, run: ("run", tiny, *SHORT),
    "run --seeds": lambda tiny, run: ("run", tiny, *SHORT, "--seeds", 1),
    "compare": lambda tiny, run: ("compare", run, run),
    "compare --noise": lambda tiny, run: ("compare", "--noise", run),
    "compare --preview": lambda tiny, run: ("compare", tiny, "model.n_layer=1", "--seeds", 1, "--preview"),
    "ablate": lambda tiny, run: ("ablate", tiny, *SHORT, "--vary", "model.n_layer=1", "--seeds", 1),
    "ablate --preview": lambda tiny, run: ("ablate", tiny, "--vary", "model.n_layer=1", "--seeds", 1, "--preview"),
    "runs ledger": lambda tiny, run: ("runs", "ledger"),
    "runs list": lambda tiny, run: ("runs", "list"),
    "runs show": lambda tiny, run: ("runs", "show", run),
    "runs diff": lambda tiny, run: ("runs", "diff", run, run),
    "runs note": lambda tiny, run: ("runs", "note", "tiny", "a remark"),
    "sweep": lambda tiny, run: ("sweep", tiny, *SHORT),
    "sweep status": lambda tiny, run: ("sweep", "status", tiny, *SHORT),
    "sample": lambda tiny, run: ("sample", run, "--prompt", "a", "--max-new-tokens", 2),
    "eval": lambda tiny, run: ("eval", run),
    "check": lambda tiny, run: ("check", tiny),
    "prepare": lambda tiny, run: ("prepare", tiny, "--stats", "--verify"),
    "import": lambda tiny, run: ("import", tiny.parent / "exported", "tokenizer=byte"),
    "export": lambda tiny, run: ("export", run, tiny.parent / "exported"),
    "bench --sample": lambda tiny, run: ("bench", tiny, *TIMED, "--sample", 1, "sample.max_new_tokens=2"),
    "doctor": lambda tiny, run: ("doctor",),
    "experiments list": lambda tiny, run: ("experiments", "list"),
    "explain": lambda tiny, run: ("explain",),
    "explain KEY": lambda tiny, run: ("explain", "train.steps"),
    "plugins list": lambda tiny, run: ("plugins", "list"),
    "plugins doctor": lambda tiny, run: ("plugins", "doctor"),
    "plugins show": lambda tiny, run: ("plugins", "show", "gelu"),
}
BEFORE = {  # what makes what a command reads
    "sweep status": "sweep",
    "import": "export",
    "runs ledger": "compare",
    "runs list": "run",
    "runs note": "run",
    "compare --preview": "run",
    "ablate --preview": "run",
}
# They take long, and their own tests read what they print
ELSEWHERE = {"bench", "bench --nanogpt", "mup-check", "plugins test"}


@pytest.mark.parametrize("name", [name for name in TABLE if name not in ELSEWHERE])
def test_a_command_prints_one_value_with_the_documented_keys(
    name: str, tiny: Path, run: RunFolder, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "PARTS_SECONDS", 0.01)
    if name.startswith("sweep"):
        tiny.write_text(tiny.read_text(encoding="utf-8") + SWEEP, encoding="utf-8")
    if name in BEFORE:
        command(*WORDS[BEFORE[name]](tiny, run))
    answer = command(*WORDS[name](tiny, run), "--json")
    assert answer.code in ((DONE, UNDECIDED, WORSE) if name in ("compare", "ablate") else (DONE,)), answer.err
    shape, keys = TABLE[name]
    value = json.loads(answer.out)
    objects = value if shape == "list" else list(value.values()) if shape == "object of objects, by run" else [value]
    assert objects
    for one in objects:
        assert set(keys) <= one.keys(), sorted(set(keys) - one.keys())


def test_every_verb_with_json_is_in_the_table() -> None:
    assert {name.removesuffix(" KEY").partition(" --")[0] for name in TABLE} == {
        name for name, _ in commands_with_json(main)
    }
    assert TABLE.keys() == WORDS.keys() | ELSEWHERE


def test_every_verb_with_json_keeps_standard_output_for_the_result() -> None:
    """`sample` does so, too, also for the options that imply it, and it ends with its reader."""
    others = {name for name, option in commands_with_json(main) if option.callback is not begin_json}
    assert others == {"sample"}


def commands_with_json(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Parameter]]:
    for name, verb in group.commands.items():
        whole = f"{path} {name}".strip()
        if isinstance(verb, click.Group):
            yield from ((found.removesuffix(" run"), option) for found, option in commands_with_json(verb, whole))
        else:
            yield from ((whole, parameter) for parameter in verb.params if "--json" in parameter.opts)


def test_the_plan_of_a_sweep_is_text(tiny: Path, command: Command) -> None:
    answer = command("sweep", tiny, "--preview", "--json")
    assert (answer.code, answer.out) == (2, "")
    assert "remove one of them" in answer.err


def test_what_libraries_and_processes_print_is_not_in_the_result(tiny: Path, tmp_path: Path) -> None:
    noisy = "import os, subprocess\nprint('a')\nos.write(1, b'b')\nsubprocess.run(['echo', 'c'])\n"
    part = (
        "from nanogpt_kit.api import Callback\nclass Noisy(Callback):\n    def build(self, ctx):\n        return None\n"
    )
    (tiny.parent / "noisy.py").write_text(noisy + part, encoding="utf-8")
    tiny.write_text(
        'components = ["noisy.py"]\ncallback = ["noisy"]\n' + tiny.read_text(encoding="utf-8"), encoding="utf-8"
    )
    words = [sys.executable, "-m", "nanogpt_kit", "check", str(tiny), "--trust-code", "--json"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert json.loads(done.stdout)["options"]
    assert "c\n" in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_result_that_is_lost_is_a_failure() -> None:
    with open("/dev/full", "w") as device:
        words = [sys.executable, "-m", "nanogpt_kit", "plugins", "list", "--json"]
        assert subprocess.run(words, stdout=device, stderr=subprocess.DEVNULL).returncode == FAILED


def test_records_of_texts_have_null_for_what_is_not_finite(capsys: pytest.CaptureFixture[str]) -> None:
    with click.Context(click.Command("sample")) as ctx:
        reserve_stdout(ctx)
        token = GeneratedToken(0, "a", 5, float("-inf"), "length")
        print_records([{"prompt": "b"}], [token], logprobs=True)
    assert json.loads(capsys.readouterr().out)["logprobs"] == [None]
