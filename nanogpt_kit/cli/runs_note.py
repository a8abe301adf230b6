"""`nanogpt-kit runs note RUN TEXT`: remarks on a run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from nanogpt_kit.cli.candidates import listed_run_candidates
from nanogpt_kit.cli.json_output import json_option, print_json
from nanogpt_kit.cli.lines import print_lines
from nanogpt_kit.cli.paths import expand_path_argument

if TYPE_CHECKING:
    from nanogpt_kit.runs.notes import Note

RUN = click.argument("run", callback=expand_path_argument, shell_complete=listed_run_candidates)


@click.command("note", epilog="Example: nanogpt-kit runs note quickstart 'the baseline of this week'")
@RUN
@click.argument("text", required=False)
@json_option("Print the notes as a JSON list.")
def note_run(run: str, text: str | None, as_json: bool) -> None:
    """Append TEXT with the date to the notes of RUN, which may be running; without TEXT print its notes.

    `runs list` shows the newest note of each run, or else the `note` of its experiment; `runs show` all of them.
    """
    from nanogpt_kit.runs.find import find_run
    from nanogpt_kit.runs.notes import add_note, read_notes

    found = find_run(run)
    if text is not None:
        add_note(found.folder.path, text)
        print_lines(f"noted: {found.folder}", err=True)
        if not as_json:
            return
    notes = read_notes(found.folder.path)
    if as_json:
        print_json(notes_json(notes))
        return
    for line in note_lines(notes):
        print_lines(line)
    if not notes:
        print_lines(f"{found.folder} has no notes", err=True)


def note_lines(notes: Sequence[Note]) -> list[str]:
    return [f"{utc_text(note.time)}  {note.text}" for note in notes]


def notes_json(notes: Sequence[Note]) -> list[dict[str, str]]:
    return [{"time": utc_text(note.time), "text": note.text} for note in notes]


def utc_text(seconds: float) -> str:
    """UTC, as 2026-01-02T03:04:05Z; empty for a time that no calendar has."""
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return ""
