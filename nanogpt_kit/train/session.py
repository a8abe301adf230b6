"""A whole run: check the machine, prepare the data, make the folder, train, let the model write."""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import ExitStack
from itertools import takewhile
from typing import Any

import torch

from nanogpt_kit.core.errors import KitError, RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.data.manifest import Prepared
from nanogpt_kit.data.prepare import prepare
from nanogpt_kit.generate.loaded import LoadedRun, encode_prompt
from nanogpt_kit.nn.blank import check_parts
from nanogpt_kit.nn.flops import num_params
from nanogpt_kit.runs import folder as runs
from nanogpt_kit.runs import provenance, trust
from nanogpt_kit.runs.files import read_json, write_atomically, write_json
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.train.evaluate import apart
from nanogpt_kit.train.precision import Precision, choose_device, has_device
from nanogpt_kit.train.resume import reopen
from nanogpt_kit.train.stop import StopSignals
from nanogpt_kit.train.trainer import Trainer
from nanogpt_kit.train.warm_start import WarmStart

logger = logging.getLogger(__name__)


def run(experiment: Experiment, resume: str | None = None, trust_code: bool = False) -> RunFolder:
    """Trains an experiment in a new folder, or goes on with a run of it that is not done.

    `resume` names the run; "" is the newest that is not done. Raises KitError before anything is written, RunFailed
    where the run itself fails, KeyboardInterrupt where it was asked to stop; its status says so too.
    """
    trust.remember(experiment.component_files)  # whoever names a file in an experiment and runs it has chosen it
    resumed = None
    if resume is not None:
        experiment, resumed = reopen(experiment, resume, trust_code)
    ctx, why = context(experiment)
    experiment.check_context(ctx)
    check_parts(experiment)
    runs.check_runs_root(experiment.name)
    start = WarmStart.find(experiment, resumed, trust_code)
    data = prepare(experiment, resumed=resumed)
    if experiment.sample.num_samples:
        encode_prompt(data.encoder, experiment.sample.prompt)  # a mistake there would show after the training
    facts = data_facts(data)
    if start:
        start.check_tokens(experiment, data)
    if resumed is not None:
        check_data(resumed, data, facts)
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(experiment.train.threads or torch.get_num_threads())
        folder = resumed or new_folder(experiment, facts, ctx, start)
        logger.info("run %s on %s in %s (%s)", folder, ctx.device, ctx.precision, why)
        try:
            stack.enter_context(folder.lock())
        except BlockingIOError:
            raise KitError(f"{folder} is at work in another process") from None
        stop = stack.enter_context(StopSignals())
        try:
            trainer = Trainer(experiment, data, folder, ctx, stop, start.weights if start else None)
        except BaseException:
            if resumed is None:  # nothing has happened in it yet
                shutil.rmtree(folder.path, ignore_errors=True)
            raise
        start = None  # its weights are in the model now, and may be gigabytes
        logger.info("%.2f million parameters, positions not counted", num_params(trainer.model) / 1e6)
        work(trainer)
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


def work(trainer: Trainer) -> None:
    """Trains and samples; whatever happens, the run's status tells it."""
    folder, stop = trainer.folder, trainer.stop
    state, reason = "failed", ""
    try:
        folder.set_status("running")
        toml = trainer.experiment.to_toml(with_copies=True)  # a resumed run may have got more steps
        write_atomically(folder.experiment, toml)
        trainer.train()
        if trainer.experiment.sample.num_samples and not stop.name:
            write_samples(trainer)
        if stop.name:
            raise KeyboardInterrupt(stop.name)
        state, reason = "finished", trainer.stop_reason
    except KeyboardInterrupt as error:
        state, reason = "interrupted", str(error) or "SIGINT"
        raise
    except OSError as error:
        reason = str(error)
        raise RunFailed(f"{folder} cannot go on: {error}") from error
    except BaseException as error:
        reason = str(error) or repr(error)
        raise
    finally:
        try:
            trainer.hooks.call("run_finished", run=trainer, status=state)
            details = {"reason": reason} if reason else {}
            folder.set_status(state, step=trainer.step, total_steps=trainer.total_steps, **details)
        except (OSError, RunFailed) as error:  # what ended the run matters more
            logger.warning("%s is %s, but its end is not complete: %s", folder, state, error)


def write_samples(trainer: Trainer) -> None:
    """What the model writes at the end of its run, into samples.txt and to the callbacks."""
    wanted, stop = trainer.experiment.sample, trainer.stop
    writer = LoadedRun(trainer.experiment, trainer.model, trainer.data.encoder, trainer.precision.device)
    texts: list[str] = []
    with apart(trainer.model, wanted.seed):
        for number in range(wanted.num_samples):
            pieces = writer.stream(wanted.prompt, seed=wanted.seed + number)
            texts.append("".join(takewhile(lambda _: not stop.name, pieces)))
    if not stop.name:
        write_atomically(trainer.folder.samples, f"\n{'-' * 80}\n".join(texts) + "\n")
        trainer.hooks.call("sampled", run=trainer, step=trainer.step, texts=texts)


def new_folder(
    experiment: Experiment, facts: dict[str, Any], ctx: RunContext, start: WarmStart | None = None
) -> RunFolder:
    """Makes the run folder and writes down all that is known before the first step."""
    hardware: dict[str, Any] = {"device": ctx.device, "precision": ctx.precision, "threads": torch.get_num_threads()}
    if ctx.device == "cuda":
        hardware["gpu"] = torch.cuda.get_device_name()
    origin, patch = provenance.collect(experiment, facts, hardware)
    if start:
        origin["init_from"] = start.facts()
    folder = runs.create(experiment.name, experiment.train.seed, experiment.fingerprint())
    try:
        for path in experiment.component_files:
            (folder.path / "components").mkdir(exist_ok=True)
            shutil.copyfile(path, folder.path / "components" / path.name)
        write_json(folder.path / "provenance.json", origin)
        if patch:
            write_atomically(folder.path / "dirty.patch", patch)
        write_atomically(folder.experiment, experiment.to_toml(with_copies=True))
    except OSError as error:
        shutil.rmtree(folder.path, ignore_errors=True)
        raise KitError(f"cannot write the run folder {folder}: {error}") from None
    return folder


def check_data(folder: RunFolder, data: Prepared, facts: dict[str, Any]) -> None:
    """Raises KitError where a run would go on with other tokens than it began with."""
    try:
        before = read_json(folder.path / "provenance.json")["data"]["splits"]
    except (OSError, ValueError, KeyError, TypeError):
        raise KitError(
            f"{folder.path / 'provenance.json'} cannot be read, and it says which data the run saw"
        ) from None
    if before != facts["splits"]:
        raise KitError(f"{folder} was trained on other tokens than {data.path} holds now; it cannot go on with these")


def data_facts(data: Prepared) -> dict[str, Any]:
    """Which tokens the run is about to see."""
    return {
        "folder": str(data.path),
        "dataset": data.manifest["dataset"]["fingerprint"],
        "tokenizer": data.manifest["tokenizer"]["fingerprint"],
        "splits": {split: values["sha256"] for split, values in data.splits.items()},
    }
