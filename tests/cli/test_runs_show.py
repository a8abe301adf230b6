"""`runs show`, `runs diff` and `runs note`: what is known of one run or two."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.notes import add_note, read_notes
from tests.runs.listed_runs import make_listed_run

Command = Callable[..., Any]
ORIGIN: dict[str, Any] = {
    "command": "nanogpt-kit run tiny.toml",
    "distributions": {"local file": "0a1b", "nanogpt-kit": "0.2.0", "torch": "2.13.0"},
    "machine": {"host": "here", "device": "cpu", "precision": "bf16", "threads": 3},
    "git": {"commit": "abc123", "dirty": True},
    "components": {"model.mlp": "local file/mine"},
    "data": {"folder": "data/tiny", "dataset": "d", "tokenizer": "t", "splits": {"val": "v"}, "counted": {"val": "m"}},
}


@pytest.fixture
def shown() -> RunFolder:
    run = make_listed_run("tiny/one", {"note": "does it help?"}, loss=2.25, step=17, **ORIGIN)
    for step in (10, 15):
        run.checkpoint(step).mkdir(parents=True)
    (run.checkpoint(10) / "weights").write_bytes(b"x" * 12_345)
    (run.path / "samples.txt").write_text("hello")
    add_note(run.path, "it does")
    make_listed_run("tiny/two", init_from={"checkpoint": str(run.checkpoint(10)), "sha256": ""})
    return run


def page(answer: Any) -> dict[str, dict[str, str]]:
    """The lines of each section by their labels."""
    assert answer.code == 0, answer.err
    sections: dict[str, dict[str, str]] = {}
    title = ""
    for line in answer.out.splitlines():
        if line.startswith("  "):
            label, text = re.split(r"\s{2,}", line.strip(), maxsplit=1)
            sections[title][label] = text
        else:
            title = line
            sections[title] = {}
    return sections


def test_a_page_has_status_metrics_costs_origin_notes_files_and_descendants(shown: RunFolder, command: Command) -> None:
    sections = page(command("runs", "show", shown))
    status, metrics, costs, origin, notes, files, descendants = sections.values()
    assert status["state"] == "finished"
    assert (status["step"], status["seed"], status["purpose"]) == ("17 of 20", "7", "does it help?")
    assert "metrics, evaluated at step 16" in sections
    assert (metrics["val/loss"], metrics["train/loss"]) == ("2.2500", "2.8300")
    assert (costs["time in steps"], costs["tokens"], costs["tokens/s"]) == ("2 s", "1,360", "640")
    assert origin["command"] == "nanogpt-kit run tiny.toml"
    assert origin["code"] == "abc123, with changes (dirty.patch)"
    assert origin["packages"] == "nanogpt-kit 0.2.0, torch 2.13.0"
    assert origin["machine"] == "here, cpu, bf16, 3 threads"
    assert origin["marked"] == "only some tokens of val count"
    assert list(notes.values()) == ["it does"]
    assert files["checkpoints"] == "12 kB, of steps 10, 15"
    assert files["samples.txt"] == "5 bytes"
    assert descendants == {"weights": "tiny/two"}


def test_the_origin_names_what_a_run_began_with(shown: RunFolder, command: Command) -> None:
    sections = page(command("runs", "show", "tiny/two"))
    assert sections["origin"]["weights of"] == str(shown.checkpoint(10))
    assert "started from it" not in sections


def test_json_has_the_same_and_all_options(shown: RunFolder, command: Command) -> None:
    record = json.loads(command("runs", "show", shown, "--json").out)
    assert record["run"] == "tiny/one"
    assert record["options"]["optimizer.lr"] == 0.001
    assert record["metrics"] == {"val/loss": 2.25, "train/loss": pytest.approx(2.83)}
    assert record["provenance"]["git"] == ORIGIN["git"]
    assert record["checkpoints"] == [10, 15]
    assert record["files"]["checkpoints"] == 12_345
    assert record["started_from_it"] == [{"run": "tiny/two", "took": ["init_from"]}]
    assert record["notes"][0]["text"] == "it does"


def test_a_damaged_run_is_shown_as_far_as_it_can_be_read(command: Command) -> None:
    run = make_listed_run("tiny/one")
    for name in ("experiment.toml", "status.json", "metrics.jsonl"):
        (run.path / name).write_text("[[")
    (run.path / "provenance.json").write_text(
        '{"git": 3, "machine": [], "distributions": null, "data": "x", "command": 1}'
    )
    sections = page(command("runs", "show", run))
    assert next(iter(sections.values()))["state"].startswith("interrupted: status.json cannot be read")


def test_an_unknown_run_is_refused_with_the_nearest(shown: RunFolder, command: Command) -> None:
    for verb in (["show", "tiyn"], ["diff", "tiny", "tiyn"], ["note", "tiyn", "x"]):
        answer = command("runs", *verb)
        assert (answer.code, answer.out) == (2, "")
        assert "no run 'tiyn'" in answer.err
        assert "did you mean 'tiny'?" in answer.err


# diff


def test_a_difference_names_each_section(shown: RunFolder, command: Command) -> None:
    changed = {**ORIGIN, "git": {"commit": "def456", "dirty": False}}
    other = make_listed_run("tiny/three", {"optimizer.lr": 0.5}, loss=2.0, step=20, **changed)
    for run, text in ((shown, "x = 1\n"), (other, "x = 2\x1b[31m\n")):
        (run.path / "components").mkdir()
        (run.path / "components" / "mine.py").write_text(text)
    answer = command("runs", "diff", shown, other)
    assert (answer.code, answer.err) == (0, "")
    lines = [line.split() for line in answer.out.splitlines()]
    assert lines[:3] == [["A", "tiny/one"], ["B", "tiny/three"], ["options"]]
    assert ["optimizer.lr", "0.001", "0.5"] in lines
    assert ["note", "does", "it", "help?", "-"] in lines
    assert ["-x", "=", "1"] in lines
    assert ["+x", "=", r"2\u001b[31m"] in lines
    assert ["data:", "no", "difference"] in lines
    assert ["commit", "abc123", "def456"] in lines
    assert "metrics (evaluated at step 16 and 20)" in answer.out.splitlines()
    assert ["val/loss", "2.2500", "2.0000", "-0.25"] in lines


def test_a_run_does_not_differ_from_itself(shown: RunFolder, command: Command) -> None:
    answer = command("runs", "diff", shown, shown)
    assert answer.code == 0
    sections = ("options", "code", "data", "environment", "metrics")
    assert answer.out.splitlines()[2:] == [f"{section}: no difference" for section in sections]


def test_the_difference_as_json(shown: RunFolder, command: Command) -> None:
    make_listed_run("tiny/three", {"optimizer.lr": 0.5, "note": "does it help?"}, loss=2.0)
    record = json.loads(command("runs", "diff", shown, "tiny/three", "--json").out)
    assert record["options"] == {"optimizer.lr": [0.001, 0.5]}
    assert record["metrics"]["val/loss"] == [2.25, 2.0]
    assert record["evaluated_steps"] == [16, 20]
    assert record["unrecorded"]["data"] == ["tiny/three"]


# note


def test_a_note_is_appended_to_a_run_that_is_running(command: Command) -> None:
    run = make_listed_run("tiny/one", state="running")
    with run.lock():
        answer = command("runs", "note", run, "the loss is stuck")
        assert (answer.code, answer.out) == (0, "")
        command("runs", "note", run, "no, it fell")
    assert [note.text for note in read_notes(run.path)] == ["the loss is stuck", "no, it fell"]
    lines = command("runs", "note", run).out.splitlines()
    assert [line.partition("  ")[2] for line in lines] == ["the loss is stuck", "no, it fell"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", lines[0].partition("  ")[0])
    records = json.loads(command("runs", "note", run, "--json").out)
    assert [record["text"] for record in records] == ["the loss is stuck", "no, it fell"]


def test_an_empty_note_is_refused_and_a_run_without_notes_has_none(command: Command, tmp_path: Path) -> None:
    run = make_listed_run("tiny/one")
    answer = command("runs", "note", run, " ")
    assert answer.code == 2
    assert "the note is empty" in answer.err
    answer = command("runs", "note", run)
    assert (answer.code, answer.out) == (0, "")
    assert "has no notes" in answer.err


def test_json_has_null_for_a_number_that_a_damaged_record_has_and_json_lacks(command: Command) -> None:
    first = make_listed_run("a/one", machine={"threads": float("nan")})
    second = make_listed_run("a/two", machine={"threads": 2})
    shown = command("runs", "show", first, "--json").out
    assert json.loads(shown, parse_constant=pytest.fail)["provenance"]["machine"] == {"threads": None}
    diff = command("runs", "diff", first, second, "--json").out
    assert json.loads(diff, parse_constant=pytest.fail)["environment"] == {"threads": [None, 2]}
