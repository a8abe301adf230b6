"""A run computes as it has recorded, on any machine; a new one as is fastest where its first rank is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file

from nanogpt_kit.checkpoint import store
from nanogpt_kit.components.norm.rmsnorm import RMSNorm
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.machine_choices import CALIBRATION, COMPILE_TASK, Candidate, MachineChoices, applied
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.nn import measured_choices
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.machine_choices import FILE_NAME
from nanogpt_kit.train import cores, machine, precision, session
from nanogpt_kit.train.precision import CPU_TASK, Precision, precision_tasks
from nanogpt_kit.train.world import World

pytestmark = pytest.mark.usefixtures("with_dropout")
Same = Callable[[Any, Any], None]
OPTIONS = (
    "schedule=constant",
    "model.dropout=0.0",  # windows are split
    "callback=[]",
    "checkpoint.every_steps=3",
    "train.precision=auto",
    "sample.num_samples=0",
)


def experiment(tiny: Path, *overrides: str) -> Experiment:
    return Experiment.load(tiny, [*OPTIONS, *overrides])


def recorded(folder: RunFolder) -> dict[str, str]:
    return cast(dict[str, str], json.loads((folder.path / FILE_NAME).read_text(encoding="utf-8"))["choices"])


def weights(folder: RunFolder) -> Mapping[str, torch.Tensor]:
    checkpoint = store.newest_whole_checkpoint(folder.checkpoints)
    assert checkpoint is not None
    return load_file(checkpoint / "model.safetensors")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The fastest candidate by task; other tasks are not measured here."""
    answers: dict[str, str] = {}

    def measure(tasks: list[Any], budget: float) -> dict[str, dict[str, float]]:
        of_task = {task.name: answers[task.name] for task in tasks if task.name in answers}
        return {
            task.name: {name: 1.0 if name == of_task[task.name] else 2.0 for name in task.candidates}
            for task in tasks
            if task.name in of_task
        }

    monkeypatch.delenv(CALIBRATION)
    monkeypatch.setattr(measured_choices, "measure", measure)
    monkeypatch.setattr(precision, "multiplies_bf16", lambda device: True)
    return answers


def test_a_resumed_run_computes_as_recorded_whatever_is_fastest_where_it_continues(
    tiny: Path, measured: dict[str, str], monkeypatch: pytest.MonkeyPatch, assert_same: Same
) -> None:
    measured[CPU_TASK] = "fp32"
    monkeypatch.setattr(cores, "MIN_SECONDS_PER_CHUNK", 1e-12)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    whole = session.run(experiment(tiny, "train.steps=6"))
    begun = session.run(experiment(tiny, "train.steps=3"))
    assert recorded(begun) == recorded(whole)
    assert recorded(begun)[CPU_TASK] == "fp32"
    assert "2 x 1, unsplit 2" in recorded(begun).values()
    # Another machine: of one core, with another calibration, or none
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setenv(CALIBRATION, "off")
    resumed = session.run(experiment(tiny, "train.steps=6"), resume=str(begun))
    assert_same(weights(resumed), weights(whole))
    assert recorded(resumed) == recorded(whole)


def test_a_run_without_a_record_continues_by_rules(
    tiny: Path, measured: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CALIBRATION, "off")
    begun = session.run(experiment(tiny, "train.steps=3"))
    (begun.path / FILE_NAME).unlink()
    monkeypatch.delenv(CALIBRATION)
    measured[CPU_TASK] = "fp32"
    resumed = session.run(experiment(tiny, "train.steps=6"), resume=str(begun))
    assert recorded(resumed)[CPU_TASK] == "bf16"


