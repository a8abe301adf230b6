"""The suite for formats fails where a format is broken: each break is seen by the tests beside it, with the remedy."""

from __future__ import annotations

import inspect
import json
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from nanogpt_kit.api import ExportedModel, Field, Format, ImportedModel, Multipliers
from nanogpt_kit.components.format.gpt2_export import GPT2_OPTIONS
from nanogpt_kit.components.format.gpt2_weight_files import WEIGHTS
from nanogpt_kit.components.format.huggingface import CONFIG, HuggingFace
from nanogpt_kit.testing.format import FormatConformance

FAILURES = (AssertionError, pytest.fail.Exception)


class DoesNothing(Format):
    pass


class SaysNothing(HuggingFace):
    sources = ""


class NeedsAnOption(HuggingFace):
    name: str = Field(description="name of the file")


class SwapsMatrices(HuggingFace):
    def write(self, folder: Path, exported: ExportedModel) -> None:
        super().write(folder, exported)
        tensors = load_file(folder / WEIGHTS)
        name = "transformer.h.0.attn.c_proj.weight"  # square, so that no shape tells
        save_file({**tensors, name: tensors[name].t().contiguous()}, folder / WEIGHTS)


class DetectsNothing(HuggingFace):
    def detects(self, path: Path) -> bool:
        return False


class LooksLikeOurs(HuggingFace):
    def write(self, folder: Path, exported: ExportedModel) -> None:
        super().write(folder, exported)
        (folder / "experiment.toml").touch()


class DetectsAnyFolder(HuggingFace):
    def detects(self, path: Path) -> bool:
        return path.is_dir()


class DetectsAnyModel(HuggingFace):
    def detects(self, path: Path) -> bool:
        return (path / WEIGHTS).exists()


class DetectsWithoutCare(HuggingFace):
    def detects(self, path: Path) -> bool:
        return path.is_dir() and bool(json.loads((path / CONFIG).read_text())["model_type"] == "gpt2")


class HoldsAll(HuggingFace):
    def check_model(self, exported: ExportedModel) -> None:
        pass


class IgnoresWindows(HuggingFace):
    def check_model(self, exported: ExportedModel) -> None:
        exported.check_options("GPT-2", {**GPT2_OPTIONS, "attention.window": (None, 3)})


class TakesTheFirstOfAList(HuggingFace):
    def check_model(self, exported: ExportedModel) -> None:
        exported.check_options("GPT-2", {**GPT2_OPTIONS, "norm.eps": (1e-2, 1e-5)})


class ReadsItsOptionsAtOnce(HuggingFace):
    def check_model(self, exported: ExportedModel) -> None:
        assert exported.experiment["model"]["n_head"] > 0


class IgnoresMultipliers(HuggingFace):
    def check_model(self, exported: ExportedModel) -> None:
        super().check_model(replace(exported, multipliers=Multipliers()))


class MergesInPlace(HuggingFace):
    def write(self, folder: Path, exported: ExportedModel) -> None:
        super().write(folder, exported)
        with torch.no_grad():
            exported.module.get_parameter("ln_f.weight").mul_(2)


class WritesALog(HuggingFace):
    def write(self, folder: Path, exported: ExportedModel) -> None:
        super().write(folder, exported)
        Path("export.log").touch()


class WritesBeside(HuggingFace):
    def write(self, folder: Path, exported: ExportedModel) -> None:
        super().write(folder, exported)
        (folder.parent / "out.log").touch()


class KeepsNotes(HuggingFace):
    def read(self, path: Path) -> ImportedModel:
        (path / "read.log").touch()
        return super().read(path)


class ReadsWithoutCare(HuggingFace):
    def read(self, path: Path) -> ImportedModel:
        assert json.loads((path / CONFIG).read_text())["model_type"] == "gpt2"
        return super().read(path)


