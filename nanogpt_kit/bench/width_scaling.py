"""Trains an experiment at several widths for a few steps, and measures features at each place of the network.

The steps are the first ones of a linear warmup to the experiment's learning rate, since features change in proportion
to the learning rate only as long as the change is small; later it saturates, and differs from seed to seed. Measured
figures are in docs/guide/mup.md.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from nanogpt_kit.bench.feature_scales import FeatureProbe
from nanogpt_kit.bench.width_slopes import Trajectory, WidthScaling, summarize_place
from nanogpt_kit.core.errors import Fault, KitError, NotFinite
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.overrides import COMMAND_LINE
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.train.setup import Placement, Setup, set_up
from nanogpt_kit.train.stop import StopSignals
from nanogpt_kit.train.trainer import Trainer
from nanogpt_kit.train.world import World

logger = logging.getLogger(__name__)

WARMUP_STEPS = 100
BATCH_TOKENS = 1024  # of a step, at most, but at least one window
PROBE_TOKENS = 512  # that features are measured on, likewise
# Times the seeds of the widest model, at most: narrow ones differ more from seed to seed, and cost less. At widths 64
# and 512 the changes of layers had standard deviations of about 9% and 5% (4 layers, measured).
MOST_SEEDS = 8
SEEDS = 3  # of the widest model, where it has at least this width:
SEEDS_WIDTH = 512


def default_seeds(widest: int) -> int:
    """How many models of the largest width are trained by default: more of a narrow one."""
    return SEEDS * max(1, min(MOST_SEEDS, SEEDS_WIDTH // widest))


def measure_widths(experiment: Experiment, widths: Sequence[int], steps: int, seeds: int) -> WidthScaling:
    """Trains `seeds` models of the last of the widths, which are in rising order, and more of the others.

    Raises KitError with every fault of the widths, and as a run would.
    """
    check_width_option(experiment)
    experiments = experiments_by_width(experiment, widths, steps)
    widest = experiments[widths[-1]]
    with ExitStack() as stack:
        setup, _ = set_up(stack, widest, Placement.choose(stack, widest, World()), with_weights=False)
        trained: list[list[Trajectory]] = []
        for width in widths:
            count = seeds * min(MOST_SEEDS, widths[-1] // width)
            logger.info("width %d: %d steps with %d seed%s", width, steps, count, "s" * (count > 1))
            first = experiment.train.seed
            variants = [experiments[width].with_({"train.seed": first + index}) for index in range(count)]
            trained.append([train_briefly(replace(setup, experiment=one), steps) for one in variants])
    places = dict.fromkeys(place for row in trained for trajectory in row for place in trajectory.sizes)
    reasons = {
        width: next((one.diverged for one in row if one.diverged), "")
        for width, row in zip(widths, trained, strict=True)
    }
    return WidthScaling(
        name=experiment.name,
        n_embd=dict(experiment.model)["n_embd"],
        widths=tuple(widths),
        seeds=seeds,
        steps=steps,
        warmup_steps=WARMUP_STEPS,
        learning_rate=getattr(experiment.optimizer, "lr", None),
        batch_tokens=widest.train.batch_tokens,
        has_base_width=experiment.init.base_model(experiment.model) is not None,
        places=tuple(summarize_place(place, tuple(widths), trained, steps) for place in places),
        diverged={width: reason for width, reason in reasons.items() if reason},
    )


def check_width_option(experiment: Experiment) -> None:
    if "n_embd" not in type(experiment.model).model_fields:
        use = experiment.entry_of(experiment.model).name
        message = f"the width of a model is its option n_embd, and {use!r} has no such option"
        raise KitError(Fault(message, "model.use", experiment.location(("model", "use"))))


def experiments_by_width(experiment: Experiment, widths: Sequence[int], steps: int) -> dict[int, Experiment]:
    """Raises KitError with the faults of all widths."""
    found, faults = {}, []
    for width in widths:
        try:
            found[width] = at_width(experiment, width, steps)
        except KitError as error:
            faults += [Fault(f"{width}: {fault.message}", "--widths", COMMAND_LINE) for fault in error.faults]
    if faults:
        raise KitError(*faults)
    return found


def at_width(experiment: Experiment, width: int, steps: int) -> Experiment:
    """The experiment with a model of another width, as it is trained for the measurement."""
    window = experiment.model.block_size
    tokens = min(experiment.train.batch_tokens, max(window, BATCH_TOKENS // window * window))
    return experiment.with_(
        {
            "model.n_embd": width,
            "model.init_from": None,
            "schedule": {"use": "constant", "warmup_steps": WARMUP_STEPS},
            "train.steps": steps,
            "train.batch_tokens": tokens,
            "train.max_tokens": None,
            "train.max_seconds": None,
            "train.precision": "fp32",  # in bf16 small changes would be lost
            "train.compile": "off",
            "parallel": {"use": "single"},
            "callback": [],
        }
    )


def train_briefly(setup: Setup, steps: int) -> Trajectory:
    """Trains the model of a setup, in a temporary run folder."""
    with tempfile.TemporaryDirectory(prefix="nanogpt-kit-mup-check-") as folder:
        trainer = Trainer(setup, RunFolder(Path(folder)), StopSignals())
        batch = trainer.batches.at(0)
        count = max(1, PROBE_TOKENS // batch.ids.size(1))  # windows
        probe = FeatureProbe(trainer.model, batch.micro_batches(count, trainer.precision.device)[0])
        trainer.model.train()
        try:
            probe.measure()
            for _ in range(steps):
                trainer.take_step()
                probe.measure()
            trainer.finite.check_noted_step()
        except NotFinite as error:
            probe.trajectory.diverged = str(error)
        return probe.trajectory
