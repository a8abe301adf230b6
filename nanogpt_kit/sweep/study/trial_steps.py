"""The steps, evaluations and warm-up of a sweep's trials, as far as they differ within its space."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.targets import is_of_rate
from nanogpt_kit.sweep.space.endpoints import MAX_COMBINATIONS, EndpointCombinations
from nanogpt_kit.sweep.space.parameters import Parameter, format_value
from nanogpt_kit.sweep.space.space import Space, is_key_within
from nanogpt_kit.sweep.study.warmup import TrialSteps, warmup_length

DECIDING_SECTIONS = ("schedule", "train", "evaluate")  # of an experiment


def find_trial_steps(space: Space) -> list[TrialSteps]:
    """Those of the experiment as written and of each endpoint of the space whose trials differ in them."""
    experiments: list[tuple[dict[str, str], Experiment]] = [({}, space.base), *deciding_endpoints(space)]
    found: dict[tuple[int, int, int, int, tuple[int, ...]], TrialSteps] = {}
    known: dict[tuple[str, int], int] = {}
    for values, experiment in experiments:
        of_rates, steps = [one for one in experiment.schedules if is_of_rate(one)], experiment.total_steps
        key = (repr(of_rates), steps)
        if key not in known:
            known[key] = max((warmup_length(schedule, steps) for schedule in of_rates), default=0)
        every_steps, batch_tokens = experiment.evaluate.every_steps, experiment.train.batch_tokens
        evaluated = () if experiment.step_plan.has_equal_steps else evaluated_tokens(experiment)
        one = TrialSteps(values, steps, known[key], every_steps, batch_tokens, evaluated)
        found.setdefault((steps, one.warmup_steps, every_steps, batch_tokens, evaluated), one)
    return list(found.values())


def evaluated_tokens(experiment: Experiment) -> tuple[int, ...]:
    """The tokens until each evaluation."""
    every, total = experiment.evaluate.every_steps, experiment.total_steps
    return tuple(map(experiment.tokens, range(every, total + 1, every)))


def deciding_endpoints(space: Space) -> Iterator[tuple[dict[str, str], Experiment]]:
    """The endpoints of the keys that can change a trial's steps, and the experiment with each combination."""
    deciding = {entry.key for entry in space.entries if any(is_key_within(entry.key, one) for one in DECIDING_SECTIONS)}
    if not deciding:
        return
    conditions = {on.key for entry in space.entries if entry.key in deciding for on in entry.when}
    for parameter in reversed(space.parameters):  # those that others depend on come first
        if parameter.key in conditions:
            conditions |= {on.key for on in parameter.when}
    endpoints = EndpointCombinations(space).values

    def tried(parameter: Parameter) -> Sequence[Any]:
        values = endpoints[parameter.name]
        return values if parameter.key in deciding | conditions else values[:1]

    for config in itertools.islice(space.combinations(tried), MAX_COMBINATIONS):
        settings = {one.key: one.value for one in space.settings if one.key in deciding and one.is_active(config)}
        values = {key: value for key, value in config.items() if key in deciding | conditions} | settings
        with suppress(KitError):  # of many combinations not all were checked; such a trial is refused
            yield {key: format_value(value) for key, value in values.items()}, space.experiment(config)
