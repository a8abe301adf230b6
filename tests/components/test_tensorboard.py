"""What TensorBoard's own reader finds in a run."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as PluginAccumulator
from tensorboard.summary.writer import event_file_writer

from nanogpt_kit.core.errors import KitError, RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import read_metrics
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
        assert written == [
            (line["step"], pytest.approx(line[tag])) for line in read_metrics(folder.metrics) if tag in line
        ]
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


STOPPING = """\
from nanogpt_kit.api import Callback, hookimpl

class Stopping(Callback):
    def build(self, run):
        return Hand()

class Hand:
    @hookimpl
    def step_finished(self, run, step):
        import os

        at, _, how = os.environ.get("STOP_AT", "0").partition(" ")
        if step == int(at) and how == "kill":
            raise SystemExit  # as a kill, it saves nothing
        if step == int(at):
            run.stop.signals.name = "SIGTERM"
"""


@pytest.fixture(autouse=True)
def numbered_from_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of one second and process are read in the order of their numbers' digits."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


def steps_by_tag(folder: RunFolder) -> dict[str, list[int]]:
    """As both of TensorBoard's readers find them; its page is drawn by the second."""
    found = events(folder)
    steps = {tag: [event.step for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    steps |= {tag: [event.step for event in found.Tensors(tag)] for tag in found.Tags()["tensors"]}
    page = PluginAccumulator(str(folder.path / "tensorboard"), tensor_size_guidance=dict.fromkeys(steps, 0))
    page.Reload()
    assert {tag: [event.step for event in page.Tensors(tag)] for tag in page.Tags()["tensors"]} == steps
    return steps


@pytest.mark.parametrize(
    "stops",
    [
        ["2 kill"],  # before the first checkpoint, at 4
        ["3 kill", "2 kill", "7 kill", "6 kill"],
        ["3 save", "7 kill", "5 save", "6 kill"],
        ["4 save", "6 kill"],
    ],
)
def test_a_run_that_was_stopped_shows_each_step_once(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, stops: list[str]
) -> None:
    (tiny.parent / "stopping.py").write_text(STOPPING, encoding="utf-8")
    evaluators = "evaluator=['loss', {use='samples', max_new_tokens=3}]"
    more = [
        "train.steps=9",
        "checkpoint.every_steps=4",
        "evaluate.every_steps=4",
        evaluators,
        "sample.max_new_tokens=3",
    ]
    more += ["components=['stopping.py']", "callback=['tensorboard', 'stopping']", "checkpoint.keep_last=9"]
    for number, stop in enumerate(stops):
        monkeypatch.setenv("STOP_AT", stop)
        with pytest.raises((KeyboardInterrupt, RunFailed)):
            session.run(Experiment.load(tiny, more), resume="" if number else None)
    monkeypatch.delenv("STOP_AT")
    folder = session.run(Experiment.load(tiny, more), resume="")
    found = steps_by_tag(folder)
    assert found.pop("experiment/text_summary") == [0]
    assert found.pop("sample/0/text_summary") == [4, 8, 9]
    assert found.pop("sample/1/text_summary") == [9]
    for tag, steps in found.items():
        assert steps == ([4, 8, 9] if tag.startswith("val/") else [*range(1, 10)]), tag
    assert [line["step"] for line in read_metrics(folder.metrics)] == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8, 9, 9]


def test_an_evaluation_that_was_repeated_is_shown_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal ends the evaluation of step 4, so that its checkpoint has none; a kill loses the one of the resumed."""
    (tiny.parent / "stopping.py").write_text(STOPPING, encoding="utf-8")
    (tiny.parent / "last.py").write_text(LAST, encoding="utf-8")
    more = ["train.steps=7", "evaluate.every_steps=4", "checkpoint.every_steps=4", "sample.max_new_tokens=3"]
    more += ["evaluator=['loss', {use='samples', max_new_tokens=3}, 'last']", "components=['stopping.py', 'last.py']"]
    more += ["callback=['tensorboard', 'stopping', 'early_stopping']"]
    monkeypatch.setenv("STOP_EVALUATION", "yes")
    with pytest.raises(KeyboardInterrupt):
        session.run(Experiment.load(tiny, more))
    monkeypatch.delenv("STOP_EVALUATION")
    monkeypatch.setenv("STOP_AT", "6 kill")
    with pytest.raises(RunFailed):
        session.run(Experiment.load(tiny, more), resume="")
    monkeypatch.delenv("STOP_AT")
    folder = session.run(Experiment.load(tiny, more), resume="")
    found = steps_by_tag(folder)
    assert (found["val/loss"], found["sample/0/text_summary"]) == ([4, 7], [4, 7])
    assert [line["step"] for line in read_metrics(folder.metrics) if "val/loss" in line] == [4, 7]
    assert folder.samples.read_text(encoding="utf-8").count("= step 4") == 1


def test_files_of_a_folder_that_is_a_link_are_left_alone(tiny: Path) -> None:
    more = ["callback=['tensorboard']", "schedule=constant", "train.steps=2", "sample.num_samples=0"]
    folder = session.run(Experiment.load(tiny, more))
    elsewhere = (folder.path / "tensorboard").rename(tiny.parent / "elsewhere")
    (folder.path / "tensorboard").symlink_to(elsewhere)
    before = {path.name: path.read_bytes() for path in elsewhere.iterdir()}
    with pytest.raises(KitError, match="tensorboard is a link"):
        session.run(Experiment.load(tiny, [*more, "train.steps=3"]), resume=str(folder))
    assert {path.name: path.read_bytes() for path in elsewhere.iterdir()} == before


@pytest.mark.parametrize("damage", ["torn", "flipped"])
def test_a_damaged_file_is_read_as_far_as_it_goes(tiny: Path, damage: str) -> None:
    more = ["callback=['tensorboard']", "schedule=constant", "sample.num_samples=0", "train.log_every_steps=1"]
    folder = session.run(Experiment.load(tiny, [*more, "train.steps=4"]))
    [path] = (folder.path / "tensorboard").iterdir()
    content = path.read_bytes()
    half = len(content) // 2
    flipped = content[:half] + bytes([content[half] ^ 0xFF]) + content[half + 1 :]
    path.write_bytes(content[:half] if damage == "torn" else flipped)
    session.run(Experiment.load(tiny, [*more, "train.steps=6"]), resume=str(folder))
    steps = [event.step for event in events(folder).Scalars("train/loss")]
    assert steps == sorted(set(steps))
    assert steps[-2:] == [5, 6]


LAST = """\
import os
from nanogpt_kit.api import Evaluator

class Last(Evaluator):
    def evaluate(self, ctx):
        if os.environ.get("STOP_EVALUATION"):
            os.kill(os.getpid(), 15)
        ctx.check_stop()
        return {}
"""


def test_a_writing_thread_that_fails_is_reported_once(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    write, hook = RecordWriter.write, threading.excepthook

    def full(self: RecordWriter, data: bytes) -> None:
        if b"train/loss" in data:
            raise OSError(28, "No space left on device")
        write(self, data)

    monkeypatch.setattr(RecordWriter, "write", full)
    folder = session.run(Experiment.load(tiny, ["callback=['tensorboard']", "train.steps=3", "sample.num_samples=0"]))
    assert folder.status().state == "finished"
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 1
    assert "TensorBoard failed in" in told[0]
    assert "No space left on device" in told[0]
    assert "Traceback" not in capfd.readouterr().err
    threading.excepthook = hook


def test_a_tracker_that_fails_is_dropped_and_the_run_goes_on(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from torch.utils.tensorboard import FileWriter

    def full(self: FileWriter, summary: object, step: int, *_: object) -> None:
        if step:  # there was room for what is written at the start
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(FileWriter, "add_summary", full)
    folder = session.run(Experiment.load(tiny, ["callback=['tensorboard']"]))
    assert folder.status().state == "finished"
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 1
    assert "TensorBoard failed in logged and is dropped" in told[0]


def test_texts_of_an_evaluation_and_of_the_runs_end_keep_apart(tiny: Path) -> None:
    samples = "{use='samples', prompts=['7', '8'], max_new_tokens=3}"
    evaluators = f"evaluator=['loss', {samples}, {samples}]"
    folder = session.run(Experiment.load(tiny, ["callback=['tensorboard']", "evaluate.every_steps=10", evaluators]))
    told = {tag: len(events(folder).Tensors(tag)) for tag in events(folder).Tags()["tensors"] if "sample" in tag}
    assert told == {f"sample/{number}/text_summary": 2 if number < 4 else 1 for number in range(5)}
