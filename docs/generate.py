"""Rewrites the parts of the documentation that come from the code: `make docs`. A test fails when they are stale.

A block stands between `<!-- KIND: ARGUMENTS -->` and `<!-- end -->`; its kinds are the functions in BLOCKS. A link
whose text is the name of a definition, as in [`GPT.build`](...py#L1), gets the line of that definition. The drawings
are those of docs/drawing.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import sys
import typing
from collections.abc import Callable
from pathlib import Path

from click.testing import CliRunner

sys.path.append(str(Path(__file__).parent))
from blocks.api_blocks import api_block
from blocks.code_blocks import code_block, with_lines
from blocks.concept_blocks import concepts_block, imports_block, interactions_block, tags_block, words_block
from blocks.kind_blocks import example_block, interface_block, suite_block
from blocks.markdown_tables import table
from blocks.plugin_blocks import listed_block, plugins_block
from blocks.reference_blocks import (
    excerpt_block,
    exits_block,
    formats_block,
    names_block,
    python_block,
    record_block,
    verbs_block,
)
from drawing.figures import figures

from nanogpt_kit import api
from nanogpt_kit.cli import main as command_line
from nanogpt_kit.core import kinds
from nanogpt_kit.core.describe import OptionDescription, describe_options
from nanogpt_kit.core.entry import Entry
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.hooks import RunHooks
from nanogpt_kit.core.options import Options
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION
from nanogpt_kit.core.shipped import read_header, shipped_experiments

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
OTHER_TABLES: dict[str, type[Options]] = {"experiment": Experiment, "optimizer.group": kinds.ParameterGroup}
HELP_WIDTH = 100  # columns of the help texts
# Lines of the base classes that tell the author of a component nothing
INTERNAL = re.compile(
    r"^ *(@(abstractmethod|hookspec)|kind: ClassVar\[str\] = .*)\n"
    r"|^    (@.*\n    )*def (_[a-z]|__init_subclass__).*\n(^(        .*|    \).*)\n|^\n)*",
    re.MULTILINE,
)


def default_text(option: OptionDescription) -> str:
    if option.required:
        return "required"
    if option.type == "table":
        return "its defaults" if option.default else "not set"
    return "not set" if option.default is None else f"`{json.dumps(option.default, ensure_ascii=False)}`"


def options_table(model: type[Options]) -> str:
    rows: list[list[object]] = [
        [f"`{option.name}`", option.type_and_bounds, default_text(option), option.description]
        for option in describe_options(model)
    ]
    return table(["option", "type", "default", "meaning"], rows) if rows else "No options.\n"


def built_in(kind: str) -> list[Entry]:
    found = [entry for entry in Registry.installed().of_kind(kind) if entry.distribution == KIT_DISTRIBUTION]
    assert found, f"no built-in component of kind {kind!r}"
    return found


def options_block(kind: str) -> str:
    """Every built-in of a kind: its module's docstring and its options."""
    parts = []
    for entry in built_in(kind):
        module_name, _, class_name = entry.target.partition(":")
        module = importlib.import_module(module_name)
        docstring, component = inspect.cleandoc(module.__doc__ or ""), getattr(module, class_name)
        parts.append(f"### {entry.name}\n\n{docstring}\n\n{options_table(component)}")
    return "\n".join(parts)


def section_block(name: str) -> str:
    """The options of a section that chooses no component, such as [train]; of `experiment` the top level."""
    if name in OTHER_TABLES:
        return options_table(OTHER_TABLES[name])
    annotation = Experiment.model_fields[name].annotation
    (model,) = [
        part
        for part in (annotation, *typing.get_args(annotation))
        if inspect.isclass(part) and issubclass(part, Options)
    ]
    return options_table(model)


def components_block(_: str) -> str:
    """A line for each kind: its page and its built-ins."""
    kinds = dict.fromkeys(
        entry.kind for entry in Registry.installed().entries if entry.distribution == KIT_DISTRIBUTION
    )
    rows: list[list[object]] = [
        [f"[`{kind}`](/docs/reference/kinds/{kind}.md)", ", ".join(map(options_link, built_in(kind)))] for kind in kinds
    ]
    return table(["kind", "built in"], rows)


