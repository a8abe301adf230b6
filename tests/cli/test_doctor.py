"""`nanogpt-kit doctor`: each fact with its verdict, why something is off, and nothing that makes it fail."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nanogpt_kit.bench import machine_facts
from nanogpt_kit.nn import compiler
from nanogpt_kit.nn.compiler import compiler_obstacle
from nanogpt_kit.system.folders import available_cores
from nanogpt_kit.system.json_files import read_json, write_json
from nanogpt_kit.train.precision import Precision, choose_device

Command = Callable[..., Any]


def told(command: Command) -> dict[str, dict[str, Any]]:
    """Every fact by its name, as --json tells it."""
    answer = command("doctor", "--json")
    assert (answer.code, answer.err) == (0, "")
    return {name: fact for facts in json.loads(answer.out).values() for name, fact in facts.items()}


def by_name(question: Callable[[], Iterator[machine_facts.Fact]]) -> dict[str, machine_facts.Fact]:
    return {fact.name: fact for fact in machine_facts.collect_facts(question)}


def test_each_fact_is_one_line_with_its_verdict_and_json_tells_the_same(command: Command) -> None:
    lines = [text for text in command("doctor").out.splitlines() if text.startswith("  ")]
    facts = told(command)
    assert len(lines) == len(facts) > 15
    for text, (name, fact) in zip(lines, facts.items(), strict=True):
        assert text.startswith(f"  {name} ")
        assert fact["verdict"] in ("available", "off", "unknown", None)
        assert text[len(name) + 2 :].split()[0] == (fact["verdict"] or fact["text"].split()[0])
    assert not [name for name, fact in facts.items() if fact["verdict"] == "unknown"]


def test_it_tells_the_versions_and_what_a_run_would_take(command: Command) -> None:
    facts = told(command)
    assert facts["python"]["version"] == platform.python_version()
    assert facts["torch"]["version"] == torch.__version__
    assert f", {os.cpu_count()} cores, {len(available_cores())} available to this process" in facts["cpu"]["text"]
    assert 0 < facts["memory"]["free_bytes"] < facts["memory"]["total_bytes"]
    precision, why = Precision.choose("auto", choose_device("auto"))
    assert facts["auto settings"]["precision"] == precision.name
    assert why in facts["auto settings"]["text"]


@pytest.mark.parametrize("multiplies", [True, False])
def test_native_bf16_decides_what_auto_takes_on_a_cpu(multiplies: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": multiplies})
    monkeypatch.setattr(machine_facts, "choose_device", lambda setting: "cpu")
    facts = by_name(machine_facts.arithmetic)
    assert facts["bf16 on the CPU"].verdict == ("available" if multiplies else "off")
    assert facts["auto settings"].values["precision"] == ("bf16" if multiplies else "fp32")


def test_threads_are_told_as_openmp_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    facts = by_name(machine_facts.processor)
    assert facts["threads"].text.startswith("3, set by OMP_NUM_THREADS")
    assert facts["waiting threads"].text.startswith("sleep")
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    facts = by_name(machine_facts.processor)
    assert facts["threads"].text.startswith("up to 3, ")
    assert facts["waiting threads"].text.startswith("spin")
    assert "set OMP_WAIT_POLICY=passive (OMP_WAIT_POLICY is not set)" in facts["waiting threads"].text


# --- compiling --------------------------------------------------------------------------------------------------


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`programs("g++")`: the only ones on the path, on a Linux whose Python has its headers."""
    headers = tmp_path / "headers"
    headers.mkdir()
    (headers / "Python.h").touch()
    monkeypatch.setattr(sysconfig, "get_path", lambda *_: str(headers))
    monkeypatch.setattr(sys, "platform", "linux")
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)

    def only(*names: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        for name in names:
            (folder / name).touch(0o755)
        monkeypatch.setenv("PATH", str(folder))

    return only


def test_without_a_compiler_the_remedy_is_told(programs: Any, command: Command) -> None:
    programs("gcc", "clang++")
    missing = compiler_obstacle("cpu")
    assert missing is not None
    assert "there is no compiler g++; apt install g++ " in missing
    fact = told(command)["compile on cpu"]
    assert (fact["verdict"], fact["text"]) == ("off", missing)


def test_the_compiler_that_is_looked_for_is_the_one_of_the_system(
    programs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs("g++")
    assert compiler_obstacle("cpu") is None
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "there is no compiler clang++; xcode-select --install " in str(compiler_obstacle("cpu"))
    monkeypatch.setattr(sys, "platform", "win32")
    assert "there is no compiler cl; " in str(compiler_obstacle("cpu"))


def test_apples_compiler_needs_openmp_from_elsewhere(
    programs: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    programs("clang++")
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(compiler, "OPENMP_PREFIXES", ())
    monkeypatch.delenv("CONDA_PREFIX", raising=False)
    monkeypatch.setenv("OMP_PREFIX", str(tmp_path))
    assert "brew install libomp" in str(compiler_obstacle("cpu"))
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "omp.h").touch()
    assert compiler_obstacle("cpu") is None


@pytest.mark.parametrize("named", ["icpx", "icpx -O2", ""])
def test_cxx_names_the_compiler(named: str, programs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    programs("g++", "icpx")
    monkeypatch.setenv("CXX", named)
    if named == "icpx":
        assert compiler_obstacle("cpu") is None
    else:
        obstacle = str(compiler_obstacle("cpu"))
        assert f"CXX names, {named!r}," in obstacle
        assert "unset CXX" in obstacle


def test_without_pythons_headers_the_remedy_is_told(
    programs: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    programs("g++", "gcc")
    monkeypatch.setattr(sysconfig, "get_path", lambda *_: str(tmp_path / "nowhere"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    for device in ("cpu", "cuda"):
        missing = str(compiler_obstacle(device))
        assert "(Python.h)" in missing
        assert f"apt install python{sys.version_info.major}.{sys.version_info.minor}-dev " in missing


def test_compiling_for_gpus_needs_triton_a_c_compiler_and_a_gpu_that_is_not_too_old(
    programs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs("g++")
    modules: set[str] = set()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name in modules else None)
    assert "triton is not installed" in str(compiler_obstacle("cuda"))
    modules.add("triton")
    assert "there is no compiler gcc or clang" in str(compiler_obstacle("cuda"))
    monkeypatch.setenv("CC", "g++")
    assert compiler_obstacle("cuda") is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (6, 1))
    monkeypatch.setattr(torch.version, "hip", None)
    assert "compute capability 7.0" in str(compiler_obstacle("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 0))
    assert compiler_obstacle("cuda") is None


def test_where_compiling_has_not_been_tried_is_told() -> None:
    assert compiler_obstacle("mps") == "compiling for mps has not been tried"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="torch looks for MSVC's files there, too")
@pytest.mark.parametrize("changed", [{}, {"PATH": "/nowhere"}, {"CXX": "g++ -O2"}], ids=str)
def test_torch_agrees_on_whether_there_is_a_compiler(changed: dict[str, str]) -> None:
    code = """
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler
from nanogpt_kit.nn.compiler import compiler_obstacle
try:
    get_cpp_compiler()
    found = True
except InvalidCxxCompiler:
    found = False
assert (compiler_obstacle("cpu") is None) == found, (found, compiler_obstacle("cpu"))
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, **changed})


# --- devices ----------------------------------------------------------------------------------------------------


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two generations; the first is the current one."""
    kinds = [
        SimpleNamespace(name=f"GPU {m}.{n}", total_memory=m * 10**10, major=m, minor=n) for m, n in ((7, 5), (9, 0))
    ]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(kinds))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: kinds[index])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.version, "hip", None)


def test_each_gpu_has_a_line(two_gpus: None) -> None:
    facts = by_name(machine_facts.gpus)
    assert facts["CUDA 0"].text == "GPU 7.5, 70.0 GB, compute capability 7.5, no bf16"
    assert facts["CUDA 1"].text == "GPU 9.0, 90.0 GB, compute capability 9.0, bf16"
    assert facts["CUDA 0"].values["bf16"] is False
    assert facts["CUDA 1"].values["memory_bytes"] == 9 * 10**10


def test_kernels_of_attention_are_told_with_what_they_need(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    monkeypatch.setattr(torch.backends.cuda, "mem_efficient_sdp_enabled", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: False)
    monkeypatch.setattr(machine_facts, "compiler_obstacle", lambda device: f"nothing for {device}")
    facts = by_name(machine_facts.attention)
    assert facts["flash attention"].text == "requires a GPU of compute capability 8.0"
    assert facts["efficient attention"].verdict == "available"
    assert facts["cudnn attention"].text == "this torch is built without it"
    assert (facts["flex attention"].verdict, facts["flex attention"].text) == ("off", "nothing for cuda")


def test_without_a_gpu_flex_attention_is_off_and_the_other_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    flex = by_name(machine_facts.attention)["flex attention"]
    assert flex.verdict == "off"
    assert '"sdpa"' in flex.text


def test_why_there_is_no_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise RuntimeError("Found no NVIDIA driver on your system.\n  Please check it.")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    for program, driver in ((None, "no NVIDIA driver was found"), ("/nvidia-smi", "an NVIDIA driver is installed")):
        monkeypatch.setattr(shutil, "which", {"nvidia-smi": program}.get)
        assert f"torch is built without CUDA, and {driver}; " in by_name(machine_facts.gpus)["CUDA"].text
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "init", refuse)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert by_name(machine_facts.gpus)["CUDA"].text == "no GPU: Found no NVIDIA driver on your system. Please check it."
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES= hides all GPUs" in by_name(machine_facts.gpus)["CUDA"].text


# --- folders ----------------------------------------------------------------------------------------------------


def prepared(tiny: Path, command: Command) -> Path:
    """The folder of tiny's tokens."""
    answer = command("prepare", tiny)
    assert answer.code == 0
    return Path(answer.out.split()[-1])


def test_prepared_data_is_told_with_its_tokens_and_bytes(tiny: Path, command: Command) -> None:
    assert told(command)["none"]["verdict"] is None
    folder = prepared(tiny, command)
    fact = told(command)[folder.name]
    splits = read_json(folder / "manifest.json")["splits"]
    assert fact["verdict"] == "available"
    assert fact["tokens"] == {split: values["tokens"] for split, values in splits.items()}
    assert fact["bytes"] == sum(file.stat().st_size for file in folder.iterdir())
    assert f"train {splits['train']['tokens']:,} tokens" in fact["text"]


def shorten(name: str) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / name, 5)


def without_splits(folder: Path) -> None:
    manifest = read_json(folder / "manifest.json")
    write_json(folder / "manifest.json", {key: value for key, value in manifest.items() if key != "splits"})


def older(folder: Path) -> None:
    write_json(folder / "manifest.json", read_json(folder / "manifest.json") | {"version": 1})


def a_folder(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()


@pytest.mark.parametrize(
    ("damage", "verdict", "says"),
    [
        (shorten("train.bin"), "off", "damaged: the size of train.bin is not what was written; remove "),
        (
            shorten("val.documents.bin"),
            "off",
            "damaged: the size of val.documents.bin is not what was written; remove ",
        ),
        (shorten("manifest.json"), "off", "damaged: its manifest.json is not what was written; remove "),
        (without_splits, "off", "damaged: its manifest.json is not what was written; remove "),
        (lambda folder: (folder / "val.bin").unlink(), "off", "damaged: the size of val.bin "),
        (lambda folder: (folder / "manifest.json").unlink(), "unknown", "cannot be read: No such file "),
        (a_folder, "unknown", "cannot be read: "),
        (older, "off", "written by another version of nanogpt-kit"),
    ],
    ids=["tokens", "documents", "cut", "other", "absent", "no manifest", "unreadable", "older"],
)
def test_damaged_data_is_named_and_the_rest_is_told(
    damage: Callable[[Path], None], verdict: str, says: str, tiny: Path, command: Command
) -> None:
    folder = prepared(tiny, command)
    whole = folder.with_name("whole-0123456789ab")
    whole.mkdir()
    for file in folder.iterdir():
        (whole / file.name).write_bytes(file.read_bytes())
    damage(folder)
    facts = told(command)
    assert facts[folder.name]["verdict"] == verdict
    assert facts[folder.name]["text"].startswith(says)
    assert facts[whole.name]["verdict"] == "available"


def test_other_folders_beside_the_data_are_left_alone(tiny: Path, command: Command) -> None:
    folder = prepared(tiny, command)
    own = folder.with_name("my_texts")
    own.mkdir()
    (own / "manifest.json").write_text("{}", encoding="utf-8")
    assert own.name not in told(command)


def test_where_nothing_can_be_written_it_says_which_variable_helps(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NANOGPT_KIT_DATA", str(tmp_path / "file"))
    facts = told(command)
    assert facts["runs"]["verdict"] == "available"
    assert facts["runs"]["free_bytes"] > 0
    assert facts["data"]["verdict"] == "off"
    assert facts["data"]["text"].startswith(f"cannot write to {tmp_path / 'file'}: ")
    assert facts["data"]["text"].endswith("; set NANOGPT_KIT_DATA to another folder")
    assert not (tmp_path / "runs").exists()


# --- what it may not do -----------------------------------------------------------------------------------------


def test_a_fact_that_cannot_be_read_is_unknown_and_the_others_are_told(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError("no such luck")

    monkeypatch.setattr(machine_facts, "free_bytes", lambda device: None)
    monkeypatch.setattr(platform, "platform", fail)
    facts = told(command)
    assert facts["memory"]["verdict"] == "unknown"
    assert facts["memory"]["text"].startswith("an unknown amount free of ")
    assert facts["software"] == {"verdict": "unknown", "text": "no such luck"}
    assert facts["torch"]["version"] == torch.__version__


def test_warnings_of_torch_become_a_fact(monkeypatch: pytest.MonkeyPatch) -> None:
    def warn() -> Iterator[machine_facts.Fact]:
        for _ in range(2):
            warnings.warn("this GPU\n  is too old", stacklevel=1)
        yield machine_facts.Fact("gpu", "old")

    assert [(fact.name, fact.text) for fact in machine_facts.collect_facts(warn)] == [
        ("gpu", "old"),
        ("warnings", "this GPU is too old"),
    ]


def test_variables_of_the_hub_are_told_where_they_are_set(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "nowhere"))
    facts = told(command)
    assert "HF_HOME" not in facts
    assert facts["HF_HUB_OFFLINE"]["setting"] == "1"
    assert facts["TIKTOKEN_CACHE_DIR"]["text"].endswith("; the folder does not exist yet)")


def test_on_a_terminal_long_lines_go_on_below_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    line = sys.modules["nanogpt_kit.cli.doctor"].fact_line
    words = "why it is off and what would help, told at length"
    assert line("name  off  ", words) == f"name  off  {words}"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "45")
    assert line("name  off  ", words) == ("name  off  why it is off and what would help,\n           told at length")
    monkeypatch.setenv("COLUMNS", "35")  # too narrow for a text beside its name
    assert line("name  off  ", words) == "name  off\n        why it is off and what\n        would help, told at length"


def test_it_imports_nothing_that_takes_seconds_but_torch() -> None:
    code = """
import sys
from nanogpt_kit.cli import main
assert "torch" not in sys.modules
main(["doctor"], standalone_mode=False)
heavy = {"datasets", "optuna", "tensorboard", "triton", "transformers", "torch._dynamo", "torch._inductor"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
