"""What was measured on this machine to choose between ways to compute, and measuring it again."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import suppress

from nanogpt_kit.bench.fact import Fact
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.machine_choices import CALIBRATION
from nanogpt_kit.nn.calibration import fastest
from nanogpt_kit.nn.measured_choices import (
    calibration_file,
    choices_of_file,
    current_conditions,
    forget_calibration,
    read_calibration,
)
from nanogpt_kit.train.machine import choices_of_study

logger = logging.getLogger(__name__)

SHAPES = ("bench_cpu", "bench_baby", "bench_gpt2")  # experiments


def choice_facts() -> Iterator[Fact]:
    """The candidate for each task that was measured here, with the time of a call of each."""
    setting = os.environ.get(CALIBRATION, "")
    if setting == "off":
        yield Fact("measured", f"nothing: {CALIBRATION} is off, so rules choose", "off")
        return
    if setting:
        try:
            choices = choices_of_file(setting)
        except KitError as error:
            yield Fact("measured", f"nothing: {error}", "off")
            return
        yield Fact("measured", f"nothing: {CALIBRATION} names {setting}, and rules choose what it lacks", "off")
        for task, choice in choices.items():
            yield Fact(task, choice, values={"choice": choice})
        return
    conditions = current_conditions()
    tasks = read_calibration(conditions).tasks
    file: str | None = None
    with suppress(RuntimeError):  # no home
        file = str(calibration_file(conditions))
    values = {"file": file, **conditions.model_dump()}
    where = f"kept in {file}" if tasks else "each task is measured when it is first needed; --calibrate does it now"
    yield Fact("measured", f"{len(tasks)} task{'s' * (len(tasks) != 1)} with {conditions}; {where}", values=values)
    for task, figures in tasks.items():
        choice = fastest(figures)
        times = ", ".join(f"{name} {1e6 * seconds:,.0f} us" for name, seconds in figures.items())
        yield Fact(task, f"{choice} ({times})", values={"choice": choice, "seconds": dict(figures)})


def calibrate_again() -> None:
    """Measures the tasks of some shapes again, and forgets what was measured for others."""
    if os.environ.get(CALIBRATION, ""):
        logger.warning("nothing is measured, since %s is set", CALIBRATION)
        return
    conditions = current_conditions()
    forget_calibration(conditions)
    choices_of_study([Experiment.load(name) for name in SHAPES], nproc=1, threads=None)
    if not read_calibration(conditions).tasks:
        logger.warning("nothing was measured: other programs use the cores, so rules choose until they are free")
