"""What identifies a run is that of the experiment that it was trained with, also where it was resumed with another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nanogpt_kit.core.code_identity import code_identity
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.data.prepare import prepare
from nanogpt_kit.data.yardsticks import compute_yardsticks
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.train import identity_record, session
from nanogpt_kit.train.data_record import record_data

Command = Callable[..., object]
OPTIONS = ("callback=[]", "sample.num_samples=0", "train.compile=off", "checkpoint.every_steps=4", "schedule=constant")
CALLBACK = """\
from nanogpt_kit.api import Callback, hookimpl


class Stopper(Callback):
    at: int

    def build(self, run):
        return Listener(self.at, run.path)


class Listener:
    def __init__(self, at, path):
        self.at, self.path = at, path

    @hookimpl
    def step_finished(self, step):
        if step == self.at and self.path not in stopped:
            stopped.add(self.path)
            raise KeyboardInterrupt


stopped = set()
"""


def load(tiny: Path, *overrides: str) -> Experiment:
    return Experiment.load(tiny, [*OPTIONS, *overrides], trust_code=True)


def interrupted(tiny: Path, at: int, *overrides: str) -> RunFolder:
    """A run that ends after step `at`. Its callback stays the same when it is resumed, and stops nothing then."""
    (tiny.parent / "stopper.py").write_text(CALLBACK, encoding="utf-8")
    into = tiny.parent / "into"
    with pytest.raises(KeyboardInterrupt):
        session.run(stopping(tiny, at, *overrides), into=into)
    assert RunFolder(into).status().state == "interrupted"
    return RunFolder(into)


def stopping(tiny: Path, at: int, *overrides: str) -> Experiment:
    return load(tiny, "components=['stopper.py']", f"callback=[{{use='stopper', at={at}}}]", *overrides)


def test_a_run_records_what_can_be_computed_before_it_starts(tiny: Path) -> None:
    experiment = load(tiny, "train.seed=7", "train.steps=4")
    before = compute_yardsticks(experiment, prepare(experiment).manifest)
    origin = session.run(experiment).provenance()
    assert origin.configuration == load(tiny, "train.steps=4", "name=b").configuration()
    assert origin.code == code_identity(experiment)
    assert origin.yardsticks == before
    assert origin.yardstick("val/loss") == before["val/loss"]
    assert origin.data is not None
    assert origin.data.identity == record_data(prepare(experiment)).identity
    assert origin.data.identity != record_data(prepare(load(tiny, "tokenizer=char"))).identity
    assert origin.is_duplicable


def test_the_recorded_experiment_of_a_run_has_its_identity(tiny: Path) -> None:
    folder = interrupted(tiny, 4)
    again = Experiment.load(folder.experiment)
    origin = folder.provenance()
    assert (again.configuration(), code_identity(again)) == (origin.configuration, origin.code)


def test_a_run_that_is_resumed_as_it_was_stays_one_of_its_configuration(tiny: Path) -> None:
    folder = interrupted(tiny, 5)
    before = folder.provenance()
    changes = ("train.threads=1", "note='why'", "sample.num_samples=1", "sample.max_new_tokens=30")
    session.run(stopping(tiny, 5, *changes), resume=str(folder))
    assert folder.status().state == "finished"
    assert folder.provenance() == before
    assert before.is_duplicable
    assert 'note = "why"' in folder.experiment.read_text(encoding="utf-8")


@pytest.mark.parametrize("change", ["evaluator=['loss']", "evaluate.every_steps=7", "train.steps=24"])
def test_a_run_that_is_resumed_with_another_configuration_is_none_of_either(tiny: Path, change: str) -> None:
    folder = interrupted(tiny, 5)
    before = folder.provenance()
    after = stopping(tiny, 5, change)
    session.run(after, resume=str(folder))
    now = folder.provenance()
    assert now.configuration == after.configuration() != before.configuration
    assert now.yardsticks.keys() == ({"", "val/loss"} if "evaluator" in change else before.yardsticks.keys())
    assert now.changed_at_step == 4
    assert not now.is_duplicable
    assert now.model_copy(update=vars(before)) == before  # all else is that of its start


def test_a_finished_run_that_is_extended_is_none_of_its_configuration(tiny: Path) -> None:
    folder = session.run(load(tiny))
    assert folder.provenance().is_duplicable
    session.run(load(tiny, "train.steps=24"), resume=str(folder))
    assert folder.provenance().changed_at_step == 20
    assert not folder.provenance().is_duplicable


def test_a_run_that_is_resumed_with_other_code_is_none_of_either(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = interrupted(tiny, 5)
    monkeypatch.setattr(identity_record, "code_identity", lambda _: "edited")
    session.run(stopping(tiny, 5), resume=str(folder))
    assert (folder.provenance().code, folder.provenance().changed_at_step) == ("edited", 4)


def test_a_run_that_begins_again_at_step_0_is_one_of_its_new_configuration(tiny: Path) -> None:
    folder = interrupted(tiny, 2)
    for checkpoint in folder.checkpoint_steps():
        for file in folder.checkpoint(checkpoint).iterdir():
            file.unlink()
    after = stopping(tiny, 30, "evaluator=['loss']")
    session.run(after, resume=str(folder))
    origin = folder.provenance()
    assert (origin.configuration, origin.changed_at_step) == (after.configuration(), None)
    assert origin.yardsticks.keys() == {"", "val/loss"}
    assert origin.is_duplicable


def test_a_run_that_began_from_another_one_is_none_of_its_configuration(tiny: Path) -> None:
    first = session.run(load(tiny))
    branched = session.run(load(tiny, "train.steps=24"), resume=f"{first}@20")
    assert branched.provenance().branched_from is not None
    assert branched.provenance().changed_at_step is None
    assert not branched.provenance().is_duplicable
    tuned = session.run(load(tiny, f"model.init_from={first}", "train.steps=4"))
    assert tuned.provenance().init_from is not None
    assert not tuned.provenance().is_duplicable
    shared = session.run(load(tiny, f"tokenizer.from_run={first}", "train.steps=4"))
    assert shared.provenance().is_duplicable  # the identity of its data has the tokenizer
