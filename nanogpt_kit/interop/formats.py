"""Finds a format: by its name, or as the one that detects a source."""

from __future__ import annotations

import logging
import os  # whose exists is False also for a name that is too long
import shlex
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from nanogpt_kit.core.entry import Entry
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.faults import explain_validation_error
from nanogpt_kit.core.kinds import Format
from nanogpt_kit.core.layers import Layers
from nanogpt_kit.core.options import Component, Options
from nanogpt_kit.core.overrides import COMMAND_LINE
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION
from nanogpt_kit.system.json_files import read_json

logger = logging.getLogger(__name__)

OPTION = "format."  # begins each "format.dtype=bf16", an option of a format
SUFFIX = ".py"  # of a local component file in place of a name


@dataclass(frozen=True)
class NamedFormat:
    """A format and the name that it was found by."""

    name: str
    format: Format


class FormatChoice(Options):
    format: Format = Field(description="format of a model's files")


def is_format_option(override: str) -> bool:
    return override.startswith(OPTION)


def find_format(name: str, options: Sequence[str] = ()) -> NamedFormat:
    """The format of that name, of a distribution as in "dist/name", or of a local component file.

    `options` are overrides such as "format.dtype=bf16". Raises KitError with the nearest names, and for the options.
    """
    registry = Registry.installed()
    if name.endswith(SUFFIX):
        path = Path(name)
        registry, name = registry.with_files(Component, [path], trusted=[path]), path.stem
    registry.find(Format.kind, name)
    layers = Layers()
    layers.add({"format": {"use": name}}, lambda _: COMMAND_LINE)
    layers.override(options)
    try:
        choice = FormatChoice.model_validate(layers.values, context={"registry": registry})
    except ValidationError as error:
        raise KitError(*explain_validation_error(error, FormatChoice, layers, registry)) from None
    return NamedFormat(name, choice.format)


def can_read(format: Format) -> bool:
    """Whether the format can be imported."""
    return type(format).read is not Format.read


def can_write(format: Format) -> bool:
    """Whether models can be exported to it."""
    return type(format).write is not Format.write


def detect_format(path: Path) -> NamedFormat | None:
    """The format that detects `path`; None where there is no such path, or no format detects it.

    Code of plugins is executed only where no built-in format detects it. Raises KitError where several formats do.
    """
    return detect_built_in(path) or detect_plugin(path)


def detect_built_in(path: Path) -> NamedFormat | None:
    """As `detect_format`, among the built-in formats."""
    formats = readable(built_in_formats()) if os.path.exists(path) else []
    return only_one(path, [found for found in formats if found.format.detects(path)])


def detect_plugin(path: Path) -> NamedFormat | None:
    """As `detect_format`, among the formats of plugins. One that fails is skipped with a warning."""
    formats = readable(plugin_formats()) if os.path.exists(path) else []
    return only_one(path, [found for found in formats if detects_safely(found, path)])


def readable(formats: Iterable[NamedFormat]) -> list[NamedFormat]:
    return [found for found in formats if can_read(found.format)]


def only_one(path: Path, found: Sequence[NamedFormat]) -> NamedFormat | None:
    if len(found) > 1:
        names = " and ".join(one.name for one in found)
        command = f"`nanogpt-kit import {shlex.quote(str(path))} --format {found[0].name}`"
        raise KitError(f"{path} is a model in several formats, {names}; choose one of them, as in {command}")
    return found[0] if found else None


def detects_safely(found: NamedFormat, path: Path) -> bool:
    try:
        return found.format.detects(path)
    except (Exception, SystemExit) as error:  # a plugin's code
        reason = str(error).partition("\n")[0]
        logger.warning("skipped format %s: detects raised %s: %s", found.name, type(error).__name__, reason)
        return False


def built_in_formats() -> list[NamedFormat]:
    return load_formats(entry for entry in format_entries() if entry.distribution == KIT_DISTRIBUTION)


def plugin_formats() -> list[NamedFormat]:
    """Those of installed plugins. One that cannot be imported is skipped with a warning."""
    return load_formats(plugin_entries())


def plugin_entries() -> list[Entry]:
    """The formats of installed plugins, not imported."""
    return [entry for entry in format_entries() if entry.distribution != KIT_DISTRIBUTION]


def format_entries() -> list[Entry]:
    return Registry.installed().of_kind(Format.kind)


def load_formats(entries: Iterable[Entry]) -> list[NamedFormat]:
    found = []
    for entry in entries:
        try:
            component = entry.load(Format)
            found.append(NamedFormat(Registry.installed().short_name(component), component()))
        except KitError as error:
            logger.warning("skipped: %s", error)
        except ValidationError as error:  # detection has the default options
            keys = ", ".join(f"{OPTION}{fault['loc'][0]}" for fault in error.errors() if fault["loc"])
            logger.warning("skipped format %s: it cannot be detected without %s", entry.name, keys or "its options")
    return found


def undetected(path: Path) -> KitError:
    """That no format detects `path`, with what each looks for."""
    expected = [f"{found.name} ({found.format.sources})" for found in readable(built_in_formats())]
    expected += [entry.qualified for entry in plugin_entries()]
    kind = stated_type(path)
    stated = f" ({path / 'config.json'} describes a model of type {kind[:60]!r})" if kind else ""
    return KitError(f"{path} is not a model in a format that is installed{stated}. Formats: {', '.join(expected)}.")


def stated_type(path: Path) -> str | None:
    """The type of model that a config.json in a folder states, as transformers writes it; None where there is none."""
    with suppress(OSError, ValueError, AttributeError):
        kind = read_json(path / "config.json").get("model_type")
        return kind if isinstance(kind, str) else None
    return None
