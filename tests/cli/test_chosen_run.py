"""`sample`, `eval` and `export` say on standard error which model they take, and nothing of it on standard output."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.train import session

Command = Callable[..., Any]
QUICK = ["callback=[]", "sample.num_samples=0", "checkpoint.keep_last=3"]


@pytest.fixture
def two_runs(run: RunFolder, tmp_path: Path) -> list[str]:
    """The ids of a good run and of a newer one of a few steps, in the folder of runs of this test."""
    shutil.copytree(run.path, tmp_path / "runs" / "tiny" / run.path.name)
    experiment = Experiment.load(run.experiment, ["train.steps=2", *QUICK])
    return [run.path.name, session.run(experiment).path.name]


def line_of(tmp_path: Path, run_id: str, rest: str) -> str:
    """A pattern; `rest` has "LOSS" for each loss."""
    path = tmp_path / "runs" / "tiny" / run_id
    return re.escape(f"run {path}: {rest}").replace("LOSS", r"\d\.\d{4}")


def test_each_verb_prints_the_run_that_it_takes(two_runs: list[str], tmp_path: Path, command: Command) -> None:
    good, newest = two_runs
    expected = {
        "tiny": line_of(tmp_path, newest, "step 2 of 2, val/loss LOSS (newest of 2; tiny@best: LOSS)"),
        "tiny@best": line_of(tmp_path, good, "step 200 of 200, val/loss LOSS (best of 2)"),
        "tiny@best@100": line_of(tmp_path, good, "step 100 of 200, val/loss LOSS (best of 2)"),
        f"{good}@100": line_of(tmp_path, good, "step 100 of 200, val/loss LOSS"),
        newest: line_of(tmp_path, newest, "step 2 of 2, val/loss LOSS"),
    }
    for index, (reference, pattern) in enumerate(expected.items()):
        for words in (
            ("sample", reference, "--prompt", "7", "--max-new-tokens", 3, "--json"),
            ("eval", reference, "--json"),
            ("export", reference, tmp_path / f"out{index}"),
        ):
            answer = command(*words)
            assert answer.code == 0, answer.err
            assert re.fullmatch(pattern, answer.err.splitlines()[0]), answer.err
            assert answer.err.count("run ") == 1
            assert "run /" not in answer.out
    step = command("eval", good, "--step", 100, "--json")
    assert json.loads(step.out)[good] == json.loads(command("eval", "tiny@best@100", "--json").out)["tiny@best@100"]


def test_several_runs_are_named_one_by_one(two_runs: list[str], tmp_path: Path, command: Command) -> None:
    answer = command("eval", *two_runs, "--json")
    assert list(json.loads(answer.out)) == two_runs
    assert [line.split(":")[0] for line in answer.err.splitlines()] == [
        f"run {tmp_path / 'runs' / 'tiny' / run_id}" for run_id in two_runs
    ]


def test_a_step_named_twice_is_refused(two_runs: list[str], command: Command) -> None:
    for verb in (["sample"], ["eval"], ["export"]):
        rest = ["folder"] if verb == ["export"] else []
        answer = command(*verb, "tiny@best@100", *rest, "--step", 200)
        assert (answer.code, answer.out) == (2, "")
        assert "'tiny@best@100' names step 100, and step 200 is requested, too; give one of them" in answer.err


@pytest.mark.parametrize("form", ["huggingface", "nanogpt", "safetensors"])
def test_an_export_is_named_with_its_format(run: RunFolder, tmp_path: Path, command: Command, form: str) -> None:
    assert command("export", run, tmp_path / "out", "--format", form).code == 0
    more = [] if form == "safetensors" else ["tokenizer=byte"]
    answer = command("sample", tmp_path / "out", "--prompt", "7", "--max-new-tokens", 3, "sampler=['greedy']", *more)
    assert answer.code == 0, answer.err
    assert answer.err.splitlines()[0] == f"model {tmp_path / 'out'}: format {form}"


def test_the_step_is_that_of_the_checkpoint_that_is_whole(
    run: RunFolder, tmp_path: Path, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path / "copy")
    shutil.copytree(run.path, folder.path)
    (folder.checkpoint(200) / "model.safetensors").write_bytes(b"")
    answer = command("sample", folder, "--prompt", "7", "--max-new-tokens", 3)
    assert answer.err.startswith(f"run {folder}: step 100 of 200, val/loss ")
    assert "skipped checkpoint" in caplog.text


def test_python_loads_what_the_verbs_take_and_prints_nothing(
    two_runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, newest = (RunFolder(tmp_path / "runs" / "tiny" / run_id) for run_id in two_runs)
    ask = {"prompts": ["7 times"], "max_new_tokens": 20}
    texts = [load_run(run).generate(**ask) for run in (good, newest)]
    assert texts[0] != texts[1]
    assert [load_run(name).generate(**ask) for name in ("tiny@best", "tiny")] == texts
    assert [load_run(run.path).generate(**ask) for run in (good, newest)] == texts
    assert load_run("tiny@best@100").generate(**ask) == load_run(good, step=100).generate(**ask)
    assert capsys.readouterr() == ("", "")
