"""An experiment: every choice of a run, validated before any data, GPU or network is touched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import tomli_w
from pydantic import Field, PrivateAttr, ValidationError, model_validator

from nanogpt_kit.core.errors import Fault, Key, KitError, dotted, option_error
from nanogpt_kit.core.faults import explain
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
    Component,
    Options,
    PathStr,
    RunContext,
    components_in,
    digest,
    dump,
    leaves,
    slot,
    slots,
)
from nanogpt_kit.core.paths import expanded
from nanogpt_kit.core.registry import Entry, LocalEntry, Registry
from nanogpt_kit.core.sections import Checkpoint, Evaluate, Sample, Sweep, Train


class Experiment(Options):
    """A whole experiment. Load one with `Experiment.load`, which tells every mistake with its file and line."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100, description="of the folder below runs/")
    components: tuple[PathStr, ...] = Field((), description="local component files, relative to the experiment file")
    dataset: Dataset
    tokenizer: Tokenizer
    order: Order = slot("shuffled")
    model: Model
    init: Init = slot("gpt2")
    optimizer: Optimizer
    schedule: Schedule
    train: Train
    parallel: Parallel = slot("single")
    parallel_of_several: ClassVar[str] = "ddp"  # the default of `parallel` where a run has several processes
    evaluate: Evaluate = Evaluate()
    evaluator: tuple[Evaluator, ...] = slots("loss", "bits_per_byte")
    checkpoint: Checkpoint = Checkpoint()
    callback: tuple[Callback, ...] = slots("console", "tensorboard")
    sample: Sample = Sample()
    sampler: tuple[Sampler, ...] = slots("temperature", "top_k")
    sweep: Sweep | None = None

    _layers: Layers = PrivateAttr(default_factory=Layers)
    _registry: Registry = PrivateAttr(default_factory=Registry.installed)
    _folder: Path = PrivateAttr(default_factory=Path)

    may_change: ClassVar[frozenset[str]] = frozenset(
        {"evaluate", "evaluator", "checkpoint", "callback", "parallel", "sample", "sampler"}
    )

    @classmethod
    def load(
        cls, path: str | Path, overrides: Sequence[str] = (), trust_code: bool = False, n_processes: int = 1
    ) -> Self:
        """Reads an experiment file and all that it extends, then applies "key=value" overrides.

        Local component files are executed; `trust_code` consents to those that never ran here. `n_processes` is the
        number of processes of its run. Raises KitError with every fault of the stage that found some: syntax; consent;
        names, types and bounds; relations.
        """
        layers = Layers.load(Path(path), overrides)
        if n_processes > 1:
            layers.set_default("parallel", cls.parallel_of_several)
        return cls.of(layers, Path(path).parent, trust_code)

    @classmethod
    def of(cls, layers: Layers, folder: Path, trust_code: bool = False) -> Self:
        """From merged layers; `folder` is where local component files are looked for.

        Those that the command line names are consented to, as all are with `trust_code`.
        """
        local = local_files(layers, folder)
        typed = [path for key, path in local.items() if layers.location(key) == COMMAND_LINE]
        files = list(local.values())
        try:
            registry = Registry.installed()
            registry = registry.with_files(files, files if trust_code else typed) if files else registry
        except KitError as error:
            place = layers.location(("components",))
            raise KitError(*(Fault(one.message, one.key, place) for one in error.faults)) from error
        try:
            experiment = cls.model_validate(layers.values, context={"registry": registry})
        except ValidationError as error:
            raise KitError(*explain(error, cls, layers, registry)) from None
        experiment._layers, experiment._registry, experiment._folder = layers, registry, folder
        return experiment

    @model_validator(mode="after")
    def _batch_is_whole_windows(self) -> Self:
        if self.train.batch_tokens % self.model.block_size:
            near = max(1, round(self.train.batch_tokens / self.model.block_size)) * self.model.block_size
            raise option_error(
                "train.batch_tokens",
                f"should be a multiple of model.block_size ({self.model.block_size}), got {self.train.batch_tokens}; "
                f"{near} is near",
            )
        return self

    @model_validator(mode="after")
    def _what_is_kept_is_made(self) -> Self:
        every, kept = self.checkpoint.every_steps, self.checkpoint.keep_every_steps
        if kept is not None and kept % every:
            expected = f"should be a multiple of checkpoint.every_steps ({every})"
            raise option_error("checkpoint.keep_every_steps", f"{expected}, got {kept}")
        return self

    @model_validator(mode="after")
    def _what_rolls_has_positions_that_go_on(self) -> Self:
        if self.sample.on_overflow == "rolling" and not self.model.relative:
            expected = "auto, refill or exact: this model's positions do not go on beyond block_size"
            raise option_error("sample.on_overflow", f"should be {expected}, got 'rolling'")
        return self

    @model_validator(mode="after")
    def _a_budget_is_worth_a_step(self) -> Self:
        if self.train.max_tokens is not None and self.train.max_tokens < self.train.batch_tokens:
            expected = f"should be at least train.batch_tokens ({self.train.batch_tokens})"
            raise option_error("train.max_tokens", f"{expected}, got {self.train.max_tokens}")
        return self

    @property
    def batch_windows(self) -> int:
        return self.train.batch_tokens // self.model.block_size

    @property
    def total_steps(self) -> int:
        """Within `train.max_tokens`, too; schedules go by it."""
        most = self.train.max_tokens
        return self.train.steps if most is None else min(self.train.steps, most // self.train.batch_tokens)

    @property
    def layers(self) -> Layers:
        """What it was read from: the values as written, and where each was."""
        return self._layers

    @property
    def folder(self) -> Path:
        """Where its local component files are looked for."""
        return self._folder

    @property
    def notes(self) -> tuple[str, ...]:
        """What the layers dropped when one component took another's place."""
        return tuple(self._layers.notes)

    def location(self, key: Key) -> str:
        """Where a value was written: "file:line", "command line", or "default"."""
        places = self._layers.locations
        if key not in places and key[-1] == "use":  # norm = "rmsnorm" is short for { use = "rmsnorm" }
            key = key[:-1]
        return places.get(key, "default")

    def check_context(self, ctx: RunContext) -> None:
        """Raises KitError with the reason of every component that refuses `ctx`."""
        faults = []
        for key, component in self.parts():
            reason = component.refuses(ctx)
            if reason:
                faults.append(Fault(reason, dotted(key), self._layers.location(key)))
        if faults:
            raise KitError(*faults)

    def entry_of(self, part: Component) -> Entry:
        """The name, distribution and version behind one of its components."""
        return self._registry.entry_of(type(part))

    @property
    def component_files(self) -> tuple[Path, ...]:
        """The local files that its components come from."""
        return tuple(self.component_sources)

    @property
    def component_sources(self) -> dict[Path, bytes]:
        """The content of each, as it was executed: the file may have been edited since."""
        return {entry.path: entry.source for entry in self._registry.entries if isinstance(entry, LocalEntry)}

    def parts(self) -> list[tuple[Key, Component]]:
        """Every component of the experiment with its key, slots within slots included."""
        return list(components_in(self))

    def resolved(self) -> dict[str, Any]:
        """Every value of its run, defaults included, as TOML values: an experiment file that stands by itself.

        A sweep is a question about many runs, and no part of one.
        """
        return dump(self.model_copy(update={"sweep": None}), self._registry)

    def to_toml(self, with_copies: bool = False) -> str:
        """An experiment file; `with_copies` of its component files lying beside it in components/."""
        values = self.resolved()
        if with_copies:
            values["components"] = [f"components/{path.name}" for path in self.component_files]
        return tomli_w.dumps(values)

    def fingerprint(self) -> str:
        """A hash over all that decides the run: everything but its name."""
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


def local_files(layers: Layers, folder: Path) -> dict[Key, Path]:
    """The component files that loading an experiment would execute; `folder` is the experiment file's."""
    files = layers.values.get("components")
    named = enumerate(files) if isinstance(files, list) else ()
    keys = {("components", number): file for number, file in named if isinstance(file, str)}
    return {key: folder / expanded(file, "components", layers.location(key)) for key, file in keys.items()}
