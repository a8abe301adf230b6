"""How long a run is, which of its checkpoints stay, and what callbacks may say to that."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nanogpt_kit.checkpoint import store
from nanogpt_kit.core.errors import KitError, RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.runs.status import Best
from nanogpt_kit.train import session, trainer

QUIET = ("callback=[]", "sample.num_samples=0")


def run(tiny: Path, *overrides: str, resume: str | None = None) -> RunFolder:
    return session.run(Experiment.load(tiny, [*QUIET, *overrides]), resume)


def losses(folder: RunFolder) -> list[float]:
    return [line["train/loss"] for line in read_metrics(folder.metrics) if "train/loss" in line]


def steps_kept(folder: RunFolder) -> list[int]:
    return [store.step_of(path) for path in store.list_checkpoints(folder.checkpoints)]


# --- budgets ----------------------------------------------------------------------------------------------------


class Clock:
    """Of which every step takes a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += 0.5  # it is read twice a step
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "time", Clock())


def test_a_budget_of_tokens_ends_the_run_and_sets_the_length_of_the_schedule(tiny: Path) -> None:
    limited = run(tiny, "train.max_tokens=1000")  # 12.5 steps of 80
    assert limited.status().step == limited.status().total_steps == 12
    assert losses(limited) == losses(run(tiny, "train.steps=12"))


@pytest.mark.usefixtures("clock")
def test_a_budget_of_seconds_counts_across_resumes(tiny: Path) -> None:
    constant = ("schedule=constant", "checkpoint.every_steps=4")
    folder = run(tiny, *constant, "train.max_seconds=3")
    spent = folder.status().seconds
    assert folder.status().step == round(spent / 0.5)
    assert 3 <= spent < 4
    assert (folder.status().state, folder.status().ended_by) == ("finished", "max_seconds")
    with pytest.raises(KitError, match=r"no unfinished run to resume"):
        run(tiny, *constant, "train.max_seconds=3", resume="")
    again = run(tiny, *constant, "train.max_seconds=5", resume=str(folder))
    assert again == folder
    assert 5 <= folder.status().seconds < 6
    whole = run(tiny, *constant, resume=str(folder))
    assert whole == folder
    assert whole.status().step == 20
    assert losses(whole) == losses(run(tiny, *constant))


def test_more_tokens_go_on_where_the_schedule_does_not_depend_on_them(tiny: Path) -> None:
    folder = run(tiny, "schedule=constant", "train.max_tokens=400")
    assert folder.status().ended_by == "max_tokens"
    assert run(tiny, "schedule=constant", "train.max_tokens=800", resume=str(folder)) == folder
    assert folder.status().step == 10
    other = run(tiny, "name=other", "train.max_tokens=800")
    with pytest.raises(KitError, match=r"train\.max_tokens: 1200 now, 800 in \S+; the schedule depends on it"):
        run(tiny, "name=other", "train.max_tokens=1200", resume=str(other))


def test_several_seeds_are_as_many_runs(tiny: Path, command: Callable[..., Any]) -> None:
    told = command("run", tiny, *QUIET, "train.steps=3", "--seeds", "3")
    assert told.code == 0, told.err
    folders = sorted((tiny.parent / "runs" / "tiny").iterdir())
    assert [folder.name.split("-")[2] for folder in folders] == ["s1337", "s1338", "s1339"]
    assert len({tuple(losses(RunFolder(folder))) for folder in folders}) == 3
    again = command("run", tiny, *QUIET, "train.steps=3", "--seeds", "4", "--resume")
    assert again.err.count("already finished") == 3
    assert len(list((tiny.parent / "runs" / "tiny").iterdir())) == 4


