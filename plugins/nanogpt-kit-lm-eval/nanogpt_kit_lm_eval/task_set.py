"""Tasks of lm-evaluation-harness: found by name, changed by options, and evaluated."""

from __future__ import annotations

import difflib
import functools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from nanogpt_kit.api import KitError

FEWSHOT_SEED = 1234  # the harness's own
SINGLE_PROCESS = "DISABLE_MULTIPROC"  # variable: the harness would fork this process, which has threads
NOT_METRICS = ("alias", "name", "sample_len", "sample_count")


@dataclass(frozen=True)
class TaskSet:
    """Names of tasks, groups and tags, as `lm_eval ls tasks` lists them, and options for all of them."""

    names: tuple[str, ...]
    include_path: str = ""  # folder with more tasks
    num_fewshot: int | None = None
    limit: int | None = None
    max_gen_toks: int | None = None
    bootstrap_iters: int = 1000

    @functools.cached_property
    def loaded(self) -> Any:
        """The harness's tasks, which read their data here. Raises KitError for unknown names and unreadable data."""
        with quiet_output():
            index = self.manager()
            try:
                loaded = index.load(list(self.names))
            except Exception as error:  # of any library that a task uses
                cause = f"{type(error).__name__}: {error}"
                raise KitError(f"lm_eval cannot load the tasks {', '.join(self.names)}: {cause}") from error
        return loaded

    def manager(self) -> TaskManager:
        """An index of the tasks. That of the harness's own takes seconds, and is left out where it is not needed."""
        if self.include_path:
            if not os.path.isdir(self.include_path):
                raise KitError(f"include_path: {self.include_path!r} is not a folder")
            own = TaskManager(include_path=self.include_path, include_defaults=False)
            if set(self.names) <= set(own.all_tasks):
                return own
        index = TaskManager(include_path=self.include_path or None)
        for name in self.names:
            if name not in index.all_tasks:
                close = difflib.get_close_matches(name, index.all_tasks, n=1)
                remedy = f"did you mean {close[0]!r}?" if close else "`lm_eval ls tasks` lists them"
                raise KitError(f"lm_eval has no task {name!r}; {remedy}")
        return index

    def configure(self, task: Any) -> None:
        """As `simple_evaluate` of the harness does: a task that sets num_fewshot to 0 keeps it.

        Before each evaluation, since the generator that draws the examples continues from the evaluation before.
        """
        of_task = task.get_config("num_fewshot")
        if of_task is None or (self.num_fewshot is not None and of_task != 0):
            task.set_config(key="num_fewshot", value=self.num_fewshot or 0)
        if self.max_gen_toks is not None and task.get_config("output_type") == "generate_until":
            task.set_config(key="generation_kwargs", value={"max_gen_toks": self.max_gen_toks}, update=True)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)

    def evaluate(self, model: LM) -> dict[str, Any]:
        """What `lm_eval.evaluate` returns: results by task, versions, numbers of samples, ..."""
        loaded = self.loaded
        for task in loaded["tasks"].values():
            self.configure(task)
        with quiet_output(), one_process():
            found: dict[str, Any] = evaluate(
                lm=model,
                task_dict=loaded,
                limit=self.limit,
                bootstrap_iters=self.bootstrap_iters,
                log_samples=False,
            )
        return found


def metrics_of(found: dict[str, Any]) -> dict[str, float]:
    """{"arc_easy/acc": 0.4, "arc_easy/acc_stderr": 0.01, "gsm8k/exact_match/strict-match": 0.0, ...}"""
    metrics = {}
    for task, results in found["results"].items():
        for key, value in results.items():
            metric, _, filter_name = key.partition(",")
            if key not in NOT_METRICS and isinstance(value, int | float):
                suffix = "" if filter_name in ("", "none") else f"/{filter_name}"
                metrics[f"{task}/{metric}{suffix}"] = float(value)
    return metrics


def quiet_output() -> redirect_stdout[Any]:
    """The harness prints to standard output, which is for results."""
    return redirect_stdout(sys.stderr)


@contextmanager
def one_process() -> Iterator[None]:
    before = os.environ.get(SINGLE_PROCESS)
    os.environ[SINGLE_PROCESS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SINGLE_PROCESS]
        else:
            os.environ[SINGLE_PROCESS] = before
