"""`plugins new` writes a component of any kind that works as it is: typed, tested, used in an experiment."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli
from click.testing import CliRunner

from nanogpt_kit.cli import main
from nanogpt_kit.cli.plugin_files import PluginTemplate, requirement, snake_case
from nanogpt_kit.core import kinds
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import KINDS
from nanogpt_kit.testing.mlp import MLPConformance

Command = Callable[..., Any]
by_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_local_component_passes_its_own_tests(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = command("plugins", "new", "MyGate", "--kind", "mlp", "--local")
    assert answer.out.splitlines() == [
        "written: my_gate.py, test_my_gate.py and my_gate.toml",
        "next:",
        "  nanogpt-kit plugins test my_gate.py",
        "  nanogpt-kit run my_gate.toml",
        "then edit my_gate.py, whose first lines say where, and test again",
    ]
    assert sorted(os.listdir()) == ["my_gate.py", "my_gate.toml", "state", "test_my_gate.py"]
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("test_my_gate")
    assert issubclass(module.TestMyGate, MLPConformance)
    module.TestMyGate().test_positions_are_independent()
    module.test_a_training_of_the_experiment_is_resumed_bit_for_bit(tmp_path / "training")
    for name in ("my_gate", "test_my_gate"):
        del sys.modules[name]


def test_its_experiment_needs_no_question_before_its_first_run(command: Command) -> None:
    command("plugins", "new", "gate", "--kind", "mlp", "--local")
    assert command("check", "gate.toml").code == 0
    Path("gate.py").write_text(Path("gate.py").read_text(encoding="utf-8").replace("nn.Tanh", "nn.SiLU"))
    assert command("check", "gate.toml").code == 0, "the author's own edits need none, either"


def test_a_package_has_all_that_a_distribution_needs(command: Command) -> None:
    Path("plugins").mkdir()
    answer = command("plugins", "new", "my-gate", "--kind", "mlp", "--output", "plugins")
    folder = Path("plugins", "nanogpt-kit-my-gate")
    assert answer.out.splitlines() == [
        f"written: {folder}{os.sep}, a package",
        "next:",
        f"  cd {folder}",
        "  pip install -e '.[dev]'",
        "  python -m pytest",
        "  nanogpt-kit run experiments/my_gate.toml",
        "then edit src/nanogpt_kit_my_gate/my_gate.py, whose first lines say where, and test again",
    ]
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {
        *("pyproject.toml", "README.md", "LICENSE", ".gitignore", ".github/workflows/plugin.yml"),
        *("src/nanogpt_kit_my_gate/__init__.py", "src/nanogpt_kit_my_gate/py.typed"),
        *("src/nanogpt_kit_my_gate/my_gate.py", "tests/test_my_gate.py", "experiments/my_gate.toml"),
    }
    project = tomli.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["entry-points"] == {"nanogpt_kit.mlp": {"my_gate": "nanogpt_kit_my_gate.my_gate:MyGate"}}
    assert project["project"]["dependencies"] == [requirement()] == ["nanogpt-kit>=0.2,<0.3"]
    texts = [path.read_text(encoding="utf-8") for path in folder.rglob("*") if path.is_file()]
    left = [word for word in ("TanhMLP", "tanh_mlp", "plugin_templates", "$package", "$kind") if word in "".join(texts)]
    assert not left


def test_the_name_of_a_package_may_have_the_prefix_of_all(command: Command) -> None:
    command("plugins", "new", "nanogpt-kit-my-gate", "--kind", "mlp")
    command("plugins", "new", "NanoGPT_Kit-Gate", "--kind", "mlp")
    assert sorted(os.listdir()) == ["nanogpt-kit-gate", "nanogpt-kit-my-gate"]


@by_kind
def test_each_kind_has_a_template_whose_experiment_chooses_it(kind: str, command: Command) -> None:
    template = PluginTemplate.of_kind(kind)
    assert command("plugins", "new", "mine", "--kind", kind, "--local").code == 0
    experiment = Experiment.load("mine.toml")
    chosen = [getattr(experiment, kind, None), getattr(experiment.model, kind, None)]
    parts = [one for value in chosen for one in (value if isinstance(value, tuple) else (value,))]
    names = {type(part).__name__ for part in parts}
    assert ("Mine" in names) == (kind != "format"), names
    assert template.names.class_name not in Path("mine.py").read_text(encoding="utf-8")


@by_kind
def test_a_class_never_has_a_name_that_the_template_uses(kind: str, command: Command) -> None:
    base = KINDS[kind].__name__
    assert command("plugins", "new", base, "--kind", kind, "--local").code == 0
    tree = ast.parse(Path(f"{snake_case(base)}.py").read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    imported = {alias.asname or alias.name for node in imports for alias in node.names}
    defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    assert not imported & defined
    assert any(name.startswith(base.capitalize()) for name in defined)


MISTAKES = {
    ("my gate!", "mlpp"): "--kind: unknown kind 'mlpp'; did you mean 'mlp'? Allowed: attention, callback, dataset",
    ("3d", "mlp"): "'3d' is not a name in Python: begin with a letter",
    ("größe", "mlp"): "'größe' is not a name in Python",
    ("!!", "mlp"): "'!!' is not a name in Python",
    ("my.gate", "mlp"): "'my.gate' is not a name in Python",
    ("plugins/gate", "mlp"): "'plugins/gate' is a path; NAME is the name alone, and --output the folder",
    ("conftest", "mlp"): "pytest would take conftest.py for tests; choose a name without test at its ends",
    ("AUX", "mlp"): "no file can be named aux.py on Windows; choose another name",
    ("a" * 31, "mlp"): f"'{'a' * 31}' has 31 characters; choose a name of at most 30",
    ("lambda", "mlp"): "'lambda' is a keyword of Python; choose another name",
    ("nan", "mlp"): "'nan' is a value in TOML, where experiments name the component; choose another name",
    ("test-gate", "mlp"): "pytest would take test_gate.py for tests; choose a name without test at its ends",
    ("GELU", "mlp"): "the bare name 'gelu' means the built-in mlp; choose another name",
}


@pytest.mark.parametrize(("words", "message"), MISTAKES.items(), ids=[name for name, _ in MISTAKES])
def test_a_mistake_is_one_sentence_and_writes_nothing(
    words: tuple[str, str], message: str, command: Command, tmp_path: Path
) -> None:
    answer = command("plugins", "new", words[0], "--kind", words[1])
    assert answer.code == 2
    assert answer.err.startswith(f"error: {message}")
    assert answer.err.count("\n") == 1
    assert os.listdir(tmp_path) == []


@by_kind
def test_the_longest_name_has_lines_that_the_packages_linter_takes(kind: str, command: Command) -> None:
    assert command("plugins", "new", "a" * 30, "--kind", kind).code == 0
    files = [path for path in Path().rglob("*.py") if path.is_file()]
    assert max(len(line) for path in files for line in path.read_text(encoding="utf-8").splitlines()) <= 120


@by_kind
def test_the_name_of_a_template_is_no_word_of_its_docstring(kind: str) -> None:
    template = PluginTemplate.of_kind(kind)
    docstring = ast.get_docstring(ast.parse(template.component)) or ""
    assert not re.search(rf"\b{template.names.component}\b", docstring), "a new name would stand there"


def test_a_class_hides_no_builtin(command: Command) -> None:
    assert command("plugins", "new", "warning", "--kind", "mlp", "--local").code == 0
    assert "class WarningComponent(MLP)" in Path("warning.py").read_text(encoding="utf-8")


def test_a_missing_kind_is_a_mistake(command: Command) -> None:
    answer = command("plugins", "new", "gate")
    assert (answer.code, answer.err.splitlines()[0]) == (2, "error: missing option '--kind'")


def test_nothing_is_overwritten(command: Command) -> None:
    Path("test_gate.py").touch()
    Path("nanogpt-kit-gate").mkdir()
    for more, path in ((["--local"], "test_gate.py"), ([], "nanogpt-kit-gate")):
        answer = command("plugins", "new", "gate", "--kind", "mlp", *more)
        assert answer.code == 2
        remedy = "choose another name, or a folder with --output"
        assert answer.err == f"error: {path} exists, and nothing is overwritten; {remedy}\n"
    assert sorted(os.listdir()) == ["nanogpt-kit-gate", "test_gate.py"]
    assert os.listdir("nanogpt-kit-gate") == []


def test_a_local_file_hides_no_module(command: Command) -> None:
    answer = command("plugins", "new", "numpy", "--kind", "mlp", "--local")
    message = "error: numpy.py would hide the installed module 'numpy'; choose another name\n"
    assert (answer.code, answer.err, os.listdir()) == (2, message, [])
    assert command("plugins", "new", "numpy", "--kind", "mlp").code == 0, "in a package it hides none"


def test_the_name_of_another_distributions_component_is_refused(command: Command, install: Command) -> None:
    install("ngk-gates", "[nanogpt_kit.mlp]\ngate = ngk_gates:Gate\n")
    answer = command("plugins", "new", "gate", "--kind", "mlp")
    assert answer.code == 2
    assert answer.err.startswith("error: ngk-gates 1.0 has the mlp 'gate'")
    assert command("plugins", "new", "gate", "--kind", "norm").code == 0


def test_a_package_that_would_replace_an_installed_one_is_refused(command: Command, install: Command) -> None:
    install("nanogpt-kit-gate", "[nanogpt_kit.mlp]\ngate = ngk_gates:Gate\n")
    answer = command("plugins", "new", "gate", "--kind", "norm")
    reason = "nanogpt-kit-gate 1.0 is installed, and would be replaced by the new package; choose another name"
    assert (answer.code, answer.err, os.listdir()) == (2, f"error: {reason}\n", ["site"])
    assert command("plugins", "new", "gate", "--kind", "mlp", "--local").code == 2
    assert command("plugins", "new", "gate", "--kind", "norm", "--local").code == 0, "a file replaces none"


def test_a_folder_that_does_not_exist_or_cannot_be_written_is_named(command: Command) -> None:
    answer = command("plugins", "new", "gate", "--kind", "mlp", "--output", "no where")
    remedy = "error: --output: the folder 'no where' does not exist; `mkdir -p 'no where'` makes it\n"
    assert (answer.code, answer.err) == (2, remedy)
    answer = command("plugins", "new", "gate", "--kind", "mlp", "--output", __file__)
    assert (answer.code, answer.err) == (2, f"error: --output: {__file__} is not a folder\n")
    answer = command("plugins", "new", "gate", "--kind", "mlp", "--output", "/proc")
    assert (answer.code, answer.err) == (2, "error: /proc: cannot be written: No such file or directory\n")
    assert os.listdir() == []


def test_the_versions_of_the_kit_that_a_package_requires_have_the_same_public_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for version, expected in {"0.2.0": ">=0.2,<0.3", "0.9.3": ">=0.9,<0.10", "1.4.0": ">=1.4,<2"}.items():
        monkeypatch.setattr("nanogpt_kit.cli.plugin_files.__version__", version)
        assert requirement() == f"nanogpt-kit{expected}"


def test_kinds_are_those_of_the_built_in_components() -> None:
    folder = Path(kinds.__file__).parents[2] / "cli" / "plugin_templates"
    for part, pattern in {"component": "{}.py", "suite": "test_{}.py", "experiment": "{}.toml"}.items():
        files = {path.name for path in (folder / part).iterdir() if not path.name.startswith("__")}
        assert files == {pattern.format(kind) for kind in KINDS}


# All kinds, in one environment


def done(words: list[str], folder: Path, path: str = "") -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (path, os.environ.get("PYTHONPATH"))))}
    found = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, f"{shlex.join(words)}\n{found.stdout[-3000:]}\n{found.stderr[-3000:]}"
    return found.stdout


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of every kind in packages/, their wheels in wheels/, all of which are installed in site/."""
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "packages").mkdir()
    for kind in KINDS:
        words = ["plugins", "new", f"own-{kind}", "--kind", kind, "--output", str(folder / "packages")]
        assert CliRunner().invoke(main, words).exit_code == 0
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    alone = ["--no-deps", "--no-build-isolation", "--no-index"]
    sources = [f"./packages/nanogpt-kit-own-{kind}" for kind in KINDS]
    done([*pip, "wheel", *alone, "--wheel-dir", "wheels", *sources], folder)
    wheels = sorted(str(path) for path in (folder / "wheels").iterdir())
    assert len(wheels) == len(KINDS)
    done([*pip, "install", *alone, "--target", "site", *wheels], folder)
    return folder


