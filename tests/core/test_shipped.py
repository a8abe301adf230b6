"""Experiments are found by path and by name, in a clone and in a wheel; what is not one is explained."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from nanogpt_kit.core import shipped
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.layers import Layers
from nanogpt_kit.core.shipped import Header, find_experiment, read_header, shipped_experiments

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
PART = """\
from nanogpt_kit.api import Callback


class Part(Callback):
    def build(self, run):
        return self
"""
LOCAL = 'extends = "quickstart"\nname = "mine"\n'


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of shipped experiments of a package that has two: `base`, with a component file, and `above` it."""
    folder = tmp_path / "site" / "nanogpt_kit" / "experiments"
    folder.mkdir(parents=True)
    (folder / "base.toml").write_text(f'components = ["part.py"]\nextends = "{EXPERIMENTS / "quickstart.toml"}"\n')
    (folder / "above.toml").write_text('extends = "base"\nname = "above"\n\n[model]\nn_layer = 1\n')
    (folder / "part.py").write_text(PART)
    monkeypatch.setattr(shipped, "PACKAGE", folder.parent)
    monkeypatch.setattr(shipped, "FOLDER", folder)
    return folder


def test_every_file_is_shipped_in_the_order_of_its_group() -> None:
    found = shipped_experiments()
    assert list(found) == [name for names in shipped.GROUPS.values() for name in names]
    assert set(found.values()) == set(EXPERIMENTS.glob("*.toml"))


def test_a_name_is_that_of_a_shipped_experiment() -> None:
    assert find_experiment("quickstart") == find_experiment("quickstart.toml") == EXPERIMENTS / "quickstart.toml"
    assert Experiment.load("quickstart", ["model.n_layer=2"]).name == "quickstart"


def test_a_file_in_the_current_folder_wins() -> None:
    Path("quickstart.toml").write_text(LOCAL)
    assert find_experiment("quickstart") == find_experiment("quickstart.toml") == Path("quickstart.toml")
    assert Experiment.load("quickstart").name == "mine"


def test_a_folder_or_another_file_of_that_name_does_not_win() -> None:
    Path("quickstart").mkdir()
    Path("my_text").write_text("text")
    assert find_experiment("quickstart") == EXPERIMENTS / "quickstart.toml"
    assert find_experiment("my_text") == EXPERIMENTS / "my_text.toml"


def test_a_path_is_taken_as_it_is() -> None:
    Path("sub").mkdir()
    Path("sub/quickstart.toml").write_text(LOCAL)
    assert find_experiment("sub/quickstart.toml") == Path("sub/quickstart.toml")
    with pytest.raises(KitError, match=r"^no experiment 'sub/quickstart'; did you mean 'sub/quickstart\.toml'\?"):
        find_experiment("sub/quickstart")


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("quikstart", "; did you mean 'quickstart'? "),
        ("experiments/quickstart.toml", "; did you mean 'quickstart'? "),
        ("sweep-lr", "; did you mean 'sweep_lr'? "),
        ("minee", "; did you mean 'mine'? "),
        ("zzz", ". "),
        ("", ". "),
        ("a\0b", ". "),
        ("x" * 5000, ". "),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_and_with_all(text: str, suggestion: str) -> None:
    Path("mine.toml").write_text(LOCAL)
    Path("pyproject.toml").write_text('[project]\nname = "x"\n')
    Path("broken.toml").write_text("[model\n")
    Path("large.toml").write_text("#" * 200_000)
    with pytest.raises(KitError) as refused:
        find_experiment(text)
    message = refused.value.faults[0].message
    assert message.startswith(
        f"no experiment {text!r}{suggestion}In the current folder: broken.toml, mine.toml. Shipped: quickstart, "
    )
    assert message.endswith("`nanogpt-kit new FILE.toml` writes a new one")


@pytest.mark.parametrize(
    ("text", "what", "command"),
    [
        ("notes", "a folder", "nanogpt-kit new notes.toml --source notes"),
        ("a book.txt", "not a .toml file", "nanogpt-kit new 'a book.toml' --source 'a book.txt'"),
    ],
)
def test_text_in_place_of_an_experiment_is_answered_with_how_to_train_on_it(text: str, what: str, command: str) -> None:
    Path("notes").mkdir()
    Path("a book.txt").write_text("text")
    with pytest.raises(KitError) as refused:
        find_experiment(text)
    assert (
        str(refused.value)
        == f"{text!r} is {what}, so it is not an experiment; `{command}` writes one that trains on its text"
    )


def test_the_folder_of_a_run_is_answered_with_its_experiment() -> None:
    Path("run").mkdir()
    Path("run/experiment.toml").write_text(LOCAL)
    with pytest.raises(KitError, match=r"^'run' is the folder of a run, whose experiment is run.experiment\.toml$"):
        find_experiment("run")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_cannot_be_read_is_not_unknown() -> None:
    Path("closed").mkdir(mode=0)
    with pytest.raises(KitError, match="Permission denied"):
        Experiment.load("closed/mine.toml")


# extends


