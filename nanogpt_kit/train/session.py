"""A whole run: check the machine, prepare the data, make the folder, train, let the model write."""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path

import torch

import nanogpt_kit
from nanogpt_kit.core.errors import Busy, KitError, LostRank, OutOfMemory, RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.writing import write_atomically
from nanogpt_kit.data.prepare import prepare
from nanogpt_kit.generate.generator import TextGenerator
from nanogpt_kit.generate.prompt import check_prompt
from nanogpt_kit.nn.flops import num_params
from nanogpt_kit.nn.uninitialized import check_parts
from nanogpt_kit.runs import folder as runs
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.status import Best, EndedBy, State, cause_of, error_chain, origin_of
from nanogpt_kit.train.context import context_of
from nanogpt_kit.train.cores import Cores
from nanogpt_kit.train.evaluation import check_evaluators, eval_mode, publish_samples
from nanogpt_kit.train.memory import check_memory, is_out_of_memory, keep_freed_memory
from nanogpt_kit.train.metric_names import check_metrics
from nanogpt_kit.train.new_run import check_data, choices, data_facts, new_folder, shared_folder
from nanogpt_kit.train.precision import Precision
from nanogpt_kit.train.resume import reopen
from nanogpt_kit.train.stop import StopSignals
from nanogpt_kit.train.trainer import Trainer
from nanogpt_kit.train.warm_start import WarmStart
from nanogpt_kit.train.world import World

logger = logging.getLogger(__name__)


def run(
    experiment: Experiment, resume: str | None = None, trust_code: bool = False, into: Path | None = None
) -> RunFolder:
    """Trains an experiment in a new folder, or goes on with a run of it that is not done.

    `resume` names the run; "" is the newest that is not finished. `into` is the run's folder, whether it is there yet
    or not. Started by torchrun, each process is one rank of it. Raises KitError before anything is written (Busy where
    another process works at the run), RunFailed where the run itself fails, KeyboardInterrupt where it was asked to
    stop; its status says so too.
    """
    if into is not None:
        resume = resume_into(into)
    world = World.of_environment()
    if world.rank:
        logging.getLogger("nanogpt_kit").setLevel(logging.WARNING)  # the others would say the same
    ctx, why = context_of(experiment, world.size)
    if ctx.device == "cuda":
        take_gpu(world)
    experiment.check_context(ctx)
    with ExitStack() as stack:
        stack.enter_context(world.joined(ctx.device))
        experiment, resumed = reopened(experiment, resume, trust_code, world)
        experiment.check_context(ctx)
        check_metrics(experiment)
        if resumed is None and world.rank == 0:
            check_prompt(experiment)
        check_memory(experiment, check_parts(experiment), ctx)
        runs.check_runs_writable(experiment.name)
        start = WarmStart.find(experiment, resumed, trust_code) if world.rank == 0 else None
        if world.broadcast(start is not None) and world.rank:  # not at once: it may be a download
            start = WarmStart.find(experiment, resumed, trust_code)
        data = prepare(experiment, resumed=resumed, verify=world.local_rank == 0)  # for all ranks of this machine
        check_prompt(experiment, data.encoder)  # a mistake there would show after the training
        check_evaluators(experiment, data.encoder)
        facts = data_facts(data)
        if start:
            start.check_tokens(experiment, data)
        if resumed is not None:
            check_data(resumed, data, facts)
        versions = {"nanogpt-kit": nanogpt_kit.__version__, "torch": torch.__version__}
        same = {"tokens": facts.splits, "documents": facts.documents, "the tokenizer": facts.tokenizer}
        world.require_same({"the experiment": experiment.fingerprint(), **versions, **same})
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        cores = Cores.choose(experiment, ctx, data.encoder.vocab_size)
        torch.set_num_threads(cores.threads)
        keep_freed_memory()
        stack.enter_context(Precision(ctx.precision, ctx.device).in_force())
        # Without a name, because it references the weights to start from, which may be gigabytes
        folder = resumed or shared_folder(partial(new_folder, experiment, facts, ctx, why, cores, start, into), world)
        among = f", {world.size} processes" if world.size > 1 else ""
        place = f"{ctx.device} ({cores})" if ctx.device == "cpu" else ctx.device
        logger.info("run %s on %s%s in %s (%s)", folder, place, among, ctx.precision, why)
        for part, told in choices(experiment, ctx).items():
            logger.info("%s: %s", part, told)
        try:
            stack.enter_context(folder.lock() if world.rank == 0 else nullcontext())
        except BlockingIOError:
            raise Busy(f"{folder} is at work in another process") from None
        if world.rank == 0:
            folder.clear_temporary()
        stop = stack.enter_context(StopSignals())
        try:
            trainer = Trainer(experiment, data, folder, ctx, stop, world, cores, start.weights if start else None)
        except BaseException as error:
            if resumed is None and world.rank == 0:  # nothing has happened in it yet
                shutil.rmtree(folder.path, ignore_errors=True)
            failure = in_words(error)
            if failure is error:
                raise
            raise failure from error
        logger.info("compile: %s (%s)", trainer.compile.mode, trainer.compile.why)
        start = None  # its weights are in the model now, and may be gigabytes
        logger.info("%.2f million parameters, positions not counted", num_params(trainer.model) / 1e6)
        work(trainer)
    return folder


def resume_into(folder: Path) -> str | None:
    """What to resume where the run's folder is given: the run in it, if one has begun there."""
    return str(folder) if RunFolder(folder).experiment.exists() else None


def take_gpu(world: World) -> None:
    """Each process its own. Raises KitError where there are too few."""
    found = torch.cuda.device_count()
    if world.local_size > found:
        raise KitError(f"{world.local_size} processes were started here, but there are {found} GPUs")
    torch.cuda.set_device(world.local_rank)


