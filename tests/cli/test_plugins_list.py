"""`nanogpt-kit plugins list` and `plugins show`: what plugins offer, what their names mean, nothing imported."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit import __version__
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION

Command = Callable[..., Any]
Install = Callable[..., None]

BUILT_IN = [entry for entry in Registry.installed().entries if entry.distribution == KIT_DISTRIBUTION]
POINTS = """\
[nanogpt_kit.norm]
rmsnorm = own_names:Norm
twice = own_names:Norm
bad name = own_names:Norm

[nanogpt_kit.schedules]
mine = own_names:Norm

[nanogpt_kit.verb]
run = own_names:hello
greet = own_names:hello
"""
SOURCE = '''\
"""Norms of somebody."""

from nanogpt_kit.api import Norm as Base


class Norm(Base):
    """Divides by two. Nothing else."""


def hello():
    """Greets. At length."""


raise RuntimeError("nobody has named it")
'''


def test_the_list_has_a_heading_for_each_distribution_and_a_line_for_each_component(command: Command) -> None:
    heading, *lines = command("plugins", "list", KIT_DISTRIBUTION).out.splitlines()
    assert heading == f"nanogpt-kit {__version__}"
    assert [line.split()[:2] for line in lines] == [[entry.kind, entry.name] for entry in BUILT_IN]
    assert "  model      gpt                 GPT: a pre-norm transformer decoder whose parts are components." in lines


def test_the_list_can_be_that_of_a_kind(command: Command) -> None:
    lines = command("plugins", "list", "norm").out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("  norm ")][:2] == ["layernorm", "rmsnorm"]
    assert not [line for line in lines if line.startswith("  model ")]


def test_the_list_of_what_is_not_installed_is_refused_with_the_nearest(command: Command) -> None:
    answer = command("plugins", "list", "nrom")
    assert (answer.code, answer.out) == (2, "")
    assert "no kind or distribution is named 'nrom'; did you mean 'norm'?" in answer.err


def test_the_list_as_json_has_what_is_known_of_each_component(command: Command) -> None:
    listed = json.loads(command("plugins", "list", "--json").out)
    assert {
        "kind": "norm",
        "name": "rmsnorm",
        "distribution": "nanogpt-kit",
        "version": __version__,
        "description": "RMSNorm: divide by the root mean square, then apply a learned gain.",
        "entry_point": "nanogpt_kit.components.norm.rmsnorm:RMSNorm",
        "status": "usable",
        "cause": None,
        "remedy": None,
    } in listed
    assert len(listed) == len(Registry.installed().entries)


def test_the_list_marks_names_that_mean_something_else(install: Install, command: Command) -> None:
    install("names-one", POINTS, own_names=SOURCE)
    install("names-two", "[nanogpt_kit.norm]\ntwice = own_names:Norm\n")
    lines = command("plugins", "list", "names-one").out.splitlines()
    marks = {" ".join(line.split()[:2]): after.strip() for line, after in itertools.pairwise(lines)}
    assert lines[0] == "names-one 1.0"
    assert "  norm       rmsnorm   Divides by two." in lines
    assert marks["norm rmsnorm"] == """! 'rmsnorm' means the built-in norm: use = "names-one/rmsnorm" chooses it"""
    assert marks["norm twice"] == """! names-two offers norm 'twice', too: use = "names-one/twice" chooses it"""
    assert marks["schedules mine"] == (
        "! its entry-point group nanogpt_kit.schedules is that of no kind; did you mean nanogpt_kit.schedule?: "
        "its author has to correct pyproject.toml"
    )
    assert marks["norm bad"].startswith("! the name 'bad name' has other characters than letters")
    assert marks["verb run"] == "! 'run' means the built-in verb: `nanogpt-kit names-one/run` calls it"
    assert "  verb       greet     Greets." in lines
    statuses = {one["name"]: one["status"] for one in json.loads(command("plugins", "list", "names-one", "--json").out)}
    assert statuses == {
        "rmsnorm": "shadowed",
        "twice": "ambiguous",
        "bad name": "unusual name",
        "mine": "unknown kind",
        "run": "shadowed",
        "greet": "usable",
    }
    assert "own_names" not in sys.modules


def test_a_damaged_distribution_is_listed_by_its_folder(install: Install, command: Command, tmp_path: Path) -> None:
    install("damaged", "[nanogpt_kit.norm]\nx = y:Z\n")
    (tmp_path / "site" / "damaged-1.0.dist-info" / "METADATA").unlink()
    last = command("plugins", "list").out.splitlines()[-2:]
    assert last[0].endswith("damaged-1.0.dist-info")
    assert last[1].startswith("  ! its metadata cannot be read: ")


TWO_CLASSES = '''\
"""Several norms.

