"""The distributions below plugins/ are what strangers could have written, and the kit knows none of them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tomli
from packaging.requirements import Requirement

from nanogpt_kit import __version__
from nanogpt_kit.core.entry import GROUP, VERB
from nanogpt_kit.core.kinds import KINDS
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION

ROOT = Path(__file__).parents[1]
PLUGINS = sorted((ROOT / "plugins").glob("*/pyproject.toml"))
OF_COMPONENTS = {"nanogpt_kit.api"}
OF_CONFORMANCE = {*OF_COMPONENTS, "nanogpt_kit.testing"}  # the module `conformance` has suites
OF_TESTS = {*OF_CONFORMANCE, "nanogpt_kit"}

ENTRY = {
    "type": "object",
    "additionalProperties": False,
    "required": ["distribution", "components", "sentence", "source", "page", "tested_with"],
    "properties": {
        "distribution": {"type": "string", "pattern": r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"},
        "components": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "string", "pattern": rf"^({'|'.join([*KINDS, VERB])})/[\w-]+$"},
        },
        "sentence": {"type": "string", "pattern": r"^[A-Z].*\.$"},
        "source": {"type": "string", "minLength": 1},
        "page": {"type": "string", "pattern": "^https://"},
        "tested_with": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
    },
}
by_plugin = pytest.mark.parametrize("file", PLUGINS, ids=lambda file: file.parent.name)


def project_of(file: Path) -> dict[str, Any]:
    project = tomli.loads(file.read_text(encoding="utf-8"))["project"]
    assert isinstance(project, dict)
    return project


def entry_points(file: Path) -> Iterator[tuple[str, str, str]]:
    """(kind, name, target)"""
    for group, points in project_of(file)["entry-points"].items():
        assert group.startswith(GROUP), group
        for name, target in points.items():
            yield group.removeprefix(GROUP), name, target


def package_of(file: Path) -> Path:
    return file.parent / file.parent.name.replace("-", "_")


def imports_of_the_kit(folder: Path) -> Iterator[tuple[Path, str]]:
    """(file, module) of each import of the kit below a folder, also those inside of functions."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            yield from ((path, name) for name in names if name.partition(".")[0] == "nanogpt_kit")


def is_among(module: str, allowed: set[str]) -> bool:
    return module in allowed or any(module.startswith(f"{name}.") for name in allowed - {"nanogpt_kit", *OF_COMPONENTS})


def test_no_name_of_a_plugin_occurs_in_the_kit() -> None:
    names = {name for file in PLUGINS for _, name, _ in entry_points(file)} | {file.parent.name for file in PLUGINS}
    assert "lion" in names
    pattern = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, sorted(names, key=len, reverse=True)))})(?![\w-])")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in sorted((ROOT / "nanogpt_kit").rglob("*"))
        if path.suffix in (".py", ".toml", ".html", ".js", ".bash", ".fish", ".zsh")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if (match := pattern.search(line))
    ]
    assert not found, found


@by_plugin
def test_a_plugin_imports_the_api_alone_and_its_tests_the_suites_besides(file: Path) -> None:
    for path, module in imports_of_the_kit(package_of(file)):
        allowed = OF_CONFORMANCE if path.name == "conformance.py" else OF_COMPONENTS
        assert is_among(module, allowed), f"{path.relative_to(ROOT)} imports {module}"
    for path, module in imports_of_the_kit(file.parent / "tests"):
        assert is_among(module, OF_TESTS), f"{path.relative_to(ROOT)} imports {module}"


@by_plugin
def test_a_plugin_is_complete(file: Path) -> None:
    project, folder = project_of(file), file.parent
    assert project["name"] == folder.name
    assert (package_of(file) / "py.typed").is_file()
    assert (folder / "README.md").is_file()
    assert (folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert list((folder / "tests").glob("test_*.py")), "it has no tests"
    assert list((folder / "experiments").glob("*.toml")), "it has no experiment that shows it"
    assert project["description"].endswith(".")


@by_plugin
def test_a_plugin_requires_this_minor_version_of_the_kit(file: Path) -> None:
    (mine,) = [one for one in map(Requirement, project_of(file)["dependencies"]) if one.name == KIT_DISTRIBUTION]
    major, minor, *_ = __version__.split(".")
    assert mine.specifier.contains(__version__)
    assert not mine.specifier.contains(f"{major}.{int(minor) + 1}.0"), "pin the range: below the next minor version"


@by_plugin
def test_every_entry_point_names_a_class_or_function_that_exists(file: Path) -> None:
    for kind, name, target in entry_points(file):
        assert kind in (*KINDS, VERB), f"{name}: no kind {kind!r}"
        module, _, attribute = target.partition(":")
        path = file.parent / f"{module.replace('.', '/')}.py"
        assert path.is_file(), f"{target}: {path.relative_to(ROOT)} does not exist"
        tree = ast.parse(path.read_text(encoding="utf-8"))
        defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
        assert attribute in defined, f"{target}: defined are {sorted(defined)}"
        docstring = ast.get_docstring(tree) or ""
        assert kind == VERB or "Source:" in docstring, f"{path.relative_to(ROOT)}: the docstring names no source"


def test_the_list_of_plugins_of_others_is_valid() -> None:
    listed = tomli.loads((ROOT / "docs" / "extending" / "plugins.toml").read_text(encoding="utf-8"))
    jsonschema.validate(listed, {"properties": {"plugin": {"items": ENTRY}}, "additionalProperties": False})


def test_the_entry_that_the_page_shows_is_valid() -> None:
    page = (ROOT / "docs" / "extending" / "plugins.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```toml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (entry,) = tomli.loads(block)["plugin"]
    jsonschema.validate(entry, ENTRY)
    wrong = {**entry, "components": ["norms/my_norm"]}
    with pytest.raises(jsonschema.ValidationError, match="norms/my_norm"):
        jsonschema.validate(wrong, ENTRY)
