"""An experiment: every choice of a run, validated before any data, GPU or network is touched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import tomli_w
from pydantic import Field, PrivateAttr, ValidationError, model_validator

from nanogpt_kit.core.errors import Fault, Key, KitError, dotted, fault
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
from nanogpt_kit.core.layers import Layers
from nanogpt_kit.core.options import Component, Options, RunContext, components_in, digest, dump, leaves, slot, slots
from nanogpt_kit.core.registry import Entry, LocalEntry, Registry


class Train(Options):
    """[train]: how long, how much at once, in what arithmetic."""

    steps: int = Field(ge=0, description="optimizer updates; 0 only evaluates the model that training would start from")
    batch_tokens: int = Field(ge=1, description="tokens of one update, over all ranks and micro-steps")
    micro_batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] | None = Field(
        None, description="windows of a forward and backward pass on each rank; left out: its whole share; auto: as fit"
    )
    max_tokens: int | None = Field(None, ge=1, description="of training, where that ends the run before `steps` do")
    max_seconds: float | None = Field(
        None, gt=0, description="spent in steps, where that ends the run before `steps` do; schedules do not know of it"
    )
    grad_clip: float = Field(1.0, ge=0, description="largest norm of the gradient; 0 leaves it alone")
    seed: int = Field(1337, ge=0, lt=2**63, description="of weights, batches and dropout")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto: cuda, else mps, else cpu")
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = Field(
        "auto", description="auto: cuda bf16, else fp16; cpu bf16 where the chip multiplies it natively, else fp32"
    )
    compile: Literal["auto", "off", "default", "max-autotune"] = Field(
        "auto", description="auto: default, where the run is long enough to win back what compiling costs; else off"
    )
    activation_checkpointing: bool = Field(
        False,
        description="whether the backward pass computes blocks again: less memory, a third more to compute",
    )
    threads: int | None = Field(
        None, ge=1, description="most CPU threads; left out: as OMP_NUM_THREADS says, else as a step keeps busy"
    )
    log_every_steps: int = Field(10, ge=1, description="between lines of metrics.jsonl")
    watch: tuple[Literal["updates", "activations", "attention"], ...] = Field(
        (), description="what to look at on logged steps: updates by role, largest activations and attention logits"
    )


class Evaluate(Options):
    """[evaluate]: when the evaluators speak. They always do after the last step."""

    every_steps: int = Field(1000, ge=1, description="steps between evaluations")
    batch_size: int | None = Field(None, ge=1, description="windows at once; left out: as many as a micro-batch")


class Checkpoint(Options):
    """[checkpoint]: when the run is saved. It always is after the last step, and when it is interrupted."""

    every_steps: int = Field(1000, ge=1, description="steps between checkpoints")
    keep_last: int = Field(2, ge=1, description="how many to keep, the newest")
    keep_every_steps: int | None = Field(None, ge=1, description="keeps those of its multiples, too")
    keep_best: str | None = Field(
        None, min_length=1, description="keeps that of the lowest value, too, of a metric such as val/loss"
    )


class Sample(Options):
    """[sample]: the text that a finished run writes, and the defaults of `nanogpt-kit sample`."""

    prompt: str = Field("\n", description="what the text begins with")
    num_samples: int = Field(1, ge=0, description="texts to write; 0 writes none after a run")
    max_new_tokens: int = Field(500, ge=0, description="tokens of each text")
    seed: int = Field(1337, ge=0, lt=2**63, description="of the draws; sample number i uses seed + i")
    stop: tuple[str, ...] = Field((), description="strings before which a text ends, as it does at end-of-text")
    beyond: Literal["auto", "rolling", "refill", "exact"] = Field(
        "auto",
        description="what a text that outgrows block_size does: the oldest token falls out of the cache (rolling, for "
        "relative positions), the newer half is read anew (refill), or all but the oldest token is, for every new one "
        "(exact, as nanoGPT); auto: rolling where it can be, else refill",
    )
    batch_size: int = Field(16, ge=1, description="texts that are written at a time")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="of the weights; auto: fp16 on an x86 CPU, whose products stay in fp32; else bf16 where the device "
        "multiplies it natively; else fp32",
    )
    compile: Literal["auto", "off", "default"] = Field(
        "auto",
        description="of the step that adds a token; auto: recorded as a CUDA graph on a GPU, off elsewhere, since on a "
        "CPU it gains nothing",
    )


class Experiment(Options):
    """A whole experiment. Load one with `Experiment.load`, which tells every mistake with its file and line."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100, description="of the folder below runs/")
    components: tuple[str, ...] = Field((), description="local component files, relative to the experiment file")
    dataset: Dataset
    tokenizer: Tokenizer
    order: Order = slot("shuffled")
    model: Model
    init: Init = slot("gpt2")
    optimizer: Optimizer
    schedule: Schedule
    train: Train
    parallel: Parallel = slot("single")
    evaluate: Evaluate = Evaluate()
    evaluator: tuple[Evaluator, ...] = slots("loss", "bits_per_byte")
    checkpoint: Checkpoint = Checkpoint()
    callback: tuple[Callback, ...] = slots("console", "tensorboard")
    sample: Sample = Sample()
    sampler: tuple[Sampler, ...] = slots("temperature", "top_k")

    _layers: Layers = PrivateAttr(default_factory=Layers)
    _registry: Registry = PrivateAttr(default_factory=Registry.installed)

    may_change: ClassVar[frozenset[str]] = frozenset(
        {"evaluate", "evaluator", "checkpoint", "callback", "parallel", "sample", "sampler"}
    )

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """Reads an experiment file and all that it extends, then applies "key=value" overrides.

        Raises KitError with every fault of the stage that found some: syntax; names, types and bounds; relations.
        """
        return cls.of(Layers.load(Path(path), overrides), Path(path).parent)

    @classmethod
    def of(cls, layers: Layers, folder: Path) -> Self:
        """From merged layers; `folder` is where local component files are looked for."""
        local = local_files(layers, folder)
        try:
            registry = Registry.installed().with_files(local) if local else Registry.installed()
        except KitError as error:
            place = layers.place(("components",))
            raise KitError(*(Fault(one.message, one.key, place) for one in error.faults)) from error
        try:
            experiment = cls.model_validate(layers.values, context={"registry": registry})
        except ValidationError as error:
            raise KitError(*explain(error, cls, layers, registry)) from None
        experiment._layers, experiment._registry = layers, registry
        return experiment

    @model_validator(mode="after")
    def _batch_is_whole_windows(self) -> Self:
        if self.train.batch_tokens % self.model.block_size:
            near = max(1, round(self.train.batch_tokens / self.model.block_size)) * self.model.block_size
            raise fault(
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
            raise fault("checkpoint.keep_every_steps", f"{expected}, got {kept}")
        return self

    @model_validator(mode="after")
    def _what_rolls_has_positions_that_go_on(self) -> Self:
        if self.sample.beyond == "rolling" and not self.model.relative:
            expected = "auto, refill or exact: this model's positions do not go on beyond block_size"
            raise fault("sample.beyond", f"should be {expected}, got 'rolling'")
        return self

    @model_validator(mode="after")
    def _a_budget_is_worth_a_step(self) -> Self:
        if self.train.max_tokens is not None and self.train.max_tokens < self.train.batch_tokens:
            expected = f"should be at least train.batch_tokens ({self.train.batch_tokens})"
            raise fault("train.max_tokens", f"{expected}, got {self.train.max_tokens}")
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
    def notes(self) -> tuple[str, ...]:
        """What the layers dropped when one component took another's place."""
        return tuple(self._layers.notes)

    def place(self, key: Key) -> str:
        """Where a value was written: "file:line", "command line", or "default"."""
        places = self._layers.places
        if key not in places and key[-1] == "use":  # norm = "rmsnorm" is short for { use = "rmsnorm" }
            key = key[:-1]
        return places.get(key, "default")

    def check_context(self, ctx: RunContext) -> None:
        """Raises KitError with the reason of every component that refuses `ctx`."""
        faults = []
        for key, component in self.parts():
            reason = component.refuses(ctx)
            if reason:
                faults.append(Fault(reason, dotted(key), self._layers.place(key)))
        if faults:
            raise KitError(*faults)

    def entry_of(self, part: Component) -> Entry:
        """The name, distribution and version behind one of its components."""
        return self._registry.entry_of(type(part))

    @property
    def component_files(self) -> tuple[Path, ...]:
        """The local files that its components come from."""
        return tuple(entry.path for entry in self._registry.entries if isinstance(entry, LocalEntry))

    def parts(self) -> list[tuple[Key, Component]]:
        """Every component of the experiment with its key, slots within slots included."""
        return list(components_in(self))

    def resolved(self) -> dict[str, Any]:
        """Every value, defaults included, as TOML values: an experiment file that stands by itself."""
        return dump(self, self._registry)

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


def local_files(layers: Layers, folder: Path) -> list[Path]:
    """The component files that loading an experiment would execute; `folder` is the experiment file's."""
    files = layers.values.get("components")
    return [folder / file for file in files if isinstance(file, str)] if isinstance(files, list) else []
