"""What the source of a component says is read, and nothing is executed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nanogpt_kit.core.class_source import first_sentence, read_class_source, read_summary
from nanogpt_kit.core.lookup import FoundOption, find_by_name

MODULE = '''\
"""About the module. More."""

from typing import ClassVar

from nanogpt_kit.api import Field, Norm

raise RuntimeError("executed")


class Base(Norm):
    shared: int = 3


class Own(Base):
    """About
    the class: 0.5 and more... of it. More.

        def example(): ...
    """

    kind_of: ClassVar[str] = "x"
    _private: int = 1
    width: float = Field(0.5, description="d")

    def build(self, ctx):
        inner: int = 3
        return inner

    late: int = 4


class Bare(Norm):
    def build(self, ctx): ...
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "sourced_package").mkdir()
    (tmp_path / "sourced_package" / "__init__.py").write_text("from .inner import Own as Public, Bare\n")
    (tmp_path / "sourced_package" / "inner.py").write_text(MODULE)
    return tmp_path


@pytest.mark.parametrize("target", ["sourced_package.inner:Own", "sourced_package:Public"])
def test_a_class_is_found_where_it_is_defined(target: str, folder: Path) -> None:
    source = read_class_source(target)
    assert source is not None
    assert source.file == str(folder / "sourced_package" / "inner.py")
    assert source.options == {"shared", "width", "late"}
    assert source.summary == read_summary(target) == "About the class: 0.5 and more... of it."
    assert not [name for name in sys.modules if name.startswith("sourced_package")]


def test_a_class_without_a_docstring_has_that_of_its_module(folder: Path) -> None:
    assert read_summary("sourced_package:Bare") == "About the module."


@pytest.mark.parametrize(
    "content",
    [b"class X(:", b"\xff\xfe", b"\0", b"(" * 5000, b"", b"from . import X\n"],
    ids=lambda text: str(text[:9]),
)
def test_what_cannot_be_read_is_nothing(content: bytes, folder: Path) -> None:
    (folder / "sourced_odd.py").write_bytes(content)
    assert read_class_source("sourced_odd:X") is None
    assert read_summary("sourced_odd:X") == ""


@pytest.mark.parametrize("target", ["nowhere.at.all:X", "json:JSONDecoder:", "math:sin", "", ":", "sys:X", "a..b:X"])
def test_an_entry_point_to_no_class_of_a_file_is_nothing(target: str) -> None:
    assert read_class_source(target) is None


def test_a_sentence_ends_at_a_full_stop_or_a_paragraph() -> None:
    assert first_sentence("One\nline 0.5. Two") == "One line 0.5."
    assert first_sentence("No stop\n\nSource: x. y") == "No stop"
    assert first_sentence("") == ""


PLUGIN = """
from nanogpt_kit.api import Field, Norm

class Own(Norm):
    halving: float = Field(0.5, gt=0, description="power of the half")

    def build(self, ctx): ...
"""


@pytest.mark.parametrize("name", ["halving", "model.norm.halving", "model.norm.own.halving", "own.halving"])
def test_an_option_of_a_plugin_is_found_by_its_name(name: str, install: Callable[..., None]) -> None:
    install("halves", "[nanogpt_kit.norm]\nown = halves_norm:Own\n", halves_norm=PLUGIN)
    install("raises", "[nanogpt_kit.norm]\nother = raises_norm:Own\n", raises_norm=f"raise RuntimeError\n{PLUGIN[:0]}")
    found = find_by_name(name)
    assert [one.written_key for one in found if isinstance(one, FoundOption)] == ["model.norm.halving"]
    assert "raises_norm" not in sys.modules
