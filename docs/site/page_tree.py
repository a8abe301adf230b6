"""The tree of the site's pages, from the links of the index pages: what a list links to comes below it, in its order.

An index page, `index.md` or `README.md`, is plain Markdown. The pages of its folder that it links to become its
children, and the index pages of folders within it; those in its lists come first. The main index has also pages beside
the folder of the documentation, under the text of their links, and the page of the plugins has theirs.
"""

from __future__ import annotations

import os
import re
from pathlib import PurePosixPath

from sphinx.application import Sphinx

INDEXES = ("index", "README")
PLUGINS = "docs/extending/plugins"
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s#]+\.md)\)")
LIST_ITEM = re.compile(r"^(?:-|\d+\.) .*(?:\n +.*)*", re.MULTILINE)


def add_children(app: Sphinx, name: str, source: list[str]) -> None:
    """Appends a hidden toctree to the text of an index page."""
    page = PurePosixPath(name)
    if page.name not in INDEXES and str(page) != PLUGINS:
        return
    children: dict[str, str] = {}
    for text, target in LINK.findall("\n".join([*LIST_ITEM.findall(source[0]), source[0]])):
        path = PurePosixPath(os.path.normpath(page.parent / target))
        child = str(path.with_suffix(""))
        if is_child(page, path) and child in app.env.found_docs:
            beside = str(page) == "docs/index" and not path.is_relative_to("docs")
            children.setdefault(child, f"{text} </{child}>" if beside else f"/{child}")
    if children:
        source[0] += "\n\n```{toctree}\n:hidden:\n\n" + "\n".join(children.values()) + "\n```\n"


def is_child(page: PurePosixPath, path: PurePosixPath) -> bool:
    """Whether a linked page belongs below an index page: in its folder, or the index of a folder in it."""
    if path.is_relative_to("plugins"):
        return str(page) == PLUGINS
    if str(page) == PLUGINS or str(page) == "README":
        return False
    if path.parent == page.parent:
        return path.stem not in INDEXES
    if path.parent.parent == page.parent:
        return path.stem in INDEXES
    return str(page) == "docs/index" and not path.is_relative_to("docs")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", add_children)
    return {"parallel_read_safe": True}
