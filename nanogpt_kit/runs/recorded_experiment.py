"""The experiment of a run, whose plugins may be missing or have other versions than it was made with."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from nanogpt_kit.core.entry import LOCAL
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.experiment_keys import ExperimentKeys
from nanogpt_kit.core.kinds import KINDS
from nanogpt_kit.core.layers import Layers
from nanogpt_kit.core.made_with import MAY_BE_MISSING, MadeWith
from nanogpt_kit.core.other_versions import OtherPluginVersion, other_versions, recorded_by
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION
from nanogpt_kit.runs.folder import PROVENANCE, RunFolder

logger = logging.getLogger(__name__)


def load_recorded(
    folder: RunFolder,
    overrides: Sequence[str] = (),
    trust_code: bool = False,
    *,
    needs: Collection[str] = MAY_BE_MISSING,
    step: int | None = None,
    n_processes: int = 1,
) -> Experiment:
    """The experiment of a run with overrides.

    Of the kinds that may be missing, those that it `needs` are resolved, by default all; of the others a plugin that
    cannot be used is left as it is. `step` is that of the checkpoint that is used, where versions have changed on the
    way. Raises KitError, which names the versions of plugins where they are the cause.
    """
    made_with = made_with_of(folder, MAY_BE_MISSING - frozenset(needs), step)
    return load_made_with(made_with, folder.experiment, overrides, trust_code, n_processes)


def made_with_beside(path: Path) -> MadeWith | None:
    """What the run has recorded whose experiment.toml this is; None for another file."""
    folder = RunFolder(path.parent)
    return made_with_of(folder) if path == folder.experiment and (folder.path / PROVENANCE).exists() else None


def load_made_with(
    made_with: MadeWith, path: str | Path, overrides: Sequence[str] = (), trust_code: bool = False, n_processes: int = 1
) -> Experiment:
    """As `Experiment.load`, of a file whose plugins are those of a run."""
    layers = Layers.load(Path(path), overrides, ExperimentKeys(Experiment))
    layers.made_with = made_with
    if n_processes > 1:
        layers.set_default("parallel", Experiment.parallel_of_several)
    return Experiment.of(layers, Path(path).parent, trust_code)


def made_with_of(folder: RunFolder, may_be_missing: frozenset[str] = frozenset(), step: int | None = None) -> MadeWith:
    """What a run has recorded of its plugins; less where its provenance cannot be read."""
    origin = folder.provenance_or_none()
    if origin is None:
        return MadeWith(may_be_missing=may_be_missing)
    names = recorded_names(origin.components)
    return MadeWith(origin.versions_at(step), origin.sources_at(step), names, origin.multipliers, may_be_missing)


def recorded_names(components: Mapping[str, str]) -> dict[tuple[str, str], str]:
    """What the bare names of plugins' components meant, by kind and name; of slots that have the name of their kind."""
    names = {}
    for key, qualified in components.items():
        slot = next((part for part in reversed(key.split(".")) if not part.isdecimal()), "")
        distribution, _, name = qualified.rpartition("/")
        if slot in KINDS and distribution not in (KIT_DISTRIBUTION, LOCAL):
            names[slot, name] = qualified
    return names


def warn_of_other_versions(experiment: Experiment, needs: Collection[str] = MAY_BE_MISSING) -> list[OtherPluginVersion]:
    """Logs a line for each plugin, of those whose components a use of the run needs, that is not as the run had it."""
    changes = other_versions(experiment, frozenset(KINDS) - (MAY_BE_MISSING - frozenset(needs)))
    for change in changes:
        install = recorded_by(experiment).remedy(change.distribution).removeprefix(": ")
        remedy = f"; for the same results: {install}" if install and change.recorded != change.installed else ""
        logger.warning("%s: %s%s", experiment.layers.location(()), change, remedy)
    return changes


@contextmanager
def explained_by(changes: Sequence[OtherPluginVersion]) -> Iterator[None]:
    """Adds to an error that other versions of plugins may be its cause."""
    try:
        yield
    except Exception as error:
        for change in changes:
            error.add_note(str(change))
        raise
