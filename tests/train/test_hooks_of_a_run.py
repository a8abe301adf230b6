"""Each hook is heard in a real run, at its moment, and stands in the documentation."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.hooks import RunHooks
from nanogpt_kit.train import session

HOOKS = [name for name in vars(RunHooks) if not name.startswith("_")]

LISTENER = """\
from nanogpt_kit.api import Callback, hookimpl

class Ear(Callback):
    def build(self, run):
        return Listener(run.path / "heard")

class Listener:
    def __init__(self, path):
        self.path = path

    def hear(self, text):
        with self.path.open("a") as file:
            print(text, file=file)

    @hookimpl
    def run_started(self, run):
        self.hear(f"run_started {run.step} of {run.total_steps}")

    @hookimpl
    def batch_ready(self, step, batch):
        self.hear(f"batch_ready {step} {list(batch.ids.shape)}")

    @hookimpl
    def gradients_ready(self, run, step):
        self.hear(f"gradients_ready {step} {all(p.grad is not None for p in run.model.parameters())}")

    @hookimpl
    def step_finished(self, step):
        self.hear(f"step_finished {step}")

    @hookimpl
    def logged(self, step, metrics):
        self.hear(f"logged {step} {'train/loss' in metrics}")

    @hookimpl
    def evaluation_started(self, run):
        self.hear(f"evaluation_started {run.step}")

    @hookimpl
    def evaluation_ended(self, run):
        self.hear(f"evaluation_ended {run.step}")

    @hookimpl
    def evaluated(self, step, metrics):
        self.hear(f"evaluated {step} {sorted(metrics)}")

    @hookimpl
    def checkpoint_saved(self, step, path):
        self.hear(f"checkpoint_saved {step} {(path / 'manifest.json').exists()}")

    @hookimpl
    def sampled(self, step, texts):
        self.hear(f"sampled {step} {len(texts)}")

    @hookimpl
    def run_finished(self, status):
        self.hear(f"run_finished {status}")
"""


def test_every_hook_is_called_at_its_time(tiny: Path) -> None:
    tiny.with_name("ear.py").write_text(LISTENER)
    options = ["components=['ear.py']", "callback=['ear']", "train.log_every_steps=5", "sample.num_samples=3"]
    heard = (session.run(Experiment.load(tiny, options)).path / "heard").read_text().splitlines()
    assert set(HOOKS) == {line.split()[0] for line in heard}
    assert heard[0] == "run_started 0 of 20"
    assert heard[-2:] == ["sampled 20 3", "run_finished finished"]
    counts = Counter(line.split()[0] for line in heard)
    assert counts["step_finished"] == 20
    steps = [line for line in heard if line.split()[0] in ("batch_ready", "gradients_ready", "step_finished")]
    assert steps == [
        line
        for step in range(20)
        for line in (f"batch_ready {step} [5, 16]", f"gradients_ready {step} True", f"step_finished {step + 1}")
    ]
    assert [line for line in heard if line.startswith("logged")] == [
        f"logged {step} True" for step in (1, 5, 10, 15, 20)
    ]
    assert [line for line in heard if line.startswith("evaluated")] == [
        f"evaluated {step} ['val/bits_per_byte', 'val/loss']" for step in (10, 20)
    ]
    around = [line for line in heard if line.startswith("evaluation_")]
    assert around == [f"evaluation_{what} {step}" for step in (10, 20, 20) for what in ("started", "ended")]
    saved = [line for line in heard if line.startswith("checkpoint_saved")]
    assert saved == ["checkpoint_saved 10 True", "checkpoint_saved 20 True"]


def test_every_hook_is_documented_with_its_arguments() -> None:
    told = (Path(__file__).parents[2] / "docs" / "reference" / "hooks.md").read_text(encoding="utf-8")
    for name in HOOKS:
        hook = getattr(RunHooks, name)
        arguments = ", ".join(hook.__code__.co_varnames[1 : hook.__code__.co_argcount])
        assert re.search(re.escape(f"| `{name}({arguments})` |"), told), name
