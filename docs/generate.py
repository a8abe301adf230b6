"""Rewrites the parts of the documentation that come from the code: `make docs`. A test fails when they are stale.

A block stands between `<!-- KIND: ARGUMENTS -->` and `<!-- end -->`; its kinds are the functions in BLOCKS.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
import re
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tomli
from click.testing import CliRunner

sys.path.append(str(Path(__file__).parent))
from kind_blocks import example_block, interface_block, suite_block

from nanogpt_kit import __version__, api
from nanogpt_kit.cli import main as command_line
from nanogpt_kit.core import kinds
from nanogpt_kit.core.class_source import first_sentence
from nanogpt_kit.core.describe import OptionDescription, describe_options
from nanogpt_kit.core.entry import GROUP, Entry
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.hooks import RunHooks
from nanogpt_kit.core.options import Component, Options
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION
from nanogpt_kit.core.shipped import read_header, shipped_experiments

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
LISTED = ROOT / "docs" / "plugins.toml"
BLOCK = re.compile(r"(?P<start><!-- (?P<kind>[a-z]+): (?P<arguments>[^>]*?) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)
OTHER_TABLES: dict[str, type[Options]] = {"experiment": Experiment, "optimizer.group": kinds.ParameterGroup}
STARS = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
OTHER_NAMES = {  # of the api, without a docstring of ours
    "Document": "What a dataset yields: a text, or a `MarkedText`.",
    "Field": "The default, bounds and description of an option: pydantic's.",
    "Layered": "The type of an option that takes one component, or a list that is repeated over the layers.",
    "PathStr": "The type of an option that is a path: `~` and environment variables are replaced.",
    "hookimpl": "Marks the methods of a callback that implement hooks: pluggy's.",
    "model_validator": "Marks a method that checks options that depend on each other: pydantic's.",
}
HELP_WIDTH = 100  # columns of the help texts
# Lines of the base classes that tell the author of a component nothing
INTERNAL = re.compile(
    r"^ *(@(abstractmethod|hookspec)|kind: ClassVar\[str\] = .*)\n"
    r"|^    (@.*\n    )*def (_[a-z]|__init_subclass__).*\n(^(        .*|    \).*)\n|^\n)*",
    re.MULTILINE,
)


def cell(text: object) -> str:
    return re.sub(r"\s+", " ", str(text)).replace("|", "\\|")


def table(header: list[str], rows: list[list[object]]) -> str:
    lines = [header, ["---"] * len(header), *([cell(value) for value in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def default_text(option: OptionDescription) -> str:
    if option.required:
        return "required"
    if option.type == "table":
        return "its defaults" if option.default else "not set"
    return "not set" if option.default is None else f"`{json.dumps(option.default, ensure_ascii=False)}`"


def options_table(model: type[Options]) -> str:
    rows: list[list[object]] = [
        [f"`{option.name}`", option.type_and_bounds, default_text(option), option.description]
        for option in describe_options(model)
    ]
    return table(["option", "type", "default", "meaning"], rows) if rows else "No options.\n"


def built_in(kind: str) -> list[Entry]:
    found = [entry for entry in Registry.installed().of_kind(kind) if entry.distribution == KIT_DISTRIBUTION]
    assert found, f"no built-in component of kind {kind!r}"
    return found


def options_block(kind: str) -> str:
    """Every built-in of a kind: its module's docstring and its options."""
    parts = []
    for entry in built_in(kind):
        module_name, _, class_name = entry.target.partition(":")
        module = importlib.import_module(module_name)
        docstring, component = inspect.cleandoc(module.__doc__ or ""), getattr(module, class_name)
        parts.append(f"### {entry.name}\n\n{docstring}\n\n{options_table(component)}")
    return "\n".join(parts)


