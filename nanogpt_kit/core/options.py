"""Options as frozen pydantic models, and component slots: fields that take a component chosen by name."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Self, TypeVar, cast, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
)
from pydantic.config import JsonDict
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from nanogpt_kit.core.deprecation import Deprecation
from nanogpt_kit.core.errors import Key, KitError, did_you_mean, option_error
from nanogpt_kit.core.machine_choices import Candidate, MachineChoices
from nanogpt_kit.core.paths import expand_path
from nanogpt_kit.core.registry import Registry

TEST = "test"  # the split that is opened once, when a question is decided
TEST_IS_CLOSED = 'a test split is opened only once, by `nanogpt-kit compare ... --open-test`; use split = "val" here'
SCALARS = ("int", "float", "bool", "str")
MAY_CHANGE: JsonDict = {"may_change_on_resume": True}  # json_schema_extra of such an option
SLOT_KEYWORD = "component of kind"  # in the JSON Schema of a component slot: the kind
LISTED_KEYWORD = "or a list"  # there, of a slot that takes a list as well: what the list is, after "that"; or empty


def make_scalars_strict(schema: Any) -> None:
    """Strict models refuse lists for tuples; so the model stays lax and each scalar in it becomes strict."""
    if isinstance(schema, dict):
        if schema.get("type") in SCALARS:
            schema["strict"] = True
        for part in schema.values():
            make_scalars_strict(part)
    elif isinstance(schema, list | tuple):
        for part in schema:
            make_scalars_strict(part)


def expand_option(value: Any) -> Any:
    """`value` with its paths expanded, so that a run records which file it read; other values are unchanged."""
    if isinstance(value, list | tuple):
        return tuple(expand_option(path) for path in value)
    if not isinstance(value, str):
        return value
    try:
        path = expand_path(value)
    except KitError as error:
        raise PydanticCustomError("path", "{message}", {"message": str(error)}) from None
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        remedy = "rename it, or name its folder or a glob where that is allowed"
        message = f"{path!r} is not UTF-8, so no experiment file can contain it; {remedy}"
        raise PydanticCustomError("path", "{message}", {"message": message}) from None
    return path


# Type of an option that names a file, folder, glob or run: `~` and environment variables are replaced
PathStr = Annotated[str, BeforeValidator(expand_option)]


class Options(BaseModel):
    """A TOML table: its fields are the keys, with type, bounds, default and description.

    Scalars are strict (an int may become a float, nothing else converts), sequences are tuples.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    deprecated_options: ClassVar[Mapping[str, Deprecation]] = {}  # by old name

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        make_scalars_strict(schema)
        if cls.deprecated_options:
            return core_schema.no_info_before_validator_function(cls._replace_deprecated, schema)
        return schema

    @classmethod
    def _replace_deprecated(cls, values: Any) -> Any:
        """A table with the new names of its deprecated options; with both, the old one stays and is refused."""
        for old, deprecation in cls.deprecated_options.items() if isinstance(values, dict) else ():
            if old in values and deprecation.replacement not in values:
                deprecation.warn_user(f"option {old}")
                values = {deprecation.replacement if name == old else name: value for name, value in values.items()}
        return values


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """The device and data of a run that is about to start; see `Component.refusal_reason`."""

    device: str  # "cpu", "cuda", "mps"
    precision: str  # "fp32", "bf16", "fp16"
    world_size: int
    splits: tuple[str, ...]  # of the dataset
    block_size: int  # of the model
    may_open_test: bool = False  # the test split is to be evaluated: only `compare --open-test` does that
    # What is fastest on this machine; see `Component.candidates`
    machine: MachineChoices = field(default_factory=MachineChoices.current, repr=False, compare=False)

    def split_refusal_reason(self, split: str) -> str | None:
        """Why a split cannot be evaluated, as a sentence for `Component.refusal_reason`; None where it can."""
        if split not in self.splits:
            return f"the dataset has no split {split!r}{did_you_mean(split, self.splits)}"
        return TEST_IS_CLOSED if split == TEST and not self.may_open_test else None


Chosen = TypeVar("Chosen", bound="Component")