def test_a_run_that_ended_before_it_had_chosen_to_compile_does_as_its_study_has_chosen_meanwhile(
    tiny: Path, tmp_path: Path, measured: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured[CPU_TASK] = "fp32"
    begun = session.run(experiment(tiny, "train.steps=3", "train.compile=off"))
    study = tmp_path / "study.json"
    study.write_text(json.dumps({"choices": {CPU_TASK: "bf16", f"{COMPILE_TASK}1": "default"}}), encoding="utf-8")
    monkeypatch.setenv(CALIBRATION, str(study))

    def resumed(setting: str) -> Mapping[str, str]:
        continued = experiment(tiny, "train.steps=6", f"train.compile={setting}")
        return machine.choices_before_context(continued, begun, World()).choices

    before = recorded(begun)
    assert resumed("auto") == {**before, f"{COMPILE_TASK}1": "default"}
    assert resumed("off") == before
    chosen = {**before, f"{COMPILE_TASK}1": "off"}
    (begun.path / FILE_NAME).write_text(json.dumps({"format": 2, "choices": chosen}), encoding="utf-8")
    assert resumed("auto") == chosen


def test_a_branch_computes_as_the_run_that_it_comes_from(tiny: Path, measured: dict[str, str]) -> None:
    measured[CPU_TASK] = "fp32"
    begun = session.run(experiment(tiny, "train.steps=3"))
    measured[CPU_TASK] = "bf16"
    measured_choices.forget_calibration(measured_choices.current_conditions())
    branch = session.run(experiment(tiny, "train.steps=6"), resume=f"{begun}@3")
    assert branch != begun
    assert recorded(branch)[CPU_TASK] == "fp32"


def test_a_damaged_record_is_a_mistake(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = session.run(experiment(tiny, "train.steps=3"))
    (begun.path / FILE_NAME).write_text("{", encoding="utf-8")
    with pytest.raises(KitError, match=FILE_NAME):
        session.run(experiment(tiny, "train.steps=6"), resume=str(begun))


def test_the_experiment_overrides_what_is_measured(tiny: Path, measured: dict[str, str]) -> None:
    measured[CPU_TASK] = "fp32"
    run = session.run(experiment(tiny, "train.steps=1", "train.precision=bf16", "train.threads=1", "train.compile=off"))
    assert not any(task.startswith((CPU_TASK, "cores", "compile")) for task in recorded(run))
    assert run.provenance().machine.precision == "bf16"


def test_an_emulated_bf16_is_never_chosen_nor_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "multiplies_bf16", lambda device: False)
    assert precision_tasks("cpu") == []
    assert Precision.choose("auto", "cpu")[0].name == "fp32"


def test_a_native_bf16_that_is_slower_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "multiplies_bf16", lambda device: True)
    [task] = precision_tasks("cpu")
    assert task.rule == "bf16"
    assert {name: make()().dtype for name, make in task.candidates.items()} == {  # type: ignore[attr-defined]
        "bf16": torch.bfloat16,
        "fp32": torch.float32,
    }
    with applied(MachineChoices({CPU_TASK: "fp32"})):
        assert Precision.choose("auto", "cpu")[0].name == "fp32"
    assert Precision.choose("auto", "cpu")[0].name == "bf16"


