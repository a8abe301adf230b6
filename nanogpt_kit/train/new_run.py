"""Creates the folder of a new run, with everything that is known before its first step."""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.data.yardsticks import compute_yardsticks
from nanogpt_kit.runs import folder as runs
from nanogpt_kit.runs import provenance
from nanogpt_kit.runs.files import git_ignored_folder
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.provenance import Machine
from nanogpt_kit.system.writing import write_atomically
from nanogpt_kit.train.branch import BranchPoint
from nanogpt_kit.train.data_record import record_data
from nanogpt_kit.train.setup import Setup

logger = logging.getLogger(__name__)


def create_run_folder(setup: Setup, into: Path | None, branch: BranchPoint | None = None) -> RunFolder:
    """A new folder, which rank 0 makes; its run begins from `branch`, or at step 0.

    Raises KitError where another rank does not see it.
    """
    world = setup.placement.world
    folder = RunFolder(world.broadcast(write_run_folder(setup, into, branch).path if world.rank == 0 else None))
    blind = [rank for rank, sees in enumerate(world.all_gather(folder.experiment.exists())) if not sees]
    if blind:
        raise KitError(f"rank {blind[0]} cannot find {folder}: the runs folder must be on a disk that all nodes share")
    return folder


def write_run_folder(setup: Setup, into: Path | None, branch: BranchPoint | None) -> RunFolder:
    """Creates the folder and its records; removes it again where one cannot be written."""
    experiment = setup.experiment
    launch, data = os.environ.get("TORCHELASTIC_RUN_ID", ""), record_data(setup.data, experiment)
    origin: dict[str, Any] = {"init_from": setup.init_from, "tokenizer_from": setup.tokenizer_from}
    if branch is not None:
        before = branch.folder.provenance()
        origin = {"init_from": before.init_from, "tokenizer_from": before.tokenizer_from}
        origin["branched_from"] = branch.origin()
    origin["yardsticks"] = compute_yardsticks(experiment, setup.data.manifest)
    record, patch = provenance.collect_provenance(experiment, machine_record(setup), data=data, launch=launch, **origin)
    toml = experiment.to_toml(with_copies=True)
    with git_ignored_folder(runs.runs_root()) if into is None else nullcontext():
        folder = runs.new_run_folder(experiment.name, experiment.train.seed, experiment.fingerprint(), into)
        try:
            for path, source in experiment.component_sources.items():
                (folder.path / "components").mkdir(exist_ok=True)
                write_atomically(folder.path / "components" / path.name, source)
            folder.write_provenance(record)
            write_patch(folder.path / "dirty.patch", patch)
            if branch is not None:
                branch.copy_into(folder)
            write_atomically(folder.experiment, toml)  # last: without it the folder is not a run
        except BaseException as error:
            remove_run_folder(folder, with_parent=into is None)
            if isinstance(error, OSError):
                raise KitError(f"cannot write the run folder {folder}: {error}") from None
            raise
    left_out = record.git.describe_left_out() if record.git else ""
    if left_out:
        logger.info("not recorded in dirty.patch: %s; commit a file that the run needs", left_out)
    return folder


def machine_record(setup: Setup) -> Machine:
    """How this machine computes the run, for its provenance."""
    ctx, cores = setup.placement.ctx, setup.cores
    return Machine.of_this_machine(
        device=ctx.device,
        gpu=torch.cuda.get_device_name() if ctx.device == "cuda" else None,
        processes=ctx.world_size,
        precision=ctx.precision,
        precision_since=setup.placement.precision_reason,
        threads=cores.chunks * cores.threads,
        chunks=cores.chunks,
        choices=setup.choices(),
    )


def write_patch(path: Path, patch: bytes) -> None:
    """Readable by its owner only, since files that it quotes may be private. An empty patch is not written."""
    path.unlink(missing_ok=True)  # left by a run that was killed before it began
    if patch:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
            file.write(patch)


def remove_run_folder(folder: RunFolder, with_parent: bool) -> None:
    """Removes a run that has not begun, and the folder of its experiment if that is empty afterwards."""
    shutil.rmtree(folder.path, ignore_errors=True)
    if with_parent:
        with suppress(OSError):  # other runs are in it
            folder.path.parent.rmdir()