@pytest.mark.parametrize("base", ["quickstart", "quickstart.toml"])
def test_extends_falls_back_to_a_shipped_experiment(base: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(f'extends = "{base}"\nname = "a"\n')
    experiment = Experiment.load(tmp_path / "a.toml")
    assert (experiment.name, experiment.model.block_size) == ("a", 64)
    (tmp_path / "quickstart.toml").write_text('extends = "shakespeare_char"\n')
    assert Experiment.load(tmp_path / "a.toml").model.block_size == 256


@pytest.mark.parametrize(
    ("base", "meant"),
    [
        ("../experiments/quickstart.toml", "the shipped 'quickstart'"),
        ("bse", "'base.toml'"),
        ("./base", "'./base.toml'"),
        ("sub/inne.toml", "'sub/inner.toml'"),
    ],
)
def test_a_base_that_does_not_exist_is_suggested(base: str, meant: str) -> None:
    Path("sub").mkdir()
    for name in ("base", "sub/inner"):
        Path(f"{name}.toml").write_text(LOCAL)
    Path("a.toml").write_text(f'extends = "{base}"\n')
    with pytest.raises(KitError, match=rf"^a\.toml:1: extends: .*; did you mean {re.escape(meant)}\?$"):
        Experiment.load("a.toml")


@pytest.mark.parametrize("base", ["", ".", "sub", "/", "a\\u0000b"])
def test_a_base_that_is_no_file_is_reported_at_the_line_of_extends(base: str) -> None:
    Path("sub").mkdir()
    Path("a.toml").write_text(f'name = "a"\nextends = "{base}"\n')
    with pytest.raises(KitError, match=r"^a\.toml:2: extends: .*cannot be read: "):
        Experiment.load("a.toml")


def test_extends_prefers_the_file_beside_the_one_that_extends_to_the_current_folder(tmp_path: Path) -> None:
    Path("base.toml").write_text("a = 1\n")
    (tmp_path / "base.toml").write_text("a = 2\n")
    (tmp_path / "top.toml").write_text('extends = "base"\n')
    assert Layers.load(tmp_path / "top.toml").values == {"a": 2}


def test_a_file_may_extend_the_shipped_experiment_of_its_own_name() -> None:
    Path("quickstart.toml").write_text('extends = "quickstart"\n\n[model]\nn_layer = 7\n')
    experiment = Experiment.load("quickstart")
    assert (experiment.name, experiment.model.n_layer, experiment.model.n_embd) == ("quickstart", 7, 128)


def test_a_base_that_does_not_exist_is_answered_with_the_shipped_one_of_nearly_that_name() -> None:
    Path("a.toml").write_text('extends = "quikstart"\n')
    with pytest.raises(KitError, match=r"^a\.toml:1: extends: quikstart: .* did you mean the shipped 'quickstart'\?$"):
        Experiment.load("a")
    Path("a.toml").write_text('extends = "elsewhere/nothing.toml"\n')
    with pytest.raises(KitError, match=r"^a\.toml:1: extends: .*relative to the file that extends\)$"):
        Experiment.load("a")


# Locations, and component files


def test_a_location_in_a_shipped_file_is_relative_to_the_package(package: Path) -> None:
    assert Layers.load(Path("above")).location(("model", "n_layer")) == "nanogpt_kit/experiments/above.toml:5"
    assert Layers.load(Path("above")).location(()) == "nanogpt_kit/experiments/above.toml"
    Path("above.toml").write_text("a = 1\n")
    assert Layers.load(Path("above")).location(("a",)) == "above.toml:1"


def test_a_component_file_that_a_shipped_experiment_names_is_beside_it(package: Path) -> None:
    Path("mine.toml").write_text('extends = "above"\nname = "mine"\ncallback = ["part"]\n')
    for name in ("above", "mine"):
        assert Experiment.load(name, trust_code=True).component_files == (package / "part.py",)


def test_a_component_file_is_relative_to_the_file_that_names_it(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "part.py").write_text(PART)
    (base / "base.toml").write_text('extends = "quickstart"\ncomponents = ["part.py"]\ncallback = ["part"]\n')
    (tmp_path / "top.toml").write_text('extends = "base/base.toml"\nname = "top"\n')
    assert Experiment.load(tmp_path / "top.toml", trust_code=True).component_files == (base / "part.py",)


def test_a_component_file_on_the_command_line_is_in_the_current_folder_where_the_experiment_is_a_name() -> None:
    Path("part.py").write_text(PART)
    experiment = Experiment.load("quickstart", ["components=['part.py']", "callback=['part']"])
    assert experiment.component_files == (Path("part.py"),)


# Headers


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("# What.\n# Expected: 1.\n# More.\nname = 1\n", Header("What.", "1.")),
        ("#:schema x.json\n# What.\n# Expected: 1.\n", Header("What.", "1.")),
        ("# What.\n# More.\n# Expected: 1.\n", Header("What.", "1.")),
        ("# What.\nname = 1\n# Expected: 1.\n", Header("What.", "")),
        ("name = 1\n# What.\n", Header("", "")),
        ("#\n#  What.\n", Header("What.", "")),
        ("", Header("", "")),
    ],
)
def test_a_header_is_the_comment_at_the_top(text: str, header: Header, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(text)
    assert read_header(tmp_path / "a.toml") == header
