"""The loop's promises: equal weight for every token, evaluation that nobody notices, losses that are numbers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nanogpt_kit.core.errors import KitError, RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.data.prepare import prepare
from nanogpt_kit.runs.find import find_run
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.system.json_files import read_json
from nanogpt_kit.train import session
from nanogpt_kit.train.cores import CoreAllocation
from nanogpt_kit.train.setup import Placement, Setup
from nanogpt_kit.train.stop import StopSignals
from nanogpt_kit.train.trainer import Trainer
from nanogpt_kit.train.world import World

pytestmark = pytest.mark.usefixtures("with_dropout")


def losses(folder: RunFolder) -> list[float]:
    return [line["train/loss"] for line in read_metrics(folder.metrics) if "train/loss" in line]


def run(tiny: Path, *overrides: str) -> RunFolder:
    return session.run(Experiment.load(tiny, ["callback=[]", "sample.num_samples=0", *overrides]))


def fresh_trainer(tiny: Path, *overrides: str, precision: str = "fp32") -> Trainer:
    experiment = Experiment.load(tiny, ["callback=[]", *overrides])
    folder = RunFolder(tiny.parent / "by-hand")
    folder.path.mkdir(exist_ok=True)
    ctx = RunContext(device="cpu", precision=precision, world_size=1, splits=("train", "val"), block_size=16)
    setup = Setup(experiment, Placement(World(), ctx, "by hand"), prepare(experiment), CoreAllocation(1, 1, 1))
    return Trainer(setup, folder, StopSignals())


def test_how_often_it_evaluates_changes_no_training_loss(tiny: Path) -> None:
    often = run(tiny, "evaluate.every_steps=2", "evaluator=['loss', 'bits_per_byte']")
    assert losses(often) == losses(run(tiny, "evaluate.every_steps=1000"))


DRAWING = """\
import random, numpy, torch
from nanogpt_kit.api import Evaluator

class Drawing(Evaluator):
    def evaluate(self, ctx):
        return {"val/luck": float(torch.rand(()) + random.random() + numpy.random.rand())}
