"""The device and precision of a run, chosen by the experiment's settings and this machine."""

from __future__ import annotations

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.train.precision import Precision, choose_device, has_device


def resolve_run_context(experiment: Experiment, world_size: int) -> tuple[RunContext, str]:
    """The device and precision that the settings mean on this machine, and why that precision. Raises KitError."""
    device = checked_device(experiment)
    precision, why = Precision.choose(experiment.train.precision, device)
    if precision.name == "tf32" and device != "cuda":
        location = experiment.location(("train", "precision"))
        raise KitError(Fault(f"'tf32' requires a CUDA device, and this is {device}", "train.precision", location))
    ctx = RunContext(
        device=device,
        precision=precision.name,
        world_size=world_size,
        splits=experiment.dataset.splits,
        block_size=experiment.model.block_size,
    )
    return ctx, why


def checked_device(experiment: Experiment) -> str:
    """The device that `train.device` means. Raises KitError where torch does not find it."""
    device = choose_device(experiment.train.device)
    if not has_device(device):
        location = experiment.location(("train", "device"))
        raise KitError(Fault(f"is {device!r}, but torch finds no such device here", "train.device", location))
    return device
