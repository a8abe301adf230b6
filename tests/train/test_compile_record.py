"""What compiling took and gained is remembered by graph; no record ends a run, or misleads it for long."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.machine_choices import MachineChoices, applied
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.train import compile as compiling
from nanogpt_kit.train import compile_record
from nanogpt_kit.train.compile import CompileChoice, Trial
from nanogpt_kit.train.compile_decision import Seconds, Work
from nanogpt_kit.train.compile_record import (
    CACHE_VARIABLE,
    CompileMemory,
    compiled_folder,
    known_graphs,
    use_compiled_folder,
)
from nanogpt_kit.train.world import World

CPU = RunContext(device="cpu", precision="bf16", world_size=1, splits=("train", "val"), block_size=16)
MEASURED = Seconds(cold=30, warm=3, eager=0.05, compiled=0.03)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(CACHE_VARIABLE, "")  # and not what another test has set
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setattr(compiling, "compiler_obstacle", lambda device: None)


@pytest.fixture
def memory(tiny: Path) -> CompileMemory:
    return CompileMemory(Experiment.load(tiny), "cpu", [2])


def trial_of(seconds: Callable[[], float], monkeypatch: pytest.MonkeyPatch) -> Trial:
    """One whose passes take as long as `seconds` says, without waiting for them."""
    clock = [0.0]

    def one_pass() -> None:
        clock[0] += seconds()

    monkeypatch.setattr(compiling.time, "perf_counter", lambda: clock[0])
    return Trial(nn.Linear(2, 2), one_pass, "cpu", seed=1)


def choose(work: Work, memory: CompileMemory, trial: Trial) -> CompileChoice:
    with applied(MachineChoices()):
        return CompileChoice.choose("auto", CPU, work, memory, World(), trial)


def test_a_known_graph_is_compiled_where_an_unknown_one_is_not(
    memory: CompileMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = trial_of(lambda: 0.05, monkeypatch)
    assert choose(Work(1000), memory, trial).mode == "off"
    memory.write(MEASURED)
    assert memory.read() == MEASURED
    assert choose(Work(1000), memory, trial).mode == "default"
    assert choose(Work(100), memory, trial).mode == "off"


def test_what_is_measured_replaces_a_record_that_lies(memory: CompileMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.write(Seconds(warm=0.1, eager=50.0, compiled=0.001))  # too good
    speed = [0.05]
    trial = trial_of(lambda: speed[0], monkeypatch)
    choice = choose(Work(1000), memory, trial)
    assert (choice.mode, choice.eager) == ("default", pytest.approx(0.05))
    speed[0] = 0.06  # compiled
    monkeypatch.setattr(compiling, "eager_mode", lambda model: setting(speed, 0.05))
    result = choice.warm_up(trial, World())
    assert result.mode == "off"
    assert "0.060 s" in result.why
    known = memory.read()
    assert (known.eager, known.compiled) == (pytest.approx(0.05), pytest.approx(0.06))
    assert choose(Work(10**6), memory, trial).mode == "off"


def test_a_gain_and_a_cost_that_were_measured_are_remembered(
    memory: CompileMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    speed = [0.05]
    trial = trial_of(lambda: speed[0], monkeypatch)
    choice = choose(Work(10**6), memory, trial)
    speed[0] = 0.03
    misses = iter([0, 2])
    monkeypatch.setattr(compiling, "cache_misses", lambda: next(misses))
    assert choice.warm_up(trial, World()).mode == "default"
    known = memory.read()
    assert known.cold == pytest.approx(0.03)  # one pass, as nothing is compiled here
    assert known.warm is None
    assert (known.eager, known.compiled) == (pytest.approx(0.05), pytest.approx(0.03))
    monkeypatch.setattr(compiling, "cache_misses", lambda: 2)
    choose(Work(10**6), memory, trial).warm_up(trial, World())
    assert memory.read().warm == pytest.approx(0.03)
    (record,) = known_graphs()
    assert record.seconds == memory.read()


def test_a_recorded_mode_holds_and_times_nothing(memory: CompileMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.write(MEASURED)
    trial = trial_of(lambda: pytest.fail("it times passes"), monkeypatch)
    for mode in ("off", "default"):
        with applied(MachineChoices({memory.task: mode})):
            choice = CompileChoice.choose("auto", CPU, Work(10**6), memory, World(), trial)
            assert (choice.mode, choice.eager) == (mode, None)
            assert MachineChoices.current().used == {memory.task: mode}


def test_the_mode_becomes_a_choice_of_the_run_once_it_is_known_to_work(
    memory: CompileMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is killed while it compiles chooses again; nothing was trained yet."""
    speed = [0.05]
    trial = trial_of(lambda: speed[0], monkeypatch)
    for compiled, mode in ((0.03, "default"), (0.06, "off")):
        speed[0] = 0.05
        with applied(MachineChoices()):
            choice = CompileChoice.choose("auto", CPU, Work(10**6), memory, World(), trial)
            assert (choice.mode, MachineChoices.current().used) == ("default", {})
            speed[0] = compiled
            monkeypatch.setattr(compiling, "eager_mode", lambda model: setting(speed, 0.05))
            assert choice.warm_up(trial, World()).mode == mode
            assert MachineChoices.current().used == {memory.task: mode}


