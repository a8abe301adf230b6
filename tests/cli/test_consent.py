"""Folders from strangers through every verb: their component files are not executed before somebody consents."""

from __future__ import annotations

import io
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from safetensors.torch import save_file

import nanogpt_kit
from nanogpt_kit.checkpoint import store
from nanogpt_kit.cli import experiment as asking
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.runs.find import find_run
from nanogpt_kit.system.json_files import read_json, write_json
from nanogpt_kit.system.reading import sha256_file
from nanogpt_kit.train import session

EVIL = """\
from pathlib import Path
from torch import nn
from nanogpt_kit.api import Norm

Path({canary!r}).touch()

class Evil(Norm):
    def build(self, ctx):
        return nn.LayerNorm(ctx.n_embd)
"""
MARKERS = ("provenance.json", "status.json", "metrics.jsonl")  # of a run
KINDS = ("run", "export", "unmarked", "link", "flat")
VERBS = {
    "check": "check {file}",
    "check --explain": "check {file} --explain",
    "run": "run {file}",
    "run --nproc": "run {file} --nproc 2",
    "run --seeds": "run {file} --seeds 2",
    "run --into": "run {own} --into {folder}",
    "run --resume": "run {own} --resume {folder}",
    "run model.init_from": "run {own} model.init_from={folder}",
    "prepare": "prepare {file}",
    "bench": "bench {file}",
    "bench --vs": "bench {own} --vs {file}",
    "bench --sample": "bench {file} --sample 1",
    "sweep": "sweep {file} sweep.metric=val/loss",
    "sweep --preview": "sweep {file} --preview sweep.metric=val/loss",
    "sweep status": "sweep status {file}",
    "sample": "sample {folder} --prompt x",
    "eval": "eval {folder}",
    "export": "export {folder} {out}",
}


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


def a_checkpoint(folder: Path) -> None:
    """Whole by its manifest, and nothing that can be loaded."""
    folder.mkdir(parents=True)
    for name in (store.MODEL, store.TRAINING, store.TOKENIZER):
        (folder / name).write_text("{}")
    hashes = {path.name: sha256_file(path) for path in folder.iterdir()}
    write_json(folder / store.MANIFEST, {"format": 1, "step": int(folder.name[5:]), "files": hashes, "options": {}})


@pytest.fixture
def sent(tiny: Path, tmp_path: Path, canary: Path) -> Callable[[str], Path]:
    """sent("run"): the experiment file of a folder of this kind that somebody has sent."""

    def make(kind: str) -> Path:
        folder = tmp_path / "sent"
        file = "evil.py" if kind == "flat" else "components/evil.py"
        (folder / file).parent.mkdir(parents=True)
        (folder / file).write_text(EVIL.format(canary=str(canary)))
        text = tiny.read_text().replace("bias = false", 'bias = false\nnorm = "evil"')
        path = folder / ("exp.toml" if kind == "flat" else "experiment.toml")
        path.write_text(f"components = [{file!r}]\n{text}")
        if kind == "run":
            for name in MARKERS:
                (folder / name).write_text(
                    '{"format": 2, "state": "interrupted", "time": 0.0}' if name == "status.json" else "{}"
                )
        elif kind == "export":
            save_file({}, folder / "model.safetensors")
            (folder / "tokenizer.json").write_text('{"state": {}}')
        if kind in ("run", "unmarked", "link"):
            a_checkpoint(folder / "checkpoints" / "step-00000001")
        if kind == "link":
            path.rename(tmp_path / "text.toml")
            path.symlink_to(tmp_path / "text.toml")
        return path

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_no_verb_executes_the_code_of_a_folder_from_elsewhere(
    kind: str, sent: Callable[[str], Path], tiny: Path, tmp_path: Path, canary: Path, command: Callable[..., Any]
) -> None:
    file = sent(kind)
    for verb, line in VERBS.items():
        if (kind == "flat" and "{folder}" in line) or (kind == "export" and "init_from" in line):
            continue  # it is not a run, or has no checkpoint
        words = line.format(file=file, folder=file.parent, own=tiny, out=tmp_path / "out").split()
        answer = command(*words)
        assert not canary.exists(), verb
        assert answer.code == 2, (verb, answer)
        if kind == "link" and verb in ("run --into", "run --resume"):
            assert "experiment.toml is a link" in answer.err, (verb, answer)
            continue
        assert "evil.py" in answer.err, (verb, answer)
        assert "--trust-code" in answer.err, (verb, answer)
        assert "Traceback" not in answer.err, (verb, answer)


@pytest.mark.parametrize("kind", KINDS)
def test_nor_does_python(kind: str, sent: Callable[[str], Path], tiny: Path, canary: Path) -> None:
    file, own = sent(kind), Experiment.load(tiny)
    calls: list[Callable[[], object]] = [lambda: Experiment.load(file)]
    if kind != "flat":
        calls.append(lambda: load_run(file.parent))
        calls.append(lambda: session.run(own, resume=str(file.parent)))
        calls.append(lambda: session.run(own, into=file.parent))
    if kind not in ("flat", "export"):
        calls.append(lambda: session.run(Experiment.load(tiny, [f"model.init_from={file.parent}"])))
    for call in calls:
        with pytest.raises(KitError, match=r"evil\.py has never run on|experiment\.toml is a link"):
            call()
        assert not canary.exists()
    Experiment.load(file, trust_code=True)
    assert canary.exists()
    Experiment.load(file)


