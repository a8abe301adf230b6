"""The site of the documentation: built without warnings, it works from a folder without a network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.handbook.pages import PAGES, ROOT
from tests.handbook.site_pages import STYLE_ADDRESS, SitePage, broken_links, remote

WORDS = ("checkpoint", "quickstart", "muon")  # each on some page, and equal to its stem


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site").resolve()
    command = ["make", "site", f"SITE={folder}", f"PYTHON={sys.executable}"]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, SitePage]:
    return {path: SitePage(path) for path in site.rglob("*.html")}


@pytest.mark.slow
def test_every_page_is_in_the_site(site: Path) -> None:
    missing = [page for page in PAGES if not (site / page.relative_to(ROOT).with_suffix(".html")).is_file()]
    assert not missing, missing
    assert (site / "index.html").is_file()


@pytest.mark.slow
def test_the_search_has_its_words_beside_the_pages(site: Path) -> None:
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    assert index.startswith("Search.setIndex(")
    assert all(re.search(rf'\b"?{word}"?:', index) for word in WORDS)
    loaded = [address for address in SitePage(site / "search.html").loaded if not address.startswith("#")]
    assert "searchindex.js" in loaded
    assert all((site / address.partition("?")[0]).is_file() for address in loaded), loaded


@pytest.mark.slow
def test_a_browser_loads_nothing_from_elsewhere(site: Path, pages: dict[Path, SitePage]) -> None:
    found = {path.name: addresses for path, page in pages.items() if (addresses := remote(page.loaded))}
    for path in site.rglob("*.css"):
        if addresses := remote(STYLE_ADDRESS.findall(path.read_text(encoding="utf-8"))):
            found[path.name] = addresses
    assert not found, found


@pytest.mark.slow
def test_every_link_within_the_site_leads_to_a_page_and_its_anchor(pages: dict[Path, SitePage]) -> None:
    broken = broken_links(pages)
    assert not broken, "\n".join(broken[:40])


def test_what_a_browser_would_load_is_found(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    loaded = [
        '<script src="https://a.org/x.js"></script>',
        '<link rel="stylesheet" href="//a.org/x.css">',
        '<link rel="preload icon" href="http://a.org/x.png"/>',
        '<img alt="x" srcset="x.png 1x, https://a.org/x.png 2x">',
        "<style>@import 'https://a.org/x.css';</style>",
        '<p style="background: url(https://a.org/x.png)">x</p>',
        '<svg><image href="https://a.org/x.png"/></svg>',
    ]
    for line in loaded:
        path.write_text(f"<html>{line}</html>", encoding="utf-8")
        assert len(remote(SitePage(path).loaded)) == 1, line
    path.write_text('<a href="https://a.org">x</a><link rel="canonical" href="https://a.org">', encoding="utf-8")
    assert not remote(SitePage(path).loaded)


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    first, second = tmp_path.resolve() / "first.html", tmp_path.resolve() / "second.html"
    links = ["second.html", "second.html#here", "#top", "https://a.org/x", "third.html", "second.html#there", "#bottom"]
    text = '<p id="top">x</p>' + "".join(f'<a href="{link}">x</a>' for link in links)
    first.write_text(text, encoding="utf-8")
    second.write_text('<a name="here">x</a>', encoding="utf-8")
    pages = {path: SitePage(path) for path in (first, second)}
    assert broken_links(pages) == [f"first.html: {link}" for link in links[4:]]
