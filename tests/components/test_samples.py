"""The `samples` evaluator in runs: what it writes, who hears of it, and that a kill leaves no trace."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs.find import find_run
from nanogpt_kit.runs.folder import RunFolder, runs_root
from nanogpt_kit.runs.samples import HEADER
from nanogpt_kit.train import session

pytestmark = pytest.mark.usefixtures("with_dropout")
SAMPLES = 'evaluator=["loss", {use="samples", prompts=["7 times", "9"], num_samples=2, max_new_tokens=40}]'


def parts(folder: RunFolder) -> list[tuple[int, list[str]]]:
    """The steps and their texts."""
    _, *found = HEADER.split(folder.samples.read_bytes().decode())
    return [
        (int(step), texts.removesuffix("\n").split(f"\n{'-' * 80}\n"))
        for step, texts in zip(found[::2], found[1::2], strict=True)
    ]


def test_samples_grow_at_each_evaluation_and_tensorboard_hears_them(tiny: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = ["callback=['tensorboard']", "sample.num_samples=0", "evaluate.every_steps=8", SAMPLES]
    folder = session.run(Experiment.load(tiny, options))
    found = parts(folder)
    assert [step for step, _ in found] == [8, 16, 20]
    for _, texts in found:
        assert [text[:7] == "7 times" or text[:1] == "9" for text in texts] == [True] * 4
        assert texts[0] != texts[1]
    assert len({texts[0] for _, texts in found}) > 1  # the same seed, another model
    told = EventAccumulator(str(folder.path), size_guidance={"tensors": 0})
    told.Reload()
    for number in range(4):
        heard = told.Tensors(f"sample/{number}/text_summary")
        assert [event.step for event in heard] == [8, 16, 20]
        shown = heard[-1].tensor_proto.string_val[0].decode()
        assert shown.splitlines()[0].strip() == found[-1][1][number].splitlines()[0].strip()


def test_samplers_of_its_own_take_the_place_of_the_experiments(tiny: Path) -> None:
    table = '{{use="samples", prompts=["7"], num_samples=2, max_new_tokens=9, sampler=[{}]}}'
    own = [table.format(chain) for chain in ('"greedy"', '{use="temperature", value=2.0}')]
    options = ["callback=[]", "sample.num_samples=0", "evaluate.every_steps=100", f"evaluator=[{', '.join(own)}]"]
    (_, (first, same)), (_, (one, other)) = parts(session.run(Experiment.load(tiny, options)))[-2:]
    assert first == same
    assert one != other


KILLER = """\
import os, signal
from nanogpt_kit.api import Callback, hookimpl

class Killer(Callback):
    hook: str
    at: int

    def build(self, run):
        return {"step_finished": Stepping, "sampled": Sampling, "run_finished": Finishing}[self.hook](self.at)

class Listener:
    def __init__(self, at):
        self.at = at

    def kill(self, step):
        if step == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

class Stepping(Listener):
    @hookimpl
    def step_finished(self, step):
        self.kill(step)

class Sampling(Listener):
    @hookimpl
    def sampled(self, step):
        self.kill(step)

class Finishing(Listener):
    @hookimpl
    def run_finished(self, run):
        self.kill(run.step)
"""


def killed_run(tiny: Path, hook: str, at: int, options: list[str]) -> RunFolder:
    (tiny.parent / "killer.py").write_text(KILLER, encoding="utf-8")
    killer = f'callback=[{{use="killer", hook="{hook}", at={at}}}]'
    words = [sys.executable, "-m", "nanogpt_kit", "run", str(tiny), 'components=["killer.py"]', killer, *options]
    died = subprocess.run(words, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    return find_run("tiny").folder


@pytest.mark.parametrize(
    ("hook", "at"),
    [
        pytest.param("step_finished", 13, marks=pytest.mark.slow),
        ("sampled", 10),  # after the checkpoint of step 5
        pytest.param("sampled", 20, marks=pytest.mark.slow),  # in the last evaluation, before the last checkpoint
        ("run_finished", 20),  # when all is written, but for the run's status
    ],
)
def test_a_killed_and_resumed_run_leaves_the_texts_of_one_that_never_stopped(tiny: Path, hook: str, at: int) -> None:
    options = [SAMPLES, "evaluate.every_steps=10", "checkpoint.every_steps=5"]
    killed = killed_run(tiny, hook, at, options)
    resumed = session.run(Experiment.load(tiny, ["callback=[]", *options]), resume="")
    assert resumed == killed
    whole = session.run(Experiment.load(tiny, ["callback=[]", "name=whole", *options]))
    assert resumed.samples.read_bytes() == whole.samples.read_bytes()
    assert [step for step, _ in parts(whole)] == [10, 20, 20]


def test_texts_of_steps_that_are_taken_again_are_forgotten(tiny: Path) -> None:
    killed = killed_run(tiny, "step_finished", 13, [SAMPLES, "evaluate.every_steps=4"])
    assert [step for step, _ in parts(killed)] == [4, 8, 12]
    session.run(Experiment.load(tiny, ["callback=[]", SAMPLES, "evaluate.every_steps=50"]), resume="")
    assert [step for step, _ in parts(killed)] == [4, 8, 20, 20]  # it went on from step 10


def test_a_prompt_outside_the_vocabulary_is_told_before_anything_is_trained(
    tiny: Path, command: Callable[..., Any]
) -> None:
    for prompts, told in (('["7", "Q"]', "the prompt 'Q' cannot be encoded: not in the vocab"), ('[""]', "is empty")):
        table = f'evaluator=["loss", {{use="samples", prompts={prompts}}}]'
        answer = command("run", tiny, "callback=[]", "tokenizer=char", table)
        assert answer.code == 2
        assert answer.err.startswith("error: command line: evaluator.1: evaluator samples: ")
        assert told in answer.err
        assert not runs_root().exists()


@pytest.mark.parametrize("kind", ["perplexity", "multiple_choice"])
def test_a_text_outside_the_vocabulary_is_told_before_anything_is_trained(
    tiny: Path, tmp_path: Path, command: Callable[..., Any], kind: str
) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text('{"prompt": "7", "choices": ["Q", "8"], "answer": 0, "text": "Q"}\n', encoding="utf-8")
    answer = command(
        "run", tiny, "callback=[]", "tokenizer=char", f'evaluator=["loss", {{use="{kind}", file="{file}"}}]'
    )
    assert answer.code == 2
    assert "evaluator.1: " in answer.err
    assert "not in the vocabulary" in answer.err
    assert not runs_root().exists()


def test_positions_that_cannot_go_on_are_told_at_once(tiny: Path, command: Callable[..., Any]) -> None:
    answer = command("check", tiny, "sample.on_overflow=rolling")
    assert answer.code == 2
    assert all(part in answer.err for part in ("sample.on_overflow: ", "auto, refill or exact", "'rolling'"))
    assert command("check", tiny, "sample.on_overflow=rolling", "model.position=rope").code == 0