"""


def test_an_evaluator_that_draws_random_numbers_changes_no_training_loss(tiny: Path) -> None:
    (tiny.parent / "drawing.py").write_text(DRAWING, encoding="utf-8")
    drawing = run(tiny, "components=['drawing.py']", "evaluator=['drawing']", "evaluate.every_steps=3")
    assert losses(drawing) == losses(run(tiny))


def test_saving_and_sampling_change_no_training_loss(tiny: Path) -> None:
    assert losses(run(tiny, "checkpoint.every_steps=1", "sample.num_samples=2")) == losses(run(tiny))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_the_gradient_does_not_depend_on_the_split_into_micro_batches(tiny: Path, size: int) -> None:
    trainer = fresh_trainer(tiny, f"train.micro_batch_size={size}", "model.dropout=0.0", "train.grad_clip=0")
    targets = trainer.batches.at(0).targets.clone()
    targets[1, 3:] = -1  # uneven: a mean of means would be wrong
    batch = replace(trainer.batches.at(0), targets=targets, all_tokens=int((targets >= 0).sum()))
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    logits = trainer.model(batch.ids)
    expected_loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=-1)
    expected = torch.autograd.grad(expected_loss, list(trainer.model.parameters()))

    seen: list[torch.Tensor] = []
    clip = trainer.parallel.clip
    trainer.parallel.clip = lambda norm: (seen.extend(p.grad.clone() for p in trainer.model.parameters()), clip(norm))[
        1
    ]
    means, norm = trainer.update(batch)
    torch.testing.assert_close(means["train/loss"], expected_loss.detach(), rtol=1e-6, atol=1e-6)
    for mine, theirs in zip(seen, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(norm, torch.stack([g.norm() for g in expected]).norm(), rtol=1e-5, atol=0)
    assert any(not torch.equal(before[name], weight) for name, weight in trainer.model.named_parameters())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])  # fp16 scales the loss up, and the gradient with it
def test_the_gradient_is_clipped(tiny: Path, precision: str) -> None:
    trainer = fresh_trainer(tiny, "train.grad_clip=0.01", precision=precision)
    batch = trainer.batches.at(0)
    step = trainer.optimizer.step
    norms: list[float] = []

    def watched(*args: object, **kwargs: object) -> None:
        norms.append(float(torch.stack([p.grad.norm() for p in trainer.model.parameters()]).norm()))
        step()

    trainer.optimizer.step = watched
    _, norm = trainer.update(batch)
    assert 0.01 < norm < 10
    assert norms[0] == pytest.approx(0.01, rel=1e-3)


def test_the_learning_rate_follows_the_schedule_for_every_group(tiny: Path) -> None:
    folder = run(tiny)
    experiment = Experiment.load(tiny)
    rates = [line["optim/lr"] for line in read_metrics(folder.metrics) if "optim/lr" in line]
    assert rates == [3e-3 * experiment.schedule.multiplier(step, 20) for step in range(20)]


def test_validation_loss_is_the_mean_over_every_token_of_the_split(tiny: Path) -> None:
    trainer = fresh_trainer(tiny)
    trainer.train()
    tokens = torch.from_numpy(trainer.data.tokens("val").astype("int64"))
    nats, block = 0.0, 16
    trainer.model.eval()
    for start in range(0, len(tokens) - 1, block):  # one window at a time, the last one short
        window = tokens[start : start + block + 1]
        with torch.no_grad():
            logits = trainer.model(window[None, :-1])[0].double()
        nats -= float(logits.log_softmax(-1).gather(1, window[1:, None]).sum())
    *_, last = (line for line in read_metrics(trainer.folder.metrics) if "val/loss" in line)
    assert last["val/loss"] == pytest.approx(nats / (len(tokens) - 1), abs=1e-6)
    text_bytes = trainer.data.splits["val"].bytes - 1
    assert last["val/bits_per_byte"] == pytest.approx(nats / 0.6931471805599453 / text_bytes, abs=1e-6)


def test_it_learns(tiny: Path) -> None:
    found = losses(run(tiny, "train.steps=120", "optimizer.lr=1e-2"))
    assert found[0] == pytest.approx(5.55, abs=0.1)  # ln 257
    assert sum(found[-10:]) / 10 < 2.6


NOT_A_NUMBER = """\
import torch
from nanogpt_kit.api import MLP

class Broken(MLP):
    at: int

    def build(self, ctx):
        return Module(self.at)

class Module(torch.nn.Module):
    def __init__(self, at):
        super().__init__()
        self.at, self.calls = at, 0

    def forward(self, x):
        self.calls += self.training
        return x * float("nan") if self.calls > self.at else x
"""


def test_a_loss_that_is_not_finite_ends_the_run_and_is_reported(tiny: Path) -> None:
    (tiny.parent / "broken.py").write_text(NOT_A_NUMBER, encoding="utf-8")
    options = ("components=['broken.py']", 'model.mlp={use="broken", at=7}', "model.n_layer=1", "train.batch_tokens=32")
    with pytest.raises(RunFailed, match=r"the loss is nan at step 8, on the windows that start at tokens \d+, \d+ of"):
        run(tiny, *options, "checkpoint.every_steps=2")
    folder = find_run("tiny").folder
    assert folder.status().state == "failed"
    assert "step 8" in folder.status().reason
    assert max(folder.checkpoints.glob("step-*")).name == "step-00000006"


def test_a_loss_that_is_not_finite_never_reaches_a_checkpoint(tiny: Path) -> None:
    (tiny.parent / "broken.py").write_text(NOT_A_NUMBER, encoding="utf-8")
    options = ("components=['broken.py']", 'model.mlp={use="broken", at=7}', "model.n_layer=1", "train.batch_tokens=32")
    with pytest.raises(RunFailed, match="step 8"):
        run(tiny, *options, "checkpoint.every_steps=1", "train.log_every_steps=1000")
    assert max(find_run("tiny").folder.checkpoints.glob("step-*")).name == "step-00000007"


NO_GRADIENT = """\
import torch
from nanogpt_kit.api import Norm

