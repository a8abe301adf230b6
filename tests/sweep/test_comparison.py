"""Whole comparisons, each run a process: what is run, what is answered, and what continues after a kill."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.comparison.record import Comparison
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.sweep import preview
from nanogpt_kit.sweep.comparison import run_comparison
from nanogpt_kit.sweep.comparison_preview import ComparisonEstimate, estimate_comparison, estimate_lines
from tests.sweep.comparison_command import question_of
from tests.sweep.conftest import PLANTED
from tests.sweep.test_sweep import wait_for

SCRIPT = Path(__file__).with_name("comparison_command.py")
SWIGLU = "model.mlp=swiglu"


class Compared:
    """An experiment, and a comparison of it with changes of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs = path.parent / "runs"

    def start(self, **options: Any) -> subprocess.Popen[str]:
        words = [sys.executable, str(SCRIPT), str(self.path), json.dumps(options)]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(words, env=dict(os.environ), **pipes)

    def run(self, code: int = 0, **options: Any) -> Any:
        """The comparison, or what it says where it fails."""
        process = self.start(**options)
        out, err = process.communicate(timeout=240)
        assert process.returncode == code, out + err
        return err if code else Comparison.model_validate_json(out)

    @property
    def folder(self) -> Path:
        [found] = (self.runs / "tiny" / "compare").iterdir()
        return found

    def run_names(self) -> list[str]:
        return sorted(path.parent.name for path in self.folder.glob("*/experiment.toml"))

    def begun(self) -> list[Path]:
        """The folders of its runs, also before it has one itself."""
        return [path.parent for path in self.runs.glob("tiny/compare/*/*/experiment.toml")]

    def processes(self) -> list[int]:
        """Those of its runs, wherever they were started from: they print into its folder."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(path / "fd" / "1").startswith(str(self.runs)):
                    found.append(int(path.name))
            except OSError:
                continue
        return found

    def kill_runs(self) -> None:
        for process in self.processes():
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def wait_without_processes(self) -> None:
        deadline = time.monotonic() + 3
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not self.processes(), "stray processes"

    def starts(self) -> dict[str, int]:
        """How often each run began or continued."""
        logs = {path.stem: path.read_text() for path in (self.folder / "trials").glob("*.log")}
        return {name: text.count("compile off: ") for name, text in logs.items()}


@pytest.fixture
def compared(tmp_path: Path, tiny: Path) -> Compared:
    text = tiny.read_text(encoding="utf-8").replace("steps = 20", 'steps = 6\ncompile = "off"\nthreads = 1')
    text = text.replace("every_steps = 10", "every_steps = 3")
    tiny.write_text("callback = []\n" + text, encoding="utf-8")
    return Compared(tiny)


def test_each_arm_runs_with_each_seed_once_and_more_seeds_run_only_the_new_ones(compared: Compared) -> None:
    first = compared.run(changes=[SWIGLU], seeds=[3])
    assert compared.run_names() == ["base-s3", "model.mlp=swiglu-s3"]
    found = compared.run(changes=[SWIGLU], seeds=[3, 4])
    names = ["base-s3", "base-s4", "model.mlp=swiglu-s3", "model.mlp=swiglu-s4"]
    assert compared.run_names() == names
    assert [(one.arm, one.seed, one.is_reused, one.state) for one in found.measurements] == [
        (arm, seed, False, "finished") for arm in (0, 1) for seed in (3, 4)
    ]
    assert set(first.measurements) < set(found.measurements)
    assert compared.run(changes=[SWIGLU], seeds=[3, 4]).measurements == found.measurements
    assert compared.run(changes=[SWIGLU], seeds=[4]).results[0].seeds == (4,)
    assert compared.starts() == dict.fromkeys(names, 1)
    runs = sorted((RunFolder(compared.folder / name) for name in names), key=lambda run: run.status().time)
    assert [run.path.name.rpartition("-s")[2] for run in runs] == ["3", "3", "4", "4"]


def test_arms_of_one_configuration_and_finished_runs_cost_nothing(
    compared: Compared, command: Callable[..., Any]
) -> None:
    assert command("run", compared.path, "train.seed=3").code == 0
    assert command("run", compared.path, "train.seed=4", SWIGLU).code == 0
    found = compared.run(changes=["", SWIGLU], seeds=[3, 4])
    assert compared.run_names() == ["base-s4", "model.mlp=swiglu-s3"]
    assert [one.is_reused for one in found.measurements] == [True, False, True, False, False, True]
    base, same, _ = ([one.value for one in found.measurements if one.arm == arm] for arm in range(3))
    assert base == same
    assert found.results[0].difference == 0
    assert found.results[0].verdict == "undecided"


def test_an_identical_contender_of_a_finished_experiment_starts_no_process(
    compared: Compared, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (3, 4):
        assert command("run", compared.path, f"train.seed={seed}").code == 0
    monkeypatch.setattr("nanogpt_kit.sweep.comparison.hold_slots", None)  # without which nothing starts
    found = run_comparison(question_of(str(compared.path), [""]), [3, 4])
    assert found.seconds == 0
    assert found.seconds_reused > 0
    assert not (compared.folder / "study.journal").exists()


# Again


def test_again_runs_everything_anew_and_what_was_killed_continues(compared: Compared) -> None:
    words: dict[str, Any] = {"changes": [SWIGLU], "seeds": [3]}
    compared.run(**words)
    process = compared.start(again=True, **words)
    wait_for(lambda: len(compared.run_names()) == 4, process)
    process.kill()
    process.communicate()
    compared.kill_runs()
    found = compared.run(again=True, **words)
    names = ["base-s3", "model.mlp=swiglu-s3"]
    assert compared.run_names() == sorted([*names, *(f"{name}-2" for name in names)])
    assert compared.starts()["base-s3-2"] == 1, "it had finished before the kill"
    assert [Path(one.run).name for one in found.measurements] == [f"{name}-2" for name in names]
    assert not any(one.is_reused for one in found.measurements)
    assert compared.run(**words).measurements == found.measurements, "the newest runs answer"
    assert len(compared.run_names()) == 4


# What fails


def test_an_arm_that_diverges_or_fails_ends_no_other_run(compared: Compared) -> None:
    planted(compared)
    words: dict[str, Any] = {"changes": [f"evaluator.0.trouble={how}" for how in ("no_number", "crash")], "seeds": [3]}
    found = compared.run(**words)
    assert [(one.state, one.cause) for one in found.measurements] == [
        ("finished", None),
        ("failed", "not_finite"),
        ("failed", "error"),
    ]
    assert [one.value is None for one in found.measurements] == [False, True, True]
    assert "a bug, in evaluation 1" in found.measurements[2].reason
    starts = compared.starts()
    assert compared.run(**words).measurements == found.measurements, "a failure is a measurement"
    assert compared.starts() == starts == {"base-s3": 1, f"{words['changes'][0]}-s3": 1, f"{words['changes'][1]}-s3": 2}


def planted(compared: Compared) -> None:
    """Its evaluator fails as an option says."""
    compared.path.with_name("planted.py").write_text(PLANTED, encoding="utf-8")
    head = 'components = ["planted.py"]\nevaluator = [{ use = "planted", trouble = "none" }, "loss"]\n'
    compared.path.write_text(head + compared.path.read_text(), encoding="utf-8")


# Kills


def test_a_comparison_that_was_stopped_says_what_continues_it(compared: Compared) -> None:
    process = compared.start(changes=[SWIGLU], seeds=[3, 4])
    wait_for(lambda: bool(compared.processes()), process)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert f"the comparison is saved in {compared.folder}" in told
    assert "continue with: python comparison_command.py" in told
    assert not (compared.folder / "comparison.json").exists()
    compared.wait_without_processes()


def test_a_comparison_that_is_killed_runs_each_cell_once(compared: Compared) -> None:
    kill_and_continue(compared, random.Random(1), kills=4, seeds=[3, 4])


@pytest.mark.slow
@pytest.mark.usefixtures("real_processes")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_comparison_that_is_killed_at_ten_moments_runs_each_cell_once(compared: Compared, workers: int) -> None:
    longer = (
        compared.path.read_text().replace("steps = 6", "steps = 600").replace("every_steps = 3", "every_steps = 50")
    )
    compared.path.write_text(longer)
    kill_and_continue(compared, random.Random(workers), kills=10, seeds=[3, 4, 5, 6], workers=workers, longest=5.0)


def kill_and_continue(
    compared: Compared, dice: random.Random, kills: int, seeds: list[int], longest: float = 0.6, **options: Any
) -> None:
    """Each kill is at a random moment after one run more has begun, so that a busy machine is killed as far on."""
    words: dict[str, Any] = {"changes": [SWIGLU, ""], "seeds": seeds, **options}
    done = 0
    for count in range(1, kills + 1):
        process = compared.start(**words)
        while process.poll() is None and len(compared.begun()) < min(count, 2 * len(seeds)):
            time.sleep(0.02)
        time.sleep(dice.uniform(0, longest))
        if process.poll() is not None:
            told = process.communicate()
            assert process.returncode == 0, told
            break
        victims = dice.choice(["controller", "both", "runs first"])
        if victims != "controller":
            compared.kill_runs()
        if victims == "runs first":
            time.sleep(dice.uniform(0, 0.5))
        process.kill()
        process.communicate()
        done += 1
    assert done > kills / 2, "it was so quick that it was hardly killed"
    finished = finished_at(compared)
    found = compared.run(**words)
    compared.wait_without_processes()
    names = [f"{arm}-s{seed}" for arm in ("base", SWIGLU) for seed in seeds]
    assert compared.run_names() == sorted(names)
    assert [Path(one.run).name for one in found.measurements] == [*names, *names[: len(seeds)]]
    assert {one.state for one in found.measurements} == {"finished"}
    now = finished_at(compared)
    assert {name: now[name] for name in finished} == finished, "a run that had finished was not touched"


def finished_at(compared: Compared) -> dict[str, float]:
    statuses = {path.name: RunFolder(path).status() for path in compared.begun()}
    return {name: status.time for name, status in statuses.items() if status.state == "finished"}


def test_two_controllers_share_a_comparison(compared: Compared) -> None:
    both = [compared.start(changes=[SWIGLU], seeds=[3, 4]) for _ in range(2)]
    told = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert set(compared.starts().values()) == {1}
    assert len(compared.run_names()) == 4
    first, second = (Comparison.model_validate_json(out) for out, _ in told)
    assert first.measurements == second.measurements
    assert len(json.loads((compared.folder / "comparison.json").read_text())["looks"]) == 1


def test_machines_that_share_a_storage_judge_the_runs_of_both(
    compared: Compared, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words: dict[str, Any] = {"changes": [SWIGLU], "seeds": [3], "storage": str(tmp_path / "shared.journal")}
    here = compared.run(**words)
    compared.runs.rename(tmp_path / "elsewhere")  # a folder that the other machine does not have
    monkeypatch.setenv("NANOGPT_KIT_RUNS", str(tmp_path / "there" / "runs"))
    there = compared.run(**words)
    assert [one.value for one in there.measurements] == [one.value for one in here.measurements]
    assert (there.yardstick, there.results, there.notes) == (here.yardstick, here.results, here.notes)
    folder = tmp_path / "there" / "runs" / "tiny" / "compare" / here.id
    assert not list(folder.glob("*-s*")), "nothing was run"
    assert all(Path(one.run).is_relative_to(folder / "trials") for one in there.measurements)


# What is checked and estimated before


def test_faults_of_the_machine_and_of_arms_are_told_together_before_anything_is_written(compared: Compared) -> None:
    told = compared.run(
        code=2, changes=["model.attention=flex"], seeds=[3], workers=4000, storage="mongodb://x/y", nproc=1
    )
    for key, words in {"line: --workers": "too many", "line: --storage": "mongodb", "model.attention": "flex"}.items():
        assert any(key in line and words in line for line in told.splitlines()), told
    assert "sweep." not in told
    assert not compared.runs.exists()


def test_an_estimate_counts_what_is_missing(
    compared: Compared, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    speed = preview.RunSpeed(1000.0, "measured", None)
    monkeypatch.setattr("nanogpt_kit.sweep.comparison_preview.estimate_speed", lambda *_: speed)
    question = question_of(str(compared.path), [SWIGLU, ""])
    load = partial(Experiment.load, compared.path)
    estimate = estimate_comparison(question, [3, 4], load)
    assert (estimate.runs, estimate.missing_runs, estimate.tokens) == (4, 4, 4 * 6 * 80)
    assert "for 4 runs to start" in estimate_lines(estimate)[-1]
    assert command("run", compared.path, "train.seed=3").code == 0
    assert estimate_comparison(question, [3, 4], load).missing_runs == 3
    alone = question_of(str(compared.path), [""])
    assert estimate_comparison(alone, [3], load) == ComparisonEstimate(1, 0, 0, 0.0, "")
    assert estimate_comparison(alone, [3], load, again=True).missing_runs == 1
    assert not list(compared.runs.glob("tiny/compare/*/*")), "nothing was started"
