"""A run in one line: its folder, step and loss, and how it relates to the other runs of its experiment."""

from __future__ import annotations

from collections.abc import Sequence

from nanogpt_kit.core.errors import printable
from nanogpt_kit.runs.folder import RunFolder, relative_to_cwd, runs_root
from nanogpt_kit.runs.metrics import last_evaluation
from nanogpt_kit.runs.ranking import LOSS, Ranking, rank_runs
from nanogpt_kit.runs.status import Status


def describe_run(folder: RunFolder, step: int | None, remarks: Sequence[str] = ()) -> str:
    """Such as "run runs/tiny/mine: step 10 of 20, val/loss 4.6845 (interrupted)"; `step` is that of its checkpoint."""
    status = folder.status()
    facts = ["imported"] if status.imported else [step_text(step, status), *loss_texts(folder, step)]
    state = [] if status.state == "finished" else [status.state]
    more = "; ".join([*state, *remarks])
    return one_line(f"run {relative_to_cwd(folder.path)}: {', '.join(facts)}{f' ({more})' if more else ''}")


def describe_choice(chosen: RunFolder, folders: Sequence[RunFolder], name: str, is_best: bool) -> list[str]:
    """Remarks on a run that was chosen among those of the experiment `name`, the newest of which is last."""
    if len(folders) < 2:
        return []
    ranking = rank_runs(folders, chosen)
    if is_best:
        return [best_of_text(ranking, len(folders))]
    newer = folders[folders.index(chosen) + 1 :]
    kind = "newest"
    if newer:
        kind += " finished" if chosen.status().state == "finished" else " with a checkpoint"
    if ranking and ranking.best == chosen and ranking.count == len(folders):
        kind += " and best"
    remarks = [f"{kind} of {len(folders)}"]
    if newer:
        remarks.append(f"newer: {short_name(newer[-1])}, {progress_text(newer[-1])}")
    if ranking and ranking.best != chosen:
        remarks.append(f"{name}@best: {ranking_text(ranking)}")
    return remarks


def best_of_text(ranking: Ranking | None, count: int) -> str:
    if ranking is None or ranking.count == count:
        return f"best of {count}"
    return f"best of the {ranking.count} that compare, of {count}"


def ranking_text(ranking: Ranking) -> str:
    """The value of the best run; the loss of the chosen one is in the line already, its bits per byte are not."""
    if ranking.metric == LOSS:
        return value_text(ranking.value)
    return f"{value_text(ranking.value)} bits per byte, this one {value_text(ranking.reference_value)}"


def step_text(step: int | None, status: Status) -> str:
    if step is None:
        return "no checkpoint yet"
    is_total_known = status.total_steps > 0 or status.state == "finished"  # not where status.json is damaged
    return f"step {step:,} of {status.total_steps:,}" if is_total_known else f"step {step:,}"


def loss_texts(folder: RunFolder, step: int | None) -> list[str]:
    """The validation loss of a checkpoint, or else of the newest evaluation before it."""
    evaluation = last_evaluation(folder.metrics, step)
    if not evaluation:
        return []
    at = "" if step in (None, evaluation["step"]) else f" at step {evaluation['step']:,}"
    return [f"{LOSS} {value_text(evaluation[LOSS])}{at}"]


def progress_text(folder: RunFolder) -> str:
    """Such as "interrupted at step 4 of 10"; the step is that of its newest checkpoint."""
    status, steps = folder.status(), folder.checkpoint_steps()
    if not steps:
        return f"{status.state}, without a checkpoint"
    return f"{status.state} at {step_text(steps[-1], status)}"


def value_text(value: float) -> str:
    """As `eval` prints metrics."""
    return f"{value:.4f}" if abs(value) < 1e6 else f"{value:.4g}"


def short_name(folder: RunFolder) -> str:
    """A reference to a run: the name of its folder where that is enough, otherwise its path."""
    is_below_root = folder.path.absolute().parent.parent == runs_root().absolute()
    return folder.path.name if is_below_root else str(relative_to_cwd(folder.path))


def one_line(text: str) -> str:
    """Without characters that control a terminal, newlines included: the names of folders may come from others."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")
