"""A page of the site for every file of the repository that a page links to, with an anchor for each line."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx.application import Sphinx
from sphinx.util.osutil import relative_uri

SCHEME = "source:"
FENCE = re.compile(r"^( *)(```+|~~~+).*?^\1\2\s*$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<!!)(\[[^\]]*\]\()([^)\s]+)(\))")
LARGEST_PAGE = 200_000  # bytes; of a longer file the beginning is shown


def mark_links(app: Sphinx, name: str, source: list[str]) -> None:
    """Gives links to files that are not pages of the site the scheme `source:`, with paths from the repository."""
    folder = PurePosixPath(name).parent

    def marked(match: re.Match[str]) -> str:
        target, hash_sign, anchor = match[2].partition("#")
        path = os.path.normpath(folder / target)
        if not target or ":" in target or str(PurePosixPath(path).with_suffix("")) in app.env.found_docs:
            return match[0]
        if not (Path(app.srcdir) / path).exists():
            return match[0]  # Sphinx reports it
        return f"{match[1]}{SCHEME}{path}{hash_sign}{anchor}{match[3]}"

    source[0] = outside_fences(source[0], lambda text: LINK.sub(marked, text))


def outside_fences(text: str, change: Any) -> str:
    parts, end = [], 0
    for fence in FENCE.finditer(text):
        parts += [change(text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, change(text[end:])])


def resolve_links(app: Sphinx, doctree: nodes.document, name: str) -> None:
    for node in doctree.findall(nodes.reference):
        uri = node.get("refuri", "")
        if uri.startswith(SCHEME):
            path, hash_sign, anchor = uri.removeprefix(SCHEME).partition("#")
            target = app.builder.get_target_uri(f"source/{path}") if app.builder.format == "html" else path
            node["refuri"] = relative_uri(app.builder.get_target_uri(name), target) + hash_sign + anchor
            node["internal"] = True
            node["classes"] += ["source"]


def linked_files(app: Sphinx) -> list[Path]:
    root = Path(app.srcdir)
    found = set()
    for name in app.env.found_docs:
        for node in app.env.get_doctree(name).findall(nodes.reference):
            uri = node.get("refuri", "")
            if uri.startswith(SCHEME):
                found.add(root / uri.removeprefix(SCHEME).partition("#")[0])
    for folder in [path for path in found if path.is_dir()]:
        found.update(shown_files(folder))
    return sorted(found)


def shown_files(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.is_file() and path.suffix in (".py", ".toml", ".md", ".sh", ".txt")
    )


def source_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The pages for the template `page.html`: name, context, template."""
    if app.builder.format != "html":
        return
    for path in linked_files(app):
        name = path.relative_to(app.srcdir).as_posix()
        body = listing_of(path) if path.is_dir() else lines_of(path)
        yield f"source/{name}", {"title": name, "body": f"<h1>{html.escape(name)}</h1>\n{body}"}, "page.html"


def listing_of(folder: Path) -> str:
    items = "".join(
        f'<li><a href="{folder.name}/{html.escape(path.name)}.html">{html.escape(path.name)}</a></li>'
        for path in shown_files(folder)
    )
    return f"<ul>{items}</ul>"


def lines_of(path: Path) -> str:
    text = path.read_bytes()[:LARGEST_PAGE].decode("utf-8", errors="replace")
    try:
        lexer = get_lexer_for_filename(path.name, stripnl=False)
    except ClassNotFound:
        lexer = TextLexer(stripnl=False)
    code = highlight(text, lexer, HtmlFormatter(linespans="L", cssclass="highlight source"))
    return re.sub(r'<span id="L-(\d+)">', r'<span id="L\1"><a class="line" href="#L\1">\1</a>', code)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", mark_links, priority=600)
    app.connect("doctree-resolved", resolve_links)
    app.connect("html-collect-pages", source_pages)
    return {"parallel_read_safe": True}