def section_block(name: str) -> str:
    """The options of a section that chooses no component, such as [train]; of `experiment` the top level."""
    if name in OTHER_TABLES:
        return options_table(OTHER_TABLES[name])
    annotation = Experiment.model_fields[name].annotation
    (model,) = [
        part
        for part in (annotation, *typing.get_args(annotation))
        if inspect.isclass(part) and issubclass(part, Options)
    ]
    return options_table(model)


def components_block(_: str) -> str:
    """A line for each kind: its page and its built-ins."""
    kinds = dict.fromkeys(
        entry.kind for entry in Registry.installed().entries if entry.distribution == KIT_DISTRIBUTION
    )
    rows: list[list[object]] = [
        [f"[`{kind}`](kinds/{kind}.md)", ", ".join(f"`{entry.name}`" for entry in built_in(kind))] for kind in kinds
    ]
    return table(["kind", "built in"], rows)


def source_block(names: str) -> str:
    """The source of public classes: their docstrings and signatures are the contract."""
    classes = [getattr(api, name, None) or getattr(kinds, name) for name in names.split()]
    sources = [INTERNAL.sub("", inspect.getsource(value)).rstrip() for value in classes]
    sources = [re.sub(r"\n{3,}", "\n\n", source) for source in sources]
    return "```python\n" + "\n\n\n".join(sources) + "\n```\n"


def hooks_block(_: str) -> str:
    rows: list[list[object]] = []
    for name, function in vars(RunHooks).items():
        if not name.startswith("_"):
            arguments = [parameter for parameter in inspect.signature(function).parameters if parameter != "self"]
            rows.append([f"`{name}({', '.join(arguments)})`", inspect.cleandoc(function.__doc__ or "")])
    return table(["hook", "when"], rows)


def help_block(name: str) -> str:
    """What `nanogpt-kit NAME --help` prints."""
    result = CliRunner().invoke(
        command_line,
        [*name.split(), "--help"],
        prog_name="nanogpt-kit",
        terminal_width=HELP_WIDTH,
        max_content_width=HELP_WIDTH,
    )
    assert result.exit_code == 0, result.output
    return f"```\n{result.output.rstrip()}\n```\n"


def experiments_block(_: str) -> str:
    """Every experiment that is shipped: what its header says, and what it expects."""
    rows: list[list[object]] = []
    for name, path in shipped_experiments().items():
        header = read_header(path)
        rows.append([f"[`{name}`](../experiments/{path.name})", header.purpose, header.expected])
    return table(["name", "what it is", "what to expect"], rows)


def api_block(names: str) -> str:
    """A line for each of these names of the api: `PAGE: NAME NAME; PAGE: NAME`; PAGE may be `kinds`."""
    rows: list[list[object]] = []
    for group in names.split("; "):
        page, _, listed = group.partition(": ")
        for name in listed.split():
            where = f"kinds/{kind_of(name)}" if page == "kinds" else page
            rows.append([f"`{api_signature(name)}`", api_summary(name), f"[{where}]({where}.md)"])
    return table(["name", "what it is", "page"], rows)


def kind_of(name: str) -> str:
    (kind,) = [kind for kind, base in kinds.KINDS.items() if base is getattr(api, name)]
    return kind


def api_signature(name: str) -> str:
    """How a name is used: the methods that a component has to implement, the fields of a context, or the arguments."""
    value = getattr(api, name)
    if inspect.isclass(value) and issubclass(value, Component):
        required = sorted(getattr(value, "__abstractmethods__", ()))
        methods = [f"{method}({', '.join(arguments_of(getattr(value, method)))})" for method in required]
        return f"{name}: {', '.join(methods)}" if methods else name
    if dataclasses.is_dataclass(value):
        return f"{name}({', '.join(field.name for field in dataclasses.fields(value))})"
    if is_of_kit(value) and (inspect.isfunction(value) or "__init__" in vars(value)) and not is_protocol(value):
        return f"{name}({', '.join(arguments_of(value))})"
    return name


