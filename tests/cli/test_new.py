"""`new` writes an experiment to edit: valid as it is, commented, never over another file."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tomli

from nanogpt_kit.cli.new import experiment_name
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.shipped import shipped_experiments

Command = Callable[..., Any]
SCHEMA = {"title": "an experiment"}


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "nanogpt_kit.core.schema", SimpleNamespace(experiment_schema=lambda: SCHEMA))


@pytest.mark.parametrize("file", ["my.toml", "my"])
def test_by_default_it_is_an_experiment_for_own_text(file: str, command: Command) -> None:
    answer = command("new", file)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.splitlines() == [
        "written: my.toml, from the shipped my_text",
        "written: nanogpt-kit.schema.json, for editors",
        "next:",
        "  set dataset.source in my.toml to a file or folder of text",
        "  nanogpt-kit check my",
        "  nanogpt-kit run my",
    ]
    lines = Path("my.toml").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#:schema nanogpt-kit.schema.json"
    template = shipped_experiments()["my_text"].read_text(encoding="utf-8").splitlines()
    assert lines[1:] == [line.replace('name = "my_text"', 'name = "my"') for line in template]
    assert json.loads(Path("nanogpt-kit.schema.json").read_text(encoding="utf-8")) == SCHEMA


@pytest.mark.parametrize("name", shipped_experiments())
def test_from_any_shipped_experiment_it_equals_that_except_for_its_name(name: str, command: Command) -> None:
    assert command("new", "mine.toml", "--from", name).code == 0
    mine = Experiment.load("mine.toml")
    assert mine.name == "mine"
    assert mine.layers.values | {"name": name} == Experiment.load(name).layers.values


@pytest.mark.parametrize(
    ("sources", "value"),
    [
        (["notes/"], "notes/"),
        (["a.txt", 'b "c"'], ["a.txt", 'b "c"']),
        (["C:\\texts\\*.txt"], "C:\\texts\\*.txt"),
        (["# no comment\x7f\n"], "# no comment\x7f\n"),
        (["\\1 \\g<0>"], "\\1 \\g<0>"),
    ],
)
def test_the_source_is_written_and_the_comment_behind_it_kept(
    sources: list[str], value: str | list[str], command: Command
) -> None:
    answer = command("new", "my", *(word for source in sources for word in ("--source", source)))
    assert answer.code == 0
    assert "  set dataset.source" not in answer.out
    text = Path("my.toml").read_text(encoding="utf-8")
    assert tomli.loads(text)["dataset"]["source"] == value
    (line,) = [line for line in text.splitlines() if line.startswith("source = ")]
    assert "  # file, folder of notes or code" in line


def test_a_short_source_leaves_the_comments_aligned(command: Command) -> None:
    assert command("new", "my", "--source", "notes/").code == 0
    lines = Path("my.toml").read_text(encoding="utf-8").splitlines()
    columns = {line.index("#") for line in lines if line.startswith(("source", "val_fraction", "# field"))}
    assert len(columns - {0}) == 1, columns
    assert lines[1] == '# A small model of the text in "notes/".'


def test_what_it_writes_for_own_text_trains(text_file: Path, command: Command) -> None:
    assert command("new", "my", "--source", text_file).code == 0
    shrunken = ("train.steps=1", "train.batch_tokens=64", "model.n_layer=1", "model.n_embd=12", "model.n_head=2")
    answer = command("run", "my", *shrunken, "tokenizer.vocab_size=260", "sample.num_samples=0")
    assert answer.code == 0, answer.err
    assert "finished: " in answer.err


def test_the_next_step_of_a_sweep_is_a_sweep(command: Command) -> None:
    assert command("new", "lr", "--from", "sweep_lr").out.splitlines()[-3:] == [
        "  edit lr.toml",
        "  nanogpt-kit check lr",
        "  nanogpt-kit sweep lr",
    ]


def test_files_that_a_shell_makes_of_a_glob_are_named_in_the_remedy(command: Command) -> None:
    answer = command("new", "x", "--source", "a.txt", "b c.txt")
    assert "`nanogpt-kit new x --source a.txt --source 'b c.txt'`" in answer.err


def test_the_next_steps_can_be_typed(command: Command) -> None:
    Path("sub folder").mkdir()
    Path("mine").mkdir()
    assert "nanogpt-kit run 'sub folder/x.toml'" in command("new", "sub folder/x").out
    assert Path("sub folder/nanogpt-kit.schema.json").exists()
    assert "nanogpt-kit run mine.toml" in command("new", "mine.toml").out


def test_a_schema_that_is_there_is_kept(command: Command) -> None:
    schema = Path("nanogpt-kit.schema.json")
    schema.write_text("mine")
    answer = command("new", "my")
    assert answer.code == 0
    assert schema.read_text() == "mine"
    assert "not overwritten: nanogpt-kit.schema.json" in answer.out
    assert "`nanogpt-kit schema --output nanogpt-kit.schema.json`" in answer.out
    assert command("schema", "--output", "nanogpt-kit.schema.json").code == 0
    assert "nanogpt-kit.schema.json" not in command("new", "other").out


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_what_has_the_name_of_the_schema_is_kept(kind: str, command: Command) -> None:
    schema = Path("nanogpt-kit.schema.json")
    schema.mkdir() if kind == "folder" else schema.symlink_to("nowhere")
    answer = command("new", "my")
    assert answer.code == 0
    assert "not overwritten: nanogpt-kit.schema.json" in answer.out
    assert Path("my.toml").exists()
    assert schema.is_dir() if kind == "folder" else schema.is_symlink()


# Mistakes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["there.toml"], "there.toml exists, and nothing is overwritten; choose another name"),
        (["there"], "there.toml exists, and nothing is overwritten; choose another name"),
        (["link.toml"], "link.toml exists, and nothing is overwritten; choose another name"),
        (["a b/x.toml"], "a b/x.toml: the folder 'a b' does not exist; `mkdir -p 'a b'` makes it"),
        (["there.toml/x"], "there.toml/x.toml: there.toml is not a folder"),
        (["x", "--source", ""], "command line: --source is empty; expected a file, a folder or a glob"),
        (["notes"], "'notes' is a folder, so it is not an experiment; `nanogpt-kit new notes.toml --source notes`"),
        (
            ["book.txt"],
            "'book.txt' is not a .toml file, so it is not an experiment; `nanogpt-kit new book.toml --source",
        ),
        (
            ["x", "--from", "quikstart"],
            "--from: no shipped experiment 'quikstart'; did you mean 'quickstart'? Allowed: ",
        ),
        (
            ["x", "--from", "quickstart", "--source", "y"],
            "--source: quickstart has no dataset.source; these have one: my_text, ",
        ),
        (
            ["x", "--source", "a.txt", "b c.txt"],
            "command line: unexpected 'b c.txt': --source takes one path; put quotes around a glob, as in",
        ),
        (
            ["x", "a.py"],
            "command line: unexpected 'a.py'; to convert a config file of nanoGPT, write `nanogpt-kit new x --from-",
        ),
        (["x", *"abcde"], "command line: unexpected 'a': --source takes one path; "),
        (
            ["x", "train.steps=5"],
            "command line: unexpected 'train.steps=5': `new` takes no overrides; set the option in x",
        ),
        ([""], "'' should be the name of a new file, as in my.toml"),
        ([".toml"], "'.toml' should be the name of a new file, as in my.toml"),
        (["a b/"], "'a b/' should be the name of a new file, as in my.toml"),
        (["x", "--source", "caf\udce9"], "--source: the name is not UTF-8, so no experiment file can contain it"),
    ],
)
def test_a_mistake_is_explained_and_nothing_is_written(words: list[str], said: str, command: Command) -> None:
    Path("there.toml").write_text("mine")
    Path("link.toml").symlink_to("nowhere")
    Path("notes").mkdir()
    Path("book.txt").write_text("text")
    before = sorted(Path().rglob("*"))
    answer = command("new", *words)
    assert answer.code == 2
    assert answer.err.startswith(f"error: {said}")
    assert sorted(Path().rglob("*")) == before
    assert Path("there.toml").read_text() == "mine"


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("my_text", "my_text"),
        ("my text (2)", "my-text-2"),
        ("2.5e-3", "2.5e-3"),
        ("été", "t"),
        ("日本", "experiment"),
        ("..", "experiment"),
        ("_x", "x"),
        ("x" * 300, "x" * 100),
    ],
)
def test_the_name_is_that_of_the_file_as_far_as_it_is_allowed(stem: str, name: str) -> None:
    assert experiment_name(stem) == name
