"""One small run, and copies of it for each test to damage."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

OVERRIDES = (
    "schedule=constant",
    "train.steps=4",
    "checkpoint.every_steps=2",
    "evaluate.every_steps=4",
    'evaluator=["loss"]',
    'callback=["ema", "tensorboard"]',
    "sample.max_new_tokens=4",
)
SECONDS = 60  # of a verb, all of which end within two; a machine may be busy


@dataclass(frozen=True)
class Victim:
    """A copy of the run, and the experiment that it came from."""

    path: Path
    experiment: Path
    ask: Callable[..., Any]

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoints" / "step-00000004"

    def words(self, verb: str) -> list[object]:
        """The command line that makes `verb` read this folder."""
        more = [str(self.experiment), *OVERRIDES]
        out = self.path.with_name("out")
        return {
            "sample": ["sample", self.path, "--prompt", "7", "--max-new-tokens", 2],
            "ema": ["sample", self.path, "--prompt", "7", "--max-new-tokens", 2, "--weights", "ema"],
            "eval": ["eval", self.path],
            "export": ["export", self.path, out, "--format", "safetensors"],
            "check": ["check", self.path / "experiment.toml"],
            "prepare": ["prepare", self.path / "experiment.toml"],
            "into": ["run", *more, "train.steps=6", f"--into={self.path}"],
            "resume": ["run", *more, "train.steps=6", f"--resume={self.path}"],
            "start": ["run", *more, f"model.init_from={self.path}", "callback=[]", "sample.num_samples=0"],
            "again": ["run", self.path / "experiment.toml", "callback=[]", "sample.num_samples=0"],
        }[verb]

    def answer(self, verb: str) -> Any:
        with limited(SECONDS):
            return self.ask(*self.words(verb))


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError(f"no answer within {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_text: str) -> Path:
    """A folder with the run, the experiment, its text and its data."""
    from nanogpt_kit.core.experiment import Experiment
    from nanogpt_kit.train import session

    folder = tmp_path_factory.mktemp("whole")
    text = "".join(f"{n} times {n + 7} is {n * (n + 7)}.\n" for n in range(200))
    (folder / "text.txt").write_text(text, encoding="utf-8")
    (folder / "tiny.toml").write_text(tiny_text.format(text=folder / "text.txt"), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOGPT_KIT_DATA", str(folder / "data"))
        patch.setenv("NANOGPT_KIT_RUNS", str(folder / "runs"))
        session.run(Experiment.load(folder / "tiny.toml", OVERRIDES), into=folder / "run")
    return folder


@pytest.fixture
def victim(
    whole: Path, tmp_path: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Victim]:
    """Nothing outside of its folder and of the user's own ones may have changed in the end."""
    monkeypatch.setenv("NANOGPT_KIT_DATA", str(whole / "data"))
    shutil.copytree(whole / "run", tmp_path / "victim")
    outside = tmp_path / "outside"
    shutil.copytree(whole / "run" / "checkpoints" / "step-00000004", outside)
    monkeypatch.chdir(outside)
    before = snapshot(outside, whole)
    yield Victim(tmp_path / "victim", whole / "tiny.toml", command)
    assert not (outside / "executed").exists(), "code of the folder was executed"
    assert snapshot(outside, whole) == before
    own = {"victim", "outside", "out", "runs", "data", "cache", "state"}
    assert {path.name for path in tmp_path.iterdir()} <= own


def snapshot(*folders: Path) -> dict[Path, bytes]:
    """Every file, but for the caches that a run may refresh."""
    files = (Path(at, name) for folder in folders for at, _, names in os.walk(folder) for name in names)
    return {file: file.read_bytes() for file in files if file.name != "lock" and "runs" not in file.parts}
