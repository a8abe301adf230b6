"""Names that are not UTF-8, as Linux permits: recorded where JSON holds them, else refused at once."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.__main__ import run_command

ODD = os.fsdecode(b"d\xe9")
QUIET = ["train.steps=1", "sample.num_samples=0", "callback=['console']"]
Command = Callable[..., Any]


@pytest.fixture
def odd(tmp_path: Path, tiny: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of such a name with an experiment, its text, and a repository around them; runs and data within."""
    folder = tmp_path / ODD
    try:
        folder.mkdir()
    except (OSError, UnicodeError):
        pytest.skip("this file system has UTF-8 names only")
    text = tiny.read_text(encoding="utf-8").replace(str(text_file), "text.txt")
    (folder / "tiny.toml").write_text(text, encoding="utf-8")
    shutil.copy(text_file, folder / "text.txt")
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "text.txt"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    (folder / os.fsdecode(b"big\xff.bin")).write_bytes(bytes(10))
    monkeypatch.setenv("NANOGPT_KIT_RUNS", str(folder / os.fsdecode(b"runs\xff")))
    monkeypatch.setenv("NANOGPT_KIT_DATA", str(folder / os.fsdecode(b"data\xff")))
    monkeypatch.chdir(folder)
    return folder


def test_a_run_in_such_a_folder_is_trained_resumed_sampled_and_evaluated(odd: Path, command: Command) -> None:
    into = odd / os.fsdecode(b"into\xfe")
    for words in (
        ("run", odd / "tiny.toml", *QUIET),
        ("run", odd / "tiny.toml", *QUIET, "schedule=constant", f"--into={into}"),
        ("run", odd / "tiny.toml", *QUIET, "schedule=constant", "train.steps=2", f"--resume={into}"),
        ("sample", into, "--prompt=7", "sample.max_new_tokens=2"),
        ("eval", into),
        ("export", into, odd / os.fsdecode(b"out\xfd")),
        ("import", odd / os.fsdecode(b"out\xfd"), "imported", "tokenizer.use=byte"),
        ("check", odd / "tiny.toml", "--explain"),
        ("prepare", odd / "tiny.toml"),
        ("plugins", "list"),
    ):
        answer = command(*words)
        assert answer.code == 0, (words, answer)
    origin = json.loads((into / "provenance.json").read_text(encoding="utf-8"))
    assert origin["folder"] == str(odd)
    assert origin["git"]["left_out"][0] == os.fsdecode(b"big\xff.bin")
    assert ODD in origin["command"]
    assert [path.parent.name for path in odd.glob("runs*/tiny/*/experiment.toml")] == [
        path.name for path in odd.glob("runs*/tiny/*")
    ]


@pytest.mark.parametrize("verb", ["run", "check", "prepare", "sweep"])
@pytest.mark.parametrize("key", ["dataset.source", "sweep.storage", "train.device"])
def test_a_value_that_toml_cannot_hold_is_refused_where_it_was_typed(
    odd: Path, command: Command, verb: str, key: str
) -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    shutil.copy(odd / "text.txt", odd / name)
    for value in (name, f"'{name}'", f'["{name}"]'):
        answer = command(verb, "tiny.toml", f"{key}={value}")
        assert answer.code == 2, answer
        assert f"command line: {key}" in answer.err
        assert r"'caf\udce9.txt' is not UTF-8" in answer.err
        assert "rename" in answer.err
    assert not list(odd.glob("runs*"))
    assert not list(odd.glob("data*"))


def test_a_folder_or_a_pattern_may_hold_such_a_file(odd: Path, command: Command) -> None:
    (odd / "texts").mkdir()
    shutil.copy(odd / "text.txt", odd / "texts" / os.fsdecode(b"caf\xe9.txt"))
    for source in ("texts", "texts/*.txt"):
        answer = command("run", "tiny.toml", *QUIET, f"dataset.source={source}")
        assert answer.code == 0, answer


def test_a_storage_typed_as_an_option_is_refused_too(odd: Path, command: Command) -> None:
    text = (odd / "tiny.toml").read_text(encoding="utf-8")
    space = '[sweep]\n[sweep.space]\n"optimizer.lr" = { choice = [3e-3, 1e-3] }\n'
    (odd / "tiny.toml").write_text(f"{text}\n{space}", encoding="utf-8")
    answer = command("sweep", "tiny.toml", f"--storage={os.fsdecode(b'x%c.journal' % 255)}")
    assert answer.code == 2
    assert "command line: sweep.storage: " in answer.err
    assert "not UTF-8" in answer.err


@pytest.mark.parametrize("words", [("run", "no\udcff.toml"), ("run", "tiny.toml", "x\udcff=1"), ("sample", "no\udcff")])
def test_a_name_in_a_message_is_escaped(odd: Path, command: Command, words: tuple[str, ...]) -> None:
    answer = command(*words)
    assert answer.code == 2
    assert r"\udcff" in answer.err


def test_names_of_machine_and_user_may_be_anything(
    odd: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.node", lambda: "h\udcfe")
    monkeypatch.setenv("LOGNAME", "me\udcfd")
    assert command("run", "tiny.toml", *QUIET, "--into=made").code == 0
    machine = json.loads((odd / "made" / "provenance.json").read_text(encoding="utf-8"))["machine"]
    assert (machine["host"], machine["user"]) == ("h\udcfe", "me\udcfd")


def test_stdout_that_takes_only_utf8_prints_such_a_name(
    odd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="utf-8", errors="strict", write_through=True))
    monkeypatch.setattr("sys.argv", ["nanogpt-kit", "check", str(odd / "tiny.toml")])
    assert (run_command(), capsys.readouterr().err) == (0, "")
    assert rb"d\udce9" in written.getvalue()


@pytest.mark.slow
def test_a_sweep_in_such_a_folder_ends_and_is_read(odd: Path, command: Command) -> None:
    text = (odd / "tiny.toml").read_text(encoding="utf-8")
    space = '[sweep]\ntrials = 2\n[sweep.space]\n"optimizer.lr" = { choice = [3e-3, 1e-3] }\n'
    (odd / "tiny.toml").write_text(f"{text}\n{space}", encoding="utf-8")
    (odd / "mine.py").write_text("from nanogpt_kit.components.norm.rmsnorm import RMSNorm\nclass M(RMSNorm): pass\n")
    mine = ["train.steps=2", 'components=["mine.py"]', "model.norm=mine"]
    answer = command("sweep", "tiny.toml", *mine)
    assert answer.code == 0, answer
    assert command("sweep", "status", "tiny.toml", *mine).code == 0
    answer = command("sweep", "status", "tiny.toml", "--json", *mine)
    assert json.loads(answer.out)["counts"]["complete"] == 2
