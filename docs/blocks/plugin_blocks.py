"""Blocks of the page of the plugins: those below plugins/, and those of others."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import tomli

from blocks.markdown_tables import table
from nanogpt_kit import __version__
from nanogpt_kit.core.class_source import first_sentence
from nanogpt_kit.core.describe import SOURCE
from nanogpt_kit.core.entry import GROUP

ROOT = Path(__file__).parents[2]
LISTED = ROOT / "docs" / "extending" / "plugins.toml"


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
        page = f"[README](/plugins/{project_file.parent.name}/README.md)"
        tested = f"Version {project['version']}, tested with nanogpt-kit {__version__}: {page}."
        header = ["kind", "name", "what it is", "source"]
        parts.append(f"### {project['name']}\n\n{project['description']} {tested}\n\n{table(header, rows)}")
    return "\n".join(parts)


def plugin_row(folder: Path, kind: str, name: str, target: str) -> list[object]:
    """From the docstring of the module, which is not imported: its libraries need not be installed."""
    module = folder / target.partition(":")[0].replace(".", "/")
    file = next(path for path in (module.with_suffix(".py"), module / "__init__.py") if path.is_file())
    docstring = inspect.cleandoc(ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "")
    source = SOURCE.search(docstring)
    return [f"`{kind}`", f"`{name}`", first_sentence(docstring), source[1].strip().rstrip(".") if source else ""]


def listed_block(_: str) -> str:
    """The entries of docs/extending/plugins.toml."""
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