def options_link(entry: Entry) -> str:
    return f"[`{entry.name}`](/docs/reference/options/{entry.kind}.md#{entry.name})"


def source_block(names: str) -> str:
    """The source of public classes: their docstrings and signatures are the contract."""
    classes = [getattr(api, name, None) or getattr(kinds, name) for name in names.split()]
    sources = [INTERNAL.sub("", inspect.getsource(value)).rstrip() for value in classes]
    sources = [re.sub(r"\n{3,}", "\n\n", source) for source in sources]
    return "```python\n" + "\n\n\n".join(sources) + "\n```\n"


def hooks_block(_: str) -> str:
    rows: list[list[object]] = []
    for name, function in vars(RunHooks).items():
        if not name.startswith("_"):
            arguments = [parameter for parameter in inspect.signature(function).parameters if parameter != "self"]
            rows.append([f"`{name}({', '.join(arguments)})`", inspect.cleandoc(function.__doc__ or "")])
    return table(["hook", "when"], rows)


def help_block(name: str) -> str:
    """What `nanogpt-kit NAME --help` prints."""
    result = CliRunner().invoke(
        command_line,
        [*name.split(), "--help"],
        prog_name="nanogpt-kit",
        terminal_width=HELP_WIDTH,
        max_content_width=HELP_WIDTH,
    )
    assert result.exit_code == 0, result.output
    return f"```\n{result.output.rstrip()}\n```\n"


def experiments_block(_: str) -> str:
    """Every experiment that is shipped: what its header says, and what it expects."""
    rows: list[list[object]] = []
    for name, path in shipped_experiments().items():
        header = read_header(path)
        rows.append([f"[`{name}`](/experiments/{path.name})", header.purpose, header.expected])
    return table(["name", "what it is", "what to expect"], rows)


BLOCKS: dict[str, Callable[[str], str]] = {
    "options": options_block,
    "section": section_block,
    "components": components_block,
    "source": source_block,
    "hooks": hooks_block,
    "help": help_block,
    "experiments": experiments_block,
    "example": example_block,
    "suite": suite_block,
    "interface": interface_block,
    "api": api_block,
    "plugins": plugins_block,
    "listed": listed_block,
    "code": code_block,
    "concepts": concepts_block,
    "tags": tags_block,
    "interactions": interactions_block,
    "imports": imports_block,
    "words": words_block,
    "excerpt": excerpt_block,
    "exits": exits_block,
    "formats": formats_block,
    "verbs": verbs_block,
    "names": names_block,
    "record": record_block,
    "python": python_block,
}
BLOCK = re.compile(
    rf"(?P<start><!-- (?P<kind>{'|'.join(BLOCKS)}): (?P<arguments>[^>]*?) -->\n).*?(?P<end><!-- end -->)", re.DOTALL
)


def generated(page: Path) -> str:
    """The text of a page with every block made again, and the present lines in its links to definitions."""

    def block(match: re.Match[str]) -> str:
        made = BLOCKS[match["kind"]](match["arguments"])
        return f"{match['start']}\n{relative_links(made, page)}\n{match['end']}"

    return with_lines(BLOCK.sub(block, page.read_text(encoding="utf-8")), page)


def relative_links(text: str, page: Path) -> str:
    """Blocks link to `/path/from/the/repository`, since several pages may have the same."""
    return re.sub(r"\]\(/([^)]+)\)", lambda match: f"]({os.path.relpath(ROOT / match[1], page.parent)})", text)


def main() -> None:
    for page in PAGES:
        after = generated(page)
        if after != page.read_text(encoding="utf-8"):
            page.write_text(after, encoding="utf-8")
            print(f"rewrote {page.relative_to(ROOT)}")
    for path, drawing in figures():
        if not path.exists() or path.read_text(encoding="utf-8") != drawing:
            path.write_text(drawing, encoding="utf-8")
            print(f"drew {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
