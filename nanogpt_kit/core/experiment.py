"""An experiment: every choice of a run, validated before any data, GPU or network is touched."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import tomli_w
from pydantic import PrivateAttr, ValidationError

from nanogpt_kit.core.changes import parse_changes
from nanogpt_kit.core.component_files import load_registry
from nanogpt_kit.core.entry import Entry
from nanogpt_kit.core.errors import Fault, Key, KitError, dotted
from nanogpt_kit.core.experiment_keys import ExperimentKeys
from nanogpt_kit.core.experiment_options import ExperimentOptions
from nanogpt_kit.core.faults import explain_validation_error
from nanogpt_kit.core.identity import configuration_hash
from nanogpt_kit.core.inner_models import inner_model_notes
from nanogpt_kit.core.kinds import ModelContext, Multipliers
from nanogpt_kit.core.layered_differences import differing_lists, without_lists_of_one
from nanogpt_kit.core.layers import DEFAULT, Layers
from nanogpt_kit.core.local_component import LocalEntry
from nanogpt_kit.core.made_with import Unresolved
from nanogpt_kit.core.options import Component, RunContext, components_in, digest, leaves, to_toml_values
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.targets import optimizer_notes, schedule_notes
from nanogpt_kit.core.unused_options import drop_unused_options


class Experiment(ExperimentOptions):
    """Every choice of a run. `Experiment.load` reads a file and reports every mistake with its file and line."""

    _layers: Layers = PrivateAttr(default_factory=Layers)
    _registry: Registry = PrivateAttr(default_factory=Registry.installed)
    _folder: Path = PrivateAttr(default_factory=Path)

    @classmethod
    def load(
        cls, path: str | Path, overrides: str | Sequence[str] = (), trust_code: bool = False, n_processes: int = 1
    ) -> Self:
        """Reads an experiment file and all that it extends, then applies "key=value" overrides.

        `path` may be a name: that of NAME.toml in the current folder, or of an experiment that is shipped. Local
        component files are executed; `trust_code` consents to those that never ran here. `n_processes` is the number
        of processes of its run. Raises KitError with every fault of the stage that found some: syntax; consent; names,
        types and bounds; relations.
        """
        texts = [overrides] if isinstance(overrides, str) else overrides
        layers = Layers.load(Path(path), texts, ExperimentKeys(cls))
        if n_processes > 1:
            layers.set_default("parallel", cls.parallel_of_several)
        return cls.of(layers, Path(path).parent, trust_code)

    @classmethod
    def of(cls, layers: Layers, folder: Path, trust_code: bool = False) -> Self:
        """Validates merged layers; the other arguments are those of `load_registry`."""
        registry = load_registry(layers, folder, trust_code)
        try:
            try:
                experiment = cls.model_validate(layers.values, context={"registry": registry})
            except ValidationError as error:
                if not drop_unused_options(error, layers):
                    raise
                experiment = cls.model_validate(layers.values, context={"registry": registry})
        except ValidationError as error:
            raise KitError(*explain_validation_error(error, cls, layers, registry)) from None
        experiment._layers, experiment._registry, experiment._folder = layers, registry, folder
        return experiment

    def with_(self, *changes: str | Mapping[str, Any], **options: Any) -> Self:
        """A changed copy: `with_("optimizer.lr=3e-4", model={"n_layer": 2})` or `with_({"optimizer.lr": 3e-4})`.

        Texts are those of the command line; keys of mappings may be dotted; a value may be a component or a section.
        None leaves an option out. Another component drops the options of the one that it replaces. Raises KitError
        with every fault of the stage that found some.
        """
        layers = self._layers.copy()
        layers.set(parse_changes([*changes, options], self._registry))
        return type(self).of(layers, self._folder)

    def run(
        self,
        resume: str | os.PathLike[str] | bool | None = None,
        trust_code: bool = False,
        into: str | os.PathLike[str] | None = None,
        accept_versions: bool = False,
    ) -> Any:
        """Trains it, and returns a Run: `nanogpt_kit.run(experiment, resume, trust_code, into, accept_versions)`."""
        return importlib.import_module("nanogpt_kit").run(self, resume, trust_code, into, accept_versions)

    @property
    def layers(self) -> Layers:
        """The values as written, and the location of each."""
        return self._layers

    @property
    def folder(self) -> Path:
        """What its local component files are relative to."""
        return self._folder

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about options that were dropped, components that were appended, and unsuitable schedules."""
        schedules = [(dotted(key), part) for key, part in self.parts() if key[0] == "schedule"]
        of_schedules = schedule_notes(schedules, self.targets, self.step_plan)
        of_optimizer = optimizer_notes(self.optimizer, schedules, self.total_steps)
        return (*self._layers.notes, *inner_model_notes(self.model), *of_schedules, *of_optimizer)

    def location(self, key: Key) -> str:
        """Where a value was written: "file:line", "command line", or "default"."""
        locations = self._layers.locations
        if key not in locations and key[-1] == "use":  # norm = "rmsnorm" is short for { use = "rmsnorm" }
            key = key[:-1]
        return locations.get(key, DEFAULT)

    def check_context(self, ctx: RunContext) -> None:
        """Raises KitError with the reason of every component that refuses `ctx`."""
        faults = []
        for key, component in self.parts():
            reason = component.refusal_reason(ctx)
            if reason:
                faults.append(Fault(reason, dotted(key), self._layers.location(key)))
        if faults:
            raise KitError(*faults)

    def entry_of(self, part: Component) -> Entry:
        """The name, distribution and version behind one of its components."""
        return self._registry.entry_of(type(part))

    @property
    def component_files(self) -> tuple[Path, ...]:
        """The local files that define its components."""
        return tuple(self.component_sources)

    @property
    def component_sources(self) -> dict[Path, bytes]:
        """The content of each component file as it was executed; the file may have been edited since."""
        return {entry.path: entry.source for entry in self._registry.entries if isinstance(entry, LocalEntry)}

    def model_context(self, vocab_size: int) -> ModelContext:
        """What the model of a run is built from, with the factors that its init has chosen."""
        return ModelContext(vocab_size=vocab_size, multipliers=self.multipliers)

    @property
    def multipliers(self) -> Multipliers:
        """The factors that its init has chosen; of a run whose init cannot be used here, those that it has recorded."""
        recorded = self._layers.made_with.multipliers if self._layers.made_with else None
        if recorded is not None and isinstance(self.init, Unresolved):
            return Multipliers(**{name: recorded[name] for name in vars(Multipliers()) if name in recorded})
        return self.init.multipliers(self.model)

    def parts(self) -> list[tuple[Key, Component]]:
        """Every component of the experiment with its key, slots within slots included."""
        return list(components_in(without_lists_of_one(self)))

    def resolved(self) -> dict[str, Any]:
        """Every value of its run, defaults included, as TOML values: a complete experiment file.

        The sweep and the ablation are left out, since they are not part of a run.
        """
        return to_toml_values(self.model_copy(update={"sweep": None, "ablate": None}), self._registry)

    def to_toml(self, with_copies: bool = False) -> str:
        """An experiment file; `with_copies`: it names copies of its component files in components/ beside it."""
        values = without_lists_of_one(self).resolved()
        if with_copies:
            values["components"] = [f"components/{path.name}" for path in self.component_files]
        return tomli_w.dumps(values)

    def fingerprint(self) -> str:
        """A hash of everything that decides the run: all values but name and note, and the code of its components."""
        resolved = without_lists_of_one(self).resolved()
        values = {key: value for key, value in resolved.items() if key not in ("name", "note")}
        code = [self.entry_of(part).identity for _, part in self.parts()]
        return digest([values, code])

    def configuration(self) -> str:
        """A hash of what decides the results of a run, except its seed: two runs of one seed with it are duplicates.

        The code of the kit and of plugins under development is not part of it; see `code_identity`.
        """
        return configuration_hash(without_lists_of_one(self), self._registry)

    def differences(self, other: Experiment) -> dict[str, tuple[Any, Any]]:
        """Dotted keys whose values differ: {"optimizer.lr": (mine, theirs)}."""
        pair = without_lists_of_one(self), without_lists_of_one(other)
        of_model = differing_lists(pair[0].model, pair[1].model, self._registry, other._registry)
        schedules = differing_lists(*pair, self._registry, other._registry)
        values = [one.resolved() for one in pair]
        for table in values:
            for name in schedules:
                table.pop(name, None)
            for name in of_model:
                table["model"].pop(name, None)
        mine, theirs = (dict(leaves(one)) for one in values)
        keys = [*mine, *(key for key in theirs if key not in mine)]
        pairs = {dotted(key): (mine.get(key), theirs.get(key)) for key in keys if mine.get(key) != theirs.get(key)}
        return pairs | schedules | {f"model.{name}": pair for name, pair in of_model.items()}

    def __repr__(self) -> str:
        """One line; `resolved` has every value."""
        model, optimizer = self.entry_of(self.model).name, self.entry_of(self.optimizer).name
        written = ((name, value) for name, value in self.model if name in self.model.model_fields_set)
        sizes = "".join(f" {name}={value}" for name, value in written if type(value) is int)
        rate = f" lr={self.optimizer.lr:g}" if hasattr(self.optimizer, "lr") else ""
        return f"<Experiment {self.name}: {model}{sizes}, {optimizer}{rate}, {self.step_plan}>"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Experiment) and self.to_toml() == other.to_toml()

    def __hash__(self) -> int:
        return hash(self.to_toml())