def test_a_folder_that_somebody_extends_brings_no_code_by_that(
    sent: Callable[[str], Path], tmp_path: Path, canary: Path, command: Callable[..., Any]
) -> None:
    file = sent("flat")
    (tmp_path / "own.toml").write_text('extends = "sent/exp.toml"\n')
    shutil.copy(file.parent / "evil.py", tmp_path)
    assert command("check", tmp_path / "own.toml").code == 2
    assert not canary.exists()


def test_consent_by_option_holds_for_the_ranks_of_a_run_and_for_what_is_made_of_it(
    sent: Callable[[str], Path], tmp_path: Path, canary: Path, command: Callable[..., Any]
) -> None:
    file, made = sent("flat"), tmp_path / "made"
    quick = ("train.steps=1", "callback=[]", "sample.num_samples=0", "evaluator=['loss']")
    answer = command("run", file, *quick, "--trust-code", "--into", made)
    assert answer.code == 0, answer
    for words in (("sample", made, "--prompt", "x"), ("eval", made, "evaluator=['loss']"), ("check", file)):
        assert command(*words).code == 0, words
    (made / "components" / "evil.py").write_text(EVIL.format(canary=str(canary)) + "# edited")
    assert command("sample", made, "--prompt", "x").code == 2
    (file.parent / "evil.py").write_text(EVIL.format(canary=str(canary)) + "# edited by me")
    assert command("check", file).code == 0


@pytest.mark.parametrize("words", [("--trust-code",), ("components=['evil.py']",)])
@pytest.mark.slow
def test_ranks_and_trials_need_no_ledger(
    words: tuple[str, ...],
    sent: Callable[[str], Path],
    tmp_path: Path,
    command: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))  # nothing can be written there
    file, quick = sent("flat"), ("train.steps=1", "callback=[]", "sample.num_samples=0", "evaluator=['loss']")
    command("run", file, *quick, *words, "--nproc", 2)
    assert read_json(find_run("tiny").folder.path / "status.json")["state"] == "finished"
    space = ("sweep.metric=val/loss", "sweep.trials=1", "sweep.space.optimizer.lr.choice=[1e-3,3e-3]")
    assert command("sweep", file, *quick, *space, *words).code == 0


@pytest.mark.parametrize("answer", ["y", "n", "abort"])
def test_a_terminal_is_asked_with_path_and_size(
    answer: str,
    sent: Callable[[str], Path],
    canary: Path,
    command: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = sent("run")
    terminal = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr(asking, "sys", SimpleNamespace(stdin=terminal, stderr=terminal))

    def confirm(*_: object, **__: object) -> bool:
        if answer == "abort":
            raise click.Abort
        return answer == "y"

    monkeypatch.setattr(click, "confirm", confirm)
    told = command("check", file)
    assert str(file.parent / "components" / "evil.py") in told.err
    assert f"({(file.parent / 'components' / 'evil.py').stat().st_size:,} bytes)" in told.err
    assert (told.code, canary.exists()) == {"y": (0, True), "n": (2, False), "abort": (130, False)}[answer]


def test_no_question_hangs_where_nobody_can_answer(
    sent: Callable[[str], Path], command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(click, "confirm", lambda *_, **__: pytest.fail("asked"))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert command("check", sent("run")).code == 2
    terminal = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr(asking, "sys", SimpleNamespace(stdin=terminal, stderr=terminal))
    monkeypatch.setenv("RANK", "0")  # one of several processes
    assert not asking.ask_to_execute(Path("evil.py"), 1)


def test_the_question_shows_no_control_characters(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr(asking, "sys", SimpleNamespace(stdin=terminal, stderr=terminal))
    monkeypatch.setattr(click, "confirm", lambda *_, **__: False)
    asking.ask_to_execute(Path("a\x1b[2K\n\udcff☃.py"), 1)
    assert r"a\x1b[2K\n\udcff☃.py" in capsys.readouterr().err


def test_at_a_real_terminal_yes_runs_it(sent: Callable[[str], Path], canary: Path) -> None:
    file = sent("run")
    ours, theirs = pty.openpty()
    ask = [sys.executable, "-m", "nanogpt_kit", "check", str(file)]
    with subprocess.Popen(ask, stdin=theirs, stderr=theirs, stdout=subprocess.PIPE) as process:
        os.close(theirs)
        os.write(ours, b"y\n")
        assert process.wait(30) == 0
        shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert "components/evil.py" in shown
    assert canary.exists()


def test_python_m_imports_nothing_from_the_current_folder(tmp_path: Path, canary: Path) -> None:
    for name in ("logging", "signal", "click", "rich", "torch", "tomli"):
        (tmp_path / f"{name}.py").write_text(f"open({str(canary)!r}, 'w')\nraise SystemExit('executed')\n")
    package = Path(nanogpt_kit.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(package)}
    environment.pop("PYTHONSAFEPATH", None)
    command = [sys.executable, "-m", "nanogpt_kit", "plugins", "show", "norm:layernorm"]
    answer = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert not canary.exists()
