"""Every option of an experiment with its value, where that was set, and the default that it differs from."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from nanogpt_kit.cli.option_text import wrapped
from nanogpt_kit.cli.output import is_terminal
from nanogpt_kit.core.describe import OptionDescription, describe_options
from nanogpt_kit.core.errors import Key, dotted, printable
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.layered_slots import is_layered_slot, layers_of_element
from nanogpt_kit.core.options import Options, leaves
from nanogpt_kit.system.terminal import terminal_width

if TYPE_CHECKING:
    from nanogpt_kit.sweep.space.space import Space

MAX_WIDTH = 60  # columns of the keys and values, before the comments
MAX_LAYERS = 6  # that a comment lists
NO_DEFAULT: Any = object()


@dataclass(frozen=True)
class OptionValue:
    """An option of an experiment, or one element of a list; `description` only where it is not set."""

    key: str
    value: Any  # a TOML value; None where it is not set
    location: str  # "file:line", "command line" or "default"
    default: Any  # NO_DEFAULT for a required option
    description: OptionDescription | None = None
    layers: range | None = None  # of the model that an element of a list serves

    @property
    def differs(self) -> bool:
        return self.default is not NO_DEFAULT and self.default != self.value

    @property
    def assignment(self) -> str:
        """The option as in a file; as comments where it is not set."""
        if self.description is None:
            return f"{self.key} = {json.dumps(self.value, ensure_ascii=False)}"
        about = f"{self.key} is not set ({self.description.type_and_bounds}): {self.description.description}"
        return "\n".join(wrapped(about, "# ", "#     "))

    @property
    def comment(self) -> str:
        """Where it was set; empty where it is not set."""
        default = f"; default: {default_text(self.default)}" if self.differs else ""
        served = "" if self.layers is None else f"; {layers_text(self.layers)}"
        return "" if self.description else f"{self.location}{served}{default}"

    @property
    def record(self) -> dict[str, Any]:
        default = {} if self.default is NO_DEFAULT else {"default": self.default}
        layers = {} if self.layers is None else {"layers": list(self.layers)}
        return {"value": self.value, "from": self.location, **default, **layers}


def layers_text(layers: range) -> str:
    """ "layers 0, 2, 4"; of many the first ones and the last."""
    shown = [str(layer) for layer in layers]
    if len(shown) > MAX_LAYERS:
        shown = [*shown[: MAX_LAYERS - 1], "...", shown[-1]]
    return f"layer{'s' if len(layers) > 1 else ''} {', '.join(shown)}"


def default_text(default: Any) -> str:
    return "not set" if default is None else json.dumps(default, ensure_ascii=False)


def option_values(experiment: Experiment) -> list[OptionValue]:
    """Every option in the order of the sections, those that are not set included; of [sweep] all but the space.

    Each key of [ablate.vary] and each named change is one of them.
    """
    values = experiment.resolved()
    if experiment.sweep is not None:
        from nanogpt_kit.runs.secrets import hide_password

        values["sweep"] = experiment.sweep.model_dump(exclude={"space"}, exclude_none=True)
        values["sweep"]["storage"] = hide_password(experiment.sweep.storage)
    if experiment.ablate is not None:
        from nanogpt_kit.runs.secrets import hide_password

        values["ablate"] = experiment.ablate.model_dump(exclude_none=True)
        values["ablate"]["storage"] = hide_password(experiment.ablate.storage)
    return list(values_below(experiment, experiment, values, ()))


def values_below(experiment: Experiment, options: Options, values: dict[str, Any], at: Key) -> Iterator[OptionValue]:
    """The options of the table at key `at`, and of all tables within it; `values` are its TOML values."""
    for description in describe_options(type(options)):
        key, value = (*at, description.name), getattr(options, description.name)
        default = NO_DEFAULT if description.required else description.default
        if value is None:
            yield OptionValue(dotted(key), None, "default", default, description)
        elif key == ("sweep", "space"):
            continue
        elif key in (("ablate", "vary"), ("ablate", "changes")):
            yield from values_of_changes(experiment, value, key)
        elif isinstance(value, Options):
            yield from values_of_table(experiment, value, values[description.name], key, default)
        elif isinstance(value, tuple) and any(isinstance(item, Options) for item in value):
            names = [item.get("use") for item in values[description.name]]
            same_length = isinstance(default, list) and len(default) == len(names)
            n_layer = (
                getattr(options, "n_layer", 0) if is_layered_slot(type(options).model_fields[description.name]) else 0
            )
            for index, item in enumerate(value):
                one = default[index] if same_length else default if n_layer or not index else NO_DEFAULT
                layers = layers_of_element(value, index, n_layer) if n_layer else None
                table = values[description.name][index]
                yield from values_of_table(experiment, item, table, (*key, index), one, layers)
        else:
            yield from values_of_leaf(experiment, values[description.name], key, default)


def values_of_table(
    experiment: Experiment,
    options: Options,
    values: dict[str, Any],
    at: Key,
    default: Any,
    layers: range | None = None,
) -> Iterator[OptionValue]:
    """A component's name, if the table is one, and the options of the table; `default` is that of the table."""
    if "use" in values and "use" not in type(options).model_fields:
        key = (*at, "use")
        yield OptionValue(dotted(key), values["use"], experiment.location(key), default, layers=layers)
    yield from values_below(experiment, options, values, at)