def test_all_ranks_compute_as_the_first(tiny: Path, measured: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine of each has another fastest way."""
    sent: list[Any] = []

    class Ranks(World):
        def broadcast(self, value: Any) -> Any:
            if self.rank == 0:
                sent.append(value)
            return sent[-1]

    measured[CPU_TASK] = "fp32"
    first = machine.choices_before_context(experiment(tiny), None, Ranks(0, 2))
    measured_choices.forget_calibration(measured_choices.current_conditions())
    measured[CPU_TASK] = "bf16"
    second = machine.choices_before_context(experiment(tiny), None, Ranks(1, 2))
    assert first.choices == second.choices == {CPU_TASK: "fp32"}


def test_components_offer_tasks_that_are_measured_before_they_are_built(
    tiny: Path, measured: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def candidates(self: RMSNorm, ctx: RunContext) -> Mapping[str, Mapping[str, Candidate]]:
        assert ctx.machine.choices
        return {f"norm {ctx.precision}": {"plain": lambda: lambda: None, "fused": lambda: lambda: None}}

    asked: list[str] = []
    build = RMSNorm.build

    def build_chosen(self: RMSNorm, ctx: Any) -> Any:
        asked.append(ctx.machine.choice("norm fp32", "plain"))
        return build(self, ctx)

    monkeypatch.setattr(RMSNorm, "candidates", candidates)
    monkeypatch.setattr(RMSNorm, "build", build_chosen)
    measured |= {CPU_TASK: "fp32", "norm fp32": "fused"}
    run = session.run(experiment(tiny, "train.steps=1", "model.norm=rmsnorm"))
    assert set(asked[1:]) == {"fused"}  # the first is built to be checked, before anything is measured
    assert recorded(run)["norm fp32"] == "fused"


def test_a_study_measures_for_all_of_its_experiments(tiny: Path, measured: dict[str, str]) -> None:
    measured[CPU_TASK] = "fp32"
    first, second = experiment(tiny), experiment(tiny, "train.precision=bf16")
    assert machine.choices_of_study([second], nproc=1, threads=1) == {}
    assert machine.choices_of_study([second, first], nproc=1, threads=1) == {CPU_TASK: "fp32"}


def test_a_study_records_what_a_rule_chose_since_it_may_choose_otherwise_elsewhere(
    tiny: Path, measured: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert machine.choices_of_study([experiment(tiny)], nproc=1, threads=1) == {CPU_TASK: "bf16"}
    monkeypatch.setattr(precision, "multiplies_bf16", lambda device: False)
    assert machine.choices_of_study([experiment(tiny)], nproc=1, threads=1) == {CPU_TASK: "fp32"}


def test_a_study_keeps_the_choices_of_the_runs_that_it_reuses(tiny: Path, measured: dict[str, str]) -> None:
    measured[CPU_TASK] = "fp32"
    run = session.run(experiment(tiny, "train.steps=1"))
    measured_choices.forget_calibration(measured_choices.current_conditions())
    measured[CPU_TASK] = "bf16"
    found = machine.choices_of_study([experiment(tiny)], nproc=1, threads=1, finished=[run.path])
    assert found == recorded(run)


def test_recorded_threads_hold_on_a_machine_with_other_cores(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = RunContext(
        device="cpu",
        precision="fp32",
        world_size=1,
        splits=("train", "val"),
        block_size=16,
        machine=MachineChoices(),
    )
    one = experiment(tiny)
    here = cores.CoreAllocation.choose(one, ctx, 256)
    [task] = ctx.machine.used.keys() & {key for key in ctx.machine.used if key.startswith("cores")}
    there = replace(ctx, machine=MachineChoices({task: "2 x 3, unsplit 5"}))
    assert cores.CoreAllocation.choose(one, there, 256) == cores.CoreAllocation(2, 3, 5)
    ranks = replace(there, world_size=2)  # the record of one process
    assert cores.CoreAllocation.choose(one, ranks, 256) == cores.CoreAllocation.choose_here(one, ranks, 1)
    [task_of_two] = ranks.machine.used.keys() - {task}
    ranks = replace(ranks, machine=MachineChoices({task_of_two: "1 x 3, unsplit 3"}))
    assert cores.CoreAllocation.choose(one, ranks, 256) == cores.CoreAllocation(1, 3, 3)
    changed = experiment(tiny, "train.activation_checkpointing=true")  # may change, and then nothing is split
    assert cores.CoreAllocation.choose(changed, there, 256).chunks == 1
    asked = experiment(tiny, "train.threads=1")
    assert cores.CoreAllocation.choose(asked, there, 256) == cores.CoreAllocation(1, 1, 1)
    for damaged in ("0 x 1, unsplit 1", "many"):
        wrong = replace(ctx, machine=MachineChoices({task: damaged}))
        assert cores.CoreAllocation.choose(one, wrong, 256) == here
