"""Slots that take one component or a list: those of a model's layers, whose lists are repeated, and the schedules.

`attention = [{ use = "sdpa", window = 64 }, "sdpa"]` gives layers 0, 2, 4, ... windows, and layers 1, 3, 5, ... none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar, get_args

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError, ValidationInfo
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, SchemaValidator, core_schema

from nanogpt_kit.core.options import LISTED_KEYWORD, SLOT_KEYWORD, Component, Options


class ListedSlot:
    """The annotation that makes a component slot take one component, or a list."""

    list_text = ""  # what follows "a list that" in a description

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        kind: type[Component] = get_args(source)[0]
        elements = SchemaValidator(core_schema.tuple_variable_schema(handler.generate_schema(kind)))

        def resolve(value: Any, info: ValidationInfo) -> Any:
            if isinstance(value, list | tuple):
                if not value:
                    message = f"is an empty list; write a component of kind {kind.kind}, or a list of at least one"
                    raise PydanticCustomError("kit", "{message}", {"message": message})
                return elements.validate_python(value, context=info.context)
            if not isinstance(value, str | dict | kind):
                message = (
                    f"should be the name of a component of kind {kind.kind}, a table with `use`, or a list of these"
                )
                raise PydanticCustomError("kit", "{message}", {"message": f"{message}, got {value!r}"})
            return kind._resolve(value, info)

        def json_schema(core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
            return {SLOT_KEYWORD: kind.kind, LISTED_KEYWORD: self.list_text}

        metadata = {"pydantic_js_functions": [json_schema]}
        return core_schema.with_info_plain_validator_function(resolve, metadata=metadata)


class LayeredSlot(ListedSlot):
    """The annotation that makes it one of a model's layers."""

    list_text = "is repeated over the layers"


Part = TypeVar("Part", bound=Component)
# Type of a slot that takes one component, or a list
OneOrList = Annotated[Part | tuple[Part, ...], ListedSlot()]
# Type of a slot of a model that takes one component, or a list that is repeated over the layers
Layered = Annotated[Part | tuple[Part, ...], LayeredSlot()]


def listed(parts: Part | tuple[Part, ...]) -> tuple[Part, ...]:
    """The components of a slot that takes one or a list."""
    return parts if isinstance(parts, tuple) else (parts,)


def of_layer(parts: Part | tuple[Part, ...], layer: int) -> Part:
    """The component of a layered slot for one layer, counted from 0: a list is repeated over the layers."""
    several = listed(parts)
    return several[layer % len(several)]


def is_layered_slot(field: FieldInfo) -> bool:
    """Whether the type of an option is `Layered`, alone or within another type, as in `Layered[MLP] | None`."""
    return isinstance(listed_slot(field), LayeredSlot)


def listed_slot(field: FieldInfo) -> ListedSlot | None:
    """The annotation of an option that takes one component or a list; None of another one."""

    def found(part: Any) -> ListedSlot | None:
        return part if isinstance(part, ListedSlot) else next(filter(None, map(found, get_args(part))), None)

    return next(filter(None, map(found, (*field.metadata, field.annotation))), None)


def layered_slots(options: type[Options]) -> list[str]:
    """The options that are layered slots."""
    return [name for name, field in options.model_fields.items() if is_layered_slot(field)]


def layers_of_element(parts: Sequence[Component], index: int, n_layer: int) -> range:
    """The layers that an element of a list serves."""
    return range(index, n_layer, len(parts))


def shortest(parts: Part | tuple[Part, ...], n_layer: int) -> Part | tuple[Part, ...]:
    """The shortest form that builds the same modules: of a list of equal components that component.

    A list of positions is as short as it can be: each of its components has one module, whatever the layers.
    """
    several = listed(parts)
    if len(several) > 1 and several[0].kind == "position":
        return parts
    layers = [of_layer(several, layer) for layer in range(n_layer)]
    period = next(n for n in range(1, n_layer + 1) if layers == [layers[layer % n] for layer in range(n_layer)])
    return layers[0] if period == 1 else several[:period]


def check_lengths(model: Options) -> None:
    """Raises ValidationError with every list of a model that has more elements than there are layers."""
    n_layer = getattr(model, "n_layer", None)
    if not isinstance(n_layer, int):
        return
    long = {name: len(listed(getattr(model, name))) for name in layered_slots(type(model))}
    details = [length_error(name, length, n_layer) for name, length in long.items() if length > n_layer]
    if details:
        raise ValidationError.from_exception_data(type(model).__name__, details)


def length_error(name: str, length: int, n_layer: int) -> InitErrorDetails:
    remedy = "remove some of them, or raise n_layer" if n_layer > 1 else "write one component, or raise n_layer"
    message = f"{name} has {length} elements, of which n_layer ({n_layer}) leaves {length - n_layer} without a layer"
    context = {"message": f"{message}; {remedy}"}
    return InitErrorDetails(type=PydanticCustomError("kit", "{message}", context), loc=(name,), input=None)
