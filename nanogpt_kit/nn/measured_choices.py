"""The choices for tasks: from memory, from the cache of this machine, or measured now."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.machine_choices import CALIBRATION, MachineChoices, Task
from nanogpt_kit.nn.calibration import fastest, measure
from nanogpt_kit.system.folders import cache_dir
from nanogpt_kit.system.json_files import read_json, write_json
from nanogpt_kit.system.reading import read_text

logger = logging.getLogger(__name__)

BUDGET_SECONDS = 2.0  # of one process, all its measuring together
spent = 0.0  # seconds that this process has measured


class Conditions(BaseModel):
    """What figures depend on, besides the task."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    cpu: str
    capability: str  # the instructions that torch uses: AVX512, AVX2, ...; ATEN_CPU_CAPABILITY lowers it
    torch: str
    threads: int  # of torch
    wait_policy: str  # of OpenMP's threads

    def __str__(self) -> str:
        policy = f", OMP_WAIT_POLICY={self.wait_policy}" if self.wait_policy else ""
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        return f"torch {self.torch}, {self.capability}, {threads}{policy}"

    @property
    def identity(self) -> str:
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


Figures = Annotated[Mapping[str, PositiveFloat], Field(min_length=1)]


class Calibration(BaseModel):
    """What was measured under some conditions: a file in the user's cache folder."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    format: Literal[1] = 1
    conditions: Conditions
    tasks: Mapping[str, Figures] = {}  # seconds of a call, by task and candidate; the rule's first


class ChoicesOfRun(BaseModel):
    """What a file of choices must have: machine_choices.json of a run."""

    model_config = ConfigDict(strict=True)

    choices: Mapping[str, str]


def starting_choices() -> MachineChoices:
    """Those that the environment names, which leave nothing to be measured; else none. Raises KitError."""
    setting = os.environ.get(CALIBRATION, "")
    if not setting:
        return MachineChoices()
    return MachineChoices({} if setting == "off" else choices_of_file(setting), is_closed=True)


def with_measured(choices: MachineChoices, tasks: Iterable[Task], measures: bool = True) -> MachineChoices:
    """`choices`, and those for `tasks` that it lacks. They come from the record that the environment names, else from
    the cache of this machine; what is in neither is measured now, if it `measures` and while the budget of this process
    lasts."""
    tasks, setting = list(tasks), os.environ.get(CALIBRATION, "")
    if setting and setting != "off":
        warn_of_unknown_candidates(choices, tasks, setting)
    missing = {task.name: task for task in tasks if task.name not in choices.choices}
    if not missing or choices.is_closed or setting == "off":
        return choices
    if setting:
        recorded = choices_of_file(setting)
        return choices.extended({name: recorded[name] for name in missing if name in recorded})
    conditions = current_conditions()
    known = read_calibration(conditions).tasks
    unknown = [task for name, task in missing.items() if not fits(known.get(name), task)]
    if measures and unknown and (measured := measure_within_budget(unknown)):
        add_to_calibration(conditions, measured)
        known = {**known, **measured}
    found = {name: fastest(known[name]) for name, task in missing.items() if fits(known.get(name), task)}
    return choices.extended(found)


def warn_of_unknown_candidates(choices: MachineChoices, tasks: Sequence[Task], file: str) -> None:
    for task in tasks:
        chosen = choices.choices.get(task.name)
        if chosen is not None and chosen not in task.candidates:
            logger.warning(
                "%s: %s chooses %r for %s, which is none of %s; the rule chooses",
                *(CALIBRATION, file, chosen, task.name, ", ".join(task.candidates)),
            )


def fits(figures: Mapping[str, float] | None, task: Task) -> bool:
    """Whether figures are those of the candidates that this version of the task has, some of which may have failed."""
    return bool(figures) and next(iter(figures or ())) == task.rule and set(figures or ()) <= set(task.candidates)


def measure_within_budget(tasks: list[Task]) -> dict[str, dict[str, float]]:
    """Measured figures; none where other load disturbed them."""
    global spent
    began = time.perf_counter()
    figures = measure(tasks, BUDGET_SECONDS - spent) or {}
    spent += time.perf_counter() - began
    return figures


def current_conditions() -> Conditions:
    return Conditions(
        cpu=cpu_name(),
        capability=torch.backends.cpu.get_cpu_capability(),
        torch=str(torch.__version__),
        threads=torch.get_num_threads(),
        wait_policy=os.environ.get("OMP_WAIT_POLICY", "").lower(),
    )


@functools.cache
def cpu_name() -> str:
    """The model of the processor; virtual machines may give several the same name, so its family and stepping too."""
    with suppress(OSError):
        lines = [line.partition(":") for line in read_text(Path("/proc/cpuinfo")).split("\n\n")[0].splitlines()]
        facts = {name.strip(): value.strip() for name, _, value in lines}
        names = ("model name", "cpu family", "model", "stepping", "CPU implementer", "CPU part")
        return " ".join(facts[name] for name in names if name in facts) or platform.machine()
    return f"{platform.processor()} {platform.machine()}".strip()


def calibration_file(conditions: Conditions) -> Path:
    """Raises RuntimeError without a home."""
    return cache_dir() / "calibration" / f"{conditions.identity}.json"


def read_calibration(conditions: Conditions) -> Calibration:
    """What was measured under these conditions; nothing where the file is absent, damaged or of another format."""
    with suppress(OSError, RuntimeError, ValueError):
        calibration = Calibration.model_validate(read_json(calibration_file(conditions)))
        if calibration.conditions == conditions:
            return calibration
    return Calibration(conditions=conditions)


def add_to_calibration(conditions: Conditions, figures: Mapping[str, Mapping[str, float]]) -> None:
    """Adds figures to the file. Where two processes do so at once, one's may be lost, and are measured again."""
    tasks = {**read_calibration(conditions).tasks, **figures}
    with suppress(OSError, RuntimeError):  # a full or read-only disk, or no home: the next process measures again
        file = calibration_file(conditions)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, Calibration(conditions=conditions, tasks=tasks).model_dump())


def forget_calibration(conditions: Conditions) -> None:
    with suppress(OSError, RuntimeError):
        calibration_file(conditions).unlink(missing_ok=True)


@functools.cache
def choices_of_file(name: str) -> Mapping[str, str]:
    """The choices in a file that the user names: a calibration, or the record of a run. Raises KitError."""
    try:
        values = read_json(Path(name))
        if isinstance(values, dict) and "tasks" in values:
            return {task: fastest(figures) for task, figures in Calibration.model_validate(values).tasks.items()}
        return ChoicesOfRun.model_validate(values).choices
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        reason = f"{place}: {first['msg']}" if place else first["msg"]
    except (OSError, ValueError) as error:
        reason = str(error)
    remedy = "name a machine_choices.json of a run, a file of the calibration cache, or off"
    raise KitError(f"{CALIBRATION}: {name} cannot be used: {reason}; {remedy}")
