"""Completion of KEY=VALUE: the keys of sections and of the components that an experiment names, and their values."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from nanogpt_kit.cli.candidates import (
    component_candidates,
    experiment_candidates,
    is_path,
    items_of,
    path_candidates,
    run_candidates,
)
from nanogpt_kit.cli.option_remedy import OVERRIDABLE
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.layers import Layers


def override_candidates(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """KEY=VALUE for the experiment, or the run, that the command names; of a trained model what the verb may change."""
    words = [ctx.params.get("experiment"), ctx.params.get("run"), *(ctx.params.get(str(param.name)) or ())]
    sources = [word for word in words if word and "=" not in word]
    values = read_values(sources[0], [word for word in words if word and "=" in word]) if sources else {}
    items = complete_override(ctx, param, values, incomplete)
    allowed = OVERRIDABLE.get(str(ctx.command.name))
    return items if allowed is None else [item for item in items if is_allowed(item.value, allowed)]


def run_or_override_candidates(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What `eval` takes: runs, and KEY=VALUE once there is one."""
    runs = run_candidates(ctx, param, incomplete) if "=" not in incomplete else []
    return runs + (override_candidates(ctx, param, incomplete) if ctx.params.get(str(param.name)) else [])


def vary_candidates(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """KEY=VALUE,VALUE of `--vary`: keys of the experiment that the command names, and values that are not there yet."""
    # In `ablate mine --vary`, click does not assign the arguments, since the option has no value yet.
    words = [ctx.params.get("experiment"), *(ctx.params.get("overrides") or ()), *ctx.args]
    sources = [word for word in words if word and "=" not in word]
    given = read_values(sources[0], [word for word in words if word and "=" in word]) if sources else {}
    key, equals, values = incomplete.partition("=")
    before, comma, last = values.rpartition(",")
    items = complete_override(ctx, param, given, f"{key}{equals}{last}")
    if not comma:
        return items
    named = before.split(",")
    found = [(item.value.partition("=")[2], item.help) for item in items]
    return [CompletionItem(f"{key}={before},{value}", help=text) for value, text in found if value not in named]


def format_option_candidates(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """format.KEY=VALUE: the options of the format that `--format` names, and their values."""
    from nanogpt_kit.cli.option_tree import component_node  # pydantic

    default = next(option.default for option in ctx.command.params if option.name == "format_")
    node = component_node("format", ctx.params.get("format_") or default)
    key, equals, value = incomplete.partition("=")
    option = key.removeprefix("format.")
    words = [(f"format.{word}", text) for word, text in node.next_parts() if word != "use="]
    if equals:
        words = [(f"{key}={word}", text) for word, text in node.values(option)]
    paths = path_candidates(value) if equals and node.takes_path(option) else []
    found = items_of(word for word in words if word[0].startswith(incomplete))
    return found + [CompletionItem(f"{key}={item.value}", help=item.help) for item in paths]


def arm_candidates(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What `compare` takes: experiments and runs; once there is a base, also its KEY=VALUE, several in one word."""
    before, blank, last = incomplete.rpartition(" ")
    changes = override_candidates(ctx, param, last) if ctx.params.get(str(param.name)) else []
    items = [CompletionItem(f"{before}{blank}{item.value}", help=item.help) for item in changes]
    if "=" in incomplete:
        return items
    names = [*experiment_candidates(ctx, param, incomplete), *run_candidates(ctx, param, incomplete)]
    return [*{item.value: item for item in reversed(names)}.values(), *items]


def is_allowed(word: str, allowed: Sequence[str]) -> bool:
    """Whether a key is one of `allowed` or below it, or may become one when it is continued."""
    key = word.partition("=")[0].rstrip(".")
    return any(f"{key}.".startswith(f"{one}.") or one.startswith(f"{key}.") for one in allowed)


def read_values(source: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The values of an experiment or a run with overrides, where they can be read. No component is executed."""
    from nanogpt_kit.cli.option_tree import CompletionKeys  # pydantic
    from nanogpt_kit.core.experiment import Experiment

    for changes in (overrides, ()):  # without the overrides where one has a fault
        for find in (str, recorded_experiment):
            with suppress(KitError, OSError, ValueError):
                return Layers.load(Path(find(source)), changes, CompletionKeys(Experiment)).values
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
        return items_of((f"{above}{dot}{word}", text) for word, text in node.next_parts() if word.startswith(last))
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
