"""An experiment: every choice of a run, validated before any data, GPU or network is touched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import tomli_w
from pydantic import Field, PrivateAttr, ValidationError, model_validator

from nanogpt_kit.core.errors import Fault, Key, KitError, dotted, option_error
from nanogpt_kit.core.faults import explain_validation_error
from nanogpt_kit.core.kinds import (
    Callback,
    Dataset,
    Evaluator,
    Init,
    Model,
    Optimizer,
    Order,
    Parallel,
    Sampler,
    Schedule,
    Tokenizer,
)
from nanogpt_kit.core.layers import COMMAND_LINE, Layers
from nanogpt_kit.core.options import (
    MAY_CHANGE,
    Component,
    Options,
    PathStr,
    RunContext,
    components_in,
    digest,
    leaves,
    slot,
    to_toml_values,
)
from nanogpt_kit.core.paths import expand_path
from nanogpt_kit.core.registry import Entry, LocalEntry, Registry
from nanogpt_kit.core.sections import Checkpoint, Evaluate, Sample, Sweep, Train, is_free_form


class Experiment(Options):
    """Every choice of a run. `Experiment.load` reads a file and reports every mistake with its file and line."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=100,
        description="name of the experiment and of its folder below runs/",
    )
    components: tuple[PathStr, ...] = Field(
        (), description="local component files, relative to the file that names them"
    )
    dataset: Dataset
    tokenizer: Tokenizer
    order: Order = slot("shuffled")
    model: Model
    init: Init = slot("gpt2")
    optimizer: Optimizer
    schedule: Schedule
    train: Train
    parallel: Parallel = slot("single", json_schema_extra=MAY_CHANGE)
    parallel_of_several: ClassVar[str] = "ddp"  # the default of `parallel` where a run has several processes
    evaluate: Evaluate = Field(Evaluate(), json_schema_extra=MAY_CHANGE)
    evaluator: tuple[Evaluator, ...] = slot(("loss", "bits_per_byte"), json_schema_extra=MAY_CHANGE)
    checkpoint: Checkpoint = Field(Checkpoint(), json_schema_extra=MAY_CHANGE)
    callback: tuple[Callback, ...] = slot(("console", "tensorboard"), json_schema_extra=MAY_CHANGE)
    sample: Sample = Field(Sample(), json_schema_extra=MAY_CHANGE)
    sampler: tuple[Sampler, ...] = slot(("temperature", "top_k"), json_schema_extra=MAY_CHANGE)
    sweep: Sweep | None = None

    _layers: Layers = PrivateAttr(default_factory=Layers)
    _registry: Registry = PrivateAttr(default_factory=Registry.installed)
    _folder: Path = PrivateAttr(default_factory=Path)

    @classmethod
    def load(
        cls, path: str | Path, overrides: Sequence[str] = (), trust_code: bool = False, n_processes: int = 1
    ) -> Self:
        """Reads an experiment file and all that it extends, then applies "key=value" overrides.

        `path` may be a name: that of NAME.toml in the current folder, or of an experiment that is shipped. Local
        component files are executed; `trust_code` consents to those that never ran here. `n_processes` is the number
        of processes of its run. Raises KitError with every fault of the stage that found some: syntax; consent; names,
        types and bounds; relations.
        """
        layers = Layers.load(Path(path), overrides, is_free_form)
        if n_processes > 1:
            layers.set_default("parallel", cls.parallel_of_several)
        return cls.of(layers, Path(path).parent, trust_code)

    @classmethod
    def of(cls, layers: Layers, folder: Path, trust_code: bool = False) -> Self:
        """Validates merged layers; `folder` is what local component files are relative to.

        Files that the command line names are consented to, as all are with `trust_code`.
        """
        paths = component_paths(layers, folder)
        from_command_line = [path for key, path in paths.items() if layers.location(key) == COMMAND_LINE]
        files = list(paths.values())
        registry = Registry.installed()
        try:
            if files:
                registry = registry.with_files(Component, files, files if trust_code else from_command_line)
        except KitError as error:
            location = layers.location(("components",))
            raise KitError(*(Fault(fault.message, fault.key, location) for fault in error.faults)) from error
        try:
            experiment = cls.model_validate(layers.values, context={"registry": registry})
        except ValidationError as error:
            raise KitError(*explain_validation_error(error, cls, layers, registry)) from None
        experiment._layers, experiment._registry, experiment._folder = layers, registry, folder
        return experiment

    @model_validator(mode="after")
    def _check_batch_tokens(self) -> Self:
        if self.train.batch_tokens % self.model.block_size:
            nearest = max(1, round(self.train.batch_tokens / self.model.block_size)) * self.model.block_size
            raise option_error(
                "train.batch_tokens",
                f"should be a multiple of model.block_size ({self.model.block_size}), got {self.train.batch_tokens}; "
                f"the nearest is {nearest}",
            )
        return self

    @model_validator(mode="after")
    def _check_keep_every_steps(self) -> Self:
        saved, kept = self.checkpoint.every_steps, self.checkpoint.keep_every_steps
        if kept is not None and kept % saved:
            expected = f"should be a multiple of checkpoint.every_steps ({saved})"
            raise option_error("checkpoint.keep_every_steps", f"{expected}, got {kept}")
        return self

    @model_validator(mode="after")
    def _check_on_overflow(self) -> Self:
        if self.sample.on_overflow == "rolling" and not self.model.relative:
            expected = "auto, refill or exact, as this model has no relative positions"
            raise option_error("sample.on_overflow", f"should be {expected}, got 'rolling'")
        return self

    @model_validator(mode="after")
    def _check_max_tokens(self) -> Self:
        if self.train.max_tokens is not None and self.train.max_tokens < self.train.batch_tokens:
            expected = f"should be at least train.batch_tokens ({self.train.batch_tokens})"
            raise option_error("train.max_tokens", f"{expected}, got {self.train.max_tokens}")
        return self

    @property
    def batch_windows(self) -> int:
        return self.train.batch_tokens // self.model.block_size

    @property
    def total_steps(self) -> int:
        """Steps within both `train.steps` and `train.max_tokens`; schedules take it as the length of the run."""
        max_tokens = self.train.max_tokens
        return self.train.steps if max_tokens is None else min(self.train.steps, max_tokens // self.train.batch_tokens)

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
        """Sentences about options that were dropped because another component was chosen."""
        return tuple(self._layers.notes)

    def location(self, key: Key) -> str:
        """Where a value was written: "file:line", "command line", or "default"."""
        locations = self._layers.locations
        if key not in locations and key[-1] == "use":  # norm = "rmsnorm" is short for { use = "rmsnorm" }
            key = key[:-1]
        return locations.get(key, "default")

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

    def parts(self) -> list[tuple[Key, Component]]:
        """Every component of the experiment with its key, slots within slots included."""
        return list(components_in(self))

    def resolved(self) -> dict[str, Any]:
        """Every value of its run, defaults included, as TOML values: a complete experiment file.

        The sweep is left out, since it is not part of a run.
        """
        return to_toml_values(self.model_copy(update={"sweep": None}), self._registry)

    def to_toml(self, with_copies: bool = False) -> str:
        """An experiment file; `with_copies`: it names copies of its component files in components/ beside it."""
        values = self.resolved()
        if with_copies:
            values["components"] = [f"components/{path.name}" for path in self.component_files]
        return tomli_w.dumps(values)

    def fingerprint(self) -> str:
        """A hash of everything that decides the run: all values except its name, and the code of its components."""
        values = {key: value for key, value in self.resolved().items() if key != "name"}
        code = [self.entry_of(part).identity for _, part in self.parts()]
        return digest([values, code])

    def differences(self, other: Experiment) -> dict[str, tuple[Any, Any]]:
        """Dotted keys whose values differ: {"optimizer.lr": (mine, theirs)}."""
        mine, theirs = dict(leaves(self.resolved())), dict(leaves(other.resolved()))
        keys = [*mine, *(key for key in theirs if key not in mine)]
        return {dotted(key): (mine.get(key), theirs.get(key)) for key in keys if mine.get(key) != theirs.get(key)}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Experiment) and self.resolved() == other.resolved()

    def __hash__(self) -> int:
        return hash(self.to_toml())


def component_paths(layers: Layers, folder: Path) -> dict[Key, Path]:
    """The component files that loading an experiment executes, by key; `folder` is the experiment file's."""
    files = layers.values.get("components")
    indexed = enumerate(files) if isinstance(files, list) else ()
    keys = {("components", index): file for index, file in indexed if isinstance(file, str)}
    return {key: folder / expand_path(file, "components", layers.location(key)) for key, file in keys.items()}