Source: the module.
"""

from nanogpt_kit.api import Field, Norm


class Halved(Norm):
    """Halves everything.

    Source: the class.
    """

    power: int = Field(1, ge=0, description="power of the half")

    def build(self, ctx): ...


class Bare(Norm):
    def build(self, ctx): ...
'''


def test_show_has_the_docstring_of_the_class_or_else_of_its_module(install: Install, command: Command) -> None:
    points = "[nanogpt_kit.norm]\nhalved = two_norms:Halved\nbare = two_norms:Bare\n"
    install("two-classes", points, two_norms=TWO_CLASSES)
    shown = command("plugins", "show", "norm/halved").out.splitlines()
    assert shown[0] == "norm halved, from two-classes 1.0"
    assert shown[2:5] == ["Halves everything.", "", "Source: the class."]
    assert [line.split(None, 1) for line in shown[6:10]] == [
        ["use", '"halved"'],
        ["class", "two_norms:Halved"],
        ["file", sys.modules["two_norms"].__file__],
        ["suite", "nanogpt_kit.testing.norm:NormConformance"],
    ]
    assert "  power = 1   (whole number, at least 0)" in shown
    assert command("plugins", "show", "two-classes/bare").out.splitlines()[2] == "Several norms."
    (record,) = json.loads(command("plugins", "show", "norm:halved", "--json").out)
    assert (record["source"], record["status"], record["use"]) == ("the class.", "usable", "halved")


def test_show_says_that_a_bare_name_means_the_built_in(install: Install, command: Command) -> None:
    install("hides", "[nanogpt_kit.norm]\nrmsnorm = two_norms:Halved\n", two_norms=TWO_CLASSES)
    shown = command("plugins", "show", "hides/rmsnorm").out.splitlines()
    assert """  use      "hides/rmsnorm"; 'rmsnorm' means the built-in norm""" in shown


@pytest.mark.parametrize("kind", ["norm", "optimizer"])
def test_show_of_a_kind_lists_its_components(kind: str, command: Command) -> None:
    lines = command("plugins", "show", kind).out.splitlines()
    assert lines[0].startswith(f"kind {kind}: ")
    assert f"  components of kind {kind}:" in lines


def test_show_of_a_verb_imports_nothing(install: Install, command: Command) -> None:
    install("names-one", POINTS, own_names=SOURCE)
    shown = command("plugins", "show", "verb/greet").out
    assert shown.startswith("verb greet, from names-one 1.0\n\nGreets. At length.\n\n`nanogpt-kit greet --help`")
    assert "own_names" not in sys.modules


UNUSUAL = '''\
"""Unusual annotations."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

from nanogpt_kit.api import Field, Norm, Options, PathStr, Sampler, slot


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Inner(Options):
    x: int = 1


class Odd(Norm):
    bounded: Annotated[int, Field(ge=3, le=9, description="d")] = 4
    literal: Literal["a", "b", 3] = "a"
    samplers: tuple[Sampler, ...] | None = None
    slots: tuple[Sampler, ...] = slot(("top_k",))
    maybe: Norm | None = None
    inner: Inner = Inner()
    several: tuple[Inner, ...] = ()
    pattern: str = Field("SL", pattern="^[SL]+$", min_length=1)
    path: Path = Path("/tmp")
    expanded: PathStr | None = None
    colour: Colour = Colour.RED
    either: int | str | None = None
    both: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    pair: tuple[int, str] = (1, "x")
    nested: tuple[tuple[float, float], ...] = ()
    anything: object = None

    def build(self, ctx): ...
'''


def test_options_are_shown_in_the_words_of_toml(install: Install, command: Command) -> None:
    install("unusual", "[nanogpt_kit.norm]\nunusual = unusual_types:Odd\n", unusual_types=UNUSUAL)
    (shown,) = json.loads(command("plugins", "show", "unusual", "--json").out)
    assert {option["name"]: (option["type"], option["bounds"], option["default"]) for option in shown["options"]} == {
        "bounded": ("whole number", "3 to 9", 4),
        "literal": ('"a", "b" or 3', "", "a"),
        "samplers": ("list of components of kind sampler", "", None),
        "slots": ("list of components of kind sampler", "", ["top_k"]),
        "maybe": ("component of kind norm", "", None),
        "inner": ("table", "", {"x": 1}),
        "several": ("list of tables", "", []),
        "pattern": ("string", "not empty and matching ^[SL]+$", "SL"),
        "path": ("string", "", "/tmp"),
        "expanded": ("string", "", None),
        "colour": ('"red" or "blue"', "", "red"),
        "either": ("whole number or string", "", None),
        "both": ('number (above 0) or "auto"', "", "auto"),
        "pair": ("list: whole number, string", "", [1, "x"]),
        "nested": ("list of lists of 2 numbers", "", []),
        "anything": ("any value", "", None),
    }
    text = command("plugins", "show", "unusual").out
    for internal in ("pydantic", "Annotated", "MinLen", "nanogpt_kit.core", "validator", "NoneType"):
        assert internal not in text