class Component(Options):
    """Options plus behaviour, found by name. A field annotated with the base class of a kind is a slot for one."""

    kind: ClassVar[str]
    # Of a model or a part of one: its numeric options that schedules may change during training. The module that it
    # builds keeps the component as `options`, and reads each of these from an attribute of its own of the same name.
    schedulable: ClassVar[tuple[str, ...]] = ()

    def refusal_reason(self, ctx: RunContext) -> str | None:
        """Why this component cannot run in `ctx`, with a remedy; None where it can. Called before anything is built."""
        return None

    def explain_choices(self, ctx: RunContext) -> str | None:
        """What this component chose where its options say "auto", and why; None where they leave it no choice."""
        return None

    def candidates(self, ctx: RunContext) -> Mapping[str, Mapping[str, Candidate]]:
        """Ways to compute what this component does, whose speed depends on the chip: by task, then by name.

        The first of a task is used unless another is measured to be clearly faster on this machine. A candidate is a
        function without arguments that makes what it needs and returns the call to be timed. `machine.choice(task,
        first)` of the context says which to use; a task that several components name is measured once.
        """
        return {}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if "kind" in cls.__dict__:  # the base class of a kind
            return core_schema.with_info_plain_validator_function(cls._resolve)
        return super().__get_pydantic_core_schema__(source, handler)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        if "kind" in cls.__dict__:
            return {SLOT_KEYWORD: cls.kind}
        return super().__get_pydantic_json_schema__(core, handler)

    @classmethod
    def _resolve(cls, value: Any, info: ValidationInfo) -> Self:
        """A component from "sdpa", from {"use": "sdpa", ...} or from a component."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            value = {"use": value}
        if not isinstance(value, dict):
            list_text = "not a list, " if isinstance(value, list | tuple) else ""
            expected = f"should be the name of a component of kind {cls.kind}, or a table with `use`"
            message = f"{expected}, {list_text}got {value!r}"
            raise PydanticCustomError("kit", "{message}", {"message": message})
        options = dict(value)
        use = options.pop("use", None)
        registry: Registry = (info.context or {}).get("registry") or Registry.installed()
        if use is None:
            names = ", ".join(registry.names(cls.kind))
            message = f"the table names no component of kind {cls.kind}; add use = one of: {names}"
            raise PydanticCustomError("no_use", "{message}", {"message": message})
        if not isinstance(use, str):
            raise option_error("use", f"should be the name of a component of kind {cls.kind}, got {use!r}")
        try:
            return load_class(cls, registry, use).model_validate(options, context=info.context)
        except (ValidationError, KitError) as error:
            other = registry.stand_in(cls, use, options, error)
            if other is None:
                raise
            return cast(Self, other)


def load_class(base: type[Chosen], registry: Registry, use: str) -> type[Chosen]:
    """The class of a component; a KitError becomes that of the option `use`."""
    try:
        return registry.load(base, use)
    except KitError as error:
        raise option_error("use", str(error)) from error


def slot(default: str | dict[str, Any] | tuple[str, ...], **field: Any) -> Any:
    """The default of a slot by name, of a list of slots by names: `sampler: tuple[Sampler, ...] = slot(("top_k",))`.

    A default with options is a table: `norm: Norm = slot({"use": "rmsnorm", "gain": False})`. `field` are arguments of
    pydantic's `Field`, such as a description.
    """
    return Field(default, validate_default=True, **field)


def changeable_options(options: type[Options]) -> tuple[str, ...]:
    """The options that may have another value when a run is resumed: those that are declared with MAY_CHANGE."""
    fields = options.model_fields.items()
    return tuple(name for name, field in fields if field.json_schema_extra == MAY_CHANGE)


def option_classes(annotation: Any) -> list[type[Options]]:
    """The option classes that an annotation mentions: `tuple[Sampler, ...]` gives [Sampler]."""
    if isinstance(annotation, type) and issubclass(annotation, Options):
        return [annotation]
    return [options for part in get_args(annotation) for options in option_classes(part)]


@functools.cache
def path_options(options: type[Options]) -> frozenset[str]:
    """The options that name a file, folder, glob or run: those of type `PathStr`, alone or within another type."""

    def is_path(part: Any) -> bool:
        return (isinstance(part, BeforeValidator) and part.func is expand_option) or any(map(is_path, get_args(part)))

    fields = options.model_fields.items()
    return frozenset(name for name, field in fields if is_path(field.annotation) or any(map(is_path, field.metadata)))


def to_toml_values(options: Options, registry: Registry) -> dict[str, Any]:
    """Every option, defaults included, as TOML values. TOML has no null, so what is None is left out."""

    def plain(value: Any) -> Any:
        if isinstance(value, Component):
            return {"use": registry.name_of(type(value)), **to_toml_values(value, registry)}
        if isinstance(value, Options):
            return to_toml_values(value, registry)
        if isinstance(value, tuple | list):
            return [plain(item) for item in value]
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return value

    return {name: plain(value) for name, value in options if value is not None}


def components_in(options: Options, at: Key = ()) -> Iterator[tuple[Key, Component]]:
    """Every component below `options` with its key, slots within slots included."""
    for name, value in options:
        for key, item in enumerate_tuple((*at, name), value):
            if isinstance(item, Component):
                yield key, item
            if isinstance(item, Options):
                yield from components_in(item, key)


def enumerate_tuple(key: Key, value: Any) -> list[tuple[Key, Any]]:
    return [((*key, index), item) for index, item in enumerate(value)] if isinstance(value, tuple) else [(key, value)]


def leaves(values: Any, at: Key = ()) -> Iterator[tuple[Key, Any]]:
    """The scalars of nested tables and lists with their keys; an empty list is a leaf too."""
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    if not items or values == []:
        yield at, values
    for key, value in items:
        yield from leaves(value, (*at, key))


def digest(values: Any) -> str:
    """A hash of plain values, the same on every machine."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
