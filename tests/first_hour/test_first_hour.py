"""The first hour of a newcomer: the wheel in an environment, an empty folder, no clone, no network, own text.

What every command prints, with times, losses and counts replaced, is in a golden file that was read as prose.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics

import pytest

import nanogpt_kit
from tests.first_hour.newcomer import Newcomer, install_wheel

pytestmark = pytest.mark.slow

REPOSITORY = Path(nanogpt_kit.__path__[0]).parent
GOLDEN = Path(__file__).parent / "golden"
SMALL = "model.n_layer=2 model.n_embd=64 schedule.warmup_steps=10 sample.max_new_tokens=20"
SHORT = f"{SMALL} train.steps=60 evaluate.every_steps=30"
PAGES = ("first_steps", "novel", "notes", "code")


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_wheel(REPOSITORY, tmp_path_factory.mktemp("environment"))


@pytest.fixture(scope="module")
def newcomer(commands: Path, tmp_path_factory: pytest.TempPathFactory) -> Newcomer:
    folder = tmp_path_factory.mktemp("first_hour") / "empty"
    folder.mkdir()
    return Newcomer(commands, folder)


@pytest.fixture(scope="module")
def pages(newcomer: Newcomer) -> dict[str, str]:
    """The transcripts of the first hour."""
    written = {}
    for name, scene in zip(PAGES, (take_first_steps, train_on_a_novel, train_on_notes, train_on_code), strict=True):
        scene(newcomer)
        written[name] = newcomer.turns_page()
    return written


def take_first_steps(newcomer: Newcomer) -> None:
    newcomer.types("nanogpt-kit explain train.steps")
    newcomer.types("nanogpt-kit new my")
    newcomer.types("nanogpt-kit check my", code=2)
    newcomer.types("nanogpt-kit sample quickstart", code=2)


def train_on_a_novel(newcomer: Newcomer) -> None:
    """One long text: train, interrupt, continue with the command that was printed, sample, evaluate, export."""
    novel = "\n\n".join(topics.values())  # half a megabyte of English that every Python has
    (newcomer.folder / "novel.txt").write_text(novel, encoding="utf-8")
    newcomer.types("nanogpt-kit new novel --source novel.txt")
    newcomer.types("nanogpt-kit check novel")
    stopped = newcomer.types(f"nanogpt-kit run novel {SMALL} train.steps=300", code=130, until="step ")
    newcomer.types("nanogpt-kit sample novel --prompt 'The value' --max-new-tokens 10")
    (step,) = re.findall(r"^stopped at step (\d+) of 300", stopped, re.MULTILINE)
    (command,) = re.findall(r"continue with: (.*)", stopped)
    assert f"resumes at step {step} of 300" in newcomer.types(command)
    newcomer.types(command)  # once more: it is finished
    newcomer.types("nanogpt-kit run novel --extend 100", code=2)
    newcomer.types("nanogpt-kit sample novel --prompt 'The value'")
    newcomer.types("nanogpt-kit eval novel")
    newcomer.types("nanogpt-kit export novel exported")
    newcomer.types("nanogpt-kit export novel exported", code=2)
    sample = "nanogpt-kit sample exported --prompt 'The value' --max-new-tokens 10"
    (remedy,) = re.findall(r"as in (.*\.from_run=)RUN", newcomer.types(sample, code=2))
    newcomer.types(f"{sample} {remedy}novel")


def train_on_notes(newcomer: Newcomer) -> None:
    """A folder of Markdown: train, then fine-tune the model of the novel on it, following what is printed."""
    shutil.copytree(REPOSITORY / "docs", newcomer.folder / "notes", ignore=all_but(".md"))
    (newcomer.folder / "notes" / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(range(256)))
    newcomer.types("nanogpt-kit new notes.toml --source notes/")
    newcomer.types("nanogpt-kit check notes")
    newcomer.types(f"nanogpt-kit run notes {SMALL} train.steps=20")
    newcomer.types("nanogpt-kit check notes model.init_from=novel", code=2)
    fine_tune = f"nanogpt-kit run notes {SHORT} model.init_from=novel"
    (remedy,) = re.findall(r"\bset (tokenizer\.from_run = \S+)$", newcomer.types(fine_tune, code=2), re.MULTILINE)
    tuned = newcomer.types(f"{fine_tune} {remedy.replace(' = ', '=')}")
    assert re.search(r"^start +from runs/novel/.*, step 300$", tuned, re.MULTILINE)
    newcomer.types("nanogpt-kit sample notes@best --prompt 'The value'")
    newcomer.types("nanogpt-kit eval notes novel")


def train_on_code(newcomer: Newcomer) -> None:
    """A repository of code, with all that a repository has beside its text."""
    project = newcomer.folder / "project"
    shutil.copytree(REPOSITORY / "nanogpt_kit", project / "src", ignore=all_but(".py"))
    files = {
        "README.md": b"# A project\n\nIt trains models.\n",
        ".git/HEAD": b"ref: refs/heads/main\n",
        ".git/objects/ab/cdef": b"x\x01\x00\xff",
        ".venv/pyvenv.cfg": b"home = /usr/bin\n",
        ".venv/lib/module.py": b"raise SystemExit\n",
        "env/pyvenv.cfg": b"home = /usr/bin\n",
        "env/lib/module.py": b"raise SystemExit\n",
        "src/__pycache__/module.cpython-311.pyc": b"\xa7\r\r\n\x00\x00",
        "logo.png": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
        "model.bin": bytes(range(256)) * 8,
    }
    for name, content in files.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_bytes(content)
    newcomer.types("nanogpt-kit new code --source project")
    newcomer.types("nanogpt-kit check code 'dataset.suffixes=[\".py\"]'")
    newcomer.types("nanogpt-kit check code")
    newcomer.types(f"nanogpt-kit run code {SHORT}")
    newcomer.types("nanogpt-kit sample code --prompt 'def '")
    newcomer.types("nanogpt-kit eval code")
    newcomer.types("nanogpt-kit export code.toml", code=2)
    newcomer.types("nanogpt-kit export code.toml code_export", code=2)
    newcomer.types("nanogpt-kit export code code_export --format safetensors")
    newcomer.types("nanogpt-kit sample code_export --prompt 'def '")


def all_but(suffix: str) -> Callable[[str, list[str]], list[str]]:
    """For copytree: ignores files with another suffix."""
    return lambda folder, names: [
        name for name in names if name == "__pycache__" or (Path(folder, name).is_file() and not name.endswith(suffix))
    ]


@pytest.mark.parametrize("name", PAGES)
def test_the_first_hour_reads_as_reviewed(
    name: str, pages: dict[str, str], golden: Callable[[Path, str], None]
) -> None:
    golden(GOLDEN / f"{name}.txt", pages[name])


def test_no_output_has_a_traceback_or_a_warning(pages: dict[str, str]) -> None:
    assert not re.findall(r".*(?:Traceback|Warning\b).*", "\n".join(pages.values()))


def test_the_environment_has_the_wheel_and_nothing_of_the_clone(newcomer: Newcomer) -> None:
    code = "import nanogpt_kit as k, importlib.metadata as m; print(k.__file__, *(d.name for d in m.distributions()))"
    done = subprocess.run(
        [newcomer.commands / "python", "-c", code],
        cwd=newcomer.folder, env=newcomer.environment(), check=True, capture_output=True, text=True,
    )  # fmt: skip
    file, *names = done.stdout.split()
    assert Path(file).is_relative_to(newcomer.commands.parent)
    assert [name for name in names if "nanogpt" in name] == ["nanogpt-kit"]
