"""The files of a new plugin: the templates of its kind under the new names."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

import tomli

from nanogpt_kit import __version__
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION
from nanogpt_kit.system.reading import read_text

PACKAGE_PREFIX = KIT_DISTRIBUTION.replace("-", "_")
FOLDER = Path(__file__).with_name("plugin_templates")
EXAMPLE_IMPORT = re.compile(r"^from nanogpt_kit\.cli\.plugin_templates\.component\.\w+ import \w+\n", re.MULTILINE)
EXTENDS = re.compile(r"^extends = .*\n", re.MULTILINE)
CLASS = re.compile(r"^class (\w+)\(", re.MULTILINE)
WORD_END = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@dataclass(frozen=True)
class PluginNames:
    """A component, and what is named after it."""

    kind: str
    component: str  # in experiments: "my_gate"
    class_name: str

    @property
    def distribution(self) -> str:
        return f"{KIT_DISTRIBUTION}-{self.component.replace('_', '-')}"

    @property
    def package(self) -> str:
        return self.distribution.replace("-", "_")


@dataclass(frozen=True)
class PluginTemplate:
    """The component, the tests and the experiment of a kind, as they are in the package."""

    names: PluginNames
    component: str
    tests: str
    experiment: str

    @classmethod
    def of_kind(cls, kind: str) -> PluginTemplate:
        component, tests, experiment = (
            read_text(FOLDER / name)
            for name in (f"component/{kind}.py", f"suite/test_{kind}.py", f"experiment/{kind}.toml")
        )
        name = tomli.loads(experiment)["name"]
        class_name = next(found for found in CLASS.findall(component) if snake_case(found) == name)
        return cls(PluginNames(kind, name, class_name), component, tests, experiment)

    def words(self) -> set[str]:
        """Every name in the code, which the class of a new component must differ from."""
        return set(re.findall(r"\w+", f"{self.component} {self.tests}"))

    def renamed(self, names: PluginNames) -> PluginTemplate:
        """With the names of another component."""
        before = self.names

        def with_names(text: str) -> str:
            text = text.replace(before.class_name, names.class_name)
            return re.sub(rf"\b{before.component}\b", names.component, text)

        return PluginTemplate(names, *map(with_names, (self.component, self.tests, self.experiment)))

    def tests_of(self, module: str, constants: Mapping[str, str]) -> str:
        """The tests as they are where `module` has the component; `constants` are expressions for their constants."""
        head, assignment, rest = EXAMPLE_IMPORT.sub("", self.tests).partition("\nEXPERIMENT = ")
        gap = "" if module.startswith(f"{PACKAGE_PREFIX}_") else "\n"  # between other packages and a local file
        text = f"{head}{gap}from {module} import {self.names.class_name}\n{assignment}{rest}"
        for name, expression in constants.items():
            text = re.sub(rf"^{name} = .*$", lambda _: f"{name} = {expression}", text, flags=re.MULTILINE)  # noqa: B023
        return text


def snake_case(name: str) -> str:
    """ "MyGate" and "my-gate" as "my_gate"."""
    return re.sub(r"[^a-z0-9]+", "_", WORD_END.sub("_", name).lower()).strip("_")


def camel_case(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def local_files(template: PluginTemplate) -> Mapping[str, str]:
    """What is written of a component without a package, by file name."""
    name = template.names.component
    beside = {"EXPERIMENT": f'Path(__file__).with_name("{name}.toml")', "FORMAT": 'str(EXPERIMENT.with_suffix(".py"))'}
    tests = template.tests_of(name, beside)
    use = EXTENDS.sub(lambda match: f'{match[0]}components = ["{name}.py"]\n', template.experiment)
    return {f"{name}.py": template.component, f"test_{name}.py": tests, f"{name}.toml": use}


def package_files(template: PluginTemplate) -> Mapping[str, str]:
    """What is written of a distribution, by path."""
    names = template.names
    folder, package = f"{names.distribution}/", f"{names.distribution}/src/{names.package}/"
    experiment = {"EXPERIMENT": f'Path(__file__).parents[1] / "experiments" / "{names.component}.toml"'}
    return {
        **{f"{folder}{path}": text for path, text in files_of_distribution(template)},
        f"{package}__init__.py": f'"""{summary(template)}"""\n',
        f"{package}py.typed": "",
        f"{package}{names.component}.py": template.component,
        f"{folder}tests/test_{names.component}.py": template.tests_of(f"{names.package}.{names.component}", experiment),
        f"{folder}experiments/{names.component}.toml": template.experiment,
    }


def files_of_distribution(template: PluginTemplate) -> Iterator[tuple[str, str]]:
    names = template.names
    values = {
        **vars(names),
        "distribution": names.distribution,
        "package": names.package,
        "summary": summary(template),
        "requirement": requirement(),
        "use": use_block(template),
        "year": time.strftime("%Y"),
    }
    for name, path in {
        "pyproject.txt": "pyproject.toml",
        "readme.txt": "README.md",
        "LICENSE": "LICENSE",
        "gitignore": ".gitignore",
    }.items():
        yield path, Template(read_text(FOLDER / "package" / name)).substitute(values)
    yield ".github/workflows/plugin.yml", read_text(FOLDER / "package" / "plugin.yml")


def summary(template: PluginTemplate) -> str:
    """The first line of the component's docstring."""
    return template.component.removeprefix('"""').partition("\n")[0].rstrip()


def use_block(template: PluginTemplate) -> str:
    """The table of the experiment that chooses the component; a format is chosen on the command line."""
    _, _, table = template.experiment.partition("\n\n")
    if table.strip():
        return f"```toml\n{table.strip()}\n```"
    return f"```sh\nnanogpt-kit export RUN FOLDER --format {template.names.component}\n```"


def requirement() -> str:
    """The versions of the kit whose public names stay as they are: those with the same minor version, before 1.0."""
    major, minor = map(int, __version__.split(".")[:2])
    next_minor = f"{major}.{minor + 1}"
    return f"{KIT_DISTRIBUTION}>={major}.{minor},<{next_minor if major == 0 else major + 1}"
