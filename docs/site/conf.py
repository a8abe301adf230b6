"""How the pages become a site: `make docs`. The folder of the site works without a network, the search included.

The sources are those pages of the repository that PATTERNS names, so that every link between them is the one that
also works where the Markdown is read as it is.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

from nanogpt_kit import __version__

project = "nanogpt-kit"
version = release = __version__
copyright = "the authors of nanogpt-kit, MIT licence"
extensions = ["myst_parser", "page_tree", "source_pages", "inline_figures"]

PATTERNS = [
    "docs/*.md",
    "docs/**/*.md",
    "README.md",
    "AGENTS.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "plugins/*/README.md",
]
include_patterns = PATTERNS
root_doc = "docs/index"
myst_heading_anchors = 4  # as `#heading` in the links of the pages
myst_url_schemes = {"http": None, "https": None, "mailto": None, "source": None}
smartquotes = False  # the values of options are in straight quotes
highlight_language = "text"  # of blocks without a language, such as what a command prints
suppress_warnings = ["myst.header", "misc.highlighting_failure"]  # README starts sections below a comment; shell output

html_theme = "furo"
html_title = f"nanogpt-kit {__version__}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
pygments_style, pygments_dark_style = "friendly", "monokai"
