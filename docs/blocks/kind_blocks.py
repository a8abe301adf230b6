"""Blocks of the pages of the kinds: an example with its tests, what the suite claims, and what a component may call."""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from nanogpt_kit import api
from nanogpt_kit.cli.plugin_files import PluginTemplate, local_files
from nanogpt_kit.testing.component import ComponentConformance

SETTING = re.compile(r"^    (\w+): ClassVar\[.*?\](?: = (?P<value>[^#\n]+?))?(?:  # (?P<meaning>.*))?$", re.MULTILINE)


def example_block(kind: str) -> str:
    """The files that `plugins new --local` writes, under the names of the template."""
    template = PluginTemplate.of_kind(kind)
    name = template.names.component
    files = local_files(template)
    use = template.experiment.partition("\n\n")[2].strip()
    toml = f'components = ["{name}.py"]\n\n{use}'
    chosen = (
        f"An experiment chooses it:\n\n```toml\n{toml}\n```"
        if use
        else f"It is used as in `nanogpt-kit export quickstart out/ --format {name}.py`."
    )
    new = f"nanogpt-kit plugins new {name.replace('_', '-')} --kind {kind} --local"
    return (
        f"`{new}` writes this file, its tests and an experiment:\n\n```python\n{files[f'{name}.py']}```\n\n"
        f"{chosen}\n\nIts tests are `test_{name}.py`:\n\n```python\n{files[f'test_{name}.py']}```\n"
    )


def suite_block(kind: str) -> str:
    """The suite of a kind: its claims, which are the names of its tests, and its settings."""
    suite = suite_of(kind)
    settings = "".join(
        f"| `{name}` | {f'`{value}`' if value else 'not set'} | {meaning} |\n"
        for name, value, meaning in settings_of(suite)
    )
    table = f"\n| setting | default | meaning |\n| --- | --- | --- |\n{settings}" if settings else ""
    claims = "".join(f"- {claim}\n" for claim in claims_of(suite))
    return f"`{suite.__name__}` of `{suite.__module__}` claims, besides what holds for all options:\n\n{claims}{table}"


def suite_of(kind: str) -> type[ComponentConformance]:
    module = importlib.import_module(f"nanogpt_kit.testing.{kind}")
    (suite,) = (
        value
        for value in vars(module).values()
        if inspect.isclass(value) and value.__module__ == module.__name__ and issubclass(value, ComponentConformance)
    )
    return suite


def claims_of(suite: type) -> Iterator[str]:
    """The names of its tests as text, in the order in which they are written, without those of every component."""
    names = [name for owner in suite.__mro__ for name in vars(owner) if name.startswith("test_")]
    for name in dict.fromkeys(names):
        if name not in vars(ComponentConformance):
            yield name.removeprefix("test_").replace("_", " ")


def settings_of(suite: type) -> Iterator[tuple[str, str, str]]:
    """Name, default and meaning of each setting; the meaning is the comment behind it."""
    found: dict[str, tuple[str, str]] = {}
    for owner in suite.__mro__[:-1]:
        for match in SETTING.finditer(inspect.getsource(owner)):
            name, value = match[1], re.sub(r"\($", "(...)", match["value"] or "")
            if name != "component":
                known = found.get(name, ("", ""))
                found[name] = known[0] or value, known[1] or match["meaning"] or ""
    for name, (value, meaning) in found.items():
        assert meaning, f"the setting {name} of {suite.__name__} has no comment"
        yield name, value, meaning.replace("|", "\\|")


def interface_block(names: str) -> str:
    """Classes and functions that a component calls: signatures and docstrings, without what is inside."""
    return "```python\n" + "\n\n\n".join(interface_of(getattr(api, name)) for name in names.split()) + "\n```\n"


def interface_of(value: Any) -> str:
    if not inspect.isclass(value):
        return declaration(value)
    source = inspect.getsource(value).splitlines()
    fields = [line for line in source if re.match(r"    [a-z]\w*: ", line)]
    methods = [
        textwrap.indent(declaration(member), "    ")
        for name, member in vars(value).items()
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, classmethod))
    ]
    head = next(line for line in source if line.startswith("class "))
    text = inspect.cleandoc(value.__doc__ or "")
    docstring = textwrap.indent(f'"""{text}{chr(10) if chr(10) in text else ""}"""', "    ")
    return "\n".join([head, docstring, *(["", *fields] if fields else []), "", "\n\n".join(methods)])


def declaration(function: Any) -> str:
    """A function with its docstring, as it is written, up to the first line of its body."""
    source = textwrap.dedent(inspect.getsource(function))
    docstring = (getattr(function, "__func__", function).__doc__ or "").strip()
    if docstring:
        end = source.index('"""', source.index('"""') + 3) + 3
        return source[:end]
    return re.match(r"(?:@.*\n)*def [^\0]*?:\n", source)[0].rstrip() + " ..."  # type: ignore[index]
