"""`nanogpt-kit plugins list`: the installed components and verbs by distribution, without importing any."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from nanogpt_kit.cli.candidates import items_of
from nanogpt_kit.cli.json_output import json_option, print_json
from nanogpt_kit.cli.output import is_terminal
from nanogpt_kit.cli.text_table import shortened
from nanogpt_kit.core.class_source import read_summary
from nanogpt_kit.core.entry import VERB, Entry
from nanogpt_kit.core.errors import KitError, did_you_mean, printable
from nanogpt_kit.core.installed_names import kinds_of, name_fault, unreadable_distributions
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION
from nanogpt_kit.system.terminal import terminal_width


def filter_candidates(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    registry = Registry.installed()
    distributions = dict.fromkeys((entry.distribution, "distribution") for entry in all_entries(registry))
    return items_of([*((kind, "kind") for kind in (*kinds_of(registry), VERB)), *distributions])


@click.command("list", epilog="Example: nanogpt-kit plugins list optimizer")
@click.argument("which", metavar="[KIND|DIST]", required=False, shell_complete=filter_candidates)
@json_option("Print a JSON list.")
@click.pass_context
def plugins_list(ctx: click.Context, which: str | None, as_json: bool) -> None:
    """List the installed components and verbs by distribution, without importing any: all, those of a kind, or those
    of a distribution.

    A line with ! follows a name that does not mean what it belongs to, and metadata that cannot be read.
    """
    registry, root = Registry.installed(), ctx.find_root().command
    verbs = root.commands if isinstance(root, click.Group) else {}
    entries = chosen_entries(registry, which)
    records = [entry_record(entry, registry, list(verbs)) for entry in entries]
    if as_json:
        print_json(records)
        return
    width = terminal_width(sys.stdout) if is_terminal(sys.stdout) else None
    for line in [*listing_lines(records), *(unreadable_lines() if which is None else ())]:
        click.echo(shortened(printable(line), width, "right") if width else printable(line))


def all_entries(registry: Registry) -> list[Entry]:
    """The kit's own first, then by distribution."""
    return sorted(
        [*registry.entries, *registry.verbs],
        key=lambda entry: (entry.distribution != KIT_DISTRIBUTION, entry.distribution),
    )


def chosen_entries(registry: Registry, which: str | None) -> list[Entry]:
    entries = all_entries(registry)
    chosen = [entry for entry in entries if which in (None, entry.kind, entry.distribution)]
    if not chosen and which != VERB:
        names = {*kinds_of(registry), *(entry.distribution for entry in entries)}
        raise KitError(f"no kind or distribution is named {which!r}{did_you_mean(str(which), names)}")
    return chosen


def entry_record(entry: Entry, registry: Registry, verbs: Sequence[str]) -> dict[str, Any]:
    """An entry for programs; `status` is "usable" where the bare name means it."""
    fault = name_fault(entry, registry, verbs)
    return {
        **entry.record,
        "description": read_summary(entry.target),
        "entry_point": entry.target,
        "status": fault.status if fault else "usable",
        "cause": fault.cause if fault else None,
        "remedy": fault.remedy if fault else None,
    }


def listing_lines(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A heading for each distribution, and a line for each component, with another where its name has a fault."""
    kind_width = max((len(record["kind"]) for record in records), default=0)
    name_width = max((len(record["name"]) for record in records), default=0)
    previous = None
    for record in records:
        distribution = f"{record['distribution']} {record['version']}"
        if distribution != previous:
            yield from () if previous is None else ("",)
            yield distribution
        previous = distribution
        line = f"  {record['kind']:{kind_width}}  {record['name']:{name_width}}  {record['description']}"
        yield line.rstrip()
        if record["cause"]:
            yield f"  {'':{kind_width}}  ! {record['cause']}: {record['remedy']}"


def unreadable_lines() -> Iterator[str]:
    for distribution in unreadable_distributions():
        yield ""
        yield distribution.folder
        yield f"  ! {distribution.cause}: {distribution.remedy}"
