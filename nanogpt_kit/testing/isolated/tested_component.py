"""A component that is tested in a separate process: its class, its options, the overrides that train with it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from nanogpt_kit.core.errors import KitError, did_you_mean, dotted
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.experiment_keys import component_of_list
from nanogpt_kit.core.kinds import KINDS, Model
from nanogpt_kit.core.option_schema import option_schemas, slot_kind
from nanogpt_kit.core.options import Component
from nanogpt_kit.core.override_text import inline_toml
from nanogpt_kit.core.registry import Registry

REQUEST = "NANOGPT_KIT_TESTED"  # environment: the file with what is tested
SHAPE = {"n_layer": 2, "n_head": 2, "n_embd": 16}  # of a model, where it has these options
BLOCK_SIZE = 16


@dataclass(frozen=True)
class TestedComponent:
    """`name` is that in a TOML file; `options` those that the user or its own suite sets; `file` a local one."""

    __test__ = False  # pytest collects classes of this name otherwise

    kind: str
    name: str
    options: dict[str, Any]
    file: str = ""
    model: dict[str, Any] | None = None  # that a format can hold, as its own suite has it
    is_tested: bool = False  # by its own suite, so that only the training is left

    @classmethod
    def read(cls) -> TestedComponent:
        return cls(**json.loads(Path(os.environ[REQUEST]).read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    def load(self) -> type[Component]:
        """Its class. Raises KitError."""
        if self.file:
            entry = Registry.installed().with_files(Component, [Path(self.file)]).entries[0]
            return entry.load(KINDS[entry.kind])
        if self.kind not in KINDS:
            raise KitError(f"{self.name}: unknown kind {self.kind!r}{did_you_mean(self.kind, KINDS)}")
        return Registry.installed().load(KINDS[self.kind], self.name)

    def with_sizes(self, cls: type[Component]) -> dict[str, Any]:
        """The options; of a model small sizes besides, where it has such options and none of its shape is set."""
        shape = {} if SHAPE.keys() & self.options.keys() else SHAPE
        small = {**shape, "block_size": BLOCK_SIZE} if issubclass(cls, Model) else {}
        return {**{key: value for key, value in small.items() if key in cls.model_fields}, **self.options}

    def create(self, cls: type[Component]) -> Component:
        """With its options. Raises WrongOptions with each option that is missing or wrong."""
        try:
            return cls.model_validate(self.with_sizes(cls), context={"registry": Registry.installed()})
        except ValidationError as error:
            faults = error.errors(include_url=False)
            missing = tuple(dotted(fault["loc"]) for fault in faults if fault["type"] == "missing")
            raise WrongOptions(missing, [sentence_of(fault, cls) for fault in faults]) from None

    def overrides(self, cls: type[Component]) -> list[str]:
        """Those of the command line with which an experiment uses it; empty for a kind that no experiment names."""
        table = inline_toml({"use": self.name, **self.with_sizes(cls)})
        if cls.kind in Experiment.model_fields:
            override = f"{cls.kind}=[{table}]" if component_of_list(Experiment, (cls.kind,)) else f"{cls.kind}={table}"
            model = self.create(cls)
            return [override, *([f"train.batch_tokens={4 * model.block_size}"] if isinstance(model, Model) else [])]
        slots = option_schemas(Registry.installed().load(Model, "gpt"))
        return [f"model.{slot}={table}" for slot, schema in slots.items() if slot_kind(schema) == cls.kind][:1]


def sentence_of(fault: ErrorDetails, cls: type[Component]) -> str:
    key = dotted(fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"unknown option {key!r}{did_you_mean(key, cls.model_fields)}"
    if fault["type"] == "missing":
        return f"option {key} is required and has no default"
    return f"option {key}: {fault['msg']}, got {fault['input']!r}"


class WrongOptions(KitError):
    """Options that do not make a component; `missing` are those without a value."""

    def __init__(self, missing: tuple[str, ...], sentences: list[str]) -> None:
        super().__init__("; ".join(sentences))
        self.missing = missing
