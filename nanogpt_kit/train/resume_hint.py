"""What a run that ended early has saved, and the command that continues it: notes for the exception that ended it."""

from __future__ import annotations

import hashlib
import os

from nanogpt_kit.checkpoint import store
from nanogpt_kit.checkpoint.manifest import MANIFEST, step_of
from nanogpt_kit.core.errors import NotFinite
from nanogpt_kit.core.trust import is_consent_recorded
from nanogpt_kit.runs.folder import relative_to_cwd
from nanogpt_kit.runs.resume_command import kit_command, new_run_command, resume_command, run_argument
from nanogpt_kit.train.trainer import Trainer


def interruption_note(trainer: Trainer) -> str:
    """For a run that was asked to stop: the step, what is saved and where, and the command that continues."""
    step, total, saved = trainer.step, trainer.total_steps, newest_saved_step(trainer)
    command, folder = command_to_continue(trainer), relative_to_cwd(trainer.path)
    if saved == step and is_trained(trainer):
        missing = "the samples" if trainer.progress.evaluated_at == step else "the last evaluation"
        complete = f"the training is complete at step {step:,}, saved in {folder}"
        return f"{complete}; still missing: {missing}\ncontinue with: {command}"
    if saved == step:
        return f"stopped at step {step:,} of {total:,}; saved in {folder}\ncontinue with: {command}"
    if saved is not None:
        newest = f"the newest checkpoint is that of step {saved:,}, in {folder}"
        return f"stopped at step {step:,} of {total:,}; {newest}\ncontinue from it with: {command}"
    when = f"at step {step:,} of {total:,}, before the first checkpoint" if step else "before the first step"
    return f"stopped {when}; nothing is saved\nstart again with: {command}"


def failure_note(trainer: Trainer, failure: BaseException) -> str:
    """For a run that failed: what is saved, and how to continue where the failure need not come again."""
    total, saved = trainer.total_steps, newest_saved_step(trainer)
    command, folder = command_to_continue(trainer), relative_to_cwd(trainer.path)
    if saved is None:
        again = "" if isinstance(failure, NotFinite) else f"\nstart again with: {command}"
        return f"no checkpoint is saved{again}"
    newest = f"the checkpoint of step {saved:,} of {total:,} is saved in {folder}"
    if isinstance(failure, NotFinite):
        weights = new_run_command(trainer.folder, f"model.init_from={run_argument(trainer.folder)}", "KEY=VALUE")
        return f"{newest}; the same steps would fail again\ntrain from its weights with other settings: {weights}"
    return f"{newest}\ncontinue with: {command}"


def newest_saved_step(trainer: Trainer) -> int | None:
    """The step of the newest checkpoint on the disk; after a second signal it may be older than the last step."""
    saved = [path for path in store.list_checkpoints(trainer.folder.checkpoints) if (path / MANIFEST).exists()]
    return step_of(saved[-1]) if saved else None


def is_trained(trainer: Trainer) -> bool:
    """Whether no step is left to train."""
    return trainer.step >= trainer.total_steps or bool(trainer.progress.stop_reason or trainer.stop.exhausted_budget)


def command_to_continue(trainer: Trainer) -> str:
    """The command, with the options that are needed again."""
    sources = trainer.experiment.component_sources.values()
    is_known = all(is_consent_recorded(hashlib.sha256(source).hexdigest()) for source in sources)
    options = [] if is_known else ["--trust-code"]
    if "TORCHELASTIC_RUN_ID" in os.environ:
        arguments = kit_command("run", run_argument(trainer.folder), *options).partition(" ")[2]
        return f"torchrun [its options] -m nanogpt_kit {arguments}"
    processes = ["--nproc", str(trainer.world.size)] if trainer.world.size > 1 else []
    return resume_command(trainer.folder, *processes, *options)
