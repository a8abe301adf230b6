"""The component and its test in docs/writing-a-component.md work as they are printed there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs" / "writing-a-component.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


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
