"""The extensions of docs/site without a build: the order of the pages, drawings within the pages."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.handbook.pages import ROOT

nodes = pytest.importorskip("docutils.nodes")
pytest.importorskip("sphinx")


@pytest.fixture(autouse=True)
def extensions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Imports from docs/site; within tests only, since commands are forked where the path is as before."""
    monkeypatch.syspath_prepend(ROOT / "docs" / "site")


def children(name: str, text: str, *pages: str) -> list[str]:
    from page_tree import add_children

    source = [text]
    add_children(SimpleNamespace(env=SimpleNamespace(found_docs={name, *pages})), name, source)
    return [line for line in source[0].removeprefix(text).splitlines() if line and line[0] not in "`:"]


def test_pages_in_a_list_come_first_and_in_its_order() -> None:
    text = "After [a](a.md) read\n[c](c.md).\n\n1. [b](b.md) or\n   [d](d.md)\n2. [a](a.md)\n"
    found = children("docs/x/index", text, *(f"docs/x/{name}" for name in "abcd"))
    assert found == ["/docs/x/b", "/docs/x/d", "/docs/x/a", "/docs/x/c"]


def test_pages_beside_the_documentation_have_the_text_of_their_links() -> None:
    text = "- [Guide](guide/index.md)\n- [Read me](../README.md)\n"
    assert children("docs/index", text, "docs/guide/index", "README") == ["/docs/guide/index", "Read me </README>"]


def inlined(folder: Path, uri: str) -> Any:
    from inline_figures import inline

    page = nodes.section()
    page += nodes.image(uri=uri, alt='A "small" drawing')
    inline(SimpleNamespace(builder=SimpleNamespace(format="html"), srcdir=folder), page, "index")
    return page.children[0]


def test_a_drawing_in_a_page_has_its_alternative_text(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "a.svg").write_text('<?xml version="1.0"?>\n<svg role="img"/>\n', encoding="utf-8")
    assert '<svg aria-label="A &quot;small&quot; drawing" role="img"/>' in inlined(tmp_path, "figures/a.svg").astext()


def test_a_missing_drawing_is_left_to_the_warning_of_sphinx(tmp_path: Path) -> None:
    assert isinstance(inlined(tmp_path, "figures/a.svg"), nodes.image)
