"""`runs list`: which runs, in which order, with which columns; whole in pipes, cut on a terminal, complete as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.cli import runs_list
from nanogpt_kit.runs.notes import add_note
from tests.runs.listed_runs import make_listed_run

Command = Callable[..., Any]
NOTE = "the first one that is better than everything which was tried before it"


@pytest.fixture
def three_runs() -> None:
    run = make_listed_run("tiny/one", {"optimizer.lr": 0.25}, loss=2.5, started="2026-01-01T00:00:00Z")
    add_note(run.path, NOTE)
    make_listed_run("tiny/two", {"optimizer.lr": 0.125, "train.seed": 8}, loss=1.75, started="2026-01-02T00:00:00Z")
    unfinished = {"loss": None, "state": "interrupted", "step": 13, "started": "2026-01-03T00:00:00Z"}
    make_listed_run("tiny/sweep/trial-0000-s7", {"model.mlp": {"use": "swiglu"}}, **unfinished)


def rows(answer: Any) -> list[list[str]]:
    assert answer.code == 0, answer.err
    return [line.split() for line in answer.out.splitlines()]


def first_column(answer: Any) -> list[str]:
    return [row[0] for row in rows(answer)[1:]]


def refusal(answer: Any) -> str:
    assert (answer.code, answer.out) == (2, "")
    assert "Traceback" not in answer.err
    return str(answer.err)


@pytest.mark.usefixtures("three_runs")
def test_each_run_has_a_line_with_what_differs_the_newest_last(command: Command) -> None:
    assert rows(command("runs", "list")) == [
        ["run", "state", "step", "val/loss", "seed", "model.mlp", "optimizer.lr", "note"],
        ["tiny/one", "finished", "20", "2.5000", "7", "gelu", "0.25", *NOTE.split()],
        ["tiny/two", "finished", "20", "1.7500", "8", "gelu", "0.125"],
        ["tiny/sweep/trial-0000-s7", "interrupted", "13/20", "nan", "7", "swiglu", "0.001"],
    ]


@pytest.mark.usefixtures("three_runs")
def test_columns_without_a_value_and_options_that_do_not_differ_are_left_out(command: Command) -> None:
    [header, _] = rows(command("runs", "list", "tiny/two"))
    assert header == ["run", "state", "step", "val/loss", "seed"]


@pytest.mark.usefixtures("three_runs")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--reverse"], ["trial", "two", "one"]),
        (["--limit", "2"], ["two", "trial"]),
        (["--limit", "2", "--reverse"], ["trial", "two"]),
        (["--sort", "optimizer.lr"], ["trial", "two", "one"]),
        (["--sort", "optimizer.lr", "--reverse", "--limit", "1"], ["one"]),
        (["--sort", "val/loss"], ["two", "one", "trial"]),  # without a value: last
        (["--sort", "val/loss", "--reverse"], ["one", "two", "trial"]),
        (["--sort", "model.mlp"], ["one", "two", "trial"]),
        (["val/loss<100", "--sort", "step"], ["one", "two"]),
    ],
)
def test_the_order_and_the_count_are_those_asked_for(words: list[str], expected: list[str], command: Command) -> None:
    found = first_column(command("runs", "list", *words))
    assert [path.rpartition("/")[2].partition("-")[0] for path in found] == expected


@pytest.mark.usefixtures("three_runs")
def test_columns_are_those_that_are_named(command: Command) -> None:
    answer = command("runs", "list", "--columns", "run, optimizer.betas,sampler.top_k.k", "--limit", "1")
    assert rows(answer) == [
        ["run", "optimizer.betas", "sampler.top_k.k"],
        ["tiny/sweep/trial-0000-s7", "[0.9,", "0.95]", "200"],
    ]


@pytest.mark.usefixtures("three_runs")
def test_json_has_everything_or_the_columns(command: Command) -> None:
    records = json.loads(command("runs", "list", "--json").out)
    assert [record["run"] for record in records] == ["tiny/one", "tiny/two", "tiny/sweep/trial-0000-s7"]
    assert records[0]["options"]["optimizer.lr"] == 0.25
    assert records[0]["metrics"]["val/loss"] == 2.5
    assert (records[0]["note"], records[0]["is_whole"], records[2]["is_whole"]) == (NOTE, True, False)
    assert records[2]["metrics"]["val/loss"] is None
    chosen = json.loads(command("runs", "list", "state=finished", "--json", "--columns", "seed,val/loss").out)
    assert chosen == [{"seed": 7, "val/loss": 2.5}, {"seed": 8, "val/loss": 1.75}]
    assert json.loads(command("runs", "list", "seed=99", "--json").out) == []


@pytest.mark.usefixtures("three_runs")
@pytest.mark.parametrize(
    ("words", "place", "key", "nearest"),
    [
        (["optimzer.lr>1"], "filter 'optimzer.lr>1'", "optimzer.lr", "optimizer.lr"),
        (["lr>1"], "filter 'lr>1'", "lr", "optimizer.lr"),
        (["learning_rate>1"], "filter 'learning_rate>1'", "learning_rate", "optimizer.lr"),
        (["val/los<2"], "filter 'val/los<2'", "val/los", "val/loss"),
        (["--sort", "sed"], "--sort", "sed", "seed"),
        (["--columns", "run,stat"], "--columns", "stat", "state"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(
    words: list[str], place: str, key: str, nearest: str, command: Command
) -> None:
    message = refusal(command("runs", "list", *words))
    assert f"{place}: unknown key {key!r}; did you mean {nearest!r}?" in message


@pytest.mark.usefixtures("three_runs")
@pytest.mark.parametrize("filter_", ["train.max_seconds>3", "model.init_from=x", "evaluate.every_steps=3"])
def test_an_option_that_no_run_has_set_is_no_mistake(filter_: str, command: Command) -> None:
    answer = command("runs", "list", filter_)
    assert (answer.code, answer.out, answer.err) == (0, "", "no run matches\n")


def test_without_runs_it_names_the_command_that_makes_one(command: Command) -> None:
    answer = command("runs", "list", "quickstart", "some.key=3")
    assert (answer.code, answer.out) == (0, "")
    assert "nanogpt-kit run quickstart" in answer.err
    assert json.loads(command("runs", "list", "--json").out) == []


@pytest.mark.usefixtures("three_runs")
def test_a_terminal_gets_lines_of_its_width(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_list, "is_terminal", lambda stream: True)
    for width in (40, 60, 80, 100, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        answer = command("runs", "list")
        assert max(map(len, answer.out.splitlines())) <= width
        assert first_column(answer) == ["tiny/one", "tiny/two", "tiny/sweep/trial-0000-s7"]
        assert "finished" in answer.out
        assert ("left out" in answer.err) == (width <= 80)
        assert (NOTE in answer.out) == (width == 200)
        assert ("the first" in answer.out) == (width >= 80)


def test_what_would_control_the_terminal_is_escaped(command: Command) -> None:
    run = make_listed_run("tiny/one", {"model.mlp": {"use": "a\x1b[31m"}})
    make_listed_run("tiny/two")
    add_note(run.path, "two\nlines\u202e")
    answer = command("runs", "list")
    assert "\x1b" not in answer.out
    assert "two\\nlines\\u202e" in answer.out
    assert len(answer.out.splitlines()) == 3


def test_the_list_takes_runs_of_another_folder(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NANOGPT_KIT_RUNS", str(tmp_path / "others"))
    make_listed_run("a/one")
    assert first_column(command("runs", "list")) == ["a/one"]
    monkeypatch.setenv("NANOGPT_KIT_RUNS", str(tmp_path / "none"))
    assert "there are no runs" in command("runs", "list").err
