"""`nanogpt-kit report TARGET...`: runs, a comparison or a sweep as one HTML file, which needs no network."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from nanogpt_kit.cli.candidates import report_candidates
from nanogpt_kit.cli.lines import print_lines
from nanogpt_kit.cli.paths import expand_path_argument
from nanogpt_kit.cli.slow_note import note_if_slow
from nanogpt_kit.core.errors import Fault, KitError, printable
from nanogpt_kit.core.overrides import COMMAND_LINE
from nanogpt_kit.core.paths import expand_path
from nanogpt_kit.system.garbage_collection import without_garbage_collection

if TYPE_CHECKING:
    from nanogpt_kit.cli.report_target import ReportTarget
    from nanogpt_kit.report.page import Page

NAME = "report.html"
HTML = b"<!DOCTYPE html>"  # how page.html begins


def expand_targets(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(expand_path(value, "TARGET", COMMAND_LINE) for value in values)


@click.command()
@click.argument(
    "targets",
    nargs=-1,
    required=True,
    metavar="TARGET...",
    callback=expand_targets,
    shell_complete=report_candidates,
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    callback=expand_path_argument,
    help="File to write.  [default: report.html beside what it shows]",
)
@click.option(
    "--storage",
    metavar="URL",
    envvar="NANOGPT_KIT_STORAGE",
    help="Storage of a sweep, where its password is not recorded.",
)
@without_garbage_collection()
def report(targets: tuple[str, ...], output: Path | None, storage: str | None) -> None:
    """Write a report of TARGET: one HTML file with figures and tables, which opens without a network.

    TARGET is a run, or several; a comparison or an ablation: its folder, its id or the beginning of that; or a sweep:
    its experiment or its folder. Runs are named as for `sample`. Several runs are grouped by configuration, each group
    with its spread over seeds. An experiment with a [sweep] or [ablate] table stands for its sweep or its newest
    ablation, any other one for its newest finished run.

    The path of the file is printed on standard output.
    """
    from nanogpt_kit.cli.report_target import find_targets, meaning_lines, without_repetitions

    reports = [text for text in targets if os.path.basename(text) == NAME and os.path.isfile(text)]
    if reports:  # a glob over runs finds the report of an earlier call
        print_lines(f"left out, since it is the report of an earlier call: {', '.join(reports)}", err=True)
    words = [text for text in targets if text not in reports]
    if not words:
        raise KitError(Fault(f"{reports[0]!r} is a report already; name what it should show", location=COMMAND_LINE))
    found = without_repetitions(target for text in words for target in find_targets(text))
    check_one_report(found)
    for line in meaning_lines(found):
        print_lines(line, err=True)
    is_given = click.get_current_context().get_parameter_source("storage") is ParameterSource.COMMANDLINE
    if is_given and found[0].kind != "sweep":
        raise KitError(
            Fault(f"it is for a sweep, and this is {found[0].meaning}; leave it out", "--storage", COMMAND_LINE)
        )
    path = output or default_path(found)
    check_output(path)
    with note_if_slow("writing the report"):
        write_page(path, page_of(found, storage).html())
    from nanogpt_kit.report.page import NO_FIGURES, has_figures

    if not has_figures():
        print_lines(NO_FIGURES, err=True)
    click.echo(printable(str(path)))


def check_one_report(found: Sequence[ReportTarget]) -> None:
    """Raises KitError for anything but runs alone, one comparison, or one sweep."""
    kinds = {target.kind for target in found}
    first = next((target for target in found if target.kind != "run"), None)
    if first is None or len(found) == 1:
        return
    others = {"run": "runs", "comparison": "a comparison", "sweep": "a sweep"}
    other = next((others[kind] for kind in sorted(kinds) if kind != first.kind), "another one")
    remedy = "write a report of each"
    if "run" in kinds:
        remedy += ", or leave it out"
    message = (
        f"a report shows runs, or one comparison, or one sweep, not {first.meaning} together with {other}; {remedy}"
    )
    raise KitError(Fault(message, location=COMMAND_LINE))


def default_path(found: Sequence[ReportTarget]) -> Path:
    """In the folder of the target; of several runs beside them, or in the current folder where they share none, or one
    that has another report: that of a sweep or a comparison."""
    from nanogpt_kit.cli.report_target import COMPARISON, SWEEP
    from nanogpt_kit.runs.folder import relative_to_cwd

    if len(found) == 1:
        return relative_to_cwd(found[0].folder) / NAME
    parents = {Path(os.path.abspath(target.folder)).parent for target in found}
    shared = next(iter(parents)) if len(parents) == 1 else None
    if shared is None or any(os.path.exists(shared / name) for name in (SWEEP, COMPARISON)):
        return Path(NAME)
    return relative_to_cwd(shared) / NAME


def check_output(path: Path) -> None:
    """Raises KitError where the file cannot be written, or would be lost: HTML alone is replaced."""
    folder = path.parent
    fault = ""
    if os.path.isdir(path):
        fault = f"it is a folder; name a file in it, as in {shlex.quote(str(path / NAME))}"
    elif os.path.lexists(folder) and not os.path.isdir(folder):
        fault = f"{shlex.quote(str(folder))} is not a folder; name another file"
    elif not os.path.isdir(folder):
        fault = f"the folder {shlex.quote(str(folder))} does not exist; `mkdir -p {shlex.quote(str(folder))}` makes it"
    elif os.path.lexists(path) and not os.path.isfile(path):
        fault = "it is not a regular file; name another file"
    elif os.path.exists(path) and not is_replaceable(path):
        fault = "it is a file that is not HTML, and would be lost; name another file"
    elif not os.access(folder, os.W_OK):
        fault = "its folder does not allow it; --output names another file"
    if fault:
        raise unwritable(path, fault)


def is_replaceable(path: Path) -> bool:
    """Whether a file is HTML by its name or its beginning, as an earlier report is, or empty."""
    if path.suffix.lower() in (".html", ".htm"):
        return True
    try:
        with path.open("rb") as file:
            start = file.read(len(HTML))
    except OSError:
        return False
    return start in (b"", HTML)


def write_page(path: Path, content: str) -> None:
    from nanogpt_kit.system.writing import write_atomically

    try:
        write_atomically(path, content)
    except OSError as error:
        raise unwritable(path, f"{error.strerror}; --output names another file") from None


def unwritable(path: Path, reason: str) -> KitError:
    return KitError(Fault(f"{str(path)!r} cannot be written: {reason}", "--output", COMMAND_LINE))


def page_of(found: Sequence[ReportTarget], storage: str | None) -> Page:
    target = found[0]
    if target.kind == "sweep":
        from nanogpt_kit.sweep.report.report import build_page
        from nanogpt_kit.sweep.study.stored_sweep import read_sweep_folder

        summary, study, folder = read_sweep_folder(target.folder, storage)
        return build_page(summary, study, folder)
    if target.kind == "comparison":
        return page_of_comparison(target.folder)
    from nanogpt_kit.report.run_page import runs_page
    from nanogpt_kit.runs.folder import RunFolder

    runs = [RunFolder(target.folder) for target in found]
    if len(runs) == 1:
        return runs_page(runs)
    from nanogpt_kit.cli.report_verdict import verdict_command

    return runs_page(runs, lambda metric: verdict_command(runs, metric))


def page_of_comparison(folder: Path) -> Page:
    from nanogpt_kit.comparison.record import Comparison
    from nanogpt_kit.comparison.report.page import comparison_page
    from nanogpt_kit.runs.record import Unreadable

    try:
        comparison = Comparison.read(folder / "comparison.json")
    except (Unreadable, FileNotFoundError) as error:
        raise KitError(f"{folder}: {error}") from None
    return comparison_page(comparison, folder)
