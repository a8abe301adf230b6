"""The checks of an experiment before its data is touched: what they refuse, `check` and `run` refuse alike."""

from __future__ import annotations

import os
from collections.abc import Callable

from torch import nn

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.core.targets import LEARNING_RATE
from nanogpt_kit.data.source_check import check_source, run_checks
from nanogpt_kit.data.tokenizer_of_run import state_from_run
from nanogpt_kit.generate.prompt import check_prompt
from nanogpt_kit.nn.group_matches import freeze_parameters
from nanogpt_kit.nn.initial_weights import check_init, planned_optimizer
from nanogpt_kit.nn.uninitialized import check_model_parts
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.train.context import resolve_run_context
from nanogpt_kit.train.memory import check_memory
from nanogpt_kit.train.metric_names import check_metric_options, check_unique_metrics
from nanogpt_kit.train.schedules import check_driven_numbers
from nanogpt_kit.train.warm_start import WarmStart, check_published_tokens, is_download

ASSUMED_VOCABULARY = 256  # tokens, where the tokenizer learns it from the text


def check_before_data(
    experiment: Experiment, ctx: RunContext, resumed: RunFolder | None = None, is_first_rank: bool = True
) -> nn.Module | None:
    """The checks that need neither data nor weights; a resumed run may have other callbacks than before.

    Raises KitError with the faults of all of them. Returns the model on the meta device; None where it cannot be built
    there.
    """
    modules: list[nn.Module | None] = []

    checks: list[Callable[[], object]] = [
        lambda: experiment.check_context(ctx),
        lambda: check_unique_metrics(experiment),
        lambda: check_metric_options(experiment),
        lambda: modules.append(check_model(experiment, ctx)),
    ]
    if resumed is not None:  # one of another format is refused before the data is prepared
        checks.insert(0, resumed.provenance)
    if is_first_rank:
        checks.append(lambda: check_source(experiment, resumed))
    if is_first_rank and resumed is None:
        checks += [
            lambda: state_from_run(experiment),
            lambda: check_tokenizer_files(experiment),
            lambda: check_prompt(experiment),
        ]
    run_checks(checks)
    return modules[0]


def check_without_running(experiment: Experiment, n_processes: int, trust_code: bool = False) -> nn.Module | None:
    """All that a new run on this machine checks before its data is touched, except weights that it would download.

    Returns the model as `check_before_data` does. Raises KitError with the sentences of a run.
    """
    ctx, _ = resolve_run_context(experiment, n_processes)
    module = check_before_data(experiment, ctx)
    if is_download(experiment):
        check_published_tokens(experiment)
    else:
        start = WarmStart.find(experiment, None, trust_code)
        if start:
            start.check_tokenizer_options(experiment)
    return module


def check_model(experiment: Experiment, ctx: RunContext) -> nn.Module | None:
    """The model on the meta device, its frozen parameters frozen; None where it cannot be built there.

    Raises KitError where its parts do not fit together, where its init or a group of parameters does not suit it, and
    where it or a batch does not fit this machine's memory.
    """
    vocab_size = experiment.tokenizer.known_vocab_size() or ASSUMED_VOCABULARY
    module = check_model_parts(experiment, vocab_size)
    if module is not None:
        check_init(experiment, module, vocab_size)
        freeze_parameters(experiment, module)
        if experiment.optimizer.group or {one.target for one in experiment.schedules} != {LEARNING_RATE}:
            optimizer = planned_optimizer(experiment, module, vocab_size)  # which must have the groups' options
            if optimizer is not None:
                check_driven_numbers(experiment, optimizer)
    check_memory(experiment, module, ctx)
    return module


def check_tokenizer_files(experiment: Experiment) -> None:
    """Raises KitError where a tokenizer is built from a file that is not there, or that may not be read."""
    tokenizer = experiment.tokenizer
    if tokenizer.from_run is not None or experiment.dataset.vocabulary() is not None:
        return
    for option in sorted(tokenizer.location_options - {"from_run"}):
        path = getattr(tokenizer, option)
        if path is not None and not os.access(path, os.R_OK):
            reason = "is not readable" if os.path.exists(path) else f"does not exist, relative to {os.getcwd()}"
            location = experiment.location(("tokenizer", option))
            raise KitError(Fault(f"{path!r} {reason}", f"tokenizer.{option}", location))
