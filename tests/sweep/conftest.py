"""Sweeps over an evaluator whose values one knows, or which fails as it is told; each trial is a real process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli
import tomli_w

from nanogpt_kit.core.options import Component
from nanogpt_kit.core.overrides import parse_override
from nanogpt_kit.core.registry import Registry

PLANTED = '''\
"""A metric that is known beforehand: least where x is 0.3, and lower with each evaluation."""

from typing import Literal

import torch

from nanogpt_kit.api import Encoder, EvaluateContext, Evaluator, Field, KitError


class Planted(Evaluator):
    x: float = Field(0.5, description="how good the trial is")
    trouble: Literal["none", "memory", "no_number", "crash", "refused"] = Field("none", description="how it fails")

    def check(self, encoder: Encoder, block_size: int) -> None:
        if self.trouble == "refused":
            raise KitError(f"x = {self.x} cannot be")

    def evaluate(self, ctx: EvaluateContext) -> dict[str, float]:
        seen[0] += 1
        if self.trouble == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory")
        if self.trouble == "crash":
            raise RuntimeError(f"a bug, in evaluation {seen[0]}")
        value = (self.x - 0.3) ** 2 + 1 / seen[0]
        return {"val/planted": float("nan") if self.trouble == "no_number" else value}


seen = [0]
'''
SHORT = ["train.steps=6", "train.micro_batch_size=5", "train.compile=off", "callback=[]"]
SHORT += ["evaluate.every_steps=2", "checkpoint.every_steps=2"]
KIT = [sys.executable, "-m", "nanogpt_kit"]


class Sweep:
    """An experiment file with a [sweep] table, and the command on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path.parent / "runs" / "tiny" / "sweep"

    def start(self, *words: str) -> subprocess.Popen[str]:
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([*KIT, "sweep", str(self.path), *words], env=dict(os.environ), **pipes)

    def run(self, *words: str, code: int = 0) -> str:
        """What it says on stderr."""
        process = self.start(*words)
        out, err = process.communicate(timeout=240)
        assert process.returncode == code, out + err
        return err

    def status(self, *words: str) -> dict[str, Any]:
        from nanogpt_kit.cli.sweep import status_json
        from nanogpt_kit.core.experiment import Experiment
        from nanogpt_kit.sweep import session

        found, study, _ = session.read_sweep(Experiment.load(self.path, words))
        engine = getattr(study._storage, "_backend", study._storage)
        if hasattr(engine, "engine"):
            engine.engine.dispose()  # else its open file is warned of, some tests later
        return status_json(found)

    def processes(self) -> list[int]:
        """Those of its trials, wherever they were started from: they print into its folder."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(path / "fd" / "1").startswith(str(self.folder)):
                    found.append(int(path.name))
            except OSError:
                continue
        return found

    def kill_trials(self) -> None:
        for process in self.processes():
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue


@pytest.fixture
def make_sweep(tmp_path: Path, tiny: Path) -> Callable[..., Sweep]:
    """`make_sweep("trials = 3", space, "optimizer.lr=1e-3")`: over the tiny experiment and the planted metric."""

    def made(options: str, space: str, *overrides: str, metric: str = "val/planted") -> Sweep:
        planted = tmp_path / "planted.py"
        planted.write_text(PLANTED, encoding="utf-8")
        Registry.installed().with_files(Component, [planted], trusted=[planted])
        table = f'\n[sweep]\nmetric = "{metric}"\n{options}\n[sweep.space]\n{space}\n'
        head = 'components = ["planted.py"]\nevaluator = ["planted", "loss"]\n'
        text = head + tiny.read_text(encoding="utf-8") + table
        values = tomli.loads(text)
        for word in (*SHORT, *overrides):
            key, value = parse_override(word)
            node = values
            for part in key[:-1]:
                node = node.setdefault(part, {})
            node[key[-1]] = value
        text = tomli_w.dumps(values)
        path = tmp_path / "sweep.toml"
        path.write_text(text, encoding="utf-8")
        return Sweep(path)

    return made
