"""Options that a component of the same table does not use: refused, or dropped where that component was chosen later.

As the options of a component are dropped where a later layer replaces it: `nanogpt-kit run file model.mixer=...` works
whatever the file says of attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nanogpt_kit.core.errors import dotted
from nanogpt_kit.core.layers import Layers

if TYPE_CHECKING:
    from pydantic import ValidationError

UNUSED = "unused"  # the type of such an error


def unused_error(messages: Mapping[str, str], slot: str) -> ValidationError:
    """For a validator: reports each option with its message. The component in `slot` of the same table uses none."""
    from pydantic import ValidationError  # imported here, so that listing components stays fast
    from pydantic_core import InitErrorDetails, PydanticCustomError

    details = [
        InitErrorDetails(
            type=PydanticCustomError(UNUSED, "{message}", {"message": message, "key": option, "partners": (slot,)}),
            loc=(option,),
            input=None,
        )
        for option, message in messages.items()
    ]
    return ValidationError.from_exception_data("unused options", details)


def drop_unused_options(error: ValidationError, layers: Layers) -> bool:
    """Drops those unused options that were written before the component which does not use them; whether it did."""
    dropped = False
    for detail in error.errors():
        if detail["type"] != UNUSED:
            continue
        key, (slot,) = detail["loc"], detail["ctx"]["partners"]
        reason = layers.highest((*key[:-1], slot))
        if layers.height(reason) > layers.height(layers.highest(key)):
            layers.drop(key, f"{dotted((*key[:-1], slot))} ({layers.location(reason)}) does not use it")
            dropped = True
    return dropped
