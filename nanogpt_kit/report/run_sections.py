"""Sections about runs, which the pages of runs and of comparisons share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nanogpt_kit.core.requirements import KIT_DISTRIBUTION
from nanogpt_kit.report.page import Page
from nanogpt_kit.report.run_options import NOT_A_CHOICE, option_text
from nanogpt_kit.runs.differences import HASH_LENGTH, data_of_origin
from nanogpt_kit.runs.folder import PROVENANCE
from nanogpt_kit.runs.indexed_run import IndexedRun
from nanogpt_kit.runs.recorded_values import packages_text, read_object, text_of, texts_of, version_changes_text
from nanogpt_kit.runs.samples import BETWEEN, HEADER, read_samples
from nanogpt_kit.runs.secrets import hide_in_text

NamedRuns = Mapping[
    str, IndexedRun
]  # by what the page calls each: "model.mlp=swiglu", "seed 1337"; see runs.index.read_run

MAX_TEXTS = 8  # side by side
MAX_CHARACTERS = 4_000  # of a text
NOT_OF_A_CHOICE = (*NOT_A_CHOICE, "train.threads", "train.device")  # they differ between machines
TAKEN = {"init_from": "weights of", "branched_from": "branch of", "tokenizer_from": "tokenizer of"}


# Samples


def add_samples(page: Page, runs: NamedRuns) -> None:
    """The generated texts of each run's newest step, side by side; nothing where no run has any.

    Of a single run all its texts, of several the first of each.
    """
    found = {name: newest_texts(Path(run.path)) for name, run in runs.items()}
    shown: list[tuple[str, str]] = []
    for name, (step, texts) in found.items():
        at = f"step {step:,}"
        if len(runs) > 1:
            shown += [(f"{name}, {at}", texts[0])] if texts else []
        else:
            shown += [(f"{at}, sample {index}" if texts[1:] else at, text) for index, text in enumerate(texts, 1)]
    if not shown:
        return
    page.section("Samples")
    notes = ["Generated after the newest step that has samples."]
    if len(shown) > MAX_TEXTS:
        notes.append(f"The first {MAX_TEXTS} of {len(shown)}.")
    if any(len(text) > MAX_CHARACTERS for _, text in shown[:MAX_TEXTS]):
        notes.append(f"A text ends after {MAX_CHARACTERS:,} characters.")
    page.note(" ".join(notes))
    page.texts([(title, first_part(text)) for title, text in shown[:MAX_TEXTS]])


def first_part(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}…"


def newest_texts(folder: Path) -> tuple[int, list[str]]:
    """The step of the newest samples, and the texts; none where there are none, or they cannot be read."""
    try:
        parts = HEADER.split(read_samples(folder / "samples.txt"))
    except OSError:
        return 0, []
    if len(parts) < 3:
        return 0, []
    text = parts[-1].encode("utf-8", "surrogateescape").decode("utf-8", "replace").removesuffix("\n")
    return int(parts[-2]), text.split(BETWEEN)


# Configuration


def add_differences(page: Page, runs: NamedRuns) -> None:
    """The options in which the runs differ, a column for each run; seeds, threads and devices are left out."""
    rows = differing_options(runs)
    page.section("Configuration")
    if not rows:
        page.note("Except seeds, threads and devices, no option differs between them.")
        return
    page.note("The options that differ; all others are the same.")
    page.table(["option", *runs], [[key, *map(option_text, values)] for key, values in rows.items()])


def differing_options(runs: NamedRuns) -> dict[str, list[Any]]:
    """The value of each run, None where it has none, by the keys of options that differ."""
    keys = dict.fromkeys(key for run in runs.values() for key in run.options if key not in NOT_OF_A_CHOICE)
    values = {key: [run.options.get(key) for run in runs.values()] for key in keys}
    return {key: found for key, found in values.items() if any(one != found[0] for one in found[1:])}


# Provenance


def add_provenance(page: Page, runs: NamedRuns) -> None:
    """Command, code, packages, machine, data and seeds; what all runs share once, the rest by run."""
    found = {
        name: {**({"run": run.reference} if run.reference != name else {}), **provenance_of(run)}
        for name, run in runs.items()
    }
    keys = list(dict.fromkeys(key for one in found.values() for key in one))
    shared = [key for key in keys if len({one.get(key) for one in found.values()}) == 1]
    page.section("Provenance")
    first = next(iter(found.values()), {})
    page.mapping([(key, first[key]) for key in shared])
    differing = [key for key in keys if key not in shared]
    if differing:
        page.note("What differs between the runs:")
        page.table(
            ["run" if "run" not in differing else "", *differing],
            [[name, *map(one.get, differing)] for name, one in found.items()],
        )


def provenance_of(run: IndexedRun) -> dict[str, str]:
    """What provenance.json has, without passwords; what is damaged or missing is left out."""
    origin = read_object(run.path, PROVENANCE)
    rows: list[tuple[str, Any]] = [
        ("note", run.options.get("note")),
        ("command", text_of(origin, "command")),
        ("started", run.started[:19].replace("T", " ") + " UTC" if run.started else None),
        ("seed", run.seed),
        ("code", code_text(object_of(origin, "git"))),
        ("packages", packages_text(texts_of(origin.get("distributions")))),
        ("components that are not built in", ", ".join(foreign_components(texts_of(origin.get("components"))))),
        ("machine", machine_text(object_of(origin, "machine"))),
        ("computed in", computation_text(object_of(origin, "machine"))),
        ("changed during the run", changed_text(run)),
        ("plugins changed", version_changes_text(origin)),
        *((TAKEN[kind], path) for kind, path in run.starts.items()),
        ("imported from", texts_of(origin.get("imported")).get("source")),
        ("data", data_text(origin)),
        ("configuration", short(run.configuration)),
        ("identity of the code", short(run.code)),
    ]
    return {label: hide_in_text(str(text)) for label, text in rows if text not in (None, "")}


def object_of(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = values.get(key)
    return found if isinstance(found, dict) else {}


def short(text: str | None) -> str:
    return (text or "")[:HASH_LENGTH]


def code_text(git: Mapping[str, Any]) -> str:
    commit, dirty = git.get("commit"), git.get("dirty")
    if not isinstance(commit, str):
        return "no commit recorded"
    if isinstance(dirty, str):
        return f"commit {commit}, changes {dirty}"
    return f"commit {commit}, {'with changes, see dirty.patch in its folder' if dirty else 'without changes'}"


def foreign_components(components: Mapping[str, str]) -> Iterator[str]:
    """Those of plugins and of local files."""
    for key, qualified in components.items():
        if not qualified.startswith(f"{KIT_DISTRIBUTION}/"):
            yield f"{key} = {qualified}"


def machine_text(machine: Mapping[str, Any]) -> str:
    cores = f"{machine['cores']} cores" if type(machine.get("cores")) is int else None
    python = f"Python {machine['python']}" if machine.get("python") else None
    return joined([machine.get("host"), machine.get("gpu"), cores, machine.get("system"), python])


def computation_text(machine: Mapping[str, Any]) -> str:
    """Device, precision and parallelism."""
    counts = [
        f"{count} {word if count == 1 else plural}"
        for key, word, plural in (("processes", "process", "processes"), ("threads", "thread", "threads"))
        if type(count := machine.get(key)) is int
    ]
    return joined([machine.get("device"), machine.get("precision"), *counts])


def changed_text(run: IndexedRun) -> str:
    if run.changed_at_step is None:
        return ""
    return f"continued with another configuration or code at step {run.changed_at_step:,}"


def data_text(origin: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {text}" for name, text in data_of_origin(origin).items())


def joined(parts: Sequence[Any]) -> str:
    return ", ".join(str(part) for part in parts if part not in (None, ""))
