"""The drawings stand in the pages themselves: they follow the light and the dark theme, and their text is found."""

from __future__ import annotations

from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx


def inline(app: Sphinx, doctree: nodes.document, name: str) -> None:
    if app.builder.format != "html":
        return
    for node in list(doctree.findall(nodes.image)):
        path = Path(app.srcdir) / node["uri"]
        if path.suffix == ".svg" and path.parent.name == "figures" and path.is_file():  # Sphinx warns else
            svg = path.read_text(encoding="utf-8").partition("?>")[2]
            node.replace_self(nodes.raw("", f'<div class="drawing">{svg}</div>', format="html"))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-resolved", inline)
    return {"parallel_read_safe": True}