def test_a_seed_that_fails_does_not_keep_the_others_from_theirs(tiny: Path, command: Callable[..., Any]) -> None:
    (tiny.parent / "odd.py").write_text(
        "from nanogpt_kit.api import Callback, hookimpl\n\nclass Odd(Callback):\n    def build(self, run):\n"
        "        return Listener()\n\nclass Listener:\n    @hookimpl\n    def step_finished(self, run):\n"
        "        if run.experiment.train.seed % 2:\n            raise ValueError('odd')\n"
    )
    options = ['components=["odd.py"]', "callback=['odd']", "sample.num_samples=0", "train.steps=2"]
    told = command("run", tiny, *options, "--seeds", "3")
    assert told.code == 1
    assert "run failed: 2 of 3 runs, with seeds 1337, 1339" in told.err
    states = [RunFolder(folder).status().state for folder in sorted((tiny.parent / "runs" / "tiny").iterdir())]
    assert states == ["failed", "finished", "failed"]


# --- checkpoints that stay --------------------------------------------------------------------------------------


ODD = """\
from nanogpt_kit.api import Evaluator

VALUES = [5.0, 2.0, 3.0, 4.0, 1.0, 6.0]

class Odd(Evaluator):
    def evaluate(self, ctx):
        return {"val/odd": VALUES.pop(0)}
"""


def test_retention_keeps_the_best_the_last_and_multiples_of_a_step(tiny: Path) -> None:
    (tiny.parent / "odd.py").write_text(ODD)
    options = ["train.steps=12", "evaluate.every_steps=2", "checkpoint.every_steps=3", "checkpoint.keep_last=1"]
    options += ['components=["odd.py"]', "evaluator=['odd']", "checkpoint.keep_best=val/odd"]
    folder = run(tiny, *options, "checkpoint.keep_every_steps=6")
    assert steps_kept(folder) == [6, 10, 12]
    assert folder.status().best == Best(step=10, value=1.0)
    assert load_run(folder.path, step=10, trust_code=True).experiment.name == "tiny"
    with pytest.raises(KitError, match=r"has no checkpoint of step 4; there are: 6, 10, 12"):
        load_run(folder.path, step=4, trust_code=True)


def test_the_best_checkpoint_survives_a_resume(tiny: Path) -> None:
    options = ["schedule=constant", "evaluate.every_steps=2", "checkpoint.keep_last=1", "optimizer.lr=0.3"]
    best = ["checkpoint.keep_best=val/loss"]
    folder = run(tiny, *options, *best, "train.steps=8")
    run(tiny, *options, *best, "train.steps=14", resume=str(folder))
    whole = run(tiny, *options, *best, "train.steps=14", "name=whole")
    assert folder.status().best == whole.status().best
    assert steps_kept(folder) == steps_kept(whole)


def test_a_metric_that_an_evaluator_does_not_give_nor_declare_is_named_at_the_first_evaluation(tiny: Path) -> None:
    (tiny.parent / "odd.py").write_text(ODD.replace("VALUES.pop(0)", "1.0"))
    odd = ('components=["odd.py"]', "evaluator=['odd']", "evaluate.every_steps=1")
    with pytest.raises(RunFailed, match=r"checkpoint\.keep_best: no evaluator .*'val/od'.*'val/odd'"):
        run(tiny, *odd, "checkpoint.keep_best=val/od")
    with pytest.raises(RunFailed, match=r"no evaluator .*'val/accuracy'"):
        run(tiny, *odd, 'callback=[{use="early_stopping", metric="val/accuracy"}]')


# --- early stopping ---------------------------------------------------------------------------------------------

STOPPING = 'callback=[{{use="early_stopping", patience={}, mode="{}"}}]'


def test_a_run_that_gets_no_better_is_ended(tiny: Path) -> None:
    options = ("evaluate.every_steps=2", "sample.num_samples=1", STOPPING.format(2, "max"))
    folder = session.run(Experiment.load(tiny, options))
    assert (folder.status().state, folder.status().step) == ("finished", 6)  # better at 2, not at 4 and 6
    assert folder.status().reason.startswith("val/loss was not better than ")
    assert folder.samples.exists()


