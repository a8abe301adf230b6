"""The public contract, held by a snapshot: what programs and plugins import, hooks, TOML keys, commands, entry points.

`pytest tests/test_public_contract.py --regenerate` writes public_contract.txt. Read its difference, and record in
CHANGELOG.md what plugin authors and experiment files have to change.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import click
import pytest

import nanogpt_kit
from nanogpt_kit import api
from nanogpt_kit.cli import main
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.experiment_options import ExperimentOptions
from nanogpt_kit.core.hooks import RunHooks
from nanogpt_kit.core.kinds import KINDS, load_entry
from nanogpt_kit.core.options import Options
from nanogpt_kit.core.registry import KIT_DISTRIBUTION, VERB, Registry
from nanogpt_kit.core.sections import Checkpoint, Evaluate, Sample, Sweep, Train

SNAPSHOT = Path(__file__).with_name("public_contract.txt")
SECTIONS = (Experiment, Train, Evaluate, Checkpoint, Sample, Sweep)


def signature(function: Callable[..., Any]) -> str:
    """As it is written: annotations without the quotes that `from __future__ import annotations` gives them."""
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(function)))


def members(cls: type) -> Iterator[str]:
    """Public attributes and methods that a class itself defines, with types and signatures."""
    annotations, values = vars(cls).get("__annotations__", {}), dict(vars(cls))
    if cls is Experiment:  # one class in two modules
        annotations, values = ExperimentOptions.__annotations__ | annotations, vars(ExperimentOptions) | values
    fields = getattr(cls, "model_fields", {}) if issubclass(cls, Options) else {}
    special = ("__call__",) if Protocol in cls.__bases__ else ("__call__", "__init__")
    for name, annotation in sorted(annotations.items()):
        if not name.startswith("_"):
            yield f"{name}{'*' if name in fields and fields[name].is_required() else ''}: {annotation}"
    for name, member in sorted(values.items()):
        if name == "model_post_init":  # pydantic's, where a class has private attributes
            continue
        member = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if isinstance(member, property):
            yield f"{name} -> {inspect.signature(member.fget).return_annotation}"  # type: ignore[arg-type]
        elif inspect.isfunction(member) and (name in special or not name.startswith("_")):
            abstract = " (abstract)" if getattr(member, "__isabstractmethod__", False) else ""
            yield f"{name}{signature(member)}{abstract}"


def names_of(module: ModuleType) -> Iterator[str]:
    for name in sorted(module.__all__):
        thing: Any = getattr(module, name)
        if not getattr(thing, "__module__", "").startswith("nanogpt_kit"):
            yield name
        elif inspect.isclass(thing):
            yield f"class {name}({', '.join(base.__name__ for base in thing.__bases__)})"
            yield from (f"    {member}" for member in members(thing))
        else:
            yield f"{name}{signature(thing)}"


def hooks() -> Iterator[str]:
    for name, hook in vars(RunHooks).items():
        if inspect.isfunction(hook):
            yield f"{name}({', '.join(list(inspect.signature(hook).parameters)[1:])})"


def toml_keys() -> Iterator[str]:
    for section in SECTIONS:
        table = "" if section is Experiment else f"{section.__name__.lower()}."
        yield from (table + name + "*" * field.is_required() for name, field in section.model_fields.items())
    for entry in Registry.installed().entries:
        if entry.distribution == KIT_DISTRIBUTION:
            options = [name + "*" * field.is_required() for name, field in load_entry(entry).model_fields.items()]
            yield f"{entry.kind} = {entry.name}: {', '.join(options) or 'no options'}"


def commands(command: click.Command = main, path: str = "nanogpt-kit") -> Iterator[str]:
    for parameter in command.params:
        if getattr(parameter, "hidden", False):
            continue
        words = (
            parameter.opts if isinstance(parameter, click.Option) else [parameter.make_metavar(click.Context(command))]
        )
        yield f"{path} {' '.join(words)}"
    if isinstance(command, click.Group):
        for name, verb in sorted(command.commands.items()):
            yield f"{path} {name}"
            yield from commands(verb, f"{path} {name}")


def contract() -> str:
    parts = {
        "nanogpt_kit": names_of(nanogpt_kit),
        "nanogpt_kit.api": names_of(api),
        "hooks, with the arguments that an implementation may take": hooks(),
        "TOML keys; * marks required ones": toml_keys(),
        "command line": commands(),
        "entry-point groups": (f"nanogpt_kit.{group}" for group in (*KINDS, VERB)),
    }
    return "\n".join(f"# {title}\n" + "".join(f"{line}\n" for line in lines) for title, lines in parts.items())


def test_the_public_contract_is_the_recorded_one(request: pytest.FixtureRequest) -> None:
    now = contract()
    if request.config.getoption("--regenerate"):
        SNAPSHOT.write_text(now, encoding="utf-8")
    assert SNAPSHOT.read_text(encoding="utf-8") == now, (
        "the public contract has changed. If that is meant: run this test with --regenerate, and record in "
        "CHANGELOG.md what plugin authors, experiment files and scripts have to change"
    )


def test_the_api_lists_what_it_has() -> None:
    assert sorted(api.__all__) == sorted({*api.LAZY, *(name for name in vars(api) if name in api.__all__)})
    # Every name is a promise to plugin authors
    assert len(api.__all__) <= 80
