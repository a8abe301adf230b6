"""A scripted agent: it proposes changes of an experiment, and reads exit codes and fields, never sentences."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanogpt_kit.runs.folder import RunFolder, runs_root

EVALUATOR = """\
from nanogpt_kit.api import Evaluator


class Measure(Evaluator):
    def metric_names(self):
        return ("val/loss",)

    def evaluate(self, ctx):
        loss = ctx.split_loss("val")
        return {"val/loss": loss.nats / loss.tokens}
"""
HALVED = EVALUATOR.replace("loss.nats / loss.tokens", "0.5 * loss.nats / loss.tokens")


@dataclass
class Agent:
    """Asks questions about one base. `steps` are those of all runs that exist."""

    command: Callable[..., Any]
    base: Path
    seeds: int
    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)  # by proposal: exit code, JSON
    message: str = ""  # of the last command, for people

    def propose(self, change: str, *options: str) -> tuple[int, Any, int]:
        """The exit code, the answer, and the steps that it cost."""
        before = steps_of_all_runs()
        words = ("compare", self.base, change, "--seeds", self.seeds, "--trust-code", "--json", *options)
        answer = self.command(*words)
        self.message = answer.err
        value = json.loads(answer.out) if answer.out else None
        return answer.code, value, steps_of_all_runs() - before


def steps_of_all_runs() -> int:
    """Steps of every run below the runs folder, wherever it is."""
    folders = {path.parent for path in runs_root().rglob("status.json")}
    return sum(RunFolder(folder).status().step for folder in folders)


def verdict_of(answer: Any) -> str:
    (result,) = answer["results"]
    return str(result["verdict"])


def write_base(tiny: Path) -> Path:
    """An experiment of few steps whose evaluator is a local component file."""
    tiny.with_name("measure.py").write_text(EVALUATOR, encoding="utf-8")
    text = tiny.read_text(encoding="utf-8").replace("steps = 20", "steps = 4", 1).replace('"tiny"', '"base"', 1)
    lines = 'components = ["measure.py"]\nevaluator = ["measure"]\ncallback = []\n'
    base = tiny.with_name("base.toml")
    base.write_text(lines + text, encoding="utf-8")
    return base
