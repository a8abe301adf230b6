"""Options of a model that only some mixers use: one that no mixer uses must not be set, and is left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nanogpt_kit.core.errors import allowed_text, option_error
from nanogpt_kit.core.layered_slots import listed, of_layer
from nanogpt_kit.core.unused_options import unused_error

LEFT_OUT = ("attention", "n_kv_head", "qk_norm")  # None in a model whose mixers do not use them
USABLE = (*LEFT_OUT, "position", "document_mask")


def check_uses(mixer: str, uses: Any) -> None:
    """Raises TypeError where `uses` of a mixer's class is not a tuple of options that a mixer may use."""
    if not isinstance(uses, tuple):
        raise TypeError(f'{mixer}.uses is {uses!r}; it should be a tuple, as in uses = ("attention",)')
    for option in uses:
        if option not in USABLE:
            raise TypeError(f"{mixer}.uses names {option!r}, which no mixer can use.{allowed_text(USABLE)}")


def check_mixer_options(model: Any) -> None:
    """For the validator of a model with the slots mixer, attention and position, and with n_layer.

    Raises the error of an option that is set and that no mixer, or not the mixer of its layers, uses. Sets those of
    `LEFT_OUT` that no mixer uses to None, so that the resolved experiment does not have them.
    """
    layers = range(model.n_layer)
    mixers = [of_layer(model.mixer, layer) for layer in layers]
    other_mixer = f"or use another mixer, such as {type(model).model_fields['mixer'].default}"
    unused = [option for option in LEFT_OUT if not any(option in mixer.uses for mixer in mixers)]
    refused = {option: f"no mixer of the model uses {option}; remove it, {other_mixer}" for option in unused}
    acting = [part for part in listed(model.position) if part.acts_in_mixers]
    if acting and not any("position" in mixer.uses for mixer in mixers):
        message = f"{type(acting[0]).__name__} acts within mixers, and no mixer of the model uses position"
        refused["position"] = f"{message}; remove it, {other_mixer}"
    refused = {option: message for option, message in refused.items() if option in model.model_fields_set}
    if refused:
        raise unused_error(refused, "mixer")
    vars(model).update(dict.fromkeys(unused))  # the model is frozen once it is validated
    check_elements(model, mixers, other_mixer)
    leaks = sorted({type(mixer).__name__ for mixer in mixers if "document_mask" not in mixer.uses})
    if model.document_mask and leaks:
        message = f"document_mask requires mixers that keep documents apart, and {leaks[0]} does not"
        raise option_error("document_mask", f"{message}; set document_mask = false, {other_mixer}", "mixer")


def check_elements(model: Any, mixers: Sequence[Any], other_mixer: str) -> None:
    """Raises the error of an element of a list that acts within mixers, where no mixer of its layers uses it.

    An attention without options may stand there, so that the elements after it keep their layers.
    """
    for option, stand_in in (("attention", type(model).model_fields["attention"].default), ("position", "none")):
        parts = listed(getattr(model, option))
        used = {layer % len(parts) for layer, mixer in enumerate(mixers) if option in mixer.uses}
        for index in sorted(set(range(len(parts))) - used) if used else ():
            part = parts[index]
            if any(part == parts[other] for other in used):
                continue  # a pattern over all layers, such as three windows in four, also covers mixers without it
            if part.acts_in_mixers if option == "position" else part.model_dump(exclude_defaults=True):
                message = f"{option}.{index} ({type(part).__name__}) acts within mixers, and no mixer of its layers"
                remedy = f'write "{stand_in}" in its place, {other_mixer}'
                raise option_error(option, f"{message} uses {option}; {remedy}", "mixer")
