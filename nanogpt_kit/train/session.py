"""A whole run: sets everything up, records it in a folder, trains, and generates samples."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from torch import Tensor

from nanogpt_kit.core.errors import Busy, KitError, LostRank, OutOfMemory, RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.nn.flops import num_params, trained_params
from nanogpt_kit.runs import folder as runs
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.machine_choices import record_choices
from nanogpt_kit.runs.status import EndedBy, State, cause_of, error_chain, origin_of
from nanogpt_kit.system.writing import write_atomically
from nanogpt_kit.train.context import resolve_run_context
from nanogpt_kit.train.evaluation import eval_mode, publish_samples
from nanogpt_kit.train.identity_record import update_identity
from nanogpt_kit.train.memory import is_out_of_memory
from nanogpt_kit.train.new_run import create_run_folder
from nanogpt_kit.train.resume import RunToResume, is_branch, load_run_to_resume
from nanogpt_kit.train.resume_hint import failure_note, interruption_note
from nanogpt_kit.train.setup import Placement, Setup, set_up
from nanogpt_kit.train.stop import StopSignals
from nanogpt_kit.train.summary import log_reasons, own_lines
from nanogpt_kit.train.trainer import Trainer
from nanogpt_kit.train.world import World

logger = logging.getLogger(__name__)


def run(
    experiment: Experiment,
    resume: str | os.PathLike[str] | None = None,
    trust_code: bool = False,
    into: str | os.PathLike[str] | None = None,
    brief: bool = False,
    accept_versions: bool = False,
) -> RunFolder:
    """Trains an experiment in a new folder, or resumes a run of it that is not done.

    `resume` names the run; "" is the newest unfinished one; with RUN@STEP a new run begins from that checkpoint. `into`
    is the run's folder, whether it exists yet or not. With `brief`, the summary has only the folder and the start, as
    after a run that differs in its seed. With `accept_versions` a run continues also where a plugin has another version
    than it was made with. Started by torchrun, each process is one rank of the run. Raises KitError
    before anything is written (Busy where another process uses the run), RunFailed where the run itself fails,
    KeyboardInterrupt where it was asked to stop; status.json has the outcome, too. The notes of an exception say what
    is saved and which command continues.
    """
    resume, into = None if resume is None else os.fspath(resume), None if into is None else Path(into)
    if into is not None:
        resume = resumable_run_in(into)
    world = World.of_environment()
    if world.rank:
        logging.getLogger("nanogpt_kit").setLevel(logging.WARNING)  # rank 0 logs for all
    with ExitStack() as stack:
        ctx, _ = resolve_run_context(experiment, world.size)
        experiment.check_context(ctx)  # before the processes wait for each other
        stack.enter_context(world.joined(ctx.device))
        found = run_to_resume(experiment, resume, trust_code, world, accept_versions)
        experiment, resumed = (found.experiment, found.folder) if found else (experiment, None)
        placement = Placement.choose(stack, experiment, world, resumed)
        runs.check_runs_writable(experiment.name)
        setup, weights = set_up(stack, experiment, placement, resumed, trust_code)
        branch = found.branch if found else None
        folder = create_run_folder(setup, into, branch) if branch or resumed is None else resumed
        lock_run(stack, folder, world)
        trainer = build_trainer(setup, folder, stack.enter_context(StopSignals()), weights)
        del weights  # the model has its own copy now, and they may be gigabytes
        if brief:
            trainer.summary = own_lines(trainer.summary)
        else:
            log_reasons(setup, trainer.compile)
        train_and_sample(trainer)
    return folder


def resumable_run_in(folder: Path) -> str | None:
    """The run to resume where the run's folder is given: the run in it, if there is one."""
    return str(folder) if RunFolder(folder).experiment.exists() else None


def run_to_resume(
    experiment: Experiment, resume: str | None, trust_code: bool, world: World, accept_versions: bool = False
) -> RunToResume | None:
    """The run to resume; None where a new run begins. All ranks resume the run that rank 0 finds."""
    if resume is None or is_branch(resume):  # rank 0 decides: the process of a node that came back counts no restarts
        started = run_of_this_torchrun(experiment) if world.rank == 0 else None
        unfinished: str | None = world.broadcast(None if started is None else str(started))
        if unfinished:
            logger.info("torchrun has restarted: resuming %s", unfinished)
        resume = unfinished or resume
    if resume is None:
        return None
    if world.rank != 0:
        return load_run_to_resume(experiment, str(world.broadcast(None)), trust_code, accept_versions)
    found = load_run_to_resume(experiment, resume, trust_code, accept_versions)
    world.broadcast(str(found))
    return found


def run_of_this_torchrun(experiment: Experiment) -> RunFolder | None:
    """The unfinished run that this torchrun started before one of its processes failed."""
    if not torchrun_id():
        return None
    for folder in reversed(runs.runs_of_experiment(runs.runs_root() / experiment.name)):
        with suppress(KitError):
            record = folder.provenance()
            is_same = (record.launch, record.fingerprint) == (torchrun_id(), experiment.fingerprint())
            if is_same and folder.status().state not in ("finished", "running"):
                return folder
    return None


def torchrun_id() -> str:
    """Identifies one start of torchrun; empty where nothing does.

    Without an id (`--rdzv-id`, `--standalone`) a start is identified by its restarts alone.
    """
    run_id = os.environ.get("TORCHELASTIC_RUN_ID", "")
    return run_id if run_id != "none" or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0" else ""