def test_the_patience_of_early_stopping_survives_a_resume(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["evaluate.every_steps=2", "checkpoint.every_steps=2", "sample.num_samples=0", STOPPING.format(3, "max")]
    whole = session.run(Experiment.load(tiny, [*options, "name=whole"]))
    update = trainer.Trainer.update
    for stops in (3, 5, 7):

        def interrupted(self: trainer.Trainer, batch: Any, stops: int = stops) -> Any:
            signals = self.stop.signals
            signals.name = "SIGTERM" if self.step + 1 == stops else signals.name
            return update(self, batch)

        monkeypatch.setattr(trainer.Trainer, "update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.run(Experiment.load(tiny, options), None if stops == 3 else "")
    monkeypatch.setattr(trainer.Trainer, "update", update)
    resumed = session.run(Experiment.load(tiny, options), "")
    assert resumed.status().step == whole.status().step == 8
    assert resumed.status().reason == whole.status().reason


# --- averages ---------------------------------------------------------------------------------------------------


def test_averages_are_evaluated_and_training_does_not_notice(tiny: Path) -> None:
    plain = run(tiny)
    options = ['callback=[{use="ema", decay=0.9}]', "evaluate.every_steps=5"]
    averaged = session.run(Experiment.load(tiny, options))
    unseen = session.run(Experiment.load(tiny, ['callback=[{use="ema", decay=0.9, evaluate=false}]']))
    assert losses(averaged) == losses(plain) == losses(unseen)
    value = {folder: list(read_metrics(folder.metrics))[-1]["val/loss"] for folder in (plain, averaged, unseen)}
    assert value[unseen] == value[plain] != value[averaged]
    weights, kept = (load_run(averaged.path, weights=name).model.state_dict() for name in (None, "ema"))
    trained = load_run(plain.path).model.state_dict()
    assert all(torch.equal(weights[name], trained[name]) for name in trained)
    assert not torch.equal(kept["wte.weight"], weights["wte.weight"])
    with pytest.raises(KitError, match=r"no weights of a callback 'emma'; did you mean 'ema'"):
        load_run(averaged.path, weights="emma")


def test_averages_are_the_sum_that_the_formula_says(tiny: Path) -> None:
    """Recomputed from the checkpoint of every step."""
    options = ['callback=[{use="ema", decay=0.7}]', "checkpoint.every_steps=1", "checkpoint.keep_last=99"]
    folder = session.run(Experiment.load(tiny, [*options, "train.steps=9", "sample.num_samples=0"]))
    name = "h.0.attn.c_attn.weight"
    average = None
    for number, path in enumerate(store.list_checkpoints(folder.checkpoints), start=1):
        weight = store.read_weights(path)[name].double()
        decay = min(0.7, number / (number + 9))
        if average is None:
            first = load_run(run(tiny, "train.steps=0", "name=first").path).model.state_dict()[name].double()
            average = first
        average = decay * average + (1 - decay) * weight
    kept = store.load_training(path)["callbacks"]["EMA"]["weights"][name]
    torch.testing.assert_close(kept.double(), average, rtol=1e-5, atol=1e-7)
    assert not math.isclose(float(kept.norm()), float(weight.norm()))


def test_two_averages_leave_training_alone_as_well(tiny: Path) -> None:
    both = 'callback=["ema", {use="ema", decay=0.5}]'
    folder = session.run(Experiment.load(tiny, [both, "evaluate.every_steps=5", "sample.num_samples=0"]))
    assert losses(folder) == losses(run(tiny, "evaluate.every_steps=5"))


def test_a_run_that_was_stopped_early_and_killed_while_it_wrote_stays_stopped(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["evaluate.every_steps=2", STOPPING.format(2, "max")]
    with monkeypatch.context() as patch:
        patch.setattr(session, "write_samples", lambda run: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            session.run(Experiment.load(tiny, options))
    folder = session.run(Experiment.load(tiny, options), resume="")
    assert (folder.status().state, folder.status().step) == ("finished", 6)
    assert folder.samples.exists()


def test_keep_every_steps_should_be_a_multiple_of_every_steps(tiny: Path) -> None:
    with pytest.raises(KitError, match=r"keep_every_steps \(\d+\) should be a multiple of checkpoint\.every_steps"):
        Experiment.load(tiny, ["checkpoint.keep_every_steps=15"])
