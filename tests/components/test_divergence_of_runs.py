"""Real runs: divergences that are planted in small ones are reported in time, shipped experiments never are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from nanogpt_kit.core.errors import NotFinite
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.train import session

Reports: TypeAlias = Callable[[], list[Any]]  # of the fixture `reports`
DISTURB = """\
import torch
from nanogpt_kit.api import Callback, hookimpl

class Disturb(Callback):
    at: int = 45
    factor: float = 10.0
    parameters: str = ""

    def build(self, run):
        return Hand(self)

class Hand:
    def __init__(self, options):
        self.options = options

    @hookimpl
    @torch.no_grad()
    def step_finished(self, run, step):
        if step == self.options.at:
            for name, parameter in run.model.named_parameters():
                if self.options.parameters in name:
                    parameter.mul_(self.options.factor)
"""
CORRUPT = """\
import numpy as np
from nanogpt_kit.api import Order

class Corrupt(Order):
    at: int = 45

    def starts(self, step, ctx):
        generator, half = np.random.default_rng([ctx.seed, step]), ctx.n_tokens // 2
        first, last = (0, half) if step < self.at else (half, ctx.n_tokens)
        return generator.integers(first, last - ctx.block_size, size=ctx.batch_windows)
"""
GROWING = """\
from nanogpt_kit.api import Schedule

class Growing(Schedule):
    def multiplier(self, step, total_steps):
        return 1.1 ** step
