"""The versions of the plugins that a sweep began with: trials of two versions are not compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nanogpt_kit.core.entry import LOCAL
from nanogpt_kit.core.errors import Fault
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.made_with import MadeWith
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION
from nanogpt_kit.runs.provenance import component_versions
from nanogpt_kit.sweep.space.endpoints import EndpointCombinations
from nanogpt_kit.sweep.space.space import Space


def plugin_versions(space: Space) -> dict[str, str]:
    """The version of each plugin that a component of some trial is from."""
    versions = component_versions(space.base)
    for experiment in with_each_choice(space):
        versions |= component_versions(experiment)
    return {name: version for name, version in versions.items() if name not in (KIT_DISTRIBUTION, LOCAL)}


def with_each_choice(space: Space) -> Iterator[Experiment]:
    """An experiment with each value of the space that may name a component."""
    combinations = EndpointCombinations(space)
    for entry in space.entries:
        for value in entry.endpoints:
            if isinstance(value, str | dict | list) and (config := combinations.config_activating(entry, value)):
                yield space.experiment(config)


def plugin_faults(before: Mapping[str, str], now: Mapping[str, str]) -> list[Fault]:
    """A fault for each plugin that has another version than when the sweep began."""
    changed = {name: now[name] for name, version in before.items() if now.get(name, version) != version}
    recorded = MadeWith(before)
    return [
        Fault(f"the trials were made with {recorded.text(name)}, and {version} is installed{recorded.remedy(name)}")
        for name, version in changed.items()
    ]