def values_of_changes(experiment: Experiment, table: dict[str, Any], at: Key) -> Iterator[OptionValue]:
    """The lists of [ablate.vary] and the tables of [ablate.changes], each as a whole."""
    for name, value in table.items():
        key = (*at, name)
        if at[1] == "vary" and isinstance(value, dict) and value:  # nested tables in place of a dotted key
            yield from values_of_changes(experiment, value, key)
        else:
            yield OptionValue(dotted(key), value, experiment.layers.location(key), NO_DEFAULT)


def values_of_leaf(experiment: Experiment, value: Any, key: Key, default: Any) -> Iterator[OptionValue]:
    """A value, or the elements of a list; where its default has another length, the first element has all of it."""
    by_element = isinstance(default, list) and isinstance(value, list) and len(default) == len(value)
    for index, (leaf, item) in enumerate(leaves(value, key)):
        one = default[index] if by_element and value else default if not index else NO_DEFAULT
        yield OptionValue(dotted(leaf), item, experiment.location(leaf), one)


def space_values(space: Space | None) -> dict[str, tuple[str, str]]:
    """Every parameter of a search space as text, and where it was written."""
    if space is None:
        return {}
    parameters = zip(space.describe().items(), space.entries, strict=True)
    return {f"sweep.space.{name}": (text, parameter.location) for (name, text), parameter in parameters}


def print_option_values(experiment: Experiment, space: Space | None) -> None:
    """As lines that an experiment file might have; what is not set is commented out."""
    lines = [(value.assignment, value.comment) for value in option_values(experiment)]
    lines += [(f"{key}: {text}", origin) for key, (text, origin) in space_values(space).items()]
    width = min(MAX_WIDTH, max(len(text) for text, comment in lines if comment))
    columns = terminal_width(sys.stdout) if is_terminal(sys.stdout) else sys.maxsize
    for text, comment in lines:
        click.echo(printable(with_comment(text, comment, width, columns) if comment else text))


def with_comment(text: str, comment: str, width: int, columns: int) -> str:
    """A line of at most `columns`, the comment after `width` of them where that fits; else the comment is wrapped."""
    for line in (f"{text:{width}}  # {comment}", f"{text}  # {comment}"):
        if len(line) <= columns:
            return line
    return "\n".join([text, *wrapped(comment, "    # ", "    #     ")])


def option_values_record(experiment: Experiment, space: Space | None) -> dict[str, Any]:
    """The same for programs: value, origin and default of each key; the value of an option that is not set is null."""
    record = {value.key: value.record for value in option_values(experiment)}
    return record | {key: {"value": text, "from": origin} for key, (text, origin) in space_values(space).items()}