"""
BASE = """\
name = "planted"
components = ["disturb.py", "corrupt.py", "growing.py"]
callback = ["divergence"]
evaluator = []
dataset = { use = "text", source = "TEXT" }
tokenizer = "byte"
order = "random"
model = { use = "gpt", n_layer = 2, n_head = 2, n_embd = 32, block_size = 24 }
optimizer = { use = "adamw", lr = 4e-3 }
schedule = { use = "cosine", warmup_steps = 20 }
train = { steps = 70, batch_tokens = 384, log_every_steps = 5, precision = "fp32", compile = "off" }
sample = { num_samples = 0 }
"""
WATCHED = 'train.watch=["attention"]'
SGD = ("optimizer=sgd", "optimizer.momentum=0.9", "schedule.warmup_steps=0", "train.grad_clip=0")


def disturbed(**options: Any) -> tuple[str, ...]:
    written = ", ".join(f"{key} = {json.dumps(value)}" for key, value in options.items())
    return (f'callback=[{{use = "disturb", {written}}}, "divergence"]',)


@dataclass(frozen=True)
class Planted:
    """A divergence: the options that cause it, a kind that is reported, and the steps between which the first lies."""

    options: tuple[str, ...]
    kind: str
    first: int
    last: int
    fails: bool = False  # the loss is not finite in the end


PLANTED = {
    "a hundredfold learning rate": Planted(("optimizer.lr=0.4", WATCHED), "attention", 5, 30),
    "no warmup": Planted(("optimizer.lr=1.0", "schedule.warmup_steps=0"), "loss", 2, 10),
    "fiftyfold initial weights": Planted(("init.use=gpt2", "init.std=1.0"), "loss", 1, 1),
    "a momentum of 0.999": Planted(("optimizer=sgd", "optimizer.momentum=0.999", "optimizer.lr=1"), "loss", 5, 20),
    "a beta2 of 0.5": Planted(("optimizer.betas=[0.9, 0.5]", "optimizer.lr=0.05"), "loss", 20, 60),
    "weights that become ten times as large": Planted(disturbed(factor=10.0), "loss", 46, 48),
    "logits that become thirty times as large": Planted(disturbed(factor=30.0, parameters="wte"), "loss", 46, 48),
    "attention that becomes extreme": Planted(
        (*disturbed(factor=20.0, parameters="attn.c_attn"), WATCHED), "attention", 46, 50
    ),
    "corrupt batches": Planted(("order=corrupt",), "loss", 46, 50),
    "a learning rate that grows": Planted(("schedule=growing", "train.steps=120"), "loss", 40, 75, fails=True),
    "no clipping": Planted((*SGD, "optimizer.lr=3"), "loss", 2, 6, fails=True),
    "no clipping and an enormous learning rate": Planted((*SGD, "optimizer.lr=30"), "loss", 2, 3, fails=True),
}


@pytest.fixture
def planted(tmp_path: Path, prose: Path) -> Path:
    text = prose.read_text(encoding="utf-8")[:60_000]
    strange = "".join(map(chr, np.random.default_rng(1).integers(33, 126, size=len(text))))
    (tmp_path / "text.txt").write_text(text + strange, encoding="utf-8")
    for name, source in {"disturb": DISTURB, "corrupt": CORRUPT, "growing": GROWING}.items():
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
    path = tmp_path / "planted.toml"
    path.write_text(BASE.replace("TEXT", str(tmp_path / "text.txt")), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_divergence_is_reported_before_the_loss_is_nan(name: str, planted: Path, reports: Reports) -> None:
    case = PLANTED[name]
    # The clean half of the text, but for the order that changes to the other
    options = (*case.options,) if "order=corrupt" in case.options else ("order=corrupt", "order.at=1000", *case.options)
    experiment = Experiment.load(planted, options, trust_code=True)
    if case.fails:
        with pytest.raises(NotFinite) as failure:
            session.run(experiment)
        match = re.search(r"at step (\d+)", str(failure.value))
        assert match
        assert reports()[0].step < int(match[1])
    else:
        session.run(experiment)
    found = reports()
    assert len({report.kind for report in found}) == len(found), found
    assert case.kind in {report.kind for report in found}, found
    assert case.first <= found[0].step <= case.last, found


def test_the_run_that_nothing_was_planted_in_is_not_reported(planted: Path, reports: Reports) -> None:
    options = ["order=corrupt", "order.at=1000", WATCHED]
    session.run(Experiment.load(planted, options, trust_code=True))
    assert reports() == []


def test_a_run_that_continues_from_a_checkpoint_repeats_no_report(planted: Path, reports: Reports) -> None:
    options = [*disturbed(at=15, factor=10.0), "schedule=constant", "order=corrupt", "order.at=1000"]
    folder = session.run(Experiment.load(planted, [*options, "train.steps=20"], trust_code=True))
    before = reports()
    assert "loss" in {report.kind for report in before}
    session.run(Experiment.load(planted, [*options, "train.steps=30"], trust_code=True), resume=str(folder))
    assert [report.kind for report in reports()].count("loss") == 1
    session.run(Experiment.load(planted, [*options, "train.steps=20"], trust_code=True))
    assert [report.kind for report in reports()].count("loss") == 2  # a new run reports anew


BARE = ("evaluator=[]", "sample.num_samples=0", "callback=['divergence']", WATCHED, "train.compile=off")
OFFLINE = [
    *[("quickstart", f"train.seed={seed}", "train.steps=600") for seed in (1, 2, 3)],
    ("quickstart", "train.seed=4"),
    ("quickstart", "order=sequential", "train.steps=500"),
    ("quickstart", "init=zero_residual", "train.steps=300"),
    *[("sweep_lr", f"train.seed={seed}") for seed in (1, 2)],
    ("sweep_architecture", "model.position=rope", "model.mlp=relu2"),
    ("sweep_optimizers", "optimizer=muon"),
    ("sweep_optimizers", "optimizer=sgd"),
    ("ablate_parts",),
]
SHAKESPEARE = [
    *[("shakespeare_char_cpu", f"train.seed={seed}", "train.steps=800") for seed in (1, 2)],
    *[("shakespeare_bpe", f"train.seed={seed}", "train.steps=500") for seed in (1, 2)],
    *[("my_text", f"train.seed={seed}", "train.steps=500") for seed in (1, 2)],
    ("bench_gpt2", "train.steps=40"),
    ("bench_baby", "train.steps=60"),
]


@pytest.mark.slow
@pytest.mark.parametrize("words", OFFLINE, ids=" ".join)
def test_a_shipped_experiment_that_needs_no_text_is_not_reported(words: tuple[str, ...], reports: Reports) -> None:
    session.run(Experiment.load(words[0], [*BARE, *words[1:]]))
    assert reports() == []


@pytest.mark.slow
@pytest.mark.parametrize("words", SHAKESPEARE, ids=" ".join)
def test_a_shipped_experiment_on_shakespeare_is_not_reported(
    words: tuple[str, ...], shakespeare: Path, gpt2_vocabulary: None, reports: Reports
) -> None:
    session.run(Experiment.load(words[0], [*BARE, *words[1:], f"dataset.source={shakespeare}"]))
    assert reports() == []
