"""What a wheel and an sdist contain, and that a wheel works where there is no clone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from hatchling import build

from nanogpt_kit.cli.completion import SCRIPTS
from nanogpt_kit.cli.plugin_files import FOLDER as TEMPLATES

ROOT = Path(__file__).parents[1]
EXPERIMENTS = {path.name for path in (ROOT / "experiments").glob("*.toml")}
LINK = re.compile(r"\]\(([^)#\s]+)")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked sdist."""
    folder = tmp_path_factory.mktemp("sdist")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        archive = build.build_sdist(str(folder))
    with tarfile.open(folder / archive) as file:
        file.extractall(folder, filter="data")
    return folder / archive.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def site(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel, made from the sdist as pip makes it."""
    folder = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(sdist)
        wheel = build.build_wheel(str(folder))
    with zipfile.ZipFile(folder / wheel) as file:
        file.extractall(folder / "site")
    return folder / "site"


def test_the_sdist_contains_all_that_its_documentation_links_to(sdist: Path) -> None:
    pages = [*sdist.glob("*.md"), *(sdist / "docs").rglob("*.md"), *(sdist / "plugins").glob("*/README.md")]
    names = {page.relative_to(sdist).as_posix() for page in pages}
    assert names >= {
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "docs/guide/training.md",
        "docs/reference/kinds/mlp.md",
    }
    missing = [
        f"{page.relative_to(sdist)}: {target}"
        for page in pages
        for target in LINK.findall(page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert not missing, missing


def test_the_sdist_contains_the_experiments_and_the_tests(sdist: Path) -> None:
    assert {path.name for path in (sdist / "experiments").iterdir()} == EXPERIMENTS
    assert (sdist / "tests" / "data" / "prose.txt").exists()
    assert (sdist / "docs" / "generate.py").exists()


def test_the_wheel_contains_the_experiments_in_the_package_and_nothing_beside_it(site: Path) -> None:
    assert {path.name for path in (site / "nanogpt_kit" / "experiments").iterdir()} == EXPERIMENTS
    assert {path.name.partition("-")[0] for path in site.iterdir()} == {"nanogpt_kit"}


def test_the_wheel_contains_the_scripts_of_completion(site: Path) -> None:
    assert all(
        (site / "nanogpt_kit" / "cli" / file.name).read_bytes() == file.read_bytes() for file in SCRIPTS.values()
    )


def test_the_wheel_contains_the_templates_of_plugins(site: Path) -> None:
    files = {path.relative_to(TEMPLATES).as_posix(): path for path in TEMPLATES.rglob("*") if path.suffix != ".pyc"}
    here = {name: path.read_bytes() for name, path in files.items() if path.is_file()}
    assert len(here) > 3 * 18
    assert all((site / "nanogpt_kit/cli/plugin_templates" / name).read_bytes() == here[name] for name in here)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("check", "quickstart"),
        ("sweep", "sweep_lr", "--trials", "1", "sweep.workers=1", "sweep.confirm=0"),
        ("run", "mine"),
    ],
    ids=lambda words: words[0],
)
def test_a_wheel_works_in_an_empty_folder(
    words: tuple[str, ...], site: Path, tmp_path: Path, real_processes: None
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    if "mine" in words:
        (folder / "mine.toml").write_text('extends = "quickstart"\nname = "mine"\n')
    small = ["train.steps=10", "model.n_layer=1", "model.n_embd=12", "model.n_head=2", "evaluate.every_steps=10"]
    small += ["schedule.warmup_steps=10", "dataset.val_bytes=3000", "sample.max_new_tokens=3", "callback=[]"]
    command = [sys.executable, "-m", "nanogpt_kit", *words, *small]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "quickstart is valid" in done.stdout or "finished: " in done.stderr


def test_a_value_of_a_shipped_experiment_is_located_in_the_package(site: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nanogpt_kit", "check", "quickstart", "--explain"]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"^model\.n_embd = 128 .*# nanogpt_kit/experiments/quickstart\.toml:\d+", done.stdout, re.MULTILINE
    )
