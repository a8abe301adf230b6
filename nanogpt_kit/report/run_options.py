"""Options of a run that differ from their defaults, and from the shipped experiment of its name.

A run records every option. The classes of installed components are imported for their defaults; local component files
of a run are not executed, so that the defaults of their options are not known.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli

from nanogpt_kit.core.describe import describe_options
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.options import Component, Options, option_classes
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.shipped import shipped_experiments
from nanogpt_kit.runs.indexed_run import IndexedRun
from nanogpt_kit.runs.recorded_values import MAX_TOML_BYTES, bare_name, flat_options
from nanogpt_kit.runs.secrets import hide_in_text
from nanogpt_kit.system.reading import read_text

NO_DEFAULT: Any = object()
NOT_A_CHOICE = ("name", "note", "components", "train.seed")  # they name and explain a run, or are shown elsewhere


@dataclass(frozen=True)
class RunOption:
    """An option with its value in a run; None: not set."""

    key: str  # as in `runs list`: model.mlp.use, sampler.top_k.k
    value: Any
    default: Any  # NO_DEFAULT: it is required, or its component is not installed
    shipped: Any = None  # its value in the shipped experiment


def changed_options(run: IndexedRun) -> tuple[list[RunOption], str]:
    """The options with another value than the default or than in the shipped experiment of the run's name, those that
    differ from the latter first; and the name of that experiment, empty where none has the name."""
    defaults = dict(default_values(Path(run.path)))
    name = run.experiment if run.experiment in shipped_experiments() else ""
    shipped = flat_options(Experiment.load(name).resolved()) if name else {}
    found = []
    for key in dict.fromkeys((*run.options, *shipped)):
        default = defaults.get(key, NO_DEFAULT)
        option = RunOption(key, run.options.get(key), default, shipped.get(key))
        if key not in NOT_A_CHOICE and (option.value != default or is_changed(option, name)):
            found.append(option)
    return sorted(found, key=lambda option: not is_changed(option, name)), name


def is_changed(option: RunOption, shipped: str) -> bool:
    """Whether it differs from the shipped experiment, if there is one."""
    return bool(shipped) and option.value != option.shipped


def default_values(folder: Path) -> Iterator[tuple[str, Any]]:
    """The default of each option that a run has recorded, by the same keys; those without a default are left out."""
    try:
        values = tomli.loads(read_text(folder / "experiment.toml", MAX_TOML_BYTES))
    except (OSError, ValueError, RecursionError):
        return
    yield from defaults_below(Experiment, values, "")


def defaults_below(options: type[Options], values: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    described = {one.name: one for one in describe_options(options)}
    for name, value in values.items():
        if name not in described:
            continue
        key, description = f"{before}{name}", described[name]
        parts = option_classes(options.model_fields[name].annotation)
        default = NO_DEFAULT if description.required else description.default
        if not parts:
            if default is not NO_DEFAULT:
                yield key, default
        elif not issubclass(parts[0], Component):
            yield from defaults_below(parts[0], value if isinstance(value, dict) else {}, f"{key}.")
        elif isinstance(value, list):
            yield from defaults_of_list(parts[0], value, key, default)
        elif isinstance(value, dict):
            if default is not NO_DEFAULT:
                yield f"{key}.use", default
            yield from defaults_of_component(parts[0], value, f"{key}.")


def defaults_of_list(kind: type[Component], values: list[Any], key: str, default: Any) -> Iterator[tuple[str, Any]]:
    """Of the list itself and of the options of its components, with the keys of `flat_options`."""
    items = [item for item in values if isinstance(item, dict)]
    uses = [bare_name(item.get("use", index)) for index, item in enumerate(items)]
    if default is not NO_DEFAULT:
        yield key, default
    for index, item in enumerate(items):
        part = uses[index] if "." not in key and uses.index(uses[index]) == index else index
        yield from defaults_of_component(kind, item, f"{key}.{part}.")


def defaults_of_component(kind: type[Component], table: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    try:
        component = Registry.installed().load(kind, str(table.get("use")))
    except KitError:  # a local file, or a plugin that is not installed here
        return
    yield from defaults_below(component, {name: table[name] for name in table if name != "use"}, before)


def option_text(value: Any) -> str:
    """A value as in an experiment file, without passwords; one that is None is "not set"."""
    if value is None:
        return "not set"
    is_plain = isinstance(value, str) and value == value.strip() != ""
    return hide_in_text(value if is_plain else json.dumps(value, ensure_ascii=False))


def default_text(value: Any) -> str | None:
    return None if value is NO_DEFAULT else option_text(value)
