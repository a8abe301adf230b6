"""Options, sections, components and kinds as text and as records, for `explain` and `plugins show`."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from nanogpt_kit.cli.component_origin import origin_of, origin_record
from nanogpt_kit.core.class_source import read_class_source
from nanogpt_kit.core.describe import (
    OptionDescription,
    component_docstring,
    component_source,
    describe_options,
    section_summary,
)
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.found_components import FoundComponent
from nanogpt_kit.core.kinds import KINDS
from nanogpt_kit.core.lookup import Found, FoundKind, FoundOption
from nanogpt_kit.core.options import Component, Options
from nanogpt_kit.core.registry import Registry

MAX_WIDTH = 120  # columns, those of docstrings
EXAMPLES = (
    "nanogpt-kit explain train             a section",
    "nanogpt-kit explain optimizer.betas   an option, of each component that has it",
    "nanogpt-kit explain rope              a component",
    "nanogpt-kit explain attention         a kind: what can be chosen",
)


def found_text(found: Found) -> str:
    """All about what was found, as lines of the terminal's width."""
    if isinstance(found, FoundComponent):
        return component_text(found)
    if isinstance(found, FoundKind):
        slots = ", ".join(map(slot_text, found.slots))
        title = f"kind {found.kind}: {section_summary(KINDS[found.kind])}"
        return "\n".join([*wrapped(title), *labelled("set by", slots), *choice_lines(found.kind)])
    return section_text(found) if found.table else "\n".join(option_lines(found))


def component_text(found: FoundComponent) -> str:
    entry = found.entry
    title = f"{entry.kind} {entry.name}, from {entry.distribution} {entry.version}"
    options = [line for option in describe_options(found.component) for line in ["", *listed_option(option)]]
    properties = [line for label, text in origin_of(found) for line in labelled(label, text)]
    documentation = docstring_lines(component_docstring(found.component))
    return "\n".join([title, "", *documentation, "", *properties, *options])


def section_text(found: FoundOption) -> str:
    assert found.table is not None
    options = describe_options(found.table, found.option.may_change_on_resume)
    lines = [line for option in options for line in ["", *listed_option(option)]]
    brackets = "[[{}]]" if found.option.type == "list of tables" else "[{}]"
    return "\n".join([*wrapped(with_description(brackets.format(".".join(found.key)), found.option)), *lines])


def listed_option(option: OptionDescription) -> list[str]:
    """One option in the list of its table."""
    default = f" = {json.dumps(option.default, ensure_ascii=False)}" if has_default(option) else ""
    notes = [option.type_and_bounds]
    if option.default is None:
        notes.append("required" if option.required else "unset by default")
    if option.may_change_on_resume:
        notes.append("may change on resume")
    return [
        *wrapped(f"{option.name}{default}   ({', '.join(notes)})", "  ", "      "),
        *wrapped(option.description, "      "),
    ]


def option_lines(found: FoundOption) -> Iterator[str]:
    """One option by itself."""
    option = found.option
    owner = f" of {found.entry.kind} {found.entry.name}" if found.entry else ""
    yield from wrapped(with_description(f"{found.written_key}{owner}", option), "", "  ")
    yield from labelled("type", option.type_and_bounds)
    yield from labelled("unit", option.unit)
    default = json.dumps(option.default, ensure_ascii=False) if has_default(option) else "not set"
    yield from labelled("default", "none; it is required" if option.required else default)
    if found.key[0] not in ("sweep", "ablate", "format"):  # which are not part of a run
        may_change = "may change" if option.may_change_on_resume else "cannot change"
        yield from labelled("resume", f"{may_change} when a run is resumed")
    if issubclass(found.owner, Component) and not found.kind:
        yield from labelled("source", component_source(found.owner))
    if found.kind:
        yield from choice_lines(found.kind)


def choice_lines(kind: str) -> Iterator[str]:
    """The components of a kind, each with the first line of its documentation, which is read and not imported."""
    yield f"  components of kind {kind}:"
    entries = Registry.installed().of_kind(kind)
    names = [Registry.installed().shortest_name(entry) for entry in entries]
    width = max(map(len, names), default=0)
    for name, entry in zip(names, entries, strict=True):
        source = read_class_source(entry.target)
        summary = source.docstring.partition("\n")[0] if source else ""
        yield from wrapped(f"{name:{width}}  {summary}", "    ", " " * (width + 6))