def arguments_of(function: Any) -> list[str]:
    if isinstance(function, property):
        return []
    parameters = [one for one in inspect.signature(function).parameters.values() if one.name != "self"]
    return [STARS.get(one.kind, "") + one.name for one in parameters]


def is_of_kit(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).startswith("nanogpt_kit")


def is_protocol(value: Any) -> bool:
    return bool(getattr(value, "_is_protocol", False))


def api_summary(name: str) -> str:
    """The first sentence of its docstring; of what has none, what is written here."""
    value = getattr(api, name)
    is_documented = is_of_kit(value) and (inspect.isclass(value) or inspect.isfunction(value))
    return first_sentence(inspect.getdoc(value) or "") if is_documented else OTHER_NAMES[name]


def plugins_block(_: str) -> str:
    """Each distribution below plugins/: its components and verbs, by its metadata and the docstrings of its modules."""
    parts = []
    for project_file in sorted((ROOT / "plugins").glob("*/pyproject.toml")):
        project = tomli.loads(project_file.read_text(encoding="utf-8"))["project"]
        groups = {group.removeprefix(GROUP): points for group, points in project["entry-points"].items()}
        rows = [
            plugin_row(project_file.parent, kind, name, target)
            for kind, points in sorted(groups.items())
            for name, target in sorted(points.items())
        ]
        page = f"[README](../plugins/{project_file.parent.name}/README.md)"
        tested = f"Version {project['version']}, tested with nanogpt-kit {__version__}: {page}."
        header = ["kind", "name", "what it is", "source"]
        parts.append(f"### {project['name']}\n\n{project['description']} {tested}\n\n{table(header, rows)}")
    return "\n".join(parts)


def plugin_row(folder: Path, kind: str, name: str, target: str) -> list[object]:
    """From the docstring of the module, which is not imported: its libraries need not be installed."""
    module = folder / target.partition(":")[0].replace(".", "/")
    file = next(path for path in (module.with_suffix(".py"), module / "__init__.py") if path.is_file())
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    text, _, source = docstring.partition("\nSource:")
    paragraph = re.sub(r"\s+", " ", text.strip().partition("\n\n")[0])
    sentence = re.match(r".*?\.(?= |$)|.*", paragraph)
    assert sentence, "a pattern that matches any text"
    return [f"`{kind}`", f"`{name}`", sentence[0], source.partition("\n\n")[0].strip().rstrip(".")]


def listed_block(_: str) -> str:
    """The entries of docs/plugins.toml."""
    plugins = tomli.loads(LISTED.read_text(encoding="utf-8")).get("plugin", [])
    rows: list[list[object]] = [
        [
            f"[{plugin['distribution']}]({plugin['page']})",
            ", ".join(f"`{component}`" for component in plugin["components"]),
            plugin["sentence"],
            plugin["source"],
            plugin["tested_with"],
        ]
        for plugin in sorted(plugins, key=lambda plugin: plugin["distribution"])
    ]
    header = ["distribution", "components", "what it is", "source", "tested with"]
    return table(header, rows) if rows else "No distribution of others is listed yet.\n"


BLOCKS: dict[str, Callable[[str], str]] = {
    "options": options_block,
    "section": section_block,
    "components": components_block,
    "source": source_block,
    "hooks": hooks_block,
    "help": help_block,
    "experiments": experiments_block,
    "example": example_block,
    "suite": suite_block,
    "interface": interface_block,
    "api": api_block,
    "plugins": plugins_block,
    "listed": listed_block,
}


def generated(text: str) -> str:
    """The text of a page with every block made again."""

    def block(match: re.Match[str]) -> str:
        return f"{match['start']}\n{BLOCKS[match['kind']](match['arguments'])}\n{match['end']}"

    return BLOCK.sub(block, text)


def main() -> None:
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        after = generated(before)
        if after != before:
            page.write_text(after, encoding="utf-8")
            print(f"rewrote {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
