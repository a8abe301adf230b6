"""Steps of the real trainer on the fake device."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from waits import fake_tensors

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.train.setup import Placement, set_up
from nanogpt_kit.train.stop import StopSignals
from nanogpt_kit.train.trainer import Trainer
from nanogpt_kit.train.world import World

LOGGED_STEP = 7
OPTIONS = ("train.device=cuda", "train.compile=off", f"train.log_every_steps={LOGGED_STEP}")


def training_steps(experiment: str, overrides: list[str]) -> dict[str, Any]:
    """What two steps wait for and copy that follow each other and are not logged, and what a logged one waits for."""
    with ExitStack() as stack:
        one = Experiment.load(Path(experiment), [*overrides, *OPTIONS])
        placement = Placement.choose(stack, one, World())
        setup, _ = set_up(stack, one, placement, with_weights=False)
        folder = RunFolder(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        stack.enter_context(patch.object(torch, "compile", lambda function, **options: function))  # flex calls it
        log = stack.enter_context(fake_tensors())
        trainer = Trainer(setup, folder, StopSignals())
        trainer.model.train()
        devices = {parameter.device.type for parameter in trainer.model.parameters()}
        trainer.progress.step = 1
        steps = []
        for _ in range(2):
            log.begin()
            trainer.take_step()
            steps.append(log.end())
        trainer.progress.step = LOGGED_STEP - 1
        log.begin()
        trainer.take_step()
        logged = log.end()
        return {"devices": sorted(devices), "steps": steps, "logged": logged["waits"]}