def test_a_failure_becomes_a_choice_of_the_run(memory: CompileMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = trial_of(lambda: 0.05, monkeypatch)
    with applied(MachineChoices()):
        choice = CompileChoice.choose("auto", CPU, Work(10**6), memory, World(), trial)
        broken = Trial(trial.model, lambda: exec("raise RuntimeError('no such instruction')"), "cpu", 1)
        assert choice.warm_up(broken, World()).why == "compiling failed: no such instruction"
        assert MachineChoices.current().used == {memory.task: "off"}
    assert memory.read() == Seconds()


def test_a_run_begun_without_a_compiler_stays_uncompiled(
    memory: CompileMemory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trial = trial_of(lambda: 0.05, monkeypatch)
    monkeypatch.setattr(compiling, "compiler_obstacle", lambda device: "no C++ compiler")
    with applied(MachineChoices()):
        assert CompileChoice.choose("auto", CPU, Work(10**6), memory, World(), trial).mode == "off"
        assert MachineChoices.current().used == {memory.task: "off"}
    assert not caplog.messages
    with applied(MachineChoices({memory.task: "default"})):  # begun elsewhere, where it was compiled
        assert CompileChoice.choose("auto", CPU, Work(10**6), memory, World(), trial).mode == "off"
        assert MachineChoices.current().used == {}
    assert caplog.messages == ["the run continues uncompiled: no C++ compiler"]


def test_load_that_began_while_it_compiled_is_no_loss(memory: CompileMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kinds of passes are slower then, so those without compiling are timed again."""
    speed = [0.05]
    trial = trial_of(lambda: speed[0], monkeypatch)
    choice = choose(Work(10**6), memory, trial)
    speed[0] = 0.06
    monkeypatch.setattr(compiling, "eager_mode", lambda model: setting(speed, 0.1))
    assert choice.warm_up(trial, World()).mode == "default"
    assert (memory.read().eager, memory.read().compiled) == (pytest.approx(0.1), pytest.approx(0.06))


@contextmanager
def setting(speed: list[float], seconds: float) -> Iterator[None]:
    before, speed[0] = speed[0], seconds
    yield
    speed[0] = before


def test_a_run_too_short_to_gain_times_no_pass(memory: CompileMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = trial_of(lambda: pytest.fail("it times passes"), monkeypatch)
    assert choose(Work(9), memory, trial).mode == "off"


def test_trial_passes_change_no_buffer_and_no_random_number() -> None:
    norm = nn.BatchNorm1d(3)

    def one_pass() -> None:
        norm(torch.randn(5, 3))

    before, state = norm.running_mean.clone(), torch.get_rng_state()  # type: ignore[union-attr]
    Trial(norm, one_pass, "cpu", 1).seconds(World())
    assert torch.equal(norm.running_mean, before)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"format": 99}', '{"format": 2, "graph": "x", "warm_seconds": -1}']
)
def test_a_damaged_or_foreign_record_is_as_none(memory: CompileMemory, content: str) -> None:
    memory.write(MEASURED)
    assert memory.path is not None
    memory.path.write_text(content, encoding="utf-8")
    assert memory.read() == Seconds()
    assert known_graphs() == []
    memory.write(MEASURED)
    assert memory.read() == MEASURED


def test_other_code_of_a_component_and_another_shape_have_other_records(tiny: Path) -> None:
    local = tiny.parent / "twice.py"
    paths = set()
    for factor in (2, 3):
        local.write_text(LOCAL.format(factor=factor), encoding="utf-8")
        experiment = Experiment.load(tiny, ["components=['twice.py']", "model.mlp=twice"])
        paths |= {CompileMemory(experiment, "cpu", [size]).path for size in (1, 2)}
    assert len(paths) == 4


LOCAL = """\
from torch import nn

from nanogpt_kit.api import MLP


class Twice(MLP):
    def build(self, ctx):
        return Times()


class Times(nn.Module):
    def forward(self, x):
        return {factor} * x
"""


def test_without_a_folder_nothing_is_known_and_nothing_fails(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tiny.parent / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    use_compiled_folder()
    assert CACHE_VARIABLE not in os.environ  # torch's own
    memory = CompileMemory(Experiment.load(tiny), "cpu", [])
    memory.write(MEASURED)
    with memory.lock():
        assert not memory.is_locked()
    assert memory.read() == Seconds()


def test_of_a_folder_that_cannot_be_written_nothing_is_known(tiny: Path) -> None:
    """Torch compiles into another one, which may lack the graph."""
    memory = CompileMemory(Experiment.load(tiny), "cpu", [])
    memory.write(MEASURED)
    assert memory.read() == MEASURED
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.access", lambda path, mode: False)
        assert CompileMemory(Experiment.load(tiny), "cpu", []).read() == Seconds()


def test_the_shortest_time_with_a_warm_cache_is_kept(memory: CompileMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    choice = CompileChoice("default", "", memory=memory)
    monkeypatch.setattr(compiling, "cache_misses", lambda: 0)
    for seconds in (0.0, 0.2, 0.1):
        replace(choice, import_seconds=seconds).warm_up(Trial(nn.Linear(2, 2), lambda: None, "cpu", 1), World())
    assert (memory.read().warm or 1) < 0.1


def test_the_cache_of_the_compiler_is_in_the_users_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_compiled_folder()
    assert Path(os.environ[CACHE_VARIABLE]).parent == tmp_path / "cache" / "nanogpt-kit" / "compiled"
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "mine"))
    use_compiled_folder()
    assert compiled_folder().parent == tmp_path / "mine"
    assert os.environ[CACHE_VARIABLE] == str(compiled_folder())  # a process that inherits it has the same


def test_code_is_never_loaded_where_another_cpu_or_instruction_set_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {compiled_folder()}
    for capability in ("AVX2", "DEFAULT"):
        monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda named=capability: named)
        folders.add(compiled_folder())
    monkeypatch.setattr(compile_record, "cpu_name", lambda: "another one")
    assert len(folders | {compiled_folder()}) == len(folders) + 1 >= 3


def test_of_two_runs_that_start_at_once_one_compiles_and_the_other_finds_it(
    memory: CompileMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, may_end = threading.Event(), threading.Event()
    order: list[str] = []

    def first_pass() -> None:
        began.set()
        may_end.wait(20)
        order.append("first")

    choice = CompileChoice("default", "", memory=memory)
    monkeypatch.setattr(compiling, "cache_misses", iter([0, 1, 1, 1]).__next__)
    first = threading.Thread(target=lambda: choice.warm_up(Trial(nn.Linear(2, 2), first_pass, "cpu", 1), World()))
    first.start()
    assert began.wait(20)
    assert memory.is_locked()
    second = threading.Thread(
        target=lambda: choice.warm_up(Trial(nn.Linear(2, 2), lambda: order.append("second"), "cpu", 1), World())
    )
    second.start()
    second.join(0.3)
    assert order == []
    may_end.set()
    for thread in (first, second):
        thread.join(20)
    assert order == ["first", "second"]
    known = memory.read()
    assert known.cold is not None
    assert known.warm is None, "it imported the compiler beside the other one"
    assert memory.path is not None
    assert json.loads(memory.path.read_text())["format"] == 2


def test_a_graph_that_is_trained_again_and_again_is_compiled_once_that_would_have_paid(
    memory: CompileMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[float] = []

    def seconds() -> float:
        timed.append(0.05)
        return timed[-1]

    trial = trial_of(seconds, monkeypatch)
    modes = [choose(Work(400), memory, trial).mode for _ in range(3)]  # each would save 2 s of 7 that compiling costs
    assert modes == ["off"] * 3
    assert len(timed) == 1  # what is known is not timed again while compiling does not pay
    while "default" not in modes:
        modes.append(choose(Work(400), memory, trial).mode)
        assert len(modes) < 9
    broken = Trial(trial.model, lambda: exec("raise RuntimeError('no such instruction')"), "cpu", 1)
    with applied(MachineChoices()):
        CompileChoice("default", "", memory=memory).warm_up(broken, World())
    assert choose(Work(400), memory, trial).mode == "off"


def test_runs_that_do_as_the_first_of_their_study_count_among_those_that_made_passes_uncompiled(
    memory: CompileMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = trial_of(lambda: 0.05, monkeypatch)
    first = choose(Work(100, runs_to_come=3), memory, trial)
    with applied(MachineChoices({memory.task: first.mode})):
        assert CompileChoice.choose("auto", CPU, Work(100), memory, World(), trial).mode == "off"
    assert memory.read().passes == 400


def test_what_two_runs_have_measured_is_not_timed_again(memory: CompileMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.write(MEASURED)
    trial = trial_of(lambda: pytest.fail("it times passes"), monkeypatch)
    choice = choose(Work(1000), memory, trial)
    assert (choice.mode, choice.eager) == ("default", None)
