"""The choices that a run computes with: those it has recorded, or those that are fastest on the machine of rank 0."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.machine_choices import COMPILE_TASK, MachineChoices, Task, applied
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.nn.measured_choices import starting_choices, with_measured
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.machine_choices import recorded_choices
from nanogpt_kit.train.context import resolve_run_context
from nanogpt_kit.train.precision import choose_device, precision_tasks
from nanogpt_kit.train.world import World


def choices_before_context(experiment: Experiment, resumed: RunFolder | None, world: World) -> MachineChoices:
    """What the device and precision of a run follow from: the same on all ranks."""
    choices = MachineChoices()
    if world.rank == 0:
        choices = starting_choices() if resumed is None else choices_of_resumed(resumed.path, experiment.train.compile)
        if experiment.train.precision == "auto":
            choices = with_measured(choices, precision_tasks(choose_device(experiment.train.device)))
    return of_first_rank(choices, world)


def choices_of_resumed(folder: Path, compiles: str) -> MachineChoices:
    """What the run has recorded. A run that ended before it had chosen whether its graph is compiled made no step, so
    that it does as its study has chosen meanwhile, which the environment names; the other trials are compared with it.
    """
    choices = recorded_choices(folder)
    if compiles != "auto" or any(task.startswith(COMPILE_TASK) for task in choices.choices):
        return choices
    named = starting_choices().choices
    return choices.extended({task: mode for task, mode in named.items() if task.startswith(COMPILE_TASK)})


def choices_in_context(experiment: Experiment, ctx: RunContext, world: World) -> MachineChoices:
    """Those of `ctx`, and what its components offer to be measured."""
    choices = ctx.machine
    if world.rank == 0:
        choices = with_measured(choices, component_tasks(experiment, ctx))
    return of_first_rank(choices, world)


def of_first_rank(choices: MachineChoices, world: World) -> MachineChoices:
    values, is_closed = world.broadcast((dict(choices.choices), choices.is_closed))
    return MachineChoices(values, is_closed, choices.used)


def component_tasks(experiment: Experiment, ctx: RunContext) -> Iterable[Task]:
    """The tasks of its components, each once."""
    for _, part in experiment.parts():
        for name, candidates in part.candidates(ctx).items():
            yield Task(name, candidates)


def choices_of_study(
    experiments: Sequence[Experiment], nproc: int, threads: int | None, finished: Sequence[Path] = ()
) -> dict[str, str]:
    """What all runs of a study use, also those that other machines compute: measured here before any of them starts.

    `threads` is that of a machine slot; `finished` are runs with which those of the study will be compared, so their
    choices are kept. What rules chose here is among them, since some rules depend on the chip. Rules choose what the
    experiments do not name, such as those for another width.
    """
    choices = starting_choices()
    for folder in finished:
        choices = choices.extended(recorded_choices(folder).choices)
    with torch_threads(threads):
        for experiment in experiments:
            if experiment.train.precision == "auto":
                choices = with_measured(choices, precision_tasks(choose_device(experiment.train.device)))
            with applied(choices):
                ctx, _ = resolve_run_context(experiment, nproc)
            choices = with_measured(choices, component_tasks(experiment, ctx))
    return {**choices.used, **choices.choices}


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
