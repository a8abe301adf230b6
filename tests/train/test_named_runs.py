"""A run that starts from another one, by model.init_from and tokenizer.from_run, records which and keeps to it."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nanogpt_kit.core.errors import KitError, RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.data.prepare import prepare
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.interop.exporting import export_model
from nanogpt_kit.runs.find import find_run
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.train import session
from nanogpt_kit.train.evaluation import evaluate_trained_model

Once = Callable[..., list[RunFolder]]
QUICK = ["callback=[]", "sample.num_samples=0", "checkpoint.keep_last=3"]
CHAR = [*QUICK, "tokenizer=char", "train.steps=10"]
STOPPER = """
\"\"\"Fails at step 3.\"\"\"
from nanogpt_kit.api import Callback, hookimpl

class Stopper(Callback):
    def build(self, run):
        return Stop()

class Stop:
    @hookimpl
    def step_finished(self, run, step):
        if step == 3:
            raise ValueError("enough")
"""


def train(tiny: Path, *options: str) -> RunFolder:
    return session.run(Experiment.load(tiny, [*QUICK, *options]))


def fail_at_step_3(tiny: Path, *options: str) -> RunFolder:
    """A run that has no checkpoint."""
    tiny.with_name("stopper.py").write_text(STOPPER)
    with pytest.raises(RunFailed, match="enough"):
        session.run(Experiment.load(tiny, [*options, "components=['stopper.py']", "callback=['stopper']"]))
    return find_run("tuned").runs[-1]


def origins(run: RunFolder) -> dict[str, dict[str, str]]:
    return json.loads((run.path / "provenance.json").read_text())


@pytest.fixture
def best(tiny: Path, once: Once) -> RunFolder:
    """The best of two runs; the newer one has taken fewer steps."""
    return once("best", lambda: train(tiny), lambda: train(tiny, "train.steps=10"))[0]


def test_weights_may_be_those_of_the_best_run_at_a_step(
    tiny: Path, best: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "nanogpt_kit")
    tuned = train(tiny, "name=tuned", "model.init_from=tiny@best@10", "train.steps=0")
    assert origins(tuned)["init_from"]["checkpoint"] == str(best.checkpoint(10))
    assert 'init_from = "tiny@best@10"' in tuned.experiment.read_text()
    lines = [message for message in caplog.messages if message.startswith("model.init_from: ")]
    assert len(lines) == 1
    pattern = rf"model.init_from: run {re.escape(str(best))}: step 10 of 20, val/loss \d\.\d{{4}} \(best of 2\)"
    assert re.fullmatch(pattern, lines[0])


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("tiny@7", "has no checkpoint of step 7; there are: 10"),
        ("tinny@best", "no run 'tinny@best', .* did you mean 'tiny'"),
    ],
)
def test_a_step_or_run_that_is_not_there_is_reported_at_its_option(
    tiny: Path, best: RunFolder, reference: str, told: str
) -> None:
    for option in ("model.init_from", "tokenizer.from_run"):
        with pytest.raises(KitError, match=f"{option}: .*{told}") as caught:
            train(tiny, "name=tuned", f"{option}={reference}")
        assert (caught.value.faults[0].key, caught.value.faults[0].location) == (option, "command line")


@pytest.mark.usefixtures("with_dropout")
def test_a_run_without_a_checkpoint_resumes_from_the_weights_that_it_began_with(tiny: Path, best: RunFolder) -> None:
    part = fail_at_step_3(tiny, *QUICK, "name=tuned", "model.init_from=tiny@best")
    train(tiny, "train.steps=30")  # the best one now
    assert find_run("tiny@best").folder != best
    requested = Experiment.load(tiny, [*QUICK, "name=tuned", "model.init_from=tiny@best"])
    resumed = session.run(requested, resume=part)
    whole = train(tiny, "name=whole", f"model.init_from={best}")
    assert resumed == part
    assert load_run(resumed, trust_code=True).model.wte.weight.equal(load_run(whole).model.wte.weight)


def test_a_run_that_began_with_relative_paths_resumes_from_another_folder(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NANOGPT_KIT_RUNS", "runs")
    options = [*CHAR, "name=tuned", "model.init_from=tiny", "tokenizer.from_run=tiny"]
    session.run(Experiment.load(tiny, CHAR))
    part = fail_at_step_3(tiny, *options).path.absolute()
    assert origins(RunFolder(part))["init_from"]["checkpoint"].startswith("runs/tiny/")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert session.run(Experiment.load(tiny, options), resume=part).status().state == "finished"


def test_a_run_continues_from_its_newest_checkpoint_and_another_begins_a_new_run(tiny: Path, best: RunFolder) -> None:
    with pytest.raises(KitError, match=r"a new run from step 10: nanogpt-kit run .*@10 --extend STEPS"):
        session.run(Experiment.load(tiny, QUICK), resume="tiny@best@10")


def test_the_name_of_an_experiment_resumes_its_newest_unfinished_run(tiny: Path, best: RunFolder) -> None:
    part = fail_at_step_3(tiny, *QUICK, "name=tuned", "model.init_from=tiny")
    tuned = [*QUICK, "name=tuned", "model.init_from=tiny"]
    session.run(Experiment.load(tiny, tuned))
    assert session.run(Experiment.load(tiny, tuned), resume="tuned") == part
    with pytest.raises(KitError, match=r"is finished: 20 steps"):
        session.run(Experiment.load(tiny, tuned), resume="tuned")


def test_a_run_folder_object_is_a_path(tiny: Path, best: RunFolder, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "mine")
    experiment = Experiment.load(tiny, [*QUICK, "train.steps=1"])
    assert session.run(experiment, into=folder) == folder
    loaded = load_run(best)
    export_model(loaded.experiment, loaded.model, loaded.encoder, "safetensors", RunFolder(tmp_path / "out"))
    assert load_run(RunFolder(tmp_path / "out")).model.wte.weight.equal(loaded.model.wte.weight)


# --- tokenizers -------------------------------------------------------------------------------------------------


@pytest.fixture
def alphabets(tiny: Path, once: Once) -> list[RunFolder]:
    """Runs of characters, on two texts."""
    other = tiny.with_name("other.txt")
    other.write_text("as everybody \u2603 knows, times 0123456789, nobody is anybody. " * 90)
    train_on_other = lambda: session.run(Experiment.load(tiny, [*CHAR, f"dataset.source={other}"]))  # noqa: E731
    return once("alphabets", train_on_other, train_on_other, lambda: session.run(Experiment.load(tiny, CHAR)))


def test_a_tokenizer_may_be_that_of_a_named_step_and_is_recorded(tiny: Path, alphabets: list[RunFolder]) -> None:
    tuned = session.run(Experiment.load(tiny, [*CHAR, "name=tuned", f"tokenizer.from_run={alphabets[2].path.name}@10"]))
    origin = origins(tuned)["tokenizer_from"]
    assert origin["checkpoint"] == str(alphabets[2].checkpoint(10))
    assert origin["fingerprint"] == origins(tuned)["data"]["tokenizer"]


def test_a_run_without_a_checkpoint_resumes_with_the_tokenizer_that_it_took(
    tiny: Path, alphabets: list[RunFolder]
) -> None:
    tuned = [*CHAR, "name=tuned", "tokenizer.from_run=tiny"]
    part = fail_at_step_3(tiny, *tuned)
    other = f"dataset.source={tiny.with_name('other.txt')}"
    session.run(Experiment.load(tiny, [*CHAR, other]))  # "tiny" is a run with another alphabet now
    session.run(Experiment.load(tiny, tuned), resume=part)
    assert load_run(part, trust_code=True).encoder.state() == load_run(alphabets[2]).encoder.state()


def test_a_tokenizer_that_was_removed_before_the_first_checkpoint_is_named(
    tiny: Path, alphabets: list[RunFolder]
) -> None:
    tuned = [*CHAR, "name=tuned", "tokenizer.from_run=tiny"]
    part = fail_at_step_3(tiny, *tuned)
    record = alphabets[2].checkpoint(10) / "tokenizer.json"
    shutil.copy(alphabets[0].checkpoint(10) / "tokenizer.json", record)
    for _ in range(2):
        with pytest.raises(KitError, match=rf"tokenizer.from_run: {part} took its tokenizer from {record}, .* removed"):
            session.run(Experiment.load(tiny, tuned), resume=part)
        record.unlink(missing_ok=True)


def test_a_run_is_evaluated_with_its_own_tokenizer_whatever_the_reference_names_now(
    tiny: Path, alphabets: list[RunFolder]
) -> None:
    tuned = session.run(Experiment.load(tiny, [*CHAR, "name=tuned", "tokenizer.from_run=tiny"]))
    for run in alphabets:
        shutil.rmtree(run.path)
    metrics = evaluate_trained_model(load_run(tuned), lambda texts: None)
    assert metrics["val/loss"] == pytest.approx(find_loss(tuned), rel=1e-5)


def find_loss(run: RunFolder) -> float:
    return float(json.loads(run.metrics.read_text().splitlines()[-1])["val/loss"])


def test_preparing_data_logs_whose_tokenizer_it_takes_once(
    tiny: Path, alphabets: list[RunFolder], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "nanogpt_kit")
    experiment = Experiment.load(tiny, [*CHAR, "name=tuned", "tokenizer.from_run=tiny"])
    for act in (prepare, session.run):
        caplog.clear()
        act(experiment)  # type: ignore[operator]
        lines = [message for message in caplog.messages if message.startswith("tokenizer.from_run: ")]
        assert len(lines) == 1
        assert lines[0].startswith(f"tokenizer.from_run: run {alphabets[2]}: step 10 of 10, val/loss ")
