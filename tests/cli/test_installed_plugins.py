"""Plugin distributions, built as wheels and installed: they work from TOML, and a broken one breaks nobody else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nanogpt_kit.runs.find import find_run
from nanogpt_kit.system.json_files import read_json

LION = Path(__file__).parents[2] / "plugins" / "nanogpt-kit-optimizers"

BROKEN = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "broken-plugin"
version = "0.3"

[project.entry-points."nanogpt_kit.norm"]
brokennorm = "broken_plugin:Norm"

[tool.hatch.build.targets.wheel]
only-include = ["broken_plugin.py"]
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with Lion's wheel and a wheel that raises on import."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "pyproject.toml").write_text(BROKEN)
    (broken / "broken_plugin.py").write_text("raise RuntimeError('no such luck')\n")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    alone = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "wheel", *alone, "--wheel-dir", tmp_path / "wheels", LION, broken], check=True)
    wheels = sorted((tmp_path / "wheels").glob("*.whl"))
    assert len(wheels) == 2
    subprocess.run([*pip, "install", *alone, "--target", tmp_path / "site", *wheels], check=True)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    return tmp_path / "site"


def kit(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nanogpt_kit", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=os.environ["PYTHONPATH"].split(os.pathsep)[0])


@pytest.mark.slow
def test_installed_plugins_work_and_a_broken_one_breaks_only_who_names_it(tiny: Path, installed: Path) -> None:
    listed = kit("plugins", "list", "--json")
    assert listed.returncode == 0
    found = {(one["kind"], one["name"], one["distribution"], one["version"]) for one in json.loads(listed.stdout)}
    assert ("optimizer", "lion", "nanogpt-kit-optimizers", "0.1.0") in found
    assert ("norm", "brokennorm", "broken-plugin", "0.3") in found

    done = kit("run", tiny, "optimizer={use='lion', lr=1e-3, weight_decay=0.3}", "train.steps=3")
    assert done.returncode == 0, done.stderr
    origin = read_json(find_run("tiny").folder.path / "provenance.json")
    assert origin["components"]["optimizer"] == "nanogpt-kit-optimizers/lion"
    assert origin["distributions"]["nanogpt-kit-optimizers"] == "0.1.0"

    refused = kit("run", tiny, "model.norm=brokennorm")
    assert refused.returncode == 2
    assert "distribution broken-plugin 0.3 (entry point brokennorm = 'broken_plugin:Norm'" in refused.stderr
    assert "RuntimeError: no such luck" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.slow
def test_a_run_of_lion_after_its_wheel_was_upgraded_and_uninstalled(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = tmp_path / "newer"
    shutil.copytree(LION, newer, ignore=shutil.ignore_patterns("tests", "__pycache__"))
    project = (newer / "pyproject.toml").read_text(encoding="utf-8")
    (newer / "pyproject.toml").write_text(project.replace('version = "0.1.0"', 'version = "0.2.0"'), encoding="utf-8")
    site = tmp_path / "site"
    site.mkdir()
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--target", site]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(LION.parents[1])]))

    def install(source: Path) -> None:
        shutil.rmtree(site, ignore_errors=True)
        subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--no-index", source], check=True)

    install(LION)
    lion = ["optimizer={use='lion', lr=1e-3}", "sample.num_samples=0", "evaluate.every_steps=3"]
    assert kit("run", tiny, *lion, "train.steps=3").returncode == 0
    run = find_run("tiny").folder

    install(newer)
    assert kit("sample", run, "--prompt=1", "--max-new-tokens=2").returncode == 0
    refused = kit("run", run, "--extend=2")
    assert refused.returncode == 2
    assert "made with nanogpt-kit-optimizers 0.1.0, and 0.2.0 is installed" in refused.stderr
    continued = kit("run", run, "--extend=2", "--accept-versions", "--json")
    assert continued.returncode == 0, continued.stderr
    assert json.loads(continued.stdout)["step"] == 5
    assert "made with nanogpt-kit-optimizers 0.1.0, and 0.2.0 is installed" in continued.stderr
    assert read_json(run.path / "provenance.json")["distributions"]["nanogpt-kit-optimizers"] == "0.2.0"

    shutil.rmtree(site)
    site.mkdir()
    for words in (["sample", run, "--prompt=1", "--json"], ["eval", run, "--json"], ["export", run, tmp_path / "out"]):
        answer = kit(*words, *(["--format=safetensors"] if words[0] == "export" else []))
        assert answer.returncode == 0, answer.stderr
        assert "made with" not in answer.stderr
    refused = kit("run", run, "--extend=2", "--json")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert (
        "optimizer.use: made with nanogpt-kit-optimizers 0.2.0, which is not installed: "
        "pip install nanogpt-kit-optimizers==0.2.0" in refused.stderr
    )
