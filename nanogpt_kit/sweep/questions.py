"""Comparisons and ablations from Python; what `nanogpt-kit compare` and `nanogpt-kit ablate` do with --seeds."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from nanogpt_kit.comparison.arms import read_arms
from nanogpt_kit.comparison.finished import compare_finished
from nanogpt_kit.comparison.question import Direction, Question, reason_to_ask
from nanogpt_kit.comparison.record import Comparison
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.override_text import override_text
from nanogpt_kit.runs.secrets import hide_in_text
from nanogpt_kit.sweep.ablation import ablation_options, ablation_question, ablation_seeds
from nanogpt_kit.sweep.comparison import run_comparison

AnArm = Experiment | str | os.PathLike[str] | Mapping[str, Any]


def compare(
    base: Experiment | str | os.PathLike[str],
    *contenders: AnArm,
    seeds: int | None = 5,
    metric: str = "val/loss",
    direction: Direction = "minimize",
    text: str = "",
    again: bool = False,
    workers: int = 1,
    nproc: int = 1,
    trust_code: bool = False,
) -> Comparison:
    """Compares each contender with the base over the same seeds; runs that are missing are trained first.

    `base` is an Experiment, or an argument of the command: a file, a name, a group of runs. A contender is one of
    these, or a change of the base: a text such as "model.mlp=swiglu", or a dict such as {"model.n_layer": 4}. The seeds
    are train.seed of the base and the ones after it; with None only finished runs are compared. `text` is the reason to
    ask, by default the `note` of an experiment; the other parameters are the options of the command.

    Raises KitError for a mistake and for arms that do not compare, RunFailed where the base or the storage fails,
    KeyboardInterrupt where it was asked to stop; the same call continues.
    """
    if not contenders:
        raise KitError("compare: expected a contender, as in compare('quickstart', 'model.mlp=swiglu', seeds=3)")
    check_numbers("compare", workers=workers, nproc=nproc, **({} if seeds is None else {"seeds": seeds}))
    check_arms_given(base, contenders)
    if direction not in get_args(Direction):
        raise KitError(f"compare: direction should be 'minimize' or 'maximize', got {direction!r}")
    for name, value in {"metric": metric, "text": text}.items():
        if not isinstance(value, str):
            raise KitError(f"compare: {name} should be text, got {value!r}")
    (first,) = read_arms([base], trust_code, nproc)
    written = first.arm.experiment
    others = [written.with_(one) if isinstance(one, Mapping) else one for one in contenders]
    arms = [named.arm for named in read_arms([base, *others], trust_code, nproc)]
    for index, change in enumerate(contenders, start=1):
        if isinstance(change, Mapping):
            arms[index] = replace(arms[index], label=change_label(change) or "no change")
    question = Question("compare", tuple(arms), metric, direction, reason_to_ask(text, arms))
    names = [shown_argument(one, arm.label) for one, arm in zip((base, *contenders), arms, strict=True)]
    command = f"nanogpt_kit.compare({', '.join(names)}, seeds={seeds})"
    if seeds is None:
        return compare_finished(question, hide_in_text(command))
    seed = written.train.seed
    return run_comparison(
        question, range(seed, seed + seeds), again=again, workers=workers, nproc=nproc, command=hide_in_text(command)
    )


def check_numbers(function: str, **values: Any) -> None:
    for name, value in values.items():
        if type(value) is not int or value < 1:
            raise KitError(f"{function}: {name} should be a whole number of at least 1, got {value!r}")


def check_arms_given(base: object, contenders: Sequence[object]) -> None:
    kinds = (Experiment, str, os.PathLike)
    if not isinstance(base, kinds):
        raise KitError(f"compare: the base should be an Experiment, a file or a name, got {base!r}")
    for one in contenders:
        if not isinstance(one, (*kinds, Mapping)):
            raise KitError(f"compare: a contender should be an Experiment, a text or a dict of options, got {one!r}")


def shown_argument(argument: AnArm, label: str) -> str:
    """An experiment as in `<Experiment quickstart>`: its name does not say what was changed after it was loaded."""
    return f"<Experiment {label}>" if isinstance(argument, Experiment) else repr(label)


def change_label(change: Mapping[str, Any]) -> str:
    """A dict of options as a user would write them: "model.n_layer=4 model.mlp=swiglu"; of tables only the keys."""
    return " ".join(
        f"{key}={override_text(value)}" if isinstance(value, str | int | float) else key
        for key, value in change.items()
    )


def ablate(
    experiment: Experiment | str | os.PathLike[str],
    vary: Mapping[str, Sequence[Any]] | None = None,
    *,
    again: bool = False,
    nproc: int = 1,
    trust_code: bool = False,
    **options: Any,
) -> Comparison:
    """Compares the changes of an experiment with it, one at a time, over the same seeds; see `compare`.

    `vary` has the values of each key, as in {"model.mlp": ["gelu", "swiglu"]}; without it the changes are those of the
    [ablate] table. `options` are other keys of that table, as in seeds=5, factorial=True.
    """
    check_numbers("ablate", nproc=nproc)
    if not isinstance(vary, Mapping | None):
        raise KitError(f'ablate: vary should be a dict such as {{"model.mlp": ["gelu", "swiglu"]}}, got {vary!r}')
    for key, values in (vary or {}).items():
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise KitError(f"ablate: {key} should have a list of values, as in {{{key!r}: [{values!r}]}}")
    chosen = (
        experiment if isinstance(experiment, Experiment) else Experiment.load(os.fspath(experiment), (), trust_code)
    )
    table = {f"ablate.{name}": value for name, value in options.items()}
    if vary is not None:
        table["ablate.vary"] = {key: list(values) for key, values in vary.items()}
    chosen = chosen.with_(table) if table else chosen
    question, used = ablation_question(chosen, (), nproc), ablation_options(chosen)
    command = f"nanogpt_kit.ablate({shown_argument(experiment, chosen.name)}, seeds={used.seeds})"
    return run_comparison(
        question,
        ablation_seeds(chosen),
        again=again,
        workers=used.workers,
        storage=used.storage,
        nproc=nproc,
        command=command,
    )
