"""Runs from Python: `run` trains an experiment, `open_run` opens an old run, and both return a `Run`."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nanogpt_kit.checkpoint import store
from nanogpt_kit.core.errors import KitError, printable
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Evaluator
from nanogpt_kit.generate.generator import TextGenerator
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.runs.find import find_run
from nanogpt_kit.runs.folder import RunFolder, relative_to_cwd
from nanogpt_kit.runs.metrics_table import columns_of, metrics_table
from nanogpt_kit.runs.recorded_experiment import load_recorded
from nanogpt_kit.train import session
from nanogpt_kit.train.evaluation import evaluate_trained_model
from nanogpt_kit.train.precision import usable_device

AnEvaluator = str | Mapping[str, Any] | Evaluator  # its name, its table, or itself


def run(
    experiment: Experiment,
    resume: str | os.PathLike[str] | bool | None = None,
    trust_code: bool = False,
    into: str | os.PathLike[str] | None = None,
    accept_versions: bool = False,
) -> Run:
    """Trains an experiment in a new folder, or resumes a run of it that is not done.

    `resume` names the run; True is the newest unfinished one. `into` is the run's folder, whether it exists yet or not.
    `accept_versions` continues a run also where another version of one of its plugins is installed than it was made
    with.
    Started by torchrun, each process is one rank of the run. Raises KitError before anything is written (Busy where
    another process uses the run), RunFailed where the run itself fails, KeyboardInterrupt where it was asked to stop.
    """
    if not isinstance(experiment, Experiment):
        raise KitError(f"expected an experiment, as in run(Experiment.load('quickstart')), got {experiment!r}")
    name = "" if resume is True else None if resume is None or resume is False else os.fspath(resume)
    folder = session.run(
        experiment, name, trust_code, None if into is None else Path(into), accept_versions=accept_versions
    )
    return Run(folder, trust_code=trust_code)


def open_run(reference: str | os.PathLike[str], trust_code: bool = False) -> Run:
    """An old run, or one that is being trained: a run folder, a run id, or an experiment's name, each perhaps with
    @best or @STEP behind it.

    Raises KitError where there is none. `trust_code` consents to component files that never ran on this machine.
    """
    found = find_run(reference)
    return Run(found.folder, found.step, trust_code)


class Run(os.PathLike[str]):
    """A run: its folder, its metrics and its model. Other functions accept it as the path of its folder."""

    def __init__(self, folder: RunFolder, step: int | None = None, trust_code: bool = False) -> None:
        """`step` is that of the checkpoint whose model is used; omitted: the newest."""
        self.folder = folder
        self.step = step
        self.trust_code = trust_code
        self._loaded: tuple[object, TextGenerator] | None = None

    @property
    def path(self) -> Path:
        return self.folder.path

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def status(self) -> str:
        """ "running", "finished", "failed" or "interrupted"."""
        return self.folder.status().state

    @property
    def experiment(self) -> Experiment:
        """As the run has recorded it, every option included."""
        return load_recorded(self.folder, trust_code=self.trust_code, needs=())

    def metrics(self) -> Any:
        """A pandas DataFrame with one row a step, or, where pandas is not installed, a list of dicts.

        Columns: step, tokens, seconds; then train/..., val/..., each with its loss first; then all others in the order
        of their names. A metric that was not measured at a step is NaN there, or is missing in the dict.
        """
        rows = metrics_table(self.folder.metrics)
        if importlib.util.find_spec("pandas") is None:
            return rows
        import pandas  # type: ignore[import-untyped]

        return pandas.DataFrame(rows, columns=columns_of(rows))

    def generator(self, step: int | None = None, weights: str | None = None, device: str = "auto") -> TextGenerator:
        """The model of a checkpoint, by default the newest, as `load_run` loads it. The last one is kept."""
        step = self.step if step is None else step
        key = step, weights, device, store.list_checkpoints(self.folder.checkpoints)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # frees its memory first
            generator = load_run(self, usable_device(device), self.trust_code, weights=weights, step=step)
            self._loaded = key, generator
        return self._loaded[1]

    def sample(
        self,
        prompts: str | Sequence[str] | None = None,
        max_new_tokens: int | None = None,
        *,
        step: int | None = None,
        weights: str | None = None,
        device: str = "auto",
        **options: Any,
    ) -> list[str]:
        """A text for each prompt, prompt included; without prompts those of [sample].

        `options` are those of `TextGenerator.stream_tokens`: seed, samplers, stop. Raises KitError.
        """
        generator = self.generator(step, weights, device)
        if prompts is None:
            prompts = [generator.experiment.sample.prompt] * max(1, generator.experiment.sample.num_samples)
        return generator.generate(prompts, max_new_tokens, **options)

    def evaluate(
        self,
        evaluators: AnEvaluator | Sequence[AnEvaluator] | None = None,
        *,
        step: int | None = None,
        weights: str | None = None,
        device: str = "auto",
    ) -> dict[str, float]:
        """The metrics of the run's evaluators or of others, as `nanogpt-kit eval` prints them: {"val/loss": 1.9, ...}.

        An evaluator is a name, a table such as {"use": "perplexity", "file": "a.txt"}, or a component. Texts that one
        shows are printed. Raises KitError.
        """
        generator = self.generator(step, weights, device)
        if evaluators is not None:
            chosen = [evaluators] if isinstance(evaluators, str | Mapping | Evaluator) else list(evaluators)
            generator = replace(generator, experiment=generator.experiment.with_(evaluator=chosen))
        return evaluate_trained_model(generator, print_texts)

    def __repr__(self) -> str:
        """One line: the folder, how far it is, and its last loss."""
        status, rows = self.folder.status(), metrics_table(self.folder.metrics)
        step = max(status.step, rows[-1]["step"] if rows else 0)
        steps = f", step {step:,}" + (f" of {status.total_steps:,}" if status.total_steps else "")
        losses = [row["val/loss"] for row in rows if "val/loss" in row]
        loss = f", val/loss {losses[-1]:.4f}" if losses else ""
        checkpoint = "" if self.step is None else f", checkpoint of step {self.step:,}"
        return printable(f"<Run {relative_to_cwd(self.path)}: {status.state}{steps}{loss}{checkpoint}>")


def print_texts(texts: Sequence[str]) -> None:
    for text in texts:
        print(printable(text))
