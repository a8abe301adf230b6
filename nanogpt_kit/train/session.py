"""A whole run: check the machine, prepare the data, make the folder, train, let the model write."""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import suppress
from itertools import takewhile
from typing import Any

import tomli_w
import torch

from nanogpt_kit.core.errors import KitError, RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.data.manifest import Prepared
from nanogpt_kit.data.prepare import prepare
from nanogpt_kit.generate.loaded import LoadedRun
from nanogpt_kit.runs import folder as runs
from nanogpt_kit.runs import provenance, trust
from nanogpt_kit.runs.files import read_json, write_atomically, write_json
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.train.evaluate import apart
from nanogpt_kit.train.precision import Precision, choose_device, has_device
from nanogpt_kit.train.resume import reopen
from nanogpt_kit.train.stop import StopSignals
from nanogpt_kit.train.trainer import Trainer

logger = logging.getLogger(__name__)


def run(experiment: Experiment, resume: str | None = None, trust_code: bool = False) -> RunFolder:
    """Trains an experiment in a new folder, or goes on with a run of it that is not done.

    `resume` names the run; "" is the newest that is not done. Raises KitError before anything is written, RunFailed
    where the run itself fails, KeyboardInterrupt where it was asked to stop; its status says so too.
    """
    folder = None
    if resume is not None:
        experiment, folder = reopen(experiment, resume, trust_code)
    ctx, why = context(experiment)
    experiment.check_context(ctx)
    runs.check_runs_root(experiment.name)
    data = prepare(experiment)
    facts = data_facts(data)
    if folder is None:
        folder = new_folder(experiment, facts, ctx)
    elif read_json(folder.path / "provenance.json")["data"]["splits"] != facts["splits"]:
        raise KitError(f"{folder} was trained on other tokens than {data.path} holds now; it cannot go on with these")
    try:
        with folder.lock():
            logger.info("run %s on %s in %s (%s)", folder, ctx.device, ctx.precision, why)
            work(experiment, data, folder, ctx)
    except BlockingIOError:
        raise KitError(f"{folder} is at work in another process") from None
    return folder


def context(experiment: Experiment) -> tuple[RunContext, str]:
    """The device and precision that the experiment's settings mean here, and why that precision."""
    device = choose_device(experiment.train.device)
    if not has_device(device):
        raise KitError(f"{experiment.place(('train', 'device'))}: train.device = {device!r}, but torch finds none here")
    precision, why = Precision.choose(experiment.train.precision, device)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))  # torchrun's
    splits = experiment.dataset.splits
    return RunContext(device=device, precision=precision.name, world_size=world_size, splits=splits), why


def work(experiment: Experiment, data: Prepared, folder: RunFolder, ctx: RunContext) -> None:
    """Trains and samples; whatever happens, the run's status tells it."""
    folder.set_status("running")
    trainer = None
    state, reason = "failed", ""
    try:
        with StopSignals() as stop:
            trainer = Trainer(experiment, data, folder, ctx, stop)
            write_atomically(folder.experiment, own_toml(experiment))  # a resumed run may have got more steps
            trainer.train()
            if experiment.sample.num_samples and not stop.name:
                write_samples(trainer, stop)
            if stop.name:
                raise KeyboardInterrupt(stop.name)
        state, reason = "finished", trainer.stop_reason
    except KeyboardInterrupt as error:
        state, reason = "interrupted", str(error) or "SIGINT"
        raise
    except BaseException as error:
        reason = str(error) or repr(error)
        raise
    finally:
        if trainer is not None:
            with suppress(RunFailed):
                trainer.hooks.call("run_finished", run=trainer, status=state)
        with suppress(OSError):  # on a full disk the error that brought us here matters more
            details = {"reason": reason} if reason else {}
            step, total = (trainer.step if trainer else 0), experiment.train.steps
            folder.set_status(state, step=step, total_steps=total, **details)


def write_samples(trainer: Trainer, stop: StopSignals) -> None:
    """What the model writes at the end of its run, into samples.txt and to the callbacks."""
    wanted = trainer.experiment.sample
    writer = LoadedRun(trainer.experiment, trainer.model, trainer.data.encoder, trainer.precision.device)
    texts: list[str] = []
    with apart(trainer.model, wanted.seed):
        for number in range(wanted.num_samples):
            pieces = writer.stream(wanted.prompt, seed=wanted.seed + number)
            texts.append("".join(takewhile(lambda _: not stop.name, pieces)))
    if not stop.name:
        write_atomically(trainer.folder.samples, f"\n{'-' * 80}\n".join(texts) + "\n")
        trainer.hooks.call("sampled", run=trainer, step=trainer.step, texts=texts)


def new_folder(experiment: Experiment, facts: dict[str, Any], ctx: RunContext) -> RunFolder:
    """Makes the run folder and writes down all that is known before the first step."""
    hardware: dict[str, Any] = {"device": ctx.device, "precision": ctx.precision, "threads": torch.get_num_threads()}
    if ctx.device == "cuda":
        hardware["gpu"] = torch.cuda.get_device_name()
    origin, patch = provenance.collect(experiment, facts, hardware)
    folder = runs.create(experiment.name, experiment.train.seed, experiment.fingerprint())
    trust.remember(experiment.component_files)
    for path in experiment.component_files:
        (folder.path / "components").mkdir(exist_ok=True)
        shutil.copyfile(path, folder.path / "components" / path.name)
    write_json(folder.path / "provenance.json", origin)
    if patch:
        write_atomically(folder.path / "dirty.patch", patch)
    write_atomically(folder.experiment, own_toml(experiment))
    return folder


def own_toml(experiment: Experiment) -> str:
    """The resolved experiment as it lies in the run folder, beside the copies of its component files."""
    files = [f"components/{path.name}" for path in experiment.component_files]
    return tomli_w.dumps({**experiment.resolved(), "components": files})


def data_facts(data: Prepared) -> dict[str, Any]:
    """Which tokens the run is about to see."""
    return {
        "folder": str(data.path),
        "dataset": data.manifest["dataset"]["fingerprint"],
        "tokenizer": data.manifest["tokenizer"]["fingerprint"],
        "splits": {split: values["sha256"] for split, values in data.splits.items()},
    }
