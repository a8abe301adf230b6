"""What may stand in place of a word of the command line: experiments, runs, components, paths.

Each function is the `shell_complete` of an argument or option. Nothing here imports torch; what reads runs imports
pydantic.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress

import click
from click.shell_completion import CompletionItem

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION
from nanogpt_kit.core.shipped import SUFFIX, local_experiments, read_header, shipped_experiments

PATH_STARTS = ("/", ".", "~", "$")  # of words that are paths and not names


def experiment_candidates(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Experiments by name, else .toml files; and the ids of runs, which `run` continues."""
    if is_path(incomplete):
        return path_candidates(incomplete, SUFFIX)
    items = [*verbs_beside(ctx), *experiment_names(incomplete)]
    if any(option.name == "resume" for option in ctx.command.params):
        items += run_ids(incomplete)
    return items or path_candidates(incomplete, SUFFIX)


def verbs_beside(ctx: click.Context) -> list[CompletionItem]:
    """`status` in place of the experiment of `sweep`, whose verb `run` is left out."""
    group = ctx.parent.command if ctx.parent and ctx.parent.command_path == ctx.command_path else None
    verbs = group.commands.values() if isinstance(group, click.Group) else ()
    return items_of((verb.name or "", verb.get_short_help_str()) for verb in verbs if verb is not ctx.command)


def experiment_names(incomplete: str) -> list[CompletionItem]:
    files = {}
    with suppress(OSError):  # the current folder may be unreadable
        files.update(local_experiments())
    files = {**files, **{name: file for name, file in shipped_experiments().items() if name not in files}}
    items = []
    for name, file in files.items():
        if name.startswith(incomplete):
            purpose = ""
            with suppress(OSError, UnicodeDecodeError):
                purpose = read_header(file).purpose
            items.append(CompletionItem(name, help=purpose))
    return items


