"""provenance.json: the origin of a run, that is its command, code, data and machine."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from nanogpt_kit.core.code_identity import code_identity, plugin_sources
from nanogpt_kit.core.errors import dotted
from nanogpt_kit.core.options import digest
from nanogpt_kit.runs.record import AnyText, NamesRecord, RecordPart
from nanogpt_kit.runs.secrets import hide_in_command, hide_in_patch
from nanogpt_kit.runs.working_tree import GitState, code_state

if TYPE_CHECKING:  # lists of runs need neither it nor the kinds of components
    from nanogpt_kit.core.experiment import Experiment

LIBRARIES = ("torch", "numpy", "pydantic", "safetensors")


class TrainedSource(RecordPart):
    """One source of the data of a run."""

    fraction: float  # of the training windows
    tokens: int  # in its train split


class TrainingData(RecordPart):
    """Which tokens a run is trained on, by fingerprints and SHA-256."""

    folder: AnyText  # of the prepared data
    dataset: str  # fingerprint
    tokenizer: str  # fingerprint
    splits: dict[str, str]  # SHA-256 of the tokens, by split
    documents: dict[str, str]  # SHA-256 of the document boundaries, by split
    counted: dict[str, str] | None = None  # SHA-256 of which tokens count, by the splits in which not all do
    sources: dict[str, TrainedSource] | None = None  # by name; None: the dataset is one source

    def measured(self, split: str) -> str | None:
        """What a loss over a split is of: its tokens, and which of them count; None where there is no such split."""
        tokens = self.splits.get(split)
        return tokens and tokens + (self.counted or {}).get(split, "")

    @property
    def identity(self) -> str:
        """A hash of what was read and what it became, wherever its folder is."""
        return digest(self.model_dump(exclude={"folder", "sources"}, exclude_none=True))


class Machine(RecordPart):
    """Where a run was started. An imported model has no fields below `cores`."""

    host: AnyText  # name in the network
    user: AnyText  # who started the run
    system: AnyText  # name and version of the operating system
    python: str  # version
    cores: int | None  # of the processor, as the system counts them
    device: str | None = None  # cpu, cuda or mps
    gpu: str | None = None  # its name
    processes: int | None = None  # ranks of the run
    precision: str | None = None  # in which products are computed
    precision_since: str | None = None  # why this one
    threads: int | None = None  # of an operation
    chunks: int | None = None  # parts of a batch that threads compute at once
    choices: dict[str, str] | None = None  # what components chose for the device, by their keys

    @classmethod
    def of_this_machine(cls, **training: Any) -> Self:
        """This machine; `training` are the fields below `cores`."""
        return cls(
            host=platform.node(),
            user=user_name(),
            system=platform.platform(),
            python=platform.python_version(),
            cores=os.cpu_count(),
            **training,
        )


class InitFrom(RecordPart):
    """The checkpoint whose weights a run began with."""

    checkpoint: AnyText  # its folder
    sha256: str  # of its weights


class BranchedFrom(RecordPart):
    """The checkpoint of another run from which a run began, with its whole training state."""

    checkpoint: AnyText  # its folder
    sha256: str  # of its weights


class TokenizerFrom(RecordPart):
    """The checkpoint whose tokenizer a run took."""

    checkpoint: AnyText  # its folder
    fingerprint: str  # of the tokenizer


class Imported(RecordPart):
    """The source of a model that was imported, not trained."""

    source: AnyText  # the file or folder that was imported
    files: dict[AnyText, str]  # SHA-256 by file name


class VersionChange(RecordPart):
    """A plugin of which a resumed run continued with another version, or with other code of the same version."""

    step: int  # that it continued from
    distribution: str  # name of the package
    before: str  # version
    after: str  # version
    sources: dict[str, str]  # of its components before, as `Provenance.sources` has them


class Provenance(NamesRecord):
    """The origin of a run."""

    max_bytes: ClassVar[int] = 1 << 24

    command: AnyText  # that started the run
    folder: AnyText  # in which it was started
    started: str  # UTC, as 2026-01-02T03:04:05Z
    seed: int  # train.seed
    fingerprint: str  # of the experiment at the start
    configuration: str  # Experiment.configuration()
    code: str  # code_identity of the experiment
    yardsticks: dict[str, str] = {}  # by metric: what measured it, see data/yardsticks.py; empty: imported
    changed_at_step: int | None = None  # of the last resumption in which one of these three was another one than before
    components: dict[str, str]  # distribution/name by key
    distributions: dict[str, str]  # version by distribution; of plugins those that the run continues with
    sources: dict[str, str] = {}  # of components from plugins, by distribution/name: hash of the package's source
    version_changes: list[VersionChange] = []  # in the order of their steps
    multipliers: dict[str, float] = {}  # that its init has chosen; those that are 1 are left out
    git: GitState | None = None
    data: TrainingData | None = None  # None: imported
    machine: Machine
    launch: AnyText = ""  # torchrun's id
    init_from: InitFrom | None = None
    tokenizer_from: TokenizerFrom | None = None
    branched_from: BranchedFrom | None = None
    imported: Imported | None = None

    @property
    def is_duplicable(self) -> bool:
        """Whether the result is that of `configuration` and `code` from step 0, as another run of that seed would be.

        Not so for an imported model, for a run that began from weights of another one, and where its configuration,
        code or evaluators changed on the way.
        """
        began_alone = self.data is not None and self.init_from is None and self.branched_from is None
        return began_alone and self.changed_at_step is None

    def yardstick(self, metric: str) -> str:
        """What measured a metric, as a hash: values of two runs can be compared where it is equal.

        "" where that is not known, as of an imported model.
        """
        return find_yardstick(self.yardsticks, metric)

    def versions_at(self, step: int | None = None) -> dict[str, str]:
        """The version of each distribution that the checkpoint of a step was made with; None: of the newest."""
        later = reversed([change for change in self.version_changes if step is not None and change.step >= step])
        return self.distributions | {change.distribution: change.before for change in later}

    def sources_at(self, step: int | None = None) -> dict[str, str]:
        """As `versions_at`, the sources of components."""
        sources = dict(self.sources)
        for change in reversed(self.version_changes):
            if step is not None and change.step >= step:
                sources |= change.sources
        return sources

    def recorded_path(self, text: str) -> Path:
        """A path of this record, which may be relative to the folder that the run was started in."""
        here = Path(text)
        return here if here.exists() else Path(self.folder, text)


def collect_provenance(experiment: Experiment, machine: Machine, **origin: Any) -> tuple[Provenance, bytes]:
    """The content of provenance.json, and the patch from the commit to the code that runs (empty where it is the same).

    `origin` are fields of Provenance that only the caller knows.
    """
    git, patch = code_state(Path.cwd(), source_paths(experiment))
    record = Provenance(
        command=hide_in_command(sys.argv),
        folder=str(Path.cwd()),
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        seed=experiment.train.seed,
        fingerprint=experiment.fingerprint(),
        configuration=experiment.configuration(),
        code=code_identity(experiment),
        distributions={**component_versions(experiment), **{name: metadata.version(name) for name in LIBRARIES}},
        components=names_of_components(experiment),
        sources=plugin_sources(experiment),
        multipliers={name: value for name, value in vars(experiment.multipliers).items() if value != 1},
        git=git,
        machine=machine,
        **origin,
    )
    return record, hide_in_patch(patch)


def names_of_components(experiment: Experiment) -> dict[str, str]:
    """The component of each slot, as distribution/name by key."""
    return {dotted(key): experiment.entry_of(part).qualified for key, part in experiment.parts()}


def component_versions(experiment: Experiment) -> dict[str, str]:
    """The version of each distribution that a component is from."""
    entries = {experiment.entry_of(part) for _, part in experiment.parts()}
    return {entry.distribution: entry.version for entry in sorted(entries, key=lambda entry: entry.distribution)}


def find_yardstick(yardsticks: Mapping[str, str], metric: str) -> str:
    """The yardstick of a metric among those of a run, whether an evaluator declares the metric or not."""
    return yardsticks.get(metric) or yardsticks.get("*") or yardsticks.get("", "")


def user_name() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid()) if hasattr(os, "getuid") else ""


def source_paths(experiment: Experiment) -> list[Path]:
    """The code of a run: its local component files, and the packages (or modules) of its other components."""
    paths = [path.absolute() for path in experiment.component_files]
    targets = {experiment.entry_of(part).target for _, part in experiment.parts()}
    for name in {"nanogpt_kit", *(target.partition(":")[0].partition(".")[0] for target in targets)}:
        module = sys.modules.get(name)
        folders = list(getattr(module, "__path__", ()))  # several, of a namespace package
        paths += map(Path, folders or filter(None, [getattr(module, "__file__", None)]))
    return [Path(os.path.realpath(path)) for path in paths]