class Steep(Norm):
    def build(self, ctx):
        return Module()

class Module(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        return x + (self.weight - self.weight).sqrt()
"""


def test_a_gradient_that_is_not_finite_never_reaches_a_checkpoint(tiny: Path) -> None:
    (tiny.parent / "steep.py").write_text(NO_GRADIENT, encoding="utf-8")
    with pytest.raises(RunFailed, match="the norm of the gradient is nan at step 1"):
        run(tiny, "components=['steep.py']", "model.norm=steep", "checkpoint.every_steps=1")
    assert not list(find_run("tiny").folder.checkpoints.glob("step-*"))


def test_a_metric_without_a_group_in_its_name_is_refused(tiny: Path) -> None:
    source = "from nanogpt_kit.api import Evaluator\nclass Odd(Evaluator):\n    def evaluate(self, ctx):\n"
    (tiny.parent / "odd.py").write_text(source + "        return {'step': 99}\n", encoding="utf-8")
    with pytest.raises(RunFailed, match="evaluator Odd returned 'step': 99"):
        run(tiny, "components=['odd.py']", "evaluator=['odd']")


def test_an_order_with_starts_outside_the_split_is_refused(tiny: Path) -> None:
    source = (
        "import numpy as np\nfrom nanogpt_kit.api import Order\nclass Off(Order):\n    def starts(self, step, ctx):\n"
    )
    (tiny.parent / "off.py").write_text(
        source + "        return np.array([-1] * ctx.batch_windows)\n", encoding="utf-8"
    )
    with pytest.raises(RunFailed, match=r"order Off .* starts"):
        run(tiny, "components=['off.py']", "order=off")


def test_a_signal_does_not_wait_for_a_long_evaluation(tiny: Path) -> None:
    source = (
        "import os, signal\nfrom nanogpt_kit.api import Evaluator\n"
        "class Hit(Evaluator):\n    def evaluate(self, ctx):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n        return {'val/nats': ctx.split_loss('val').nats}\n"
    )
    (tiny.parent / "hit.py").write_text(source, encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        run(tiny, "components=['hit.py']", "evaluator=['hit']", "evaluate.every_steps=4")
    folder = find_run("tiny").folder
    assert folder.status().state == "interrupted"
    assert (folder.checkpoints / "step-00000004").exists()
    assert not [line for line in read_metrics(folder.metrics) if "val/nats" in line]
    resumed = session.run(Experiment.load(tiny, ["callback=[]", "evaluate.every_steps=4"]), resume="")
    assert [line["step"] for line in read_metrics(resumed.metrics) if "val/loss" in line] == [4, 8, 12, 16, 20]


def test_a_callback_that_cannot_be_built_leaves_no_run(tiny: Path) -> None:
    source = "from nanogpt_kit.api import Callback\nclass Deaf(Callback):\n"
    source += "    def build(self, run):\n        return object()\n"
    (tiny.parent / "deaf.py").write_text(source, encoding="utf-8")
    with pytest.raises(KitError, match="callback Deaf implements no hook"):
        session.run(Experiment.load(tiny, ["components=['deaf.py']", "callback=['deaf']"]))
    assert not list((tiny.parent / "runs" / "tiny").iterdir())


def test_a_prompt_that_cannot_be_encoded_is_reported_before_the_training(tiny: Path) -> None:
    with pytest.raises(KitError, match="the prompt cannot be encoded"):
        session.run(Experiment.load(tiny, ["callback=[]", "tokenizer=char", "sample.prompt=Q"]))
    assert not (tiny.parent / "runs").exists()


@pytest.mark.parametrize(
    "name", ["SIGTERM", *(pytest.param(name, marks=pytest.mark.slow) for name in ("SIGINT", "SIGHUP", "SIGUSR1"))]
)  # test_stop.py has the others without a process
def test_a_signal_saves_and_exits_130(tiny: Path, name: str) -> None:
    command = [
        sys.executable,
        "-m",
        "nanogpt_kit",
        "run",
        str(tiny),
        "train.steps=1000000",
        "checkpoint.every_steps=500",
    ]
    process = subprocess.Popen([*command, "schedule=constant"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step 1/"):
            break
    os.kill(process.pid, getattr(signal, name))
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "Traceback" not in told
    folder = find_run("tiny").folder
    status = folder.status()
    assert (status.state, status.reason) == ("interrupted", name)
    (saved,) = folder.checkpoints.glob("step-*")
    assert saved.name == f"step-{status.step:08d}"


def test_threads_are_as_the_experiment_says_and_only_for_the_run(tiny: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert read_json(run(tiny, "train.threads=1").path / "provenance.json")["machine"]["threads"] == 1
        assert torch.get_num_threads() == 2
        assert read_json(run(tiny).path / "provenance.json")["machine"]["threads"] == 2
    finally:
        torch.set_num_threads(before)  # the other tests' sums would be taken in another order


def test_a_callback_may_stop_a_run(tiny: Path) -> None:
    (tiny.parent / "enough.py").write_text(
        "from nanogpt_kit.api import Callback, hookimpl\n"
        "class Enough(Callback):\n"
        "    def build(self, run):\n"
        "        return Listener()\n"
        "class Listener:\n"
        "    @hookimpl\n"
        "    def step_finished(self, run, step):\n"
        "        if step == 7:\n"
        "            run.request_stop('seven is enough')\n",
        encoding="utf-8",
    )
    folder = session.run(Experiment.load(tiny, ["components=['enough.py']", "callback=['enough']"]))
    status = folder.status()
    assert (status.state, status.step, status.reason) == ("finished", 7, "seven is enough")
    assert [line["step"] for line in read_metrics(folder.metrics) if "val/loss" in line] == [7]
    assert folder.samples.exists()


def test_a_run_records_its_provenance(tiny: Path) -> None:
    folder = run(tiny)
    origin = read_json(folder.path / "provenance.json")
    assert origin["components"]["model.attention"] == "nanogpt-kit/sdpa"
    assert origin["seed"] == 1337
    assert origin["machine"]["device"] == "cpu"
    assert origin["data"]["splits"]["train"]
    again = Experiment.load(folder.experiment)
    assert again == Experiment.load(tiny, ["callback=[]", "sample.num_samples=0"])
    assert losses(session.run(again)) == losses(folder)


def test_several_processes_are_refused_by_single(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(KitError, match="parallel: single is for one process, and 2 were started"):
        run(tiny)
    assert not (tiny.parent / "runs").exists()


def test_a_callback_that_fails_ends_the_run(tiny: Path) -> None:
    (tiny.parent / "bad.py").write_text(
        "from nanogpt_kit.api import Callback, hookimpl\n"
        "class Bad(Callback):\n"
        "    def build(self, run):\n"
        "        return Listener()\n"
        "class Listener:\n"
        "    @hookimpl\n"
        "    def step_finished(self):\n"
        "        1 / 0\n",
        encoding="utf-8",
    )
    with pytest.raises(RunFailed, match="Bad failed in step_finished: ZeroDivisionError"):
        session.run(Experiment.load(tiny, ["components=['bad.py']", "callback=['bad']"]))
    assert find_run("tiny").folder.status().state == "failed"


def test_fsdp_in_one_process_is_refused_in_a_sentence(tiny: Path) -> None:
    with pytest.raises(KitError, match=r"parallel: fsdp requires several processes, and one was started; start more"):
        run(tiny, "parallel=fsdp")
