"""The component and its test in docs/extending/writing-a-component.md work as they are printed there."""

from __future__ import annotations

import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nanogpt_kit.core.kinds import KINDS
from nanogpt_kit.testing.component import ComponentConformance

DOCS = Path(__file__).parents[2] / "docs" / "extending" / "writing-a-component.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_the_table_of_suites_is_complete_and_true() -> None:
    """Every suite with the settings that it alone has, and every shared setting with its default."""
    page = DOCS.read_text(encoding="utf-8")
    rows = dict(re.findall(r"`\w+`: `(\w+)`[^|]*\|[^|]*\|([^|]*)\|", page))
    shared = set(re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \|$", page, re.MULTILINE))
    suites = {suite.__name__: suite for kind in KINDS if (suite := suite_of_kind(kind))}
    assert rows.keys() == suites.keys()
    for name, suite in suites.items():
        settings = {
            key
            for base in suite.__mro__
            for key, type_ in vars(base).get("__annotations__", {}).items()
            if "ClassVar" in str(type_)
        } - {"component"}
        assert set(re.findall(r"`(\w+)`", rows[name])) | (settings & shared) >= settings, name
        assert set(re.findall(r"`(\w+)`", rows[name])) <= settings, name
    assert all(suite_of_kind(kind) for kind in KINDS)


def suite_of_kind(kind: str) -> type | None:
    if importlib.util.find_spec(f"nanogpt_kit.testing.{kind}") is None:
        return None
    classes = vars(importlib.import_module(f"nanogpt_kit.testing.{kind}")).values()
    (suite,) = [
        value
        for value in classes
        if inspect.isclass(value)
        and value.__module__ == f"nanogpt_kit.testing.{kind}"
        and issubclass(value, ComponentConformance)
    ]
    return suite


@pytest.mark.slow
def test_the_documented_component_passes_its_documented_test(tmp_path: Path) -> None:
    component, test = blocks("python")
    (settings,) = [block for block in blocks("toml") if "pytest" in block]
    for name, text in {"glu.py": component, "test_glu.py": test, "pyproject.toml": settings}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    code = "import sys, pytest; sys.path.insert(0, ''); sys.exit(pytest.main())"  # as python -m pytest
    command = [sys.executable, "-Pc", code, "-q", "--strict-markers", "-W", "error", "-m", "not slow"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d\d passed, (\d skipped, )?1 deselected", done.stdout), done.stdout
