"""Completion of KEY=VALUE: the keys of sections and of the components that an experiment names, and their values."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from nanogpt_kit.cli.candidates import component_candidates, is_path, items_of, path_candidates, run_candidates
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.layers import Layers

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def override_candidates(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """KEY=VALUE for the experiment, or the run, that the command names."""
    overrides = ctx.params.get("overrides") or ()
    return complete_override(ctx, param, read_values(ctx.params.get("experiment"), overrides), incomplete)


def run_override_candidates(*allowed: str) -> Complete:
    """Completes RUN, and KEY=VALUE of trained models: keys that are `allowed`, or below one that is."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        words = [*([ctx.params["run"]] if "run" in ctx.params else []), *(ctx.params.get(str(param.name)) or ())]
        runs = [word for word in words if "=" not in word]
        items = run_candidates(ctx, param, incomplete) if param.name == "runs" and "=" not in incomplete else []
        if not runs:
            return items
        keys = complete_override(ctx, param, read_values(runs[0], [word for word in words if "=" in word]), incomplete)
        return [*items, *(item for item in keys if is_allowed(item.value, allowed))]

    return complete


def is_allowed(word: str, allowed: Sequence[str]) -> bool:
    key = word.partition("=")[0]
    return any(key.rstrip(".") == one or key.startswith(f"{one}.") or f"{one}.".startswith(key) for one in allowed)


def read_values(source: str | None, overrides: Sequence[str]) -> dict[str, Any]:
    """The values of an experiment or a run with overrides, as far as they can be read. No component is executed."""
    if not source:
        return {}
    from nanogpt_kit.core.sections import is_free_form  # pydantic

    for changes in (overrides, ()):  # without the overrides where one has a fault
        for find in (str, recorded_experiment):
            with suppress(KitError, OSError, ValueError):
                return Layers.load(Path(find(source)), changes, is_free_form).values
    return {}


def recorded_experiment(run: str) -> str:
    """The experiment file of a run."""
    from nanogpt_kit.runs.find import find_run

    return os.fspath(find_run(run).folder.experiment)


def complete_override(
    ctx: click.Context, param: click.Parameter, given: dict[str, Any] | None, incomplete: str
) -> list[CompletionItem]:
    """The keys that begin with `incomplete`; behind "=" the values of that key."""
    from nanogpt_kit.cli.option_tree import find_node  # pydantic

    key, equals, value = incomplete.partition("=")
    above, dot, last = key.rpartition(".")
    node = find_node(given, above.split(".") if dot else ())
    if node is None:
        return []
    if not equals:
        return items_of((f"{above}{dot}{word}", text) for word, text in node.keys() if word.startswith(last))
    items = items_of(node.values(last))
    if node.takes_path(last):
        items += path_candidates(value)
        if value and not is_path(value):  # a run, for instance in model.init_from
            items += run_candidates(ctx, param, value)
    return [CompletionItem(f"{key}={item.value}", help=item.help) for item in items]


def key_candidates(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What `explain` takes: the keys of sections, components, and options of components by name."""
    items = complete_override(ctx, param, None, incomplete) if "=" not in incomplete else []
    keys = [(key, item.help or "") for item in items for key in (item.value.rstrip("=."), item.value.rstrip("="))]
    return [*items_of(keys), *component_candidates(ctx, param, incomplete)]
