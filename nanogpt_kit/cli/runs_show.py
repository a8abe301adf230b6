"""`nanogpt-kit runs show RUN`: everything about one run on a page."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from nanogpt_kit.cli.byte_text import format_bytes
from nanogpt_kit.cli.json_output import json_option, print_json
from nanogpt_kit.cli.output import is_terminal
from nanogpt_kit.cli.runs_list import metric_text, run_record
from nanogpt_kit.cli.runs_note import RUN, notes_json
from nanogpt_kit.core.duration import format_duration
from nanogpt_kit.core.errors import printable
from nanogpt_kit.system.terminal import terminal_width, wrap_line

if TYPE_CHECKING:
    from nanogpt_kit.runs.find import FoundRun

EVENT_FILES = "TensorBoard"
MIN_LABEL = 16  # characters
TAKEN = {"init_from": "weights", "branched_from": "branch", "tokenizer_from": "tokenizer"}  # see runs.recorded_values


@click.command("show", epilog="Example: nanogpt-kit runs show quickstart")
@RUN
@json_option()
def show_run(run: str, as_json: bool) -> None:
    """Show one RUN: its status, metrics, costs, origin, notes and files, and what was started from it.

    RUN is a run folder, a run id, or an experiment's name, which stands for its newest finished run.
    """
    from nanogpt_kit.runs.find import find_run

    found = find_run(run)
    record = shown_record(found)
    if as_json:
        print_json(record)
        return
    for title, lines in sections_of(record):
        click.echo(printable(title))
        width = max(MIN_LABEL, *(len(label) for label, _ in lines))
        for label, text in lines:
            click.echo(wrapped(f"  {label:{width}}  ", printable(text).replace("\n", "\\n")))


def wrapped(label: str, text: str) -> str:
    label = printable(label)
    return wrap_line(text, terminal_width(sys.stdout), label) if is_terminal(sys.stdout) else label + text


def shown_record(found: FoundRun) -> dict[str, Any]:
    """What is shown, as JSON values."""
    from nanogpt_kit.runs.descendants import direct_descendants
    from nanogpt_kit.runs.folder import PROVENANCE
    from nanogpt_kit.runs.index import index_runs, read_run
    from nanogpt_kit.runs.notes import read_notes
    from nanogpt_kit.runs.recorded_values import read_object
    from nanogpt_kit.system.folders import folder_bytes

    folder = found.folder
    run, status = read_run(folder), folder.status()
    runs = index_runs()
    names = {other.path: other.reference for other in runs}
    children = direct_descendants(folder.path, runs)
    with os.scandir(folder.path) as entries:
        files = {
            entry.name: folder_bytes(folder.path / entry.name)
            if entry.is_dir(follow_symlinks=False)
            else entry.stat(follow_symlinks=False).st_size
            for entry in sorted(entries, key=lambda entry: entry.name)
        }
    return {
        **run_record(run),
        "best": status.best and {"step": status.best.step, "value": status.best.value},
        "compile": status.compile,
        "notes": notes_json(read_notes(folder.path)),
        "provenance": read_object(run.path, PROVENANCE),
        "checkpoints": folder.checkpoint_steps(),
        "files": files,
        "bytes": sum(files.values()),
        "started_from_it": [{"run": names[path], "took": kinds} for path, kinds in children.items()],
    }


def sections_of(record: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """(title, lines of (label, text)) of each section that has lines."""
    for title, lines in (
        (f"run {record['folder']}", status_lines(record)),
        (metrics_title(record), metric_lines(record)),
        ("costs", cost_lines(record)),
        ("origin", origin_lines(record)),
        ("notes", [(note["time"][:16].replace("T", " "), note["text"]) for note in record["notes"]]),
        (f"files, {format_bytes(record['bytes'])}", file_lines(record)),
        (
            "started from it",
            [(", ".join(map(TAKEN.__getitem__, run["took"])), run["run"]) for run in record["started_from_it"]],
        ),
    ):
        shown = [(label, str(text)) for label, text in lines if text not in (None, "")]
        if shown:
            yield title, shown


def status_lines(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    reason = f": {record['reason']}" if record["reason"] else ""
    ended = f" by {record['ended_by']}" if record["ended_by"] and record["state"] == "finished" else ""
    planned = f" of {record['total_steps']:,}" if record["total_steps"] else ""
    return [
        ("state", f"{record['state']}{ended}{reason}"),
        ("step", f"{record['step']:,}{planned}"),
        ("experiment", record["experiment"]),
        ("purpose", record["options"].get("note")),
        ("seed", record["seed"]),
        ("started", record["started"]),
    ]


def metrics_title(record: Mapping[str, Any]) -> str:
    step = record["evaluated_step"]
    return "metrics of the last step" if step is None else f"metrics, evaluated at step {step:,}"


def metric_lines(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    shown = {name: value for name, value in record["metrics"].items() if not name.startswith(("perf/", "memory/"))}
    lines = [(name, "nan" if value is None else metric_text(value)) for name, value in shown.items()]
    best, metric = record["best"], record["options"].get("checkpoint.keep_best")
    if best and best["value"] is not None:
        lines.append((f"best {metric or ''}".strip(), f"{metric_text(best['value'])} at step {best['step']:,}"))
    return lines


def cost_lines(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    seconds, tokens, memory = record["seconds"], record["tokens"], record["metrics"].get("memory/peak_bytes")
    trained = record["trained_parameters"]
    return [
        ("time in steps", format_duration(seconds) if seconds else None),
        ("tokens", f"{tokens:,}" if tokens else None),
        ("tokens/s", f"{tokens / seconds:,.0f}" if seconds and tokens else None),
        ("memory, peak", format_bytes(memory) if memory else None),
        ("parameters", f"{record['parameters']:,}" if record["parameters"] else None),
        ("of which trained", f"{trained:,}" if trained not in (None, record["parameters"]) else None),
    ]


def origin_lines(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What provenance.json has, in short; damaged parts are left out."""
    from nanogpt_kit.runs.recorded_values import packages_text, texts_of, version_changes_text

    origin = record["provenance"]
    git, machine, data = (
        part if isinstance(part := origin.get(key), dict) else {} for key in ("git", "machine", "data")
    )
    distributions, marked = origin.get("distributions"), texts_of(data.get("counted"))
    dirty = git.get("dirty")
    changed = f", {dirty}" if isinstance(dirty, str) else ", with changes (dirty.patch)" if dirty else ""
    hardware = [machine.get(key) for key in ("host", "gpu", "device", "precision")]
    count = machine.get("threads")
    threads = f"{count} thread{'s' * (count != 1)}" if count else None
    return [
        ("command", origin.get("command")),
        ("in", origin.get("folder")),
        ("code", f"{git['commit']}{changed}" if isinstance(git.get("commit"), str) else None),
        ("packages", packages_text(distributions) if isinstance(distributions, dict) else None),
        ("plugins changed", version_changes_text(origin)),
        ("machine", ", ".join(str(text) for text in [*hardware, threads] if text)),
        ("data", data.get("folder")),
        ("marked", f"only some tokens of {' and '.join(marked)} count" if marked else None),
        ("sources", sources_text(data.get("sources"), record["tokens"])),
        *((f"{TAKEN[kind]} of", checkpoint) for kind, checkpoint in record["starts_from"].items()),
    ]


def sources_text(sources: Any, tokens: Any) -> str | None:
    """The fraction of each source, and how often `tokens` tokens of the run have passed over it."""
    if not isinstance(sources, dict):
        return None
    texts = []
    for name, source in sources.items():
        fraction, there = (source.get(key) if isinstance(source, dict) else None for key in ("fraction", "tokens"))
        if isinstance(fraction, int | float) and isinstance(there, int) and there > 0:
            passes = f" in {tokens * fraction / there:.3g} passes" if isinstance(tokens, int) else ""
            texts.append(f"{100 * fraction:.4g}% {name}{passes}")
    return ", ".join(texts)


def file_lines(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    sizes: dict[str, int] = {}
    for name, size in record["files"].items():
        name = EVENT_FILES if name.startswith("events.out.") else name
        sizes[name] = sizes.get(name, 0) + size
    lines = [(name, format_bytes(size)) for name, size in sizes.items() if size]
    steps = record["checkpoints"]
    shown = ", ".join(f"{step:,}" for step in steps[-10:])
    more = f"{len(steps) - 10} more, " if len(steps) > 10 else ""
    return [
        (name, f"{size}, of steps {more}{shown}" if name == "checkpoints" and steps else size) for name, size in lines
    ]
