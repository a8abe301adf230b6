"""The public contract, held by a snapshot: what programs and plugins import, hooks, TOML keys, commands, files of runs.

`pytest tests/test_public_contract.py --regenerate` writes public_contract.txt. Read its difference, and record in
CHANGELOG.md what plugin authors and experiment files have to change. At a release it is copied to
released_contract.txt: what the contract loses from then on has to be named in CHANGELOG.md.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import click
import pytest

import nanogpt_kit
from nanogpt_kit import __version__, api, testing
from nanogpt_kit.cli import main
from nanogpt_kit.core import errors
from nanogpt_kit.core.entry import VERB
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.experiment_options import ExperimentOptions
from nanogpt_kit.core.hooks import RunHooks
from nanogpt_kit.core.kinds import KINDS, load_entry
from nanogpt_kit.core.options import Options
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION
from nanogpt_kit.core.sections import Checkpoint, Evaluate, Sample, Sweep, Train
from nanogpt_kit.runs.provenance import Provenance
from nanogpt_kit.runs.record import FORMAT
from nanogpt_kit.runs.status import Status
from nanogpt_kit.testing import training

SNAPSHOT = Path(__file__).with_name("public_contract.txt")
RELEASED = SNAPSHOT.with_name("released_contract.txt")  # SNAPSHOT as it was at the last release
CHANGES = SNAPSHOT.parents[1] / "CHANGELOG.md"
RECORDS = {"status.json": Status, "provenance.json": Provenance}
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


def suites() -> Iterator[str]:
    """The classes that an author's tests inherit: settings and what a subclass may override; not their tests."""
    for module in pkgutil.iter_modules(testing.__path__, f"{testing.__name__}."):
        for name, suite in vars(importlib.import_module(module.name)).items():
            if inspect.isclass(suite) and suite.__module__ == module.name and name.endswith("Conformance"):
                short = module.name.rpartition(".")[2]
                yield f"class {short}.{name}({', '.join(base.__name__ for base in suite.__bases__)})"
                yield from (f"    {member}" for member in members(suite) if not member.startswith("test_"))
    for name, function in vars(training).items():
        if inspect.isfunction(function) and function.__module__ == training.__name__:
            yield f"training.{name}{signature(function)}"


def exit_codes() -> Iterator[str]:
    names = ("DONE", "FAILED", "MISTAKE", "UNDECIDED", "WORSE", "BUSY", "INTERRUPTED")
    yield from (f"{name.lower()} = {getattr(errors, name)}" for name in names)


def records() -> Iterator[str]:
    """The JSON files of a run folder that programs may read: their format, and their fields."""
    yield f"format = {FORMAT}"
    for file, record in RECORDS.items():
        yield f"{file}: {', '.join(record.model_fields)}"


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
        "nanogpt_kit.testing": suites(),
        "hooks, with the arguments that an implementation may take": hooks(),
        "TOML keys; * marks required ones": toml_keys(),
        "command line": commands(),
        "exit codes": exit_codes(),
        "files of a run folder": records(),
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


def names_in(text: str) -> set[str]:
    """Every name of a contract, within the class or component that it is of: `Norm.build`, `optimizer = adamw.lr`."""
    names, section, owner = set(), "", ""
    for line in text.splitlines():
        word = re.match(r" *(?:class )?([^(:=]*[^(:= ])", line)
        if line.startswith("# "):
            section, owner = line, ""
        elif line.startswith("    ") and word:
            names.add(f"{owner}.{word[1]}")
        elif section.startswith("# command line"):
            names.update(f"{line.partition(' -')[0]} {option}" for option in re.findall(r"--[a-z-]+", line) or [""])
        elif ": " in line and not line.startswith("class ") and section.startswith(("# TOML", "# files")):
            owner, _, options = line.partition(": ")
            names.update({owner, *(f"{owner}.{option.strip(' *')}" for option in options.split(","))})
        elif word:
            owner = word[1] if line.startswith("class ") else owner
            names.add(word[1].strip("*"))
    return names


def unnamed_losses(before: str, now: str, changes: str) -> list[str]:
    """The names that a contract has lost, and that the changes do not name in backticks."""
    spans = " ".join(re.findall(r"`[^`]+`", changes))
    lost = sorted(names_in(before) - names_in(now))
    owners = {name for name in lost if any(other.startswith((f"{name}.", f"{name} ")) for other in lost)}
    within = [name for name in lost if not any(name.startswith((f"{owner}.", f"{owner} ")) for owner in owners)]
    return [name for name in within if re.split(r"[. ]", name.strip())[-1] not in spans]


def changes_since_release() -> str:
    """The section of the changelog about the version that is being made."""
    return CHANGES.read_text(encoding="utf-8").partition(f"\n## {__version__}")[2].partition("\n## ")[0]


def test_the_changelog_names_what_the_contract_has_lost_since_the_last_release() -> None:
    assert changes_since_release()
    unnamed = unnamed_losses(
        RELEASED.read_text(encoding="utf-8"), SNAPSHOT.read_text(encoding="utf-8"), changes_since_release()
    )
    assert not unnamed, f"lost since the last release, and not in CHANGELOG.md: {', '.join(unnamed)}"


BEFORE = """\
# nanogpt_kit.api
class Norm(Component)
    kind: ClassVar[str]
    build(self, ctx: LayerContext) -> nn.Module (abstract)
class Gone(Norm)
    lost: int
slot(default: str) -> Any

# TOML keys; * marks required ones
train.steps*
optimizer = adamw: lr, eps

# command line
nanogpt-kit run
nanogpt-kit run --seeds
"""


def test_what_a_contract_loses_has_to_be_named() -> None:
    now = BEFORE
    for old, new in {
        "    build(self, ctx: LayerContext) -> nn.Module (abstract)\n": "    make(self) -> nn.Module\n",
        "class Gone(Norm)\n    lost: int\n": "",
        ", eps": "",
        "train.steps*": "train.steps",
        "nanogpt-kit run --seeds\n": "",
    }.items():
        assert old in now
        now = now.replace(old, new)
    lost = ["Gone", "Norm.build", "nanogpt-kit run --seeds", "optimizer = adamw.eps"]
    assert unnamed_losses(BEFORE, now, "") == lost
    assert unnamed_losses(BEFORE, now, "`Norm.build` is `Norm.make`, `adamw.eps` and `Gone` are gone.") == [lost[2]]


def test_before_the_first_release_nothing_can_be_lost() -> None:
    assert unnamed_losses("", BEFORE, "") == []
