"""In which versions of plugins an installation differs from that which a run was made with."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from nanogpt_kit.core.code_identity import plugin_sources
from nanogpt_kit.core.entry import LOCAL
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.identity import only_reports
from nanogpt_kit.core.made_with import MadeWith, Unresolved
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION


@dataclass(frozen=True)
class OtherPluginVersion:
    """A plugin of which another version, or other code of the same version, is installed than a run was made with."""

    key: tuple[str | int, ...]  # of the first component that is from it
    distribution: str
    recorded: str
    installed: str
    decides: bool  # whether one of its components may change the result of a run, as trackers do not

    def __str__(self) -> str:
        if self.recorded == self.installed:
            return f"the code of {self.distribution} {self.installed} is not that which the run was made with"
        return f"the run was made with {self.distribution} {self.recorded}, and {self.installed} is installed"


def recorded_by(experiment: Experiment) -> MadeWith:
    """What the run whose experiment this is has recorded of its plugins; nothing where it is not that of a run."""
    return experiment.layers.made_with or MadeWith()


def other_versions(experiment: Experiment, kinds: Collection[str] | None = None) -> list[OtherPluginVersion]:
    """The plugins of an experiment's components of these kinds (None: of all) that are not as the run had them.

    Each once, by its first component.
    """
    made_with, found = recorded_by(experiment), dict[str, OtherPluginVersion]()
    sources = plugin_sources(experiment) if made_with.sources else {}
    parts = sorted(experiment.parts(), key=lambda item: only_reports(item[1]))  # those that decide first
    for key, part in parts:
        entry = experiment.entry_of(part)
        recorded = made_with.versions.get(entry.distribution)
        is_plugin = entry.distribution not in (KIT_DISTRIBUTION, LOCAL) and not isinstance(part, Unresolved)
        if not is_plugin or not recorded or (kinds is not None and part.kind not in kinds):
            continue
        before, now = made_with.sources.get(entry.qualified), sources.get(entry.qualified)
        if recorded != entry.version or (before and now and before != now):
            change = OtherPluginVersion(key, entry.distribution, recorded, entry.version, not only_reports(part))
            found.setdefault(entry.distribution, change)
    return list(found.values())