class IgnoresTensors(HuggingFace):
    def read(self, path: Path) -> ImportedModel:
        with TemporaryDirectory() as copy:
            shutil.copytree(path, copy, dirs_exist_ok=True)
            tensors = load_file(path / WEIGHTS)
            known = {name: value for name, value in tensors.items() if name.startswith("transformer")}
            save_file(known, Path(copy) / WEIGHTS)
            return super().read(Path(copy))


SOUND = HuggingFace
HELD, OTHER = "test_a_model_is_held_or_refused", "test_another_model_is_held_or_refused"
DETECTED, ELSE = "test_what_is_written_is_detected", "test_nothing_else_is_detected"
INSIDE = "test_nothing_is_written_outside_of_the_folder"
DAMAGED, TENSORS = "test_a_damaged_file_is_refused", "test_tensors_of_another_model_are_refused"
CAUGHT: dict[type[Format], tuple[str, tuple[str, ...], str]] = {  # the test, its argument, and the remedy that it names
    DoesNothing: ("test_it_reads_or_writes", (), "implement read, write or both"),
    SaysNothing: ("test_it_says_what_it_detects", (), "set `sources`"),
    NeedsAnOption: ("test_every_option_has_a_default", (), "give name a default"),
    SwapsMatrices: ("test_what_is_read_is_what_was_written", (), "check names, shapes and transposed matrices"),
    DetectsNothing: (DETECTED, (), "implement detects"),
    LooksLikeOurs: (DETECTED, (), "safetensors detects it too.*: write other names"),
    DetectsAnyFolder: (ELSE, (), "empty folder .*detects should be stricter"),
    DetectsAnyModel: (ELSE, (), "huggingface .*detects should be stricter"),
    DetectsWithoutCare: ("test_detecting_never_raises", ("cut in half",), "JSONDecodeError.*never raise"),
    HoldsAll: (HELD, ("rotary positions",), "let check_model refuse it"),
    IgnoresWindows: (HELD, ("a window",), "let check_model refuse the model"),
    TakesTheFirstOfAList: (HELD, ("norms that differ",), "let check_model refuse the model"),
    ReadsItsOptionsAtOnce: (OTHER, (), "KeyError.*check_model should raise KitError"),
    IgnoresMultipliers: ("test_multipliers_of_an_init_are_held_or_refused", (), "let check_model refuse the model"),
    MergesInPlace: ("test_writing_leaves_the_model_as_it_was", (), "write changed ln_f.weight.*: change copies"),
    WritesALog: (INSIDE, (), "export.log.*write into the folder"),
    WritesBeside: (INSIDE, (), "out.log.*write into the folder"),
    KeepsNotes: ("test_reading_changes_no_file", (), "read changed a file"),
    ReadsWithoutCare: (DAMAGED, ("cut in half",), "config.json: cut in half: read should raise KitError"),
    IgnoresTensors: (TENSORS, ("one is unknown",), "it was read: use each tensor, or refuse it by name"),
}


def run_test(suite: Any, test: str, arguments: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    fixtures = {"tmp_path": folder, "monkeypatch": monkeypatch}
    function = getattr(suite, test)
    function(
        *arguments, **{name: fixtures[name] for name in inspect.signature(function).parameters if name in fixtures}
    )


@pytest.mark.parametrize("component", CAUGHT)
def test_a_broken_format_is_caught_and_the_remedy_named(
    component: type[Format], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test, arguments, remedy = CAUGHT[component]
    options = {"name": "model"} if component is NeedsAnOption else {}
    with pytest.raises(FAILURES, match=remedy):
        run_test(suite(component, **options), test, arguments, tmp_path / "broken", monkeypatch)
    run_test(suite(SOUND), test, arguments, tmp_path / "sound", monkeypatch)


def test_each_test_catches_a_format() -> None:
    tests = {name for name in vars(FormatConformance) if name.startswith("test_")}
    assert {test for test, *_ in CAUGHT.values()} == tests


def suite(component: type[Format], **options: Any) -> Any:
    return type("Suite", (FormatConformance,), {"component": component(**options)})()
