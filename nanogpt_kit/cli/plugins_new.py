"""`nanogpt-kit plugins new NAME --kind KIND`: a component to edit, with its tests, as a package or as a file."""

from __future__ import annotations

import builtins
import hashlib
import importlib.util
import keyword
import os
import re
import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path

import click

from nanogpt_kit.cli.candidates import folder_candidates, kind_candidates
from nanogpt_kit.cli.paths import expand_path_argument
from nanogpt_kit.cli.plugin_files import (
    PluginNames,
    PluginTemplate,
    camel_case,
    local_files,
    package_files,
    snake_case,
)
from nanogpt_kit.core import trust
from nanogpt_kit.core.errors import KitError, did_you_mean, printable
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
OF_THE_KIT = re.compile(r"nanogpt[-_]kit[-_]+", re.IGNORECASE)  # the prefix of distributions
OF_TOML = {"nan", "inf", "true", "false", "null"}  # values, where the command line has use=NAME
OF_PYTEST = re.compile(r"test(_.*)?|.*_test|conftest")  # files that pytest would take for tests
OF_WINDOWS = re.compile(r"con|prn|aux|nul|(com|lpt)\d")  # devices, which no file can be named after
LONGEST = 30  # characters; the lines of a package with a longer one exceed 120, which its own linter refuses


@click.command("new")
@click.argument("name")
@click.option(
    "--kind", required=True, metavar="KIND", shell_complete=kind_candidates, help="Kind of the component, such as mlp."
)
@click.option("--local", is_flag=True, help="Write a single file to use beside experiments, without a package.")
@click.option(
    "--output",
    default=".",
    metavar="DIR",
    callback=expand_path_argument,
    shell_complete=folder_candidates,
    help="Existing folder to write to; default: the current one.",
)
def plugins_new(name: str, kind: str, local: bool, output: str) -> None:
    """Write a working component NAME to edit, with tests and an experiment that uses it.

    It is a package that can be published; with --local it is one Python file. Nothing is overwritten.
    """
    template = PluginTemplate.of_kind(known_kind(kind))
    names = names_of(name, template)
    files = (local_files if local else package_files)(template.renamed(names))
    check_free(names, files, Path(output), local)
    write_files(Path(output), files)
    if local:
        consent_to(Path(output) / f"{names.component}.py")
    click.echo(printable(summary_text(names, Path(output), local)))


def known_kind(kind: str) -> str:
    """Raises KitError with the nearest one where there is no such kind."""
    kinds = {entry.kind for entry in Registry.installed().entries if entry.distribution == KIT_DISTRIBUTION}
    if kind not in kinds:
        raise KitError(f"--kind: unknown kind {kind!r}{did_you_mean(kind, kinds)}")
    return kind


def names_of(name: str, template: PluginTemplate) -> PluginNames:
    """The names of a new component. Raises KitError where `name` cannot be one."""
    bare = OF_THE_KIT.sub("", name, count=1)
    if "/" in name or os.sep in name:
        raise KitError(f"{name!r} is a path; NAME is the name alone, and --output the folder")
    if not NAME.fullmatch(bare):
        raise KitError(f"{name!r} is not a name in Python: begin with a letter, and use letters of ASCII, digits and -")
    component = snake_case(bare)
    if keyword.iskeyword(component):
        raise KitError(f"{component!r} is a keyword of Python; choose another name")
    if component in OF_TOML:
        raise KitError(f"{component!r} is a value in TOML, where experiments name the component; choose another name")
    if OF_PYTEST.fullmatch(component):
        raise KitError(f"pytest would take {component}.py for tests; choose a name without test at its ends")
    if OF_WINDOWS.fullmatch(component):
        raise KitError(f"no file can be named {component}.py on Windows; choose another name")
    if len(component) > LONGEST:
        raise KitError(f"{component!r} has {len(component)} characters; choose a name of at most {LONGEST}")
    class_name = camel_case(component)
    while class_name in template.words() or keyword.iskeyword(class_name) or hasattr(builtins, class_name):
        class_name += "Component"
    return PluginNames(template.names.kind, component, class_name)


def check_free(names: PluginNames, files: Mapping[str, str], output: Path, local: bool) -> None:
    """Raises KitError where a component, a file or a module has the name."""
    registry = Registry.installed()
    for entry in (*registry.entries, *registry.verbs):
        owner = f"{entry.distribution} {entry.version}"
        if (entry.kind, entry.name) == (names.kind, names.component):
            if entry.distribution == KIT_DISTRIBUTION:
                raise KitError(f"the bare name {entry.name!r} means the built-in {names.kind}; choose another name")
            raise KitError(
                f"{owner} has the {names.kind} {entry.name!r}, which the name would no longer mean; choose another name"
            )
        if entry.distribution == names.distribution and not local:
            raise KitError(f"{owner} is installed, and would be replaced by the new package; choose another name")
    if not output.is_dir():
        folder = shlex.quote(str(output))
        if output.exists():
            raise KitError(f"--output: {folder} is not a folder")
        raise KitError(f"--output: the folder {folder} does not exist; `mkdir -p {folder}` makes it")
    for path in dict.fromkeys(output / file.partition("/")[0] for file in files):
        if os.path.lexists(path):
            raise KitError(f"{path} exists, and nothing is overwritten; choose another name, or a folder with --output")
    if local and importlib.util.find_spec(names.component) is not None:
        raise KitError(f"{names.component}.py would hide the installed module {names.component!r}; choose another name")


def write_files(output: Path, files: Mapping[str, str]) -> None:
    """All of them or none. Raises KitError where they cannot be written."""
    try:
        with tempfile.TemporaryDirectory(prefix=".nanogpt-kit-", dir=output) as temporary:
            for file, text in files.items():
                path = Path(temporary, file)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8", newline="\n")
            for top in sorted(Path(temporary).iterdir()):
                top.rename(output / top.name)
    except OSError as error:
        raise KitError(f"{output}: cannot be written: {error.strerror}") from None


def consent_to(path: Path) -> None:
    """Its content is that of the kit, so it needs no question at its first run."""
    trust.record_consent(hashlib.sha256(path.read_bytes()).hexdigest(), str(path.resolve()))


def summary_text(names: PluginNames, output: Path, local: bool) -> str:
    """What was written, and the commands that come next."""
    folder, component = output if local else output / names.distribution, names.component
    steps = [] if folder == Path() else [f"cd {shlex.quote(str(folder))}"]
    if local:
        edited = f"{component}.py"
        steps += [f"nanogpt-kit plugins test {component}.py", f"nanogpt-kit run {component}.toml"]
        written = f"{output / edited}, test_{component}.py and {component}.toml"
    else:
        edited = f"src/{names.package}/{component}.py"
        steps += ["pip install -e '.[dev]'", "python -m pytest", f"nanogpt-kit run experiments/{component}.toml"]
        written = f"{folder}{os.sep}, a package"
    lines = [f"written: {written}", "next:", *(f"  {step}" for step in steps)]
    return "\n".join([*lines, f"then edit {edited}, whose first lines say where, and test again"])
