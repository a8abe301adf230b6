"""Keeps the identity in a run's provenance that of the experiment that it now continues with."""

from __future__ import annotations

from typing import Any

from nanogpt_kit.core.code_identity import code_identity, plugin_sources
from nanogpt_kit.core.entry import LOCAL
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION
from nanogpt_kit.data.manifest import DataManifest
from nanogpt_kit.data.yardsticks import compute_yardsticks
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.provenance import Provenance, VersionChange, component_versions, names_of_components


def update_identity(folder: RunFolder, experiment: Experiment, manifest: DataManifest, first_step: int) -> None:
    """Records configuration, code and yardsticks where a resumed run continues with others than it has recorded, and
    components and their versions.

    Its last evaluation is made with the new ones. Where it has taken steps with others, its result is that of neither,
    so the record says where they changed; `first_step` is the step that it continues from.
    """
    before = folder.provenance()
    now: dict[str, Any] = {
        "configuration": experiment.configuration(),
        "code": code_identity(experiment),
        "yardsticks": compute_yardsticks(experiment, manifest),
    }
    if first_step and any(getattr(before, field) != value for field, value in now.items()):
        now["changed_at_step"] = first_step
    now |= versions_now(before, experiment, first_step)
    if any(getattr(before, field) != value for field, value in now.items()):
        folder.write_provenance(before.model_copy(update=now))


def versions_now(before: Provenance, experiment: Experiment, first_step: int) -> dict[str, Any]:
    """The fields about components and plugins, with what has changed of them."""
    sources, versions = plugin_sources(experiment), component_versions(experiment)
    changes = []
    for distribution, version in versions.items():
        then = before.distributions.get(distribution)
        of_it = {name: code for name, code in before.sources.items() if name.startswith(f"{distribution}/")}
        has_other_code = any(sources.get(name, code) != code for name, code in of_it.items())
        if distribution not in (KIT_DISTRIBUTION, LOCAL) and then and (then != version or has_other_code):
            change = {"step": first_step, "distribution": distribution, "before": then, "after": version}
            changes.append(VersionChange.model_validate({**change, "sources": of_it}))
    return {
        "components": names_of_components(experiment),
        "distributions": {**before.distributions, **versions},
        "sources": {**before.sources, **sources},
        "version_changes": [*before.version_changes, *changes],
        "multipliers": {name: value for name, value in vars(experiment.multipliers).items() if value != 1},
    }