def lock_run(stack: ExitStack, folder: RunFolder, world: World) -> None:
    """Rank 0 holds the lock of the run. Raises Busy where another process does."""
    try:
        stack.enter_context(folder.lock() if world.rank == 0 else nullcontext())
    except BlockingIOError:
        raise Busy(f"{folder} is being used by another process") from None
    if world.rank == 0:
        folder.remove_temporary_files()


def build_trainer(
    setup: Setup, folder: RunFolder, signals: StopSignals, weights: Mapping[str, Tensor] | None
) -> Trainer:
    """The trainer of a run. Where that fails, the folder of a new run is removed: it contains no results yet."""
    try:
        trainer = Trainer(setup, folder, signals, weights)
    except BaseException as error:
        if folder != setup.resumed and setup.placement.world.rank == 0:
            shutil.rmtree(folder.path, ignore_errors=True)
        failure = as_run_failure(error)
        if failure is error:
            raise
        raise failure from error
    return trainer


def train_and_sample(trainer: Trainer) -> None:
    """Trains, then generates samples. The outcome is always written to status.json."""
    folder, stop = trainer.folder, trainer.stop
    outcome = Outcome("failed", "fault")
    try:
        if trainer.rank == 0:
            folder.set_status("running", step=trainer.step, total_steps=trainer.total_steps)
            update_identity(folder, trainer.experiment, trainer.data.manifest, trainer.first_step)
            toml = trainer.experiment.to_toml(with_copies=True)  # a resumed run may train for more steps
            write_atomically(folder.experiment, toml)
            record_choices(folder.path)
        trainer.train()
        if trainer.experiment.sample.num_samples and not stop.interrupted():
            write_samples(trainer)
        if stop.interrupted():
            raise KeyboardInterrupt(stop.signals.name)
        outcome = Outcome("finished", limit_reached(trainer), trainer.progress.stop_reason or stop.exhausted_budget)
    except KeyboardInterrupt as error:
        outcome = Outcome("interrupted", "signal", str(error) or "SIGINT")
        error.add_note(interruption_note(trainer))
        raise
    except BaseException as error:
        failure = explain_failure(error, trainer)
        outcome = Outcome("failed", "fault", str(failure) or repr(failure), failure)
        failure.add_note(failure_note(trainer, failure))
        if failure is not error:
            raise failure from error
        raise
    finally:
        record_outcome(trainer, outcome)


@dataclass(frozen=True)
class Outcome:
    """How a run ended on this rank; `reason` is for people."""

    state: State
    ended_by: EndedBy
    reason: str = ""
    failure: BaseException | None = None


def limit_reached(trainer: Trainer) -> EndedBy:
    """The limit that ended a run that was not interrupted."""
    if trainer.progress.stop_reason:
        return "callback"
    if trainer.stop.exhausted_budget:
        return "max_seconds"
    return "steps" if trainer.experiment.total_steps == trainer.experiment.train.steps else "max_tokens"


def explain_failure(error: BaseException, trainer: Trainer) -> BaseException:
    """The error that ended a run, or a RunFailed in its place where the cause is known."""
    world = trainer.world
    if any(world.is_lost_rank_error(link) for link in error_chain(error)):  # perhaps raised within a callback
        return world.lost_rank_error(trainer.step)
    if isinstance(error, OSError):
        return RunFailed(f"{trainer.folder} cannot continue: {error}")
    if trainer.step == trainer.first_step:
        error = trainer.resume_point.explain(error, world)
    return as_run_failure(error)


def as_run_failure(error: BaseException) -> BaseException:
    """Converts an out-of-memory error outside a step to OutOfMemory; steps raise it themselves."""
    if isinstance(error, KitError | RunFailed) or not is_out_of_memory(error):
        return error
    return OutOfMemory(f"out of memory: {error}; a smaller model, or a smaller evaluate.batch_size, needs less")


def record_outcome(trainer: Trainer, outcome: Outcome) -> None:
    """Ends the callbacks and writes the status: rank 0's, or that of the rank that failed."""
    folder, rank, failure = trainer.folder, trainer.rank, outcome.failure
    lost = isinstance(failure, LostRank)
    try:
        trainer.hooks.call("run_finished", run=trainer, status=outcome.state)
        if lost and folder.status().state == "failed":
            return  # the rank that was lost has written why
        if rank == 0 or (outcome.state == "failed" and not lost):
            folder.set_status(
                outcome.state,
                ended_by=outcome.ended_by,
                reason=outcome.reason,
                cause=cause_of(failure) if failure else None,
                origin=origin_of(failure) if failure else "",
                rank=rank,
                step=trainer.step,
                total_steps=trainer.total_steps,
                seconds=round(trainer.progress.seconds, 3),
                parameters=num_params(trainer.model, non_embedding=False),
                trained_parameters=trained_params(trainer.model),
                compile=trainer.compile.mode,
                best=trainer.progress.best,
            )
    except (OSError, RunFailed) as error:  # the outcome of the run matters more
        logger.warning("%s is %s, but its outcome is not recorded completely: %s", folder, outcome.state, error)


def write_samples(trainer: Trainer) -> None:
    """Generates the samples of a finished run, for samples.txt and the callbacks."""
    options, stop = trainer.experiment.sample, trainer.stop
    texts = [options.prompt] * options.num_samples
    threads = trainer.cores.unsplit_threads
    with trainer.hooks.evaluation(trainer, "sampling"), eval_mode(trainer.model, threads, options.seed):
        tokens = trainer.generator().stream_tokens(texts)  # on all ranks, since each may have only a shard of the model
        for token in takewhile(lambda _: not stop.interrupted(), tokens):
            texts[token.text_index] += token.text
    if not stop.interrupted():
        publish_samples(texts, trainer, trainer.hooks, trainer.folder.samples)