def reopened(
    experiment: Experiment, resume: str | None, trust_code: bool, world: World
) -> tuple[Experiment, RunFolder | None]:
    """What to run, and in which folder where it is not a new one. All ranks go on with the run that rank 0 finds."""
    if resume is None:  # rank 0 alone decides: a node that came back counts no restarts
        begun = begun_by_this_launch(experiment) if world.rank == 0 and launch() else None
        resume = world.broadcast(None if begun is None else str(begun))
        if resume:
            logger.info("torchrun has started again: going on with %s", resume)
    if resume is None:
        return experiment, None
    if world.rank == 0:
        found = reopen(experiment, resume, trust_code)
        world.broadcast(found[1].path)
        return found
    return reopen(experiment, str(world.broadcast(None)), trust_code)


def begun_by_this_launch(experiment: Experiment) -> RunFolder | None:
    """The unfinished run that torchrun has started before, and starts again since one of its processes has failed."""
    for folder in reversed(runs.runs_of_experiment(runs.runs_root() / experiment.name)):
        with suppress(KitError):
            origin = folder.provenance()
            same = (origin.launch, origin.fingerprint) == (launch(), experiment.fingerprint())
            if same and folder.status().state not in ("finished", "running"):
                return folder
    return None


def launch() -> str:
    """What tells a start by torchrun from others; empty where there is nothing to tell it by.

    Without an id of its own (`--rdzv-id`, `--standalone`) it is known by its restarts alone.
    """
    told = os.environ.get("TORCHELASTIC_RUN_ID", "")
    return told if told != "none" or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0" else ""


def work(trainer: Trainer) -> None:
    """Trains and samples; whatever happens, the run's status tells it."""
    folder, stop = trainer.folder, trainer.stop
    end: End = End("failed", "fault")
    try:
        if trainer.world.rank == 0:
            folder.set_status("running")
            toml = trainer.experiment.to_toml(with_copies=True)  # a resumed run may have got more steps
            write_atomically(folder.experiment, toml)
        trainer.train()
        if trainer.experiment.sample.num_samples and not trainer.interrupted():
            write_samples(trainer)
        if trainer.interrupted():
            raise KeyboardInterrupt(stop.name)
        end = End("finished", limit_reached(trainer), trainer.stop_reason or trainer.budget_spent)
    except KeyboardInterrupt as error:
        end = End("interrupted", "signal", str(error) or "SIGINT")
        raise
    except BaseException as error:
        failure = failure_of(error, trainer)
        end = End("failed", "fault", str(failure) or repr(failure), failure)
        if failure is not error:
            raise failure from error
        raise
    finally:
        report(trainer, end)


@dataclass(frozen=True)
class End:
    """How a run ended on this rank; `reason` is for people."""

    state: State
    ended_by: EndedBy
    reason: str = ""
    failure: BaseException | None = None


def limit_reached(trainer: Trainer) -> EndedBy:
    """Of a run that was not interrupted."""
    if trainer.stop_reason:
        return "callback"
    if trainer.budget_spent:
        return "max_seconds"
    return "steps" if trainer.experiment.total_steps == trainer.experiment.train.steps else "max_tokens"


def failure_of(error: BaseException, trainer: Trainer) -> BaseException:
    """What ended a run, as one of RunFailed where that is known."""
    if any(trainer.world.lost(one) for one in error_chain(error)):  # perhaps within a callback, whose error says so
        return trainer.world.lost_rank(trainer.step)
    if isinstance(error, OSError):
        return RunFailed(f"{trainer.folder} cannot go on: {error}")
    return in_words(trainer.saving.named(error))


def in_words(error: BaseException) -> BaseException:
    """What ended a run; memory that ran out elsewhere than in a step, which tells it itself."""
    if isinstance(error, KitError | RunFailed) or not is_out_of_memory(error):
        return error
    return OutOfMemory(f"out of memory: {error}; a smaller model, or a smaller evaluate.batch_size, needs less")


def report(trainer: Trainer, end: End) -> None:
    """The run's last word: rank 0's, or that of the rank that failed."""
    folder, rank = trainer.folder, trainer.world.rank
    lost = isinstance(end.failure, LostRank)
    try:
        trainer.hooks.call("run_finished", run=trainer, status=end.state)
        if lost and folder.status().state == "failed":
            return  # the one that was lost has said why
        if rank == 0 or (end.state == "failed" and not lost):
            failure = end.failure
            folder.set_status(
                end.state,
                ended_by=end.ended_by,
                reason=end.reason,
                cause=cause_of(failure) if failure else None,
                origin=origin_of(failure) if failure else "",
                rank=rank,
                step=trainer.step,
                total_steps=trainer.total_steps,
                seconds=round(trainer.seconds, 3),
                parameters=num_params(trainer.model),
                compile=trainer.compile.mode,
                best=Best.of(trainer.saving.best),
            )
    except (OSError, RunFailed) as error:  # what ended the run matters more
        logger.warning("%s is %s, but its end is not complete: %s", folder, end.state, error)


def write_samples(trainer: Trainer) -> None:
    """What the model writes at the end of its run, into samples.txt and to the callbacks."""
    wanted = trainer.experiment.sample
    writer = TextGenerator(trainer.experiment, trainer.model, trainer.data.encoder, trainer.precision.device)
    texts = [wanted.prompt] * wanted.num_samples
    with trainer.hooks.evaluation(trainer), eval_mode(trainer, wanted.seed):
        pieces = writer.stream_tokens(texts)  # on all ranks alike: each may hold but a part of the model
        for piece in takewhile(lambda _: not trainer.interrupted(), pieces):
            texts[piece.text_index] += piece.text
    if not trainer.interrupted():
        publish_samples(trainer, texts)
