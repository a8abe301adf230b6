"""`run --json`: one object on standard output, whatever becomes of the run; and how a series of seeds ends."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.runs.find import find_run
from nanogpt_kit.runs.folder import runs_of_experiment, runs_root

Command = Callable[..., Any]
SHORT = ("train.steps=2", "callback=[]", "sample.num_samples=0", "evaluate.every_steps=1")
DIVERGING = """
from nanogpt_kit.api import Callback, hookimpl

class Watch:
    @hookimpl
    def step_finished(self, run, step):
        if run.experiment.train.seed == 12 and step == 2:
            run.model.wte.weight.data.fill_(float("nan"))

class Diverge(Callback):
    def build(self, run):
        return Watch()
"""


def test_the_result_of_a_run_is_one_object(tiny: Path, command: Command) -> None:
    answer = command("run", tiny, "train.steps=4", "train.seed=9", "--json")
    folder = find_run("tiny").folder
    result = json.loads(answer.out)
    assert (result["folder"], result["seed"], result["experiment"]) == (str(folder), 9, "tiny")
    assert (result["state"], result["ended_by"], result["step"], result["total_steps"]) == ("finished", "steps", 4, 4)
    assert (result["tokens"], result["resumed"], result["reused"]) == (4 * 80, False, False)
    last = json.loads(folder.metrics.read_text(encoding="utf-8").splitlines()[-1])
    assert result["metrics"] == {name: last[name] for name in ("val/loss", "val/bits_per_byte")}
    text = folder.samples.read_text(encoding="utf-8").partition("\n")[2]
    assert text.strip() in answer.err, "generated text is not part of the result"


def test_a_run_that_was_finished_before_is_reused(tiny: Path, command: Command, tmp_path: Path) -> None:
    into = tmp_path / "mine"
    first = json.loads(command("run", tiny, *SHORT, "--into", into, "--json").out)
    again = json.loads(command("run", tiny, *SHORT, "--into", into, "--json").out)
    named = json.loads(command("run", into, "--json").out)
    assert (first["resumed"], first["reused"]) == (False, False)
    assert again == named == first | {"resumed": True, "reused": True}


def test_a_resumed_run_says_so(tiny: Path, command: Command) -> None:
    assert command("run", tiny, *SHORT, "schedule=constant").code == 0
    find_run("tiny").folder.set_status("interrupted", step=2, total_steps=2)
    result = json.loads(
        command("run", tiny, "train.steps=3", *SHORT[1:], "schedule=constant", "--resume", "--json").out
    )
    assert (result["resumed"], result["reused"], result["step"]) == (True, False, 3)


def test_a_failed_run_is_an_object_with_its_cause(tiny: Path, command: Command) -> None:
    tiny.with_name("diverge.py").write_text(DIVERGING, encoding="utf-8")
    words = ("components=['diverge.py']", "callback=['diverge']", "train.seed=12", "--trust-code", "--json")
    answer = command("run", tiny, "train.steps=3", *words)
    result = json.loads(answer.out)
    assert (answer.code, result["state"], result["cause"]) == (1, "failed", "not_finite")
    assert result["folder"] == str(find_run("tiny").folder)
    assert result["reason"] in answer.err


def test_a_mistake_leaves_standard_output_empty(tiny: Path, command: Command) -> None:
    answer = command("run", tiny, "optimizer.lrr=1", "--json")
    assert (answer.code, answer.out) == (2, "")
    assert "optimizer.lrr" in answer.err


def test_what_a_component_prints_is_no_part_of_the_result(tiny: Path, command: Command) -> None:
    tiny.with_name("noisy.py").write_text(f"{DIVERGING}\nprint('{{ noise')\n", encoding="utf-8")
    answer = command("run", tiny, *SHORT, "components=['noisy.py']", "--trust-code", "--json")
    assert json.loads(answer.out)["state"] == "finished"
    assert "{ noise" in answer.err


def test_seeds_end_with_mean_spread_and_interval(tiny: Path, command: Command) -> None:
    answer = command("run", tiny, *SHORT, "train.seed=5", "--seeds", 3, "--json")
    result = json.loads(answer.out)
    assert [run["seed"] for run in result["runs"]] == [5, 6, 7]
    losses = {run["seed"]: run["metrics"]["val/loss"] for run in result["runs"]}
    summary = result["metrics"]["val/loss"]
    assert {point["seed"]: point["value"] for point in summary["values"]} == losses
    assert summary["mean"] == pytest.approx(sum(losses.values()) / 3)
    low, high = summary["interval"]
    assert low < summary["mean"] < high
    assert list(result["metrics"]) == ["val/loss", "val/bits_per_byte"]
    lines = answer.err.splitlines()
    assert f"val/loss: mean {summary['mean']:.4f}, standard deviation {summary['sd']:.3g}" in answer.err
    assert f"  seeds 5, 6, 7: {', '.join(f'{loss:.4f}' for loss in losses.values())}" in lines
    assert lines[-1] == f"compare: {result['compare']}"
    first = result["runs"][0]["folder"]  # the file has other seeds and another budget
    assert result["compare"] == shlex.join(["nanogpt-kit", "compare", first, "OTHER", "--seeds", "3"])
    words = result["compare"].replace("OTHER", "optimizer.lr=1e-2").split()[1:]
    estimate = json.loads(command(*words, "--preview", "--json").out)
    assert (estimate["seeds"], estimate["runs"], estimate["missing_runs"]) == ([5, 6, 7], 6, 3)


def test_a_change_is_compared_with_the_experiment_as_written(tiny: Path, command: Command) -> None:
    tiny.write_text(tiny.read_text(encoding="utf-8").replace("steps = 20", "steps = 1"), encoding="utf-8")
    words = ("model.n_layer=1", "note=two words")
    result = json.loads(command("run", tiny, *words, "--seeds", 1, "--json").out)
    change = shlex.join(words)  # which `compare` takes as one argument
    assert result["compare"] == shlex.join(["nanogpt-kit", "compare", str(tiny), change, "--seeds", "1"])


def test_an_experiment_as_written_is_compared_with_another_one(tiny: Path, command: Command) -> None:
    tiny.write_text(tiny.read_text(encoding="utf-8").replace("steps = 20", "steps = 1"), encoding="utf-8")
    result = json.loads(command("run", tiny, "--seeds", 1, "--json").out)
    assert result["compare"] == f"nanogpt-kit compare {tiny} OTHER --seeds 1"
    assert result["metrics"]["val/loss"]["interval"] is None


def test_seeds_that_were_finished_before_count(tiny: Path, command: Command) -> None:
    command("run", tiny, *SHORT, "train.seed=5", "--seeds", 2)
    answer = command("run", tiny, *SHORT, "train.seed=5", "--seeds", 3, "--resume", "--json")
    result = json.loads(answer.out)
    assert [run["reused"] for run in result["runs"]] == [True, True, False]
    assert result["metrics"]["val/loss"]["n"] == 3
    assert len(runs_of_experiment(runs_root() / "tiny")) == 3


def test_failed_seeds_are_named_and_the_others_count(tiny: Path, command: Command) -> None:
    tiny.with_name("diverge.py").write_text(DIVERGING, encoding="utf-8")
    words = ("components=['diverge.py']", "callback=['diverge']", "train.seed=11", "--seeds", 3, "--trust-code")
    words = ("evaluate.every_steps=1", *words)  # so that the failed run has metrics, too
    answer = command("run", tiny, "train.steps=3", *words, "--json")
    result = json.loads(answer.out)
    assert (answer.code, result["failed"]) == (1, [12])
    assert [run["state"] for run in result["runs"]] == ["finished", "failed", "finished"]
    assert [point["seed"] for point in result["metrics"]["val/loss"]["values"]] == [11, 13]
    assert "not finished: seed 12" in answer.err.splitlines()
    assert answer.err.splitlines()[-1].startswith("run failed: 1 of 3 runs, with seeds 12")


@pytest.mark.parametrize("seeds", [(), ("--seeds", "2")], ids=["one", "several"])
def test_processes_of_a_run_print_one_object(tiny: Path, seeds: tuple[str, ...]) -> None:
    words = [
        sys.executable,
        "-m",
        "nanogpt_kit",
        "run",
        str(tiny),
        *SHORT,
        "train.device=cpu",
        "--nproc",
        "2",
        "--json",
    ]
    done = subprocess.run([*words, *seeds], capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    runs = result["runs"] if seeds else [result]
    assert [run["state"] for run in runs] == ["finished"] * len(runs)
    assert {run["folder"] for run in runs} == set(map(str, runs_of_experiment(runs_root() / "tiny")))