@pytest.mark.slow
def test_packages_of_all_kinds_pass_their_tests(packages: Path) -> None:
    tests = [f"packages/nanogpt-kit-own-{kind}/tests" for kind in KINDS]
    settings = ["-c", f"packages/nanogpt-kit-own-{next(iter(KINDS))}/pyproject.toml", "--rootdir", "."]
    answer = done([sys.executable, "-m", "pytest", "-q", *settings, *tests], packages, str(packages / "site"))
    assert " passed" in answer


@pytest.mark.slow
def test_packages_of_all_kinds_are_clean(packages: Path) -> None:
    pytest.importorskip("mypy")
    for kind in KINDS:
        folder = packages / "packages" / f"nanogpt-kit-own-{kind}"
        for words in (["ruff", "check"], ["ruff", "format", "--check"]):
            done([sys.executable, "-m", *words, "--no-cache", "."], folder)
    names = [word for kind in KINDS for word in ("-p", f"nanogpt_kit_own_{kind}")]
    settings = str(packages / "packages" / "nanogpt-kit-own-mlp" / "pyproject.toml")
    done([sys.executable, "-m", "mypy", "--config-file", settings, *names], packages / "site")


@pytest.mark.slow
@by_kind
def test_the_wheel_of_each_kind_is_tested_by_plugins_test(kind: str, packages: Path) -> None:
    (wheel,) = (packages / "wheels").glob(f"nanogpt_kit_own_{kind}-*.whl")
    done([sys.executable, "-m", "nanogpt_kit", "plugins", "test", str(wheel)], packages)
