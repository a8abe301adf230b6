"""What TensorBoard's own reader finds in a run."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import read
from nanogpt_kit.train import session


def events(folder: RunFolder) -> EventAccumulator:
    found = EventAccumulator(str(folder.path / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    return found


def test_tensorboard_reads_curves_and_samples(tiny: Path) -> None:
    folder = session.run(Experiment.load(tiny, ["callback=['tensorboard']", "sample.num_samples=2"]))
    found = events(folder)
    scalars = set(found.Tags()["scalars"])
    assert scalars >= {"train/loss", "val/loss", "val/bits_per_byte", "optim/lr", "optim/grad_norm", "tokens"}
    assert "perf/tokens_per_second" in scalars
    for tag in ("train/loss", "val/loss"):
        written = [(event.step, event.value) for event in found.Scalars(tag)]
        assert written == [(line["step"], pytest.approx(line[tag])) for line in read(folder.metrics) if tag in line]
    text = found.Tensors("sample/1/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text.splitlines()[1].strip() in folder.samples.read_text(encoding="utf-8")
    assert "n_layer = 2" in found.Tensors("experiment/text_summary")[0].tensor_proto.string_val[0].decode()


def test_a_resumed_run_shows_each_step_once(tiny: Path) -> None:
    constant = ["callback=['tensorboard']", "schedule=constant", "sample.num_samples=0"]
    folder = session.run(Experiment.load(tiny, [*constant, "checkpoint.keep_last=9"]))
    (folder.checkpoints / "step-00000020" / "manifest.json").unlink()  # as if killed before it was whole
    folder.set_status("failed", step=17)
    session.run(Experiment.load(tiny, constant), resume="")
    assert [event.step for event in events(folder).Scalars("train/loss")] == list(range(1, 21))


def test_a_tracker_that_fails_is_dropped_and_the_run_goes_on(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from torch.utils.tensorboard import FileWriter

    def full(self: FileWriter, summary: object, step: int, *_: object) -> None:
        if step:  # there was room for what is written at the start
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(FileWriter, "add_summary", full)
    folder = session.run(Experiment.load(tiny, ["callback=['tensorboard']"]))
    assert folder.status()["state"] == "finished"
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 1
    assert "TensorBoard failed in logged and is dropped" in told[0]


def test_texts_of_an_evaluation_and_of_the_runs_end_keep_apart(tiny: Path) -> None:
    samples = "{use='samples', prompts=['7', '8'], max_new_tokens=3}"
    evaluators = f"evaluator=['loss', {samples}, {samples}]"
    folder = session.run(Experiment.load(tiny, ["callback=['tensorboard']", "evaluate.every_steps=10", evaluators]))
    told = {tag: len(events(folder).Tensors(tag)) for tag in events(folder).Tags()["tensors"] if "sample" in tag}
    assert told == {f"sample/{number}/text_summary": 2 if number < 4 else 1 for number in range(5)}
