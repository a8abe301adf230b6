"""Options as frozen pydantic models, and slots: fields that hold a component chosen by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from nanogpt_kit.core.errors import Key, KitError, did_you_mean, option_error
from nanogpt_kit.core.paths import expanded
from nanogpt_kit.core.registry import Registry

SCALARS = ("int", "float", "bool", "str")


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


def expanded_option(value: Any) -> Any:
    """Every path in `value` expanded, so that a run records which file it read; what is not a path as it is."""
    if isinstance(value, list | tuple):
        return tuple(expanded_option(path) for path in value)
    if not isinstance(value, str):
        return value
    try:
        path = expanded(value)
    except KitError as error:
        raise PydanticCustomError("kit", "{message}", {"message": str(error)}) from None
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        remedy = "rename it, or name its folder or a glob where that is allowed"
        message = f"{path!r} is not UTF-8, and so cannot stand in an experiment file; {remedy}"
        raise PydanticCustomError("kit", "{message}", {"message": message}) from None
    return path


# Types of options that name files, folders, globs or runs: `~` and environment variables are replaced
PathStr = Annotated[str, BeforeValidator(expanded_option)]
PathStrs = Annotated[str | tuple[str, ...], BeforeValidator(expanded_option)]  # one or several


class Options(BaseModel):
    """A TOML table: its fields are the keys, with type, bounds, default and description.

    Scalars are strict (an int may become a float, nothing else converts), sequences are tuples.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        make_scalars_strict(schema)
        return schema


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """What a run is about to happen on; see `Component.refuses`."""

    device: str  # "cpu", "cuda", "mps"
    precision: str  # "fp32", "bf16", "fp16"
    world_size: int
    splits: tuple[str, ...]  # of the dataset
    block_size: int  # of the model

    def lacks(self, split: str) -> str | None:
        """The reason to refuse, where the dataset has no such split."""
        return None if split in self.splits else f"the dataset has no split {split!r}{did_you_mean(split, self.splits)}"


class Component(Options):
    """Options plus behaviour, found by name. A field annotated with a kind's base class is a slot for one."""

    kind: ClassVar[str]

    def refuses(self, ctx: RunContext) -> str | None:
        """Why this component cannot work there, with a remedy; None where it can. Asked before anything is built."""
        return None

    def explain_choices(self, ctx: RunContext) -> str | None:
        """What it chose for that place where its options leave the choice to it, and why; None where there is none."""
        return None

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if "kind" in cls.__dict__:  # the base class of a kind
            return core_schema.with_info_plain_validator_function(cls._resolve)
        return super().__get_pydantic_core_schema__(source, handler)

    @classmethod
    def _resolve(cls, value: Any, info: ValidationInfo) -> Self:
        """A component from "sdpa", from {"use": "sdpa", ...} or from itself."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            value = {"use": value}
        if not isinstance(value, dict):
            expected = f"should be the name of a component of kind {cls.kind}, or a table with `use`, got {value!r}"
            raise PydanticCustomError("kit", "{message}", {"message": expected})
        options = dict(value)
        use = options.pop("use", None)
        registry: Registry = (info.context or {}).get("registry") or Registry.installed()
        if use is None:
            names = ", ".join(sorted(entry.name for entry in registry.of_kind(cls.kind)))
            message = f"the table does not say which {cls.kind}; add use = one of: {names}"
            raise PydanticCustomError("no_use", "{message}", {"message": message})
        if not isinstance(use, str):
            raise option_error("use", f"should be the name of a component of kind {cls.kind}, got {use!r}")
        try:
            component = registry.load(cls.kind, use)
        except KitError as error:
            raise option_error("use", str(error)) from error
        return component.model_validate(options, context=info.context)  # type: ignore[return-value]


def slot(default: str) -> Any:
    """The default of a slot, by name: `norm: Norm = slot("layernorm")`."""
    return Field(default, validate_default=True)


def slots(*defaults: str) -> Any:
    """The default of a list of slots: `sampler: tuple[Sampler, ...] = slots("temperature", "top_k")`."""
    return Field(defaults, validate_default=True)


def dump(options: Options, registry: Registry) -> dict[str, Any]:
    """Every option, defaults included, as TOML values. TOML has no null, so what is None is left out."""

    def plain(value: Any) -> Any:
        if isinstance(value, Component):
            return {"use": registry.name_of(type(value)), **dump(value, registry)}
        if isinstance(value, Options):
            return dump(value, registry)
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
