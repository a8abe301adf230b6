"""The code of a run is identified by the source that decides its results, whatever its version is."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from nanogpt_kit.core import code_identity as identities
from nanogpt_kit.core.code_identity import KIT, NOT_IN_A_RUN, code_identity, hash_source, source_identity, source_root
from nanogpt_kit.core.entry import Entry
from nanogpt_kit.core.experiment import Experiment

MLP = "from nanogpt_kit.components.mlp.gelu import GELU\n\n\nclass Mine(GELU):\n    pass\n"
PLUGIN = {"plug/__init__": "", "plug/mlp": "from plug.parts import A\n" + MLP, "plug/parts": "A = 1\n"}
Install = Callable[..., None]


def append(path: Path, text: str = "# edited\n") -> None:
    """An edit that a clock of whole seconds does not show is seen by the size."""
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the kit, whose files are hashed in place of the real ones."""
    folder = tmp_path / "kit"
    shutil.copytree(KIT, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(identities, "KIT", folder)
    return folder


@pytest.mark.parametrize("file", ["train/trainer.py", "nn/loss.py", "core/hooks.py", "data/batches.py", "api.py"])
def test_an_edit_where_a_run_is_computed_changes_it(kit: Path, file: str) -> None:
    experiment = Experiment.load("quickstart")
    before = code_identity(experiment)
    append(kit / file)
    assert code_identity(experiment) != before


@pytest.mark.parametrize(
    "file", ["cli/run.py", "sweep/session.py", "comparison/record.py", "__main__.py", "bench/new.py"]
)
def test_an_edit_where_runs_are_started_and_judged_does_not(kit: Path, file: str) -> None:
    experiment = Experiment.load("quickstart")
    before = code_identity(experiment)
    (kit / file).touch()
    append(kit / file)
    assert code_identity(experiment) == before


def test_what_is_left_out_exists() -> None:
    assert {path.name for path in KIT.iterdir()} >= NOT_IN_A_RUN


def test_of_built_in_components_the_kinds_in_use_are_included(kit: Path) -> None:
    assert source_root("nanogpt_kit.components.mlp.gelu") == KIT / "components" / "mlp"
    before = code_identity(Experiment.load("quickstart"))
    append(kit / "components" / "mlp" / "gelu.py")  # this copy is not where the component was imported from
    assert code_identity(Experiment.load("quickstart")) == before
    averaged = Experiment.load("quickstart", ["callback=['ema']"])
    assert code_identity(averaged) != before


def test_an_edit_anywhere_in_the_package_of_a_plugin_changes_it(tmp_path: Path, tiny: Path, install: Install) -> None:
    install("plug", "[nanogpt_kit.mlp]\nmine = plug.mlp:Mine\n", **PLUGIN)
    used, unused = Experiment.load(tiny, ["model.mlp=mine"]), Experiment.load(tiny)
    before = code_identity(used), code_identity(unused)
    assert before[0] != before[1]
    append(tmp_path / "site" / "plug" / "parts.py")
    after = code_identity(used), code_identity(unused)
    assert after[0] != before[0]
    assert after[1] == before[1]
    assert code_identity(used) == after[0]


def test_caches_and_hidden_files_are_not_source(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "a.py").write_text("a = 1\n")
    before = hash_source(package)
    for name in ("__pycache__/a.py", ".hidden/a.py", ".a.py", "notes.txt"):
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text("b = 2\n")
    assert hash_source(package) == before
    (package / "kernel.cu").write_text("// compiled when it is imported\n")
    assert hash_source(package) != before


def test_a_file_that_keeps_its_size_is_read_again_once_its_time_changes(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("a = 1\n")
    before = hash_source(file)
    file.write_text("a = 2\n")
    os.utime(file, (1e9, 1e9))
    assert hash_source(file) != before


def test_a_component_file_is_identified_by_the_bytes_that_were_executed(tmp_path: Path, tiny: Path) -> None:
    def load(folder: str, content: str) -> Experiment:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "mine.py").write_text(content, encoding="utf-8")
        return Experiment.load(tiny, [f"components=['{folder}/mine.py']", "model.mlp=mine"], trust_code=True)

    first = load("here", MLP)
    before = code_identity(first)
    append(tmp_path / "here" / "mine.py")
    assert code_identity(first) == before
    assert code_identity(load("there", MLP)) == before
    assert code_identity(load("here", MLP + "# edited\n")) != before


def test_what_a_component_file_imports_from_loose_files_is_included(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "loose_parts.py").write_text("import loose_rest\n", encoding="utf-8")
    (tmp_path / "loose_rest.py").write_text("A = 1\n", encoding="utf-8")
    (tmp_path / "mine.py").write_text("import numpy\nimport loose_parts\n" + MLP, encoding="utf-8")
    mine = Experiment.load(tiny, [f"components=['{tmp_path}/mine.py']", "model.mlp=mine"], trust_code=True)
    plain = Experiment.load(tiny)
    before, of_plain = code_identity(mine), code_identity(plain)
    assert code_identity(mine) == before
    append(tmp_path / "loose_rest.py")
    assert (code_identity(mine) == before, code_identity(plain)) == (False, of_plain)


def test_files_that_options_name_are_included_and_the_text_is_not(tmp_path: Path, tiny: Path) -> None:
    def identity(*overrides: str) -> str:
        return code_identity(Experiment.load(tiny, overrides))

    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("questions", encoding="utf-8")
    options = [f"evaluator=[{{use='perplexity', file='{tmp_path / name}'}}]" for name in ("a.txt", "b.txt")]
    before = identity(options[0])
    assert identity(options[1]) == before != identity("evaluator=['loss']")
    (tmp_path / "a.txt").write_text("other questions", encoding="utf-8")
    assert identity(options[0]) != before
    plain = identity()
    append(tmp_path / "text.txt")
    assert identity() == plain


def test_without_source_the_version_identifies_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as file:
        file.writestr("packed_plug.py", "A = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path / "packed.zip"))
    importlib.import_module("packed_plug")
    try:
        entry = Entry("mlp", "mine", "packed", "2.5", "packed_plug:Mine")
        assert source_identity("packed_plug", entry) == "packed/mine 2.5"
    finally:
        del sys.modules["packed_plug"]


def test_a_module_of_a_namespace_package_is_identified_alone(tmp_path: Path, install: Install) -> None:
    install("plug", "", **{"shared_space/inner": "A = 1\n"})
    importlib.import_module("shared_space.inner")
    assert source_root("shared_space.inner") == tmp_path / "site" / "shared_space" / "inner.py"
    del sys.modules["shared_space"]
