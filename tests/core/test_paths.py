"""`~` and variables are replaced in every option and argument that is a path, and runs record the result."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli
from pydantic import ValidationError

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import load_entry
from nanogpt_kit.core.options import Options
from nanogpt_kit.core.paths import expand_path
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.sections import Sweep

Command = Callable[..., Any]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WHERE", "some/where")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("NOPE", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("~", "{home}"),
        ("~/a.txt", "{home}/a.txt"),
        ("$WHERE/a", "some/where/a"),
        ("x/${WHERE}.txt", "x/some/where.txt"),
        ("~/$WHERE/*.txt", "{home}/some/where/*.txt"),
        ("a~/b", "a~/b"),
        ("./~/a", "./~/a"),
        ("a$", "a$"),
        ("5$/b", "5$/b"),
        ("Skylion007/openwebtext", "Skylion007/openwebtext"),
        ("", ""),
        ("~root/a", os.path.expanduser("~root/a")),
    ],
)
def test_what_a_shell_would_replace_is_replaced_once(home: Path, text: str, found: str) -> None:
    assert expand_path(text) == found.format(home=home)
    assert expand_path(expand_path(text)) == expand_path(text)


@pytest.mark.parametrize("text", ["$NOPE/a", "a/${NOPE}b", "~/$WHERE/$NOPE", "$EMPTY/a", "${NOPE:-x}/a", "${}/a"])
def test_a_variable_that_is_not_set_is_named(text: str) -> None:
    with pytest.raises(KitError, match=r"(NOPE|EMPTY|) is not set") as caught:
        expand_path(text)
    assert repr(text) in str(caught.value)


def test_a_user_who_does_not_exist_is_named() -> None:
    with pytest.raises(KitError, match=r"'~nobody_is_called_so/a': ~nobody_is_called_so has no home folder"):
        expand_path("~nobody_is_called_so/a")


@pytest.mark.parametrize("name", ["price$list.txt", "$WHERE", "~backup.txt"])
def test_a_file_that_exists_under_such_a_name_is_that_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert expand_path(name) == name
    assert expand_path(str(tmp_path / name)) == str(tmp_path / name)


# --- options ------------------------------------------------------------------------------------------------------


PATHS = re.compile(r"source|file|path|folder|dir|components|storage|from_run|init_from|storage")


def path_options() -> list[tuple[type[Options], str]]:
    registry = Registry.installed()
    owners = [load_entry(entry) for entry in registry.entries]
    return [(owner, name) for owner in [*owners, Experiment] for name in owner.model_fields if PATHS.fullmatch(name)]


@pytest.mark.parametrize(("owner", "name"), path_options(), ids=lambda one: getattr(one, "__name__", one))
def test_every_option_that_is_a_path_is_expanded(owner: type[Options], name: str) -> None:
    def found(value: Any) -> str:
        try:
            return str(getattr(owner.model_validate({name: value}), name))
        except ValidationError as error:
            return str([detail["msg"] for detail in error.errors() if detail["loc"][0] == name])

    one: Any = (lambda path: [path]) if name == "components" else (lambda path: path)
    assert "NOPE is not set" in found(one("$NOPE/a"))
    assert "not set" not in found(one("~/a"))


@pytest.mark.parametrize(
    ("storage", "found"),
    [
        ("journal", "journal"),
        ("~/a.journal", "{home}/a.journal"),
        ("sqlite:///$WHERE/a.db", "sqlite:///some/where/a.db"),
        ("sqlite+pysqlite:///~/a.db", "sqlite+pysqlite:///{home}/a.db"),
        ("postgresql://me:pa$NOPE@host/~/db", "postgresql://me:pa$NOPE@host/~/db"),
    ],
)
def test_a_storage_that_is_a_file_is_expanded_and_a_password_is_not(storage: str, found: str, home: Path) -> None:
    assert Sweep(space={}, storage=storage).storage == found.format(home=home)


def test_the_line_of_a_variable_that_is_not_set_is_named(tiny: Path) -> None:
    text = tiny.read_text(encoding="utf-8")
    source = re.search(r'source = "(.*)"', text)
    assert source
    tiny.write_text(text.replace(source[0], 'source = "$NOPE/a.txt"'), encoding="utf-8")
    with pytest.raises(KitError, match=re.escape(f"{tiny}:5: dataset.source: '$NOPE/a.txt': ")):
        Experiment.load(tiny)
    tiny.write_text(text.replace(source[0], 'source = ["a",\n "$NOPE/a.txt"]'), encoding="utf-8")
    with pytest.raises(KitError, match=re.escape(f"{tiny}:5: dataset.source: '$NOPE/a.txt': ")):
        Experiment.load(tiny)


def test_an_experiment_records_the_path_that_was_meant(tiny: Path, home: Path) -> None:
    experiment = Experiment.load(tiny, ["dataset.source=~/$WHERE.txt"])
    assert tomli.loads(experiment.to_toml())["dataset"]["source"] == f"{home}/some/where.txt"
    assert experiment.fingerprint() == Experiment.load(tiny, [f"dataset.source={home}/some/where.txt"]).fingerprint()


def test_files_that_an_experiment_extends_are_expanded(tiny: Path, home: Path) -> None:
    (home / "base.toml").write_text(tiny.read_text(encoding="utf-8"), encoding="utf-8")
    tiny.write_text('extends = "~/base.toml"\n', encoding="utf-8")
    assert Experiment.load(tiny).train.steps == 20
    for key, where in (('extends = "$NOPE/b.toml"', "1: extends"), ('\ncomponents = ["$NOPE/c.py"]', "2: components")):
        tiny.write_text(key, encoding="utf-8")
        with pytest.raises(KitError, match=re.escape(f"{tiny}:{where}: '$NOPE/")):
            Experiment.load(tiny)


# --- the command line ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["run", "$NOPE/a"],
        ["run", "tiny.toml", "--into=$NOPE/a"],
        ["run", "tiny.toml", "--resume=$NOPE/a"],
        ["run", "tiny.toml", "model.init_from=$NOPE/a"],
        ["run", "tiny.toml", "tokenizer.from_run=$NOPE/a"],
        ["prepare", "$NOPE/a"],
        ["check", "$NOPE/a"],
        ["check", "tiny.toml", "dataset.source=['a', '$NOPE/a']"],
        ["sweep", "$NOPE/a"],
        ["bench", "tiny.toml", "--vs=$NOPE/a"],
        ["sample", "$NOPE/a"],
        ["sample", "a", "--prompt-file=$NOPE/a"],
        ["sample", "a", "--jsonl=$NOPE/a"],
        ["eval", "$NOPE/a"],
        ["export", "a", "$NOPE/a"],
        ["import", "$NOPE/a"],
        ["import", "gpt2", "--format=nanogpt", "format.meta=$NOPE/a"],
    ],
    ids=lambda words: " ".join(words),
)
def test_every_path_on_the_command_line_is_expanded(tiny: Path, command: Command, words: list[str]) -> None:
    answer = command(*words)
    assert answer.code == 2
    assert "command line" in answer.err
    assert "$NOPE/a': the environment variable NOPE is not set" in answer.err
    assert not (tiny.parent / "$NOPE").exists()


@pytest.mark.parametrize(
    "words", [["prepare", "~/a"], ["sample", "~/a"], ["import", "~/a"], ["check", "tiny.toml", "dataset.source=~/a"]]
)
def test_a_missing_path_is_reported_expanded(tiny: Path, command: Command, words: list[str], home: Path) -> None:
    answer = command("prepare" if words[0] == "check" else words[0], *words[1:])
    assert answer.code == 2
    assert f"{home}/a" in answer.err
    assert "~" not in answer.err


def test_a_run_in_the_home_folder_is_found_again(tiny: Path, command: Command, home: Path) -> None:
    (home / "text.txt").write_bytes((tiny.parent / "text.txt").read_bytes())
    words = ["dataset.source=~/text.txt", "train.steps=1", "callback=[]", "sample.num_samples=0", "--into=~/run"]
    assert command("run", "tiny.toml", *words).code == 0
    recorded = tomli.loads((home / "run" / "experiment.toml").read_text(encoding="utf-8"))
    assert recorded["dataset"]["source"] == f"{home}/text.txt"
    answer = command("run", "tiny.toml", *words)
    assert (answer.code, "already finished" in answer.err) == (0, True)


@pytest.mark.parametrize("variable", ["NANOGPT_KIT_DATA", "NANOGPT_KIT_RUNS"])
def test_folders_that_the_environment_names_are_expanded(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from nanogpt_kit.data.prepare import data_root
    from nanogpt_kit.runs.folder import runs_root

    root = data_root if variable.endswith("DATA") else runs_root
    monkeypatch.setenv(variable, "~/kit")
    assert root() == Path.home() / "kit"
    monkeypatch.setenv(variable, "$NOPE/kit")
    with pytest.raises(KitError, match=f"{variable}: .*NOPE is not set"):
        root()
