"""What a page of the site loads, links to and can be linked to."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

LOADED = {  # attributes whose address a browser loads by itself
    **dict.fromkeys(("script", "img", "iframe", "source", "video", "audio", "embed", "track", "input"), ("src",)),
    "object": ("data",),
    "image": ("href", "xlink:href"),
    "use": ("href", "xlink:href"),
}
LOADED_LINKS = {"stylesheet", "icon", "preload", "prefetch", "modulepreload", "manifest", "preconnect", "dns-prefetch"}
STYLE_ADDRESS = re.compile(r"(?:url\(|@import)\s*[\"']?([^\"')\s;]+)")
REMOTE = re.compile(r"(?i)^(https?:)?//")


@dataclass
class SitePage(HTMLParser):
    """One HTML file."""

    path: Path
    loaded: list[str] = field(default_factory=list)  # addresses
    links: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    in_style: bool = False

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.in_style = tag == "style"
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        self.loaded += [values[name] for name in LOADED.get(tag, ()) if name in values]
        self.loaded += [part.split()[0] for part in values.get("srcset", "").split(",") if part.strip()]
        self.loaded += STYLE_ADDRESS.findall(values.get("style", ""))
        if tag == "link" and LOADED_LINKS & set(values.get("rel", "").lower().split()):
            self.loaded.append(values.get("href", ""))
        if tag == "a" and "href" in values:
            self.links.append(values["href"])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_data(self, data: str) -> None:
        if self.in_style:
            self.loaded += STYLE_ADDRESS.findall(data)
            self.in_style = False


def remote(addresses: list[str]) -> list[str]:
    return [address for address in addresses if REMOTE.match(address.strip())]


def broken_links(pages: dict[Path, SitePage]) -> list[str]:
    """Internal links whose file or anchor does not exist, as `page: link`."""
    broken = []
    for path, page in pages.items():
        for link in page.links:
            if re.match(r"[a-z][a-z0-9+.-]*:", link):
                continue
            name, _, anchor = unquote(link).partition("#")
            target = (path.parent / name.partition("?")[0]).resolve() if name else path
            known = pages.get(target)
            if not target.is_file() or (anchor and known is not None and anchor not in known.anchors):
                broken.append(f"{path.name}: {link}")
    return broken
