"""Trains a tiny model for a few steps, with any component, from a TOML file as users write it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nanogpt_kit.checkpoint import store
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.testing.ranks import run_on_ranks
from nanogpt_kit.train.run import Run, open_run, run

LAST, RESUMED = 5, 3  # steps of the tiny training, and the step of the checkpoint that it is resumed from
TINY = f"""\
name = "tiny"
tokenizer = "byte"
callback = []

[dataset]
use = "text"
source = "{{text}}"

[model]
use = "gpt"
n_layer = 2
n_head = 2
n_embd = 16
block_size = 16

[optimizer]
use = "adamw"
lr = 1e-2

[schedule]
use = "constant"

[train]
steps = {LAST}
batch_tokens = 64
log_every_steps = 1
precision = "fp32"

[evaluate]
every_steps = {LAST}

[checkpoint]
every_steps = {RESUMED}

[sample]
max_new_tokens = 8
"""
OWN_FOLDERS = {
    "NANOGPT_KIT_RUNS": "runs",
    "NANOGPT_KIT_DATA": "data",
    "XDG_CACHE_HOME": "cache",
    "XDG_STATE_HOME": "state",
}
TEXT = "".join(f"{n} times {n + 7} is {n * (n + 7)}.\n" for n in range(300))
# Of an experiment that is not the tiny one: the sizes of its model, where it has these options, and its steps
SMALL_MODEL = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 16}
BRIEF = (
    *(f"train.steps={LAST}", "train.batch_tokens=64", "train.micro_batch_size=auto", "train.log_every_steps=1"),
    *("train.precision=fp32", f"evaluate.every_steps={LAST}", f"checkpoint.every_steps={RESUMED}"),
    *("checkpoint.keep_last=2", "sample.max_new_tokens=8"),
)
OF_THE_KIT = "nanogpt_kit."  # modules of built-in components


def train_briefly(
    folder: Path, *overrides: str, experiment: Path | None = None, files: Sequence[Path] = (), ranks: int = 1
) -> Run:
    """Trains a tiny model for five steps in `folder`, and returns the finished run.

    `overrides` are written as on the command line: "optimizer.use=lion". `experiment` is an experiment file that takes
    the place of the tiny one, with a model, steps and batches as small, and a little text in place of a built-in
    dataset. `files` are local component files, `ranks` the number of processes, which are forked. Nothing is written
    outside `folder`. Raises KitError for a mistake, RunFailed where a loss is not finite.
    """

    def train(rank: int) -> str:
        return str(run(brief_experiment(folder, overrides, experiment, files, ranks)).path)

    with own_folders(folder):
        path = train(0) if ranks == 1 else run_on_ranks(ranks, train, joined=False)[0]
        return open_run(path, trust_code=True)


def resume_briefly(folder: Path, *overrides: str, experiment: Path | None = None, files: Sequence[Path] = ()) -> Run:
    """As `train_briefly`, and then the last steps again, from the checkpoint of step 3, as after a kill.

    Asserts that the resumed run has bit for bit the losses, weights and state of the optimizer that it had before, and
    returns it.
    """
    finished = train_briefly(folder, *overrides, experiment=experiment, files=files)
    expected, steps = results_of(finished), finished.folder.checkpoint_steps()
    assert len(steps) > 1, f"there is one checkpoint, at step {steps[0]}: set checkpoint.every_steps below train.steps"
    store.delete_checkpoint(finished.folder.checkpoint(steps[-1]))
    finished.folder.set_status("interrupted", step=steps[-2])
    with own_folders(folder):
        resumed = run(brief_experiment(folder, overrides, experiment, files), resume=finished, trust_code=True)
    difference = first_difference(results_of(resumed), expected)
    assert difference is None, (
        f"resumed from step {steps[-2]}, {difference} is another than in the run that was not stopped: keep what later "
        "steps depend on in parameters, in the state of the optimizer, or in state_dict of a callback"
    )
    return resumed


def brief_experiment(
    folder: Path, overrides: Sequence[str], experiment: Path | None, files: Sequence[Path] = (), ranks: int = 1
) -> Experiment:
    """The tiny experiment, or another one made as small."""
    folder.mkdir(parents=True, exist_ok=True)
    text = folder / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    chosen = [*([f"components={[str(path.resolve()) for path in files]}"] if files else []), *overrides]
    if experiment is None:
        experiment = folder / "tiny.toml"
        experiment.write_text(TINY.format(text=text.as_posix()), encoding="utf-8")
    else:
        whole = Experiment.load(experiment, chosen, trust_code=True, n_processes=ranks)
        sizes = [f"model.{name}={n}" for name, n in SMALL_MODEL.items() if name in type(whole.model).model_fields]
        if type(whole.dataset).__module__.startswith(OF_THE_KIT):
            sizes.append(f'dataset={{ use = "text", source = "{text.as_posix()}" }}')
        chosen = [*sizes, *BRIEF, *chosen]
    return Experiment.load(experiment, chosen, trust_code=True, n_processes=ranks)


@contextmanager
def own_folders(folder: Path) -> Iterator[None]:
    """While entered, runs, prepared data, caches and consents are those of `folder`."""
    with pytest.MonkeyPatch.context() as patch:
        for variable, name in OWN_FOLDERS.items():
            patch.setenv(variable, str(folder / name))
        yield


def results_of(finished: Run) -> dict[str, Any]:
    """What a run has computed, by name."""
    checkpoint = store.newest_whole_checkpoint(finished.folder.checkpoints)
    assert checkpoint is not None
    losses = {
        f"{name} of step {line['step']}": line[name]
        for line in read_metrics(finished.folder.metrics)
        for name in ("train/loss", "val/loss")
        if name in line
    }
    training = store.load_training(checkpoint)
    state = {f"the optimizer's {name}": value for name, value in named_values(training["optimizer"])}
    return losses | store.read_weights(checkpoint) | state


def named_values(value: Any, name: str = "state") -> Iterator[tuple[str, Any]]:
    """The tensors and plain values of a nested state, with their places in it."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else None
    if items is None:
        yield name, value
        return
    for key, inner in items:
        yield from named_values(inner, f"{name}.{key}")


def first_difference(found: dict[str, Any], expected: dict[str, Any]) -> str | None:
    """The name of the first value that differs; None where all are the same, bit for bit."""
    for name in dict.fromkeys([*expected, *found]):
        one, other = found.get(name), expected.get(name)
        if not (torch.equal(one, other) if isinstance(one, Tensor) and isinstance(other, Tensor) else one == other):
            return name
    return None
