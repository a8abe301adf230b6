"""`nanogpt-kit plugins`, what it costs to ask, and what every built-in component owes to those who ask."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import nanogpt_kit
from nanogpt_kit import __version__
from nanogpt_kit.__main__ import run_command
from nanogpt_kit.cli import main
from nanogpt_kit.core.entry import Entry
from nanogpt_kit.core.kinds import load_entry
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION

LIGHT = [["--help"], ["--version"], ["plugins", "list"], ["plugins", "list", "--json"], ["run", "--help"]]
LIGHT += [["runs", "--help"], ["runs", "list"], ["runs", "list", "--sort", "seed", "--json"]]
COMPONENTS = Path(nanogpt_kit.__path__[0]) / "components"
BUILT_IN = [entry for entry in Registry.installed().entries if entry.distribution == KIT_DISTRIBUTION]


def ask(*arguments: str) -> str:
    answer = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert answer.exit_code == 0
    return answer.stdout


def test_asking_what_is_there_imports_nothing_heavy() -> None:
    """One process for all commands: what one of them imported would be found after it."""
    code = f"""
import sys
from nanogpt_kit.cli import main
heavy = {{"torch", "numpy", "datasets", "optuna", "tensorboard"}}
for arguments in {LIGHT}:
    main(arguments, standalone_mode=False)
    loaded = [name for name in sys.modules if name in heavy or name.startswith("nanogpt_kit.components")]
    assert not loaded, (arguments, loaded)
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("arguments", [["--help"], ["plugins", "list"]], ids=" ".join)
def test_asking_what_is_there_takes_no_time(arguments: list[str]) -> None:
    def seconds() -> float:
        start = time.perf_counter()
        command = [sys.executable, "-m", "nanogpt_kit", *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start

    took = [seconds()]
    while min(took) > 0.3 and len(took) < 5:  # another process may hold the cores for a while
        time.sleep(0.5)
        took.append(seconds())
    assert min(took) <= 0.3


def test_the_version_is_told() -> None:
    assert ask("--version") == f"nanogpt-kit, version {__version__}\n"


def test_show_tells_what_a_component_is_and_every_option() -> None:
    shown = ask("plugins", "show", "gpt")
    assert shown.startswith(f"model gpt, from nanogpt-kit {__version__}\n\nGPT: ")
    lines = [line.strip() for line in shown.splitlines()]
    at = next(number for number, line in enumerate(lines) if line.startswith("n_head = 12   (whole number"))
    assert lines[at + 1].startswith("attention heads")
    assert 'loss = "cross_entropy"   (component of kind loss)' in lines
    assert any(line.startswith("block_size = ") for line in lines)


def test_show_tells_a_required_option_without_a_default() -> None:
    shown = ask("plugins", "show", "dataset:text").splitlines()
    assert "  source   (string or list of strings, required)" in shown
    decay_steps = "  decay_steps   (whole number, at least 1, unset by default)"
    assert decay_steps in ask("plugins", "show", "cosine").splitlines()


@pytest.mark.parametrize("entry", BUILT_IN, ids=lambda entry: f"{entry.kind}:{entry.name}")
def test_the_type_of_an_option_is_shown_without_its_validators(entry: Entry) -> None:
    shown = json.loads(ask("plugins", "show", f"{entry.kind}:{entry.name}", "--json"))
    types = [option["type"] for one in shown for option in one["options"]]
    assert [name for name in types if "Annotated" in name or " at 0x" in name] == []


@pytest.mark.parametrize("name", ["cosine", "schedule:cosine", "nanogpt-kit/cosine", "schedule:nanogpt-kit/cosine"])
def test_a_name_may_be_qualified_by_kind_and_distribution(name: str) -> None:
    (shown,) = json.loads(ask("plugins", "show", name, "--json"))
    assert (shown["kind"], shown["name"]) == ("schedule", "cosine")
    options = {option["name"]: option for option in shown["options"]}
    assert list(options) == ["target", "warmup_steps", "decay_steps", "final_fraction"]
    assert options["warmup_steps"]["default"] == 100
    assert options["decay_steps"]["default"] is None
    assert not options["decay_steps"]["required"]


def test_of_a_component_file_it_says_where_its_options_are(tmp_path: Path, command: Callable[..., Any]) -> None:
    (tmp_path / "mine.py").write_text("", encoding="utf-8")
    refused = command("plugins", "show", tmp_path / "mine.py")
    expected = "mine.py is a file, not an installed component: its docstring and its options are in it"
    assert (refused.code, refused.out) == (2, "")
    assert expected in " ".join(refused.err.split())


@pytest.mark.parametrize("name", ["gtp", "model:gtp", "norm:gpt", ""])
def test_an_unknown_name_is_the_users_mistake(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["nanogpt-kit", "plugins", "show", name])
    assert run_command() == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: no component {name!r} is installed")
    assert "Allowed: adamw, " in told
    assert ("did you mean 'gpt'?" in told) == bool(name)


def test_any_default_can_be_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd_defaults.py").write_text(
        "from nanogpt_kit.api import Field, Norm, Options\n"
        "class Inner(Options):\n"
        "    x: int = 1\n"
        "class Odd(Norm):\n"
        "    made: tuple[int, ...] = Field(default_factory=lambda: (1, 2))\n"
        "    table: Inner = Inner()\n"
        "    def build(self, ctx): ...\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = Registry([Entry("norm", "odd", "odd-plugin", "1.0", "odd_defaults:Odd")])
    monkeypatch.setattr(Registry, "installed", classmethod(lambda cls: registry))
    assert "\n  made = [1, 2]   (list of whole numbers)" in ask("plugins", "show", "odd")
    (shown,) = json.loads(ask("plugins", "show", "odd", "--json"))
    assert shown["options"][1]["default"] == {"x": 1}


def test_a_component_of_a_kind_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    registry = Registry([Entry("normm", "odd", "odd-plugin", "1.0", "json:JSONDecoder")])
    monkeypatch.setattr(Registry, "installed", classmethod(lambda cls: registry))
    monkeypatch.setattr(sys, "argv", ["nanogpt-kit", "plugins", "show", "odd"])
    assert run_command() == 2
    message = capsys.readouterr().err
    assert "odd-plugin 1.0 (entry point odd = 'json:JSONDecoder' in group nanogpt_kit.normm): unknown kind" in message
    assert "'normm'; did you mean 'norm'?" in message


# --- what a built-in component owes -----------------------------------------------------------------------------


def imports_of_ours(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {f"{'.' * node.level}{node.module or ''}" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name for name in imported if name.startswith((".", "nanogpt_kit"))}


def parts_beside(path: Path) -> set[str]:
    """The modules in the folder of a component that are not components: parts of one."""
    components = {entry.target.partition(":")[0] for entry in BUILT_IN}
    package = f"nanogpt_kit.components.{path.parent.name}"
    return {f"{package}.{file.stem}" for file in path.parent.glob("*.py") if file.stem != "__init__"} - components


def parts_of(path: Path) -> set[Path]:
    """The files beside a component that it imports, and those that these import."""
    imported = {name.rpartition(".")[2] for name in imports_of_ours(path)}
    beside = {file for name in imported if (file := path.with_name(f"{name}.py")).exists()}
    return beside.union(*map(parts_of, beside))


def test_there_are_built_in_components_and_each_file_is_one_or_a_part_that_one_imports() -> None:
    files = {(path.parent.name, path.stem) for path in COMPONENTS.glob("*/*.py") if path.stem != "__init__"}
    assert ("model", "gpt") in files
    components = {(entry.kind, entry.name) for entry in BUILT_IN}
    assert components <= files
    for kind, name in components:
        files -= {(kind, part.stem) for part in parts_of(COMPONENTS / kind / f"{name}.py")}
    assert files == components


@pytest.mark.parametrize("entry", BUILT_IN, ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_a_built_in_component_is_one_file_one_name_one_explanation(entry: Entry) -> None:
    module, _, name = entry.target.partition(":")
    assert module == f"nanogpt_kit.components.{entry.kind}.{entry.name}"
    assert name.lower().replace("_", "") == entry.name.replace("_", "")  # None_: a keyword, as PEP 8 spells it
    component = load_entry(entry)
    assert (sys.modules[module].__doc__ or "").strip()
    (shown,) = json.loads(ask("plugins", "show", f"{entry.kind}:{entry.name}", "--json"))
    assert [option["name"] for option in shown["options"] if not option["description"]] == []
    assert list(component.model_fields) == [option["name"] for option in shown["options"]]


@pytest.mark.parametrize("entry", BUILT_IN, ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_a_built_in_component_stands_on_the_api_alone(entry: Entry) -> None:
    path = COMPONENTS / entry.kind / f"{entry.name}.py"
    parts = parts_beside(path)
    assert imports_of_ours(path) - parts == {"nanogpt_kit.api"}
    for part in parts:
        assert imports_of_ours(path.with_name(f"{part.rpartition('.')[2]}.py")) - parts <= {"nanogpt_kit.api"}
