"""The source of a component's class: its module and what that imports of its own package, and nothing else."""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from nanogpt_kit.components.evaluator.loss import Loss
from nanogpt_kit.core.module_source import class_sources

HEAD = "from nanogpt_kit.api import Evaluator\n"
BODY = "\n\nclass Hits(Evaluator):\n    def evaluate(self, ctx):\n        return {}\n"
FORMS = [
    "from metered.inner import rule",
    "from metered.inner.rule import A",
    "import metered.inner.rule",
    "from .inner import rule",
    "from .inner.rule import A",
    "from . import inner as renamed, other\nfrom .inner import rule",
]


def sources(module: str = "metered.hits") -> dict[str, str]:
    return class_sources(importlib.import_module(module).Hits, {})


def test_a_built_in_component_is_its_module() -> None:
    found = class_sources(Loss, {})
    assert list(found) == ["nanogpt_kit.components.evaluator.loss"]
    assert all(found.values())


@pytest.mark.parametrize("form", FORMS)
def test_what_it_imports_of_its_package_is_included(tmp_path: Path, install: Callable[..., None], form: str) -> None:
    later = "\n\ndef later():\n    from metered import lazy\n"
    inner = {"metered/inner/__init__": "", "metered/inner/rule": "A = 1\n"}
    others = {"metered/other": "", "metered/attention": "raise SystemExit('imported')\n", "metered/lazy": "L = 1\n"}
    (tmp_path / "site" / "metered").mkdir()
    install("plug", "", **{"metered/__init__": "", "metered/hits": HEAD + form + BODY + later, **inner, **others})
    before = sources()
    assert {"metered.hits", "metered.inner.rule", "metered.lazy"} <= before.keys()
    assert before.keys() <= {f"metered{name}" for name in ("", ".hits", ".inner", ".inner.rule", ".lazy", ".other")}
    (tmp_path / "site" / "metered" / "inner" / "rule.py").write_text("A = 2\n", encoding="utf-8")
    assert {name for name, hashed in sources().items() if hashed != before[name]} == {"metered.inner.rule"}


def test_a_base_class_in_another_package_is_included(install: Callable[..., None]) -> None:
    install("plug", "", based=HEAD + BODY.replace("Hits", "Base"), derived="from based import Base as Hits\n")
    derived = "from based import Base\n\n\nclass Hits(Base):\n    pass\n"
    install("other", "", derived=derived)
    assert sources("derived").keys() == {"based", "derived"}


def test_of_imports_from_elsewhere_those_of_installed_libraries_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "lib" / "site-packages"
    installed.mkdir(parents=True)
    for folder, name in ((tmp_path, "beside"), (installed, "a_library")):
        (folder / f"{name}.py").write_text("A = 1\n", encoding="utf-8")
        monkeypatch.syspath_prepend(str(folder))
    imports = "import json, numpy, torch, a_library, beside\n"
    (tmp_path / "standing_alone.py").write_text(imports + HEAD + BODY, encoding="utf-8")
    assert sources("standing_alone").keys() == {"standing_alone", "beside"}


def test_a_module_in_a_zip_file_has_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as file:
        file.writestr("packed_hits.py", HEAD + BODY)
    monkeypatch.syspath_prepend(str(tmp_path / "packed.zip"))
    assert all(sources("packed_hits").values())


def test_a_module_that_is_broken_since_it_was_imported_still_has_an_identity(
    tmp_path: Path, install: Callable[..., None]
) -> None:
    install("plug", "", broken_hits=HEAD + BODY)
    before = sources("broken_hits")
    (tmp_path / "site" / "broken_hits.py").write_text("class Hits(\n", encoding="utf-8")
    assert sources("broken_hits") != before
    (tmp_path / "site" / "broken_hits.py").write_bytes(b"\xff\xfe")
    assert sources("broken_hits") == {"broken_hits": ""}
    (tmp_path / "site" / "broken_hits.py").unlink()
    assert sources("broken_hits") == {"broken_hits": ""}
