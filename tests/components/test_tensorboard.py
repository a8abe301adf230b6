"""What TensorBoard's own reader finds in a run."""

from __future__ import annotations

import itertools
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as PluginAccumulator
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.plugins.hparams import api_pb2, metadata

from nanogpt_kit.components.callback import tensorboard_file
from nanogpt_kit.components.callback.tensorboard_file import EventFile
from nanogpt_kit.components.callback.tensorboard_summary import DESCRIPTIONS, chart_value, hparams_outcome, text_summary
from nanogpt_kit.core.errors import KitError, RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs.folder import RunFolder, runs_of_experiment, runs_root
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.train import session


def events(folder: RunFolder) -> EventAccumulator:
    found = EventAccumulator(str(folder.path), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    return found


def event_files(folder: RunFolder) -> list[Path]:
    return sorted(folder.path.glob("events.out.tfevents.*"))


def test_tensorboard_reads_curves_and_samples(tiny: Path) -> None:
    folder = session.run(Experiment.load(tiny, ["callback=['tensorboard']", "sample.num_samples=2"]))
    found = events(folder)
    assert sorted(found.Tags()["scalars"])[:3] == ["Loss/train", "Loss/val", "Loss/val_bits_per_byte"]
    assert set(found.Tags()["scalars"]) >= {"optim/lr", "optim/grad_norm", "tokens", "perf/tokens_per_second"}
    for tag, metric in {"Loss/train": "train/loss", "Loss/val_bits_per_byte": "val/bits_per_byte"}.items():
        written = [(event.step, event.value) for event in found.Scalars(tag)]
        assert written == [
            (line["step"], pytest.approx(line[metric])) for line in read_metrics(folder.metrics) if metric in line
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
    assert [event.step for event in events(folder).Scalars("Loss/train")] == list(range(1, 21))


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
    monkeypatch.setattr(tensorboard_file, "FILES", itertools.count())


def steps_by_tag(folder: RunFolder) -> dict[str, list[int]]:
    """As both of TensorBoard's readers find them; its page is drawn by the second."""
    found = events(folder)
    steps = {tag: [event.step for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    steps |= {tag: [event.step for event in found.Tensors(tag)] for tag in found.Tags()["tensors"]}
    assert {tag: len(steps[tag]) for tag in DESCRIPTIONS} == dict.fromkeys(DESCRIPTIONS, 1)
    page = PluginAccumulator(str(folder.path), tensor_size_guidance=dict.fromkeys(steps, 0))
    page.Reload()
    assert {tag: [event.step for event in page.Tensors(tag)] for tag in page.Tags()["tensors"]} == steps
    return {tag: steps[tag] for tag in steps if tag not in DESCRIPTIONS}


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
        assert steps == ([4, 8, 9] if tag.startswith("Loss/val") else [*range(1, 10)]), tag
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
    assert (found["Loss/val"], found["sample/0/text_summary"]) == ([4, 7], [4, 7])
    assert [line["step"] for line in read_metrics(folder.metrics) if "val/loss" in line] == [4, 7]
    assert folder.samples.read_text(encoding="utf-8").count("= step 4") == 1


def test_a_file_that_is_a_link_is_left_alone(tiny: Path) -> None:
    more = ["callback=['tensorboard']", "schedule=constant", "train.steps=2", "sample.num_samples=0"]
    folder = session.run(Experiment.load(tiny, more))
    [path] = event_files(folder)
    elsewhere = tiny.parent / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    with pytest.raises(KitError, match=f"{path.name} is a link"):
        session.run(Experiment.load(tiny, [*more, "train.steps=3"]), resume=str(folder))
    assert elsewhere.read_bytes() == before


def test_what_a_kill_leaves_of_a_rewritten_file_is_removed(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = ["callback=['tensorboard']", "schedule=constant", "train.steps=2", "sample.num_samples=0"]
    folder = session.run(Experiment.load(tiny, more))
    replace = Path.replace

    def stop(self: Path, target: Path) -> Path:
        if "tfevents" in target.name:
            raise OSError(5, "killed")
        return replace(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", stop)
        session.run(Experiment.load(tiny, [*more, "train.steps=3"]), resume=str(folder))
    [left] = folder.path.glob(".*")
    assert "tfevents" not in left.name, "TensorBoard would read it, and show its steps twice"
    session.run(Experiment.load(tiny, [*more, "train.steps=4"]), resume=str(folder))
    assert not list(folder.path.glob(".*"))


@pytest.mark.parametrize("damage", ["torn", "flipped"])
def test_a_damaged_file_is_read_as_far_as_it_goes(tiny: Path, damage: str) -> None:
    more = ["callback=['tensorboard']", "schedule=constant", "sample.num_samples=0", "train.log_every_steps=1"]
    folder = session.run(Experiment.load(tiny, [*more, "train.steps=4"]))
    [path] = event_files(folder)
    content = path.read_bytes()
    half = len(content) // 2
    flipped = content[:half] + bytes([content[half] ^ 0xFF]) + content[half + 1 :]
    path.write_bytes(content[:half] if damage == "torn" else flipped)
    session.run(Experiment.load(tiny, [*more, "train.steps=6"]), resume=str(folder))
    steps = [event.step for event in events(folder).Scalars("Loss/train")]
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


def test_a_tracker_that_fails_is_dropped_and_the_run_goes_on(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(self: EventFile, summary: object, step: int = 0) -> None:
        if step:  # there was room for what is written at the start
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(EventFile, "add_summary", full)
    folder = session.run(Experiment.load(tiny, ["callback=['tensorboard']"]))
    assert folder.status().state == "finished"
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 1
    assert "TensorBoard failed in logged and is dropped" in told[0]


def test_texts_and_descriptions_are_those_that_the_writers_of_torch_and_tensorboard_make() -> None:
    from torch.utils.tensorboard.summary import text

    ours, theirs = text_summary("sample/1", "a\n**b**").value[0], text("sample/1", "a\n**b**").value[0]
    assert (ours.tag, ours.tensor, ours.metadata.plugin_data.plugin_name) == (
        theirs.tag,
        theirs.tensor,
        theirs.metadata.plugin_data.plugin_name,
    )
    assert (layout_metadata.CONFIG_SUMMARY_TAG, metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG) == (
        DESCRIPTIONS
    )
    [session_end] = hparams_outcome(is_finished=True).value
    assert session_end.tensor == metadata.NULL_TENSOR
    assert metadata.parse_session_end_info_plugin_data(session_end.metadata.plugin_data.content).status == (
        api_pb2.STATUS_SUCCESS
    )


def test_texts_of_an_evaluation_and_of_the_runs_end_keep_apart(tiny: Path) -> None:
    samples = "{use='samples', prompts=['7', '8'], max_new_tokens=3}"
    evaluators = f"evaluator=['loss', {samples}, {samples}]"
    folder = session.run(Experiment.load(tiny, ["callback=['tensorboard']", "evaluate.every_steps=10", evaluators]))
    told = {tag: len(events(folder).Tensors(tag)) for tag in events(folder).Tags()["tensors"] if "sample" in tag}
    assert told == {f"sample/{number}/text_summary": 2 if number < 4 else 1 for number in range(5)}


@pytest.mark.parametrize(
    ("metric", "value", "expected"),
    [
        ("train/loss", 2.5, ("Loss/train", 2.5)),
        ("wiki/loss", 3.5, ("Loss/wiki", 3.5)),
        ("val/bits_per_byte", 1.5, ("Loss/val_bits_per_byte", 1.5)),
        ("memory/peak_bytes", 3_500_000_000, ("memory/peak_gb", 3.5)),
        ("hellaswag/accuracy", 0.25, ("hellaswag/accuracy", 0.25)),
        ("tokens", 128, ("tokens", 128)),
    ],
)
def test_losses_have_a_group_and_memory_is_in_gb(metric: str, value: float, expected: tuple[str, float]) -> None:
    assert chart_value(metric, value) == expected


QUICK = ("callback=['tensorboard']", "sample.num_samples=0", "train.steps=2", "evaluate.every_steps=2")


def test_the_losses_of_train_and_val_are_on_one_chart(tiny: Path) -> None:
    from tensorboard.plugins.custom_scalar import layout_pb2

    folder = session.run(Experiment.load(tiny, QUICK))
    found = events(folder)
    layout = layout_pb2.Layout.FromString(found.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    [category] = layout.category
    [chart] = category.chart
    scalars = found.Tags()["scalars"]
    lines = [[tag for tag in scalars if re.match(pattern, tag)] for pattern in chart.multiline.tag]
    assert (category.title, chart.title, lines) == ("Loss", "train and val", [["Loss/train"], ["Loss/val"]])


def hparams_page(folder: Path) -> tuple[Any, dict[str, Any]]:
    """What TensorBoard's page has of a folder of runs: the columns, and each run's session by the name of the run."""
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams import backend_context, list_session_groups

    multiplexer = EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(folder))
    context, request = backend_context.Context(TBContext(data_provider=provider)), RequestContext()
    columns = context.experiment_from_metadata(request, "", True, context.hparams_metadata(request, ""), {})
    every_status = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=[api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE, api_pb2.STATUS_UNKNOWN], slice_size=100
    )
    groups = list_session_groups.Handler(request, context, "", every_status).run().session_groups
    return columns, {group.name: group for group in groups}


def test_hparams_are_the_options_of_all_runs_with_the_losses_beside(tiny: Path) -> None:
    adamw = session.run(Experiment.load(tiny, [*QUICK, "optimizer.lr=2e-3"]))
    sgd = session.run(Experiment.load(tiny, [*QUICK, "optimizer={use='sgd', lr=0.5, momentum=0.8}"]))
    columns, groups = hparams_page(adamw.path.parents[1])
    assert set(groups) == {f"tiny/{adamw.path.name}", f"tiny/{sgd.path.name}"}
    infos = {info.name: info for info in columns.hparam_infos}
    numbers = ("optimizer.lr", "optimizer.momentum", "train.seed", "model.n_layer")
    assert {infos[name].type for name in numbers} == {api_pb2.DATA_TYPE_FLOAT64}
    assert infos["model.bias"].type == api_pb2.DATA_TYPE_BOOL
    texts = ("optimizer.use", "optimizer.betas", "evaluator.0.use", "model.norm.use")
    assert {infos[name].type for name in texts} == {api_pb2.DATA_TYPE_STRING}
    assert {name for name in infos if infos[name].differs} == {
        "optimizer.lr",
        "optimizer.use",
        "optimizer.weight_decay",
    }
    assert groups[f"tiny/{adamw.path.name}"].hparams["optimizer.betas"].string_value == "[0.9, 0.95]"
    assert not [name for name in infos if name.startswith(("callback", "sample", "checkpoint", "name"))]
    metrics = [info.name.tag for info in columns.metric_infos]
    assert metrics[:3] == ["Loss/train", "Loss/val", "Loss/val_bits_per_byte"]
    loss = groups[f"tiny/{sgd.path.name}"].metric_values[1].value
    assert loss == pytest.approx([line for line in read_metrics(sgd.metrics) if "val/loss" in line][-1]["val/loss"])


def outcome(folder: RunFolder) -> Any:
    _, groups = hparams_page(folder.path.parents[1])
    return groups[f"tiny/{folder.path.name}"].sessions[0].status


def test_hparams_have_the_newest_outcome_and_options_of_a_resumed_run(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tiny.parent / "stopping.py").write_text(STOPPING, encoding="utf-8")
    more = [*QUICK[1:], "schedule=constant", "components=['stopping.py']", "callback=['tensorboard', 'stopping']"]
    monkeypatch.setenv("STOP_AT", "1 save")
    with pytest.raises(KeyboardInterrupt):
        session.run(Experiment.load(tiny, more))
    folder = runs_of_experiment(runs_root() / "tiny")[-1]
    assert outcome(folder) == api_pb2.STATUS_FAILURE
    monkeypatch.delenv("STOP_AT")
    session.run(Experiment.load(tiny, [*more, "train.steps=3"]), resume="")
    _, groups = hparams_page(folder.path.parents[1])
    [group] = groups.values()
    assert group.hparams["train.steps"].number_value == 3
    assert outcome(folder) == api_pb2.STATUS_SUCCESS