def slot_text(slot: FoundOption) -> str:
    owner = f" of {slot.entry.kind} {slot.entry.name}" if slot.entry else ""
    return f"{slot.written_key}{owner}"


def with_description(title: str, option: OptionDescription) -> str:
    return f"{title}: {option.description}" if option.description else title


def has_default(option: OptionDescription) -> bool:
    return option.default is not None and option.type != "table"


def labelled(label: str, text: str) -> list[str]:
    """A line of an option's properties; none where `text` is empty."""
    return wrapped(text, f"  {label:8} ", " " * 11)


def docstring_lines(docstring: str) -> list[str]:
    """Paragraphs of the terminal's width; one with an indented line keeps its lines."""
    lines = []
    for paragraph in docstring.split("\n\n"):
        has_layout = any(line[:1] in (" ", "-", "*") for line in paragraph.split("\n"))
        lines += ["", *(paragraph.split("\n") if has_layout else wrapped(paragraph))]
    return lines[1:]


def wrapped(text: str, first: str = "", following: str | None = None) -> list[str]:
    """`text` in lines of the terminal's width, after the indentation of the `first` line and of the `following`."""
    width = min(MAX_WIDTH, shutil.get_terminal_size((MAX_WIDTH, 0)).columns)
    rest = first if following is None else following
    parts = {"initial_indent": first, "subsequent_indent": rest, "break_long_words": False, "break_on_hyphens": False}
    return textwrap.wrap(text, width, **parts)  # type: ignore[arg-type]


def overview_text() -> str:
    """The sections, and the kinds with the names of their components."""
    lines = ["Top level and sections:"]
    for option in describe_options(Experiment):
        if option.name not in KINDS:
            lines += wrapped(f"{option.name:11} {option.description}", "  ", " " * 14)
    lines += ["", "Kinds of components, chosen with `use`:"]
    for kind in KINDS:
        names = ", ".join(Registry.installed().names(kind))
        lines += wrapped(f"{kind:11} {names}", "  ", " " * 14)
    return "\n".join([*lines, "", *(line for example in EXAMPLES for line in wrapped(example, "", " " * 4))])


# For programs


def option_record(option: OptionDescription) -> dict[str, Any]:
    return {key: getattr(option, key) for key in OptionDescription.__dataclass_fields__}


def option_records(options: type[Options], may_change: bool = False) -> list[dict[str, Any]]:
    return [option_record(option) for option in describe_options(options, may_change)]


def component_record(found: FoundComponent) -> dict[str, Any]:
    return {
        **found.entry.record,
        "documentation": component_docstring(found.component),
        **origin_record(found),
        "options": option_records(found.component),
    }


def found_record(found: Found) -> dict[str, Any]:
    """`what` was found: an option, a section, a component or a kind."""
    if isinstance(found, FoundComponent):
        return {"what": "component", **component_record(found)}
    if isinstance(found, FoundKind):
        return {
            "what": "kind",
            "kind": found.kind,
            "slots": [slot.written_key for slot in found.slots],
            "components": [entry.record for entry in Registry.installed().of_kind(found.kind)],
        }
    record = {"key": found.written_key, **option_record(found.option)}
    if found.table:
        return {
            "what": "section",
            **record,
            "options": option_records(found.table, found.option.may_change_on_resume),
        }
    if found.kind:
        record["components"] = [entry.record for entry in Registry.installed().of_kind(found.kind)]
    if issubclass(found.owner, Component):
        record["source"] = component_source(found.owner)
    if found.entry:
        record["component"] = found.entry.record
    return {"what": "option", **record}


def found_records(found: Sequence[Found]) -> list[dict[str, Any]]:
    return [found_record(one) for one in found]


def overview_record() -> dict[str, Any]:
    kinds = {kind: [entry.record for entry in Registry.installed().of_kind(kind)] for kind in KINDS}
    return {"options": option_records(Experiment), "kinds": kinds}
