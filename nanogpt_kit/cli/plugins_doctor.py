"""`nanogpt-kit plugins doctor`: what is wrong with installed plugins, found in processes that may crash or hang."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from nanogpt_kit.cli.candidates import items_of
from nanogpt_kit.cli.json_output import json_option, print_json
from nanogpt_kit.cli.output import is_terminal
from nanogpt_kit.core.entry import VERB, Entry
from nanogpt_kit.core.errors import DONE, FAILED, KitError, did_you_mean, printable
from nanogpt_kit.core.installed_names import kinds_of
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.system.terminal import terminal_width, wrap_line

if TYPE_CHECKING:
    from nanogpt_kit.core.isolated_import import IsolatedImport
    from nanogpt_kit.core.plugin_findings import Finding

MEASURED = "Import times are those beyond nanogpt_kit.api and torch, which each process imports before."


def distribution_candidates(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return items_of((entry.distribution, entry.version) for entry in plugin_entries(Registry.installed()))


@click.command("doctor", epilog="Example: nanogpt-kit plugins doctor --timeout 30")
@click.argument("distributions", nargs=-1, metavar="[DIST]...", shell_complete=distribution_candidates)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Time limit of each import.",
)
@json_option()
@click.pass_context
def plugins_doctor(ctx: click.Context, distributions: tuple[str, ...], timeout: float, as_json: bool) -> int:
    """Find what is wrong with the installed plugins, or with those of the distributions DIST.

    Each component and verb is imported in a separate process with a time limit: one that raises, exits, crashes or
    hangs harms nothing else. Also reported are names that mean something else, unknown kinds, plugins that were made
    for another version of the kit, metadata that cannot be read, and import times beyond those of nanogpt_kit.api and
    torch.

    Exit code: 1 if something cannot be used, else 0, also with warnings.
    """
    from nanogpt_kit.core.isolated_import import import_isolated
    from nanogpt_kit.core.plugin_findings import (
        import_findings,
        name_findings,
        requirement_findings,
        unreadable_findings,
    )

    registry, root = Registry.installed(), ctx.find_root().command
    verbs = list(root.commands) if isinstance(root, click.Group) else []
    entries = chosen_plugins(registry, distributions)
    findings = [
        *(() if distributions else unreadable_findings()),
        *requirement_findings(entries),
        *name_findings(entries, registry, verbs),
    ]
    importable = [entry for entry in entries if entry.kind in (*kinds_of(registry), VERB)]
    results = []
    if not as_json:
        print_findings(findings)
    for result in import_isolated(importable, timeout):
        results.append(result)
        found = list(import_findings(result))
        findings += found
        if not as_json:
            print_findings(found)
    if as_json:
        print_json(doctor_record(findings, results))
    else:
        print_summary(findings, results)
    return FAILED if any(found.level == "error" for found in findings) else DONE


def plugin_entries(registry: Registry) -> list[Entry]:
    entries = [entry for entry in (*registry.entries, *registry.verbs) if entry.is_plugin]
    return sorted(entries, key=lambda entry: entry.distribution)


def chosen_plugins(registry: Registry, distributions: Sequence[str]) -> list[Entry]:
    entries = plugin_entries(registry)
    names = {entry.distribution for entry in entries}
    for name in distributions:
        if name not in names:
            raise KitError(f"no plugin is installed from a distribution named {name!r}{did_you_mean(name, names)}")
    return [entry for entry in entries if not distributions or entry.distribution in distributions]


def print_findings(findings: Sequence[Finding]) -> None:
    for found in findings:
        line = printable(str(found)).replace("\n", " ")
        click.echo(wrap_line(line, terminal_width(sys.stdout)) if is_terminal(sys.stdout) else line)


def print_summary(findings: Sequence[Finding], results: Sequence[IsolatedImport]) -> None:
    timed = [result for result in results if result.outcome == "imported" and result.seconds is not None]
    if findings and timed:
        click.echo()
    width = max((len(result.entry.qualified) for result in timed), default=0)
    for result in timed:
        entry = result.entry
        click.echo(printable(f"imported: {entry.kind:10} {entry.qualified:{width}}  {result.seconds:6.2f} s"))
    if timed:
        click.echo(MEASURED)
    errors = sum(found.level == "error" for found in findings)
    counts = f"errors: {errors}, warnings: {len(findings) - errors}"
    click.echo(f"components and verbs of plugins: {len(results)}, {counts}")


def doctor_record(findings: Sequence[Finding], results: Sequence[IsolatedImport]) -> dict[str, Any]:
    return {
        "findings": [asdict(found) for found in findings],
        "imports": [
            {**result.entry.record, "outcome": result.outcome, "seconds": result.seconds} for result in results
        ],
    }