def shipped_candidates(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return items_of((name, read_header(file).purpose) for name, file in shipped_experiments().items())


def run_candidates(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Experiments that have runs, the ids of runs once some of it is typed, and folders.

    Behind a name and @ stand best and the steps of its checkpoints.
    """
    name, at, _ = incomplete.rpartition("@")
    if at:
        return checkpoint_candidates(name)
    if is_path(incomplete):
        return path_candidates(incomplete, only_folders=True)
    from nanogpt_kit.runs.find import runs_here

    items = items_of((name, f"runs: {len(runs)}") for name, runs in runs_here().items() if name.startswith(incomplete))
    return [*items, *run_ids(incomplete)] or path_candidates(incomplete, only_folders=True)


def run_ids(incomplete: str) -> list[CompletionItem]:
    """The ids that begin with `incomplete`, the newest first; none where it is empty, since they are many."""
    if not incomplete[:1].isdecimal():
        return []
    from nanogpt_kit.runs.find import runs_here

    ids = ((run.path.name, name) for name, runs in runs_here().items() for run in runs)
    return items_of(sorted(((id_, name) for id_, name in ids if id_.startswith(incomplete)), reverse=True))


def checkpoint_candidates(name: str) -> list[CompletionItem]:
    """`name` followed by @best and by the step of each checkpoint, the newest first."""
    from nanogpt_kit.runs.find import BEST, find_run

    with suppress(KitError):
        found = find_run(name)
        best = [] if name.endswith(BEST) else [f"{name}{BEST}"]
        steps = reversed(found.folder.checkpoint_steps())
        return items_of((word, "") for word in (*best, *(f"{name}@{step}" for step in steps)))
    return []


def listed_run_candidates(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """All runs below the runs folder by their paths in it, the newest first, once some of one is typed; also what
    `run_candidates` has."""
    known = run_candidates(ctx, param, incomplete)
    if not incomplete or is_path(incomplete[:1]):
        return known
    from nanogpt_kit.runs.index import index_runs

    paths = ((run.reference, run.state) for run in reversed(index_runs()) if run.reference.startswith(incomplete))
    return items_of([*((item.value, item.help or "") for item in known), *paths])


def report_candidates(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Runs as `listed_run_candidates` has them, sweeps that have begun, ids of comparisons, and paths."""
    if is_path(incomplete):
        return path_candidates(incomplete)
    from nanogpt_kit.runs.folder import files_below_runs

    sweeps = [(file.parent.parent.name, "sweep") for file in files_below_runs("*/sweep/sweep.json")]
    comparisons = [(file.parent.name, file.parent.parent.name) for file in files_below_runs("*/*/*/comparison.json")]
    items = [item for item in items_of([*sweeps, *comparisons]) if item.value.startswith(incomplete)]
    runs = listed_run_candidates(ctx, param, incomplete)
    return items_of((item.value, item.help or "") for item in (*runs, *items))


def run_key_candidates(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Fields, options and metrics of the runs that there are."""
    from nanogpt_kit.cli.run_keys import keys_of_runs
    from nanogpt_kit.runs.index import index_runs

    return items_of((key, "") for key in sorted(keys_of_runs(index_runs())) if key.startswith(incomplete))


def columns_candidates(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The last of several keys with commas between them."""
    before, comma, last = incomplete.rpartition(",")
    return [CompletionItem(f"{before}{comma}{item.value}") for item in run_key_candidates(ctx, param, last)]


def filter_candidates(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Experiments that have runs, folders of runs, and KEY=VALUE; behind "=" the values that the runs have."""
    from nanogpt_kit.cli.run_keys import keys_of_runs
    from nanogpt_kit.runs.filters import value_text
    from nanogpt_kit.runs.index import index_runs

    runs = index_runs()
    key, equals, _ = incomplete.partition("=")
    if equals:
        values = {value_text(value) for run in runs if (value := run.value(key)) is not None}
        return items_of((word, "") for value in sorted(values) if (word := f"{key}={value}").startswith(incomplete))
    names = sorted({name for run in runs for name in (run.experiment, run.reference.partition("/")[0])})
    keys = [f"{name}=" for name in sorted(keys_of_runs(runs))]
    return items_of((word, "") for word in (*names, *keys) if word.startswith(incomplete))


def step_candidates(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The steps of the checkpoints of the run that the command names."""
    from nanogpt_kit.runs.find import find_run

    # In `sample mine --step`, click does not assign the arguments, since the option has no value yet.
    runs = [ctx.params.get("run"), *(ctx.params.get("runs") or ()), *ctx.args]
    for run in list(filter(None, runs))[:1]:
        with suppress(KitError):
            return items_of((str(step), "") for step in reversed(find_run(run).folder.checkpoint_steps()))
    return []


def component_candidates(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Components and verbs of plugins by name; by kind:name once a colon is typed, and by kind/name after a slash."""
    separator = next((character for character in ":/" if character in incomplete), "")
    registry = Registry.installed()
    entries = [*registry.entries, *registry.verbs]
    names = ((f"{entry.kind}{separator}{entry.name}" if separator else entry.name, entry.kind) for entry in entries)
    return items_of([*names, *((entry.qualified, entry.kind) for entry in entries if separator == "/")])


def kind_candidates(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return items_of(
        (entry.kind, "") for entry in Registry.installed().entries if entry.distribution == KIT_DISTRIBUTION
    )


def callback_candidates(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return items_of(component_names("callback"))


def evaluator_candidates(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return items_of(component_names("evaluator"))


def format_candidates(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return path_candidates(incomplete, ".py") if is_path(incomplete) else items_of(component_names("format"))


def component_names(kind: str) -> Iterator[tuple[str, str]]:
    """Name and distribution of each component of a kind, the latter empty for a built-in; the qualified name where
    several have the same."""
    registry = Registry.installed()
    for entry in registry.of_kind(kind):
        is_found = False
        with suppress(KitError):
            is_found = registry.find(kind, entry.name) == entry
        yield entry.name if is_found else entry.qualified, entry.distribution if entry.identity else ""


def model_source_candidates(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What `import` takes: published models and paths."""
    from nanogpt_kit.runs.find import PUBLISHED_MODELS

    names = [name for name in PUBLISHED_MODELS if name.startswith(incomplete)]
    return [*items_of((name, "published model") for name in names), *path_candidates(incomplete)]


def folder_candidates(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return path_candidates(incomplete, only_folders=True)


def any_path_candidates(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return path_candidates(incomplete)


def nanogpt_config_candidates(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return path_candidates(incomplete, ".py")


def path_candidates(incomplete: str, suffix: str = "", only_folders: bool = False) -> list[CompletionItem]:
    """Folders, with a slash at their end, and files whose names end with `suffix`."""
    folder, slash, start = incomplete.rpartition("/")
    found = []
    with suppress(OSError), os.scandir(os.path.expandvars(os.path.expanduser(folder + slash)) or ".") as entries:
        for entry in entries:
            is_hidden = entry.name.startswith(".") and not start.startswith(".")
            if entry.name.startswith(start) and not is_hidden:
                if entry.is_dir():
                    found.append(f"{folder}{slash}{entry.name}/")
                elif entry.name.endswith(suffix) and not only_folders:
                    found.append(f"{folder}{slash}{entry.name}")
    return items_of((path, "") for path in sorted(found))


def is_path(word: str) -> bool:
    return "/" in word or word.startswith(PATH_STARTS)


def items_of(words: Iterable[tuple[str, str]]) -> list[CompletionItem]:
    """Items of (word, help), each word once."""
    return [CompletionItem(word, help=text) for word, text in dict(words).items()]
