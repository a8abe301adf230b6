"""The folder of a new run: all that is known before its first step is written down there."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import torch

from nanogpt_kit.core.errors import KitError, dotted
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.core.writing import write_atomically
from nanogpt_kit.data.manifest import MANIFEST
from nanogpt_kit.data.prepared_data import PreparedData
from nanogpt_kit.data.tokenizer_record import read_tokenizer_record, tokenizer_records_of_run
from nanogpt_kit.runs import folder as runs
from nanogpt_kit.runs import provenance
from nanogpt_kit.runs.files import git_ignored_folder
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.provenance import Machine, TrainingData
from nanogpt_kit.train.cores import Cores
from nanogpt_kit.train.warm_start import WarmStart
from nanogpt_kit.train.world import World

logger = logging.getLogger(__name__)

# What decides what a run learns from: a field of TrainingData, and what a run had where that differs.
COMPARED = {"splits": "other tokens", "documents": "other document boundaries", "tokenizer": "another tokenizer"}


def shared_folder(make: Callable[[], RunFolder], world: World) -> RunFolder:
    """The new folder that rank 0 makes. Raises KitError where another rank does not see it."""
    made = make().path if world.rank == 0 else None
    folder = RunFolder(world.broadcast(made))
    blind = [rank for rank, sees in enumerate(world.all_gather(folder.experiment.exists())) if not sees]
    if blind:
        raise KitError(f"rank {blind[0]} does not see {folder}: runs have to lie on a disk that all nodes share")
    return folder


def new_folder(
    experiment: Experiment,
    facts: TrainingData,
    ctx: RunContext,
    why: str,
    cores: Cores,
    start: WarmStart | None,
    into: Path | None,
) -> RunFolder:
    """Makes the run folder and writes down all that is known before the first step."""
    machine = Machine.here(
        device=ctx.device,
        gpu=torch.cuda.get_device_name() if ctx.device == "cuda" else None,
        processes=ctx.world_size,
        precision=ctx.precision,
        precision_since=why,
        threads=cores.chunks * cores.threads,
        chunks=cores.chunks,
        choices=choices(experiment, ctx),
    )
    launch, init_from = os.environ.get("TORCHELASTIC_RUN_ID", ""), start.facts() if start else None
    origin, patch = provenance.collect(experiment, machine, data=facts, launch=launch, init_from=init_from)
    toml = experiment.to_toml(with_copies=True)
    with git_ignored_folder(runs.runs_root()) if into is None else nullcontext():
        folder = runs.create(experiment.name, experiment.train.seed, experiment.fingerprint(), into)
        try:
            for path, source in experiment.component_sources.items():
                (folder.path / "components").mkdir(exist_ok=True)
                write_atomically(folder.path / "components" / path.name, source)
            folder.write_provenance(origin)
            write_patch(folder.path / "dirty.patch", patch)
            write_atomically(folder.experiment, toml)
        except BaseException as error:
            remove(folder, is_ours=into is None)
            if isinstance(error, OSError):
                raise KitError(f"cannot write the run folder {folder}: {error}") from None
            raise
    left_out = origin.git.describe_left_out() if origin.git else ""
    if left_out:
        logger.info("not recorded in dirty.patch: %s; commit a file that the run needs", left_out)
    return folder


def write_patch(path: Path, patch: bytes) -> None:
    """Readable for its owner alone: it quotes files, some of which may be so themselves. Nothing where it is empty."""
    path.unlink(missing_ok=True)  # of a run that was killed before it began
    if patch:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
            file.write(patch)


def remove(folder: RunFolder, is_ours: bool) -> None:
    """A run folder in which nothing has begun; that of its experiment, too, where it was made for this run."""
    shutil.rmtree(folder.path, ignore_errors=True)
    if is_ours:
        with suppress(OSError):  # other runs are in it
            folder.path.parent.rmdir()


def check_data(folder: RunFolder, data: PreparedData, facts: TrainingData) -> None:
    """Raises KitError where a run would continue with other tokens, or another tokenizer, than it began with."""
    before = folder.provenance().data
    if before is None:
        raise KitError(f"{folder}: provenance.json does not name the data that the run was trained on")
    for key, other in COMPARED.items():
        if getattr(before, key) != getattr(facts, key):
            raise KitError(
                f"{folder} was trained on {other} than {data.path / MANIFEST} names now, and cannot continue with "
                f"these; where the text is the same, remove {data.path} to prepare again"
            )
    for path in tokenizer_records_of_run(folder)[-1:]:
        try:
            record = read_tokenizer_record(path)
            found = record.compute_fingerprint()
        except (KitError, ValueError, RecursionError):
            continue  # a damaged checkpoint, which is passed over
        if found == record.fingerprint != facts.tokenizer:
            raise KitError(
                f"{path} is another tokenizer than {data.path / MANIFEST} has now; {folder} cannot continue with this "
                f"one; where the text is the same, remove {data.path} to prepare again"
            )


def data_facts(data: PreparedData) -> TrainingData:
    """Which tokens the run is about to see."""
    return TrainingData(
        folder=str(data.path),
        dataset=data.manifest.dataset.fingerprint,
        tokenizer=data.manifest.tokenizer.fingerprint,
        splits={split: record.sha256 for split, record in data.splits.items()},
        documents={split: record.documents_sha256 for split, record in data.splits.items()},
    )


def choices(experiment: Experiment, ctx: RunContext) -> dict[str, str]:
    """What components chose for this place, by their keys: {"model.attention": "backend flash"}."""
    told = {dotted(key): component.explain_choices(ctx) for key, component in experiment.parts()}
    return {key: words for key, words in told.items() if words}
