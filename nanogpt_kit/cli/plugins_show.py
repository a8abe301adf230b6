"""`nanogpt-kit plugins show`: a component or a verb of a plugin: what it is, where it is from, and its options."""

from __future__ import annotations

from pathlib import Path

import click

from nanogpt_kit.cli.candidates import component_candidates
from nanogpt_kit.cli.json_output import json_option, print_json
from nanogpt_kit.core.class_source import read_class_source
from nanogpt_kit.core.entry import VERB, Entry
from nanogpt_kit.core.errors import KitError, did_you_mean, printable
from nanogpt_kit.core.installed_names import kinds_of
from nanogpt_kit.core.registry import Registry


@click.command("show", epilog="Example: nanogpt-kit plugins show norm/layernorm")
@click.argument("name", shell_complete=component_candidates)
@json_option("Print a JSON list.")
def plugins_show(name: str, as_json: bool) -> None:
    """Show what component NAME is, where it is from, and its options.

    NAME is as in gpt, norm/layernorm, DIST/my_norm or norm:DIST/my_norm, where DIST is a distribution. Of a kind, its
    components are listed. Of a verb of a plugin, its description is shown.
    """
    from nanogpt_kit.cli.option_text import component_record, component_text, found_record, found_text
    from nanogpt_kit.core.lookup import FoundKind, find_components, slots_of_kind

    registry = Registry.installed()
    components = list(find_components(name))
    verbs = [verb for verb in registry.verbs if name in (verb.name, verb.qualified, f"{VERB}/{verb.name}")]
    is_kind = not components and not verbs and name in kinds_of(registry)
    kinds = [FoundKind(name, slots_of_kind(name))] if is_kind else []
    if not components and not verbs and not kinds:
        if name.endswith(".py") and Path(name).is_file():
            raise KitError(f"{name} is a file, not an installed component: its docstring and its options are in it")
        names = {entry.name for entry in (*registry.entries, *registry.verbs)}
        raise KitError(f"no component {name!r} is installed{did_you_mean(bare_name(name), names)}")
    if as_json:
        records = [found_record(kind) for kind in kinds]
        print_json([*map(component_record, components), *map(verb_record, verbs), *records])
        return
    texts = [*map(component_text, components), *map(verb_text, verbs), *map(found_text, kinds)]
    click.echo(printable("\n\n".join(texts)))


def bare_name(name: str) -> str:
    return name.rpartition(":")[2].rpartition("/")[2]


def verb_text(verb: Entry) -> str:
    title = f"verb {verb.name}, from {verb.distribution} {verb.version}"
    source = read_class_source(verb.target)
    help_line = f"`nanogpt-kit {verb.name} --help` shows its options."
    return "\n\n".join(filter(None, [title, source.docstring if source else "", help_line]))


def verb_record(verb: Entry) -> dict[str, object]:
    source = read_class_source(verb.target)
    return {**verb.record, "documentation": source.docstring if source else "", "class": verb.target}
