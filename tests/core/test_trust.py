"""Component files execute only with consent: to their content, or to the path of one's own file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nanogpt_kit.core import local_component, trust
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment

NORM = """\
from pathlib import Path
from nanogpt_kit.api import Norm

Path({canary!r}).touch()

class Mine(Norm):
    def build(self, ctx):
        raise AssertionError("it is never built")  # {version}
"""


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def write(tiny: Path, canary: Path) -> Callable[..., Path]:
    """write(folder / "exp.toml", "mine.py", version): an experiment with a component file; returns the first path."""

    def make(experiment: Path, file: str = "mine.py", version: int = 0) -> Path:
        (experiment.parent / file).parent.mkdir(parents=True, exist_ok=True)
        (experiment.parent / file).write_text(NORM.format(canary=str(canary), version=version))
        text = tiny.read_text().replace("bias = false", f'bias = false\nnorm = "{Path(file).stem}"')
        experiment.write_text(f"components = [{file!r}]\n{text}")
        return experiment

    return make


@pytest.fixture
def refused(canary: Path) -> Callable[..., str]:
    """refused(path): that it is not executed; returns the message."""

    def check(path: Path, *overrides: str) -> str:
        canary.unlink(missing_ok=True)
        with pytest.raises(KitError) as caught:
            Experiment.load(path, overrides)
        assert not canary.exists()
        return str(caught.value)

    return check


@pytest.fixture(autouse=True)
def nothing_loaded_before() -> Iterator[None]:
    local_component.execute_component_file.cache_clear()
    before = set(sys.modules)
    yield
    for module in set(sys.modules) - before:
        if module.startswith("nanogpt_kit_local"):
            del sys.modules[module]


def test_code_that_never_ran_is_refused_with_file_line_and_remedy(
    write: Callable[..., Path], refused: Callable[..., str], tmp_path: Path
) -> None:
    message = refused(write(tmp_path / "exp.toml"))
    assert message.startswith(f"{tmp_path}/exp.toml:1: components: ")
    assert f"{tmp_path}/mine.py" in message
    assert "--trust-code" in message
    assert "trust_code=True" in message


def test_all_files_that_never_ran_are_named_before_any_is_executed(
    write: Callable[..., Path], refused: Callable[..., str], tmp_path: Path
) -> None:
    path = write(tmp_path / "exp.toml")
    Experiment.load(path, trust_code=True)
    (tmp_path / "a.py").write_text("1")
    (tmp_path / "b.py").write_text("2")
    path.write_text(path.read_text().replace("['mine.py']", "['mine.py', 'a.py', 'b.py']"))
    local_component.execute_component_file.cache_clear()
    message = refused(path)
    assert "a.py" in message
    assert "b.py" in message
    assert "mine.py" not in message


def test_consent_is_asked_for_once_and_the_users_edits_run(
    write: Callable[..., Path], canary: Path, tmp_path: Path
) -> None:
    path = write(tmp_path / "exp.toml")
    Experiment.load(path, trust_code=True)
    assert canary.exists()
    Experiment.load(path)
    write(path, version=1)
    canary.unlink()
    Experiment.load(path)
    assert canary.exists()


def test_a_file_that_the_command_line_names_is_consented_to_and_no_other(
    write: Callable[..., Path], refused: Callable[..., str], canary: Path, tmp_path: Path
) -> None:
    path = write(tmp_path / "exp.toml")
    assert "mine.py" in refused(path, "model.n_layer=1")
    Experiment.load(path, ["components=['mine.py']"])
    assert canary.exists()
    (tmp_path / "other.py").write_text("1")
    path.write_text(path.read_text().replace("['mine.py']", "['mine.py', 'other.py']"))
    assert "other.py" in refused(path, "components.0=mine.py")


@pytest.mark.parametrize(
    "place", ["run/components/mine.py", "run/Components/mine.py", "sweep/trials/components/mine.py"]
)
def test_the_copies_of_runs_and_sweeps_are_consented_to_by_content_alone(
    place: str, write: Callable[..., Path], refused: Callable[..., str], tmp_path: Path
) -> None:
    folder = tmp_path / place.split("/")[0]
    path = write(folder / "experiment.toml", place.partition("/")[2])
    Experiment.load(path, trust_code=True)
    Experiment.load(path)
    write(path, place.partition("/")[2], version=1)
    assert "mine.py" in refused(path)


def test_a_copy_at_another_path_needs_consent_for_its_content(
    write: Callable[..., Path], refused: Callable[..., str], tmp_path: Path
) -> None:
    run = write(tmp_path / "run" / "experiment.toml", "components/mine.py")
    Experiment.load(write(tmp_path / "exp.toml"), trust_code=True)
    (tmp_path / "mine.py").unlink()
    (tmp_path / "mine.py").symlink_to("run/components/mine.py")
    write(run, "components/mine.py", version=1)
    assert "mine.py" in refused(tmp_path / "exp.toml")
    by_detour = tmp_path / "run" / "detour.toml"
    by_detour.write_text(run.read_text().replace("components/mine.py", "components/../components/./mine.py"))
    assert "mine.py" in refused(by_detour)


def test_a_copy_of_consented_code_runs_in_any_folder(
    write: Callable[..., Path], refused: Callable[..., str], tmp_path: Path
) -> None:
    Experiment.load(write(tmp_path / "exp.toml"), trust_code=True)
    elsewhere = write(tmp_path / "elsewhere" / "exp.toml")
    Experiment.load(elsewhere)
    write(elsewhere, version=1)  # this path was not consented to
    refused(elsewhere)


def test_what_was_checked_is_what_is_executed_and_kept(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "exp.toml")
    source, consents = (tmp_path / "mine.py").read_bytes(), trust.obtain_consent

    def swapped_meanwhile(*values: object) -> bool:
        (tmp_path / "mine.py").write_text("raise RuntimeError('executed without consent')")
        return consents(*values)

    monkeypatch.setattr(trust, "obtain_consent", swapped_meanwhile)
    experiment = Experiment.load(path, trust_code=True)
    assert experiment.component_sources == {tmp_path / "mine.py": source}


def test_the_file_of_consents_is_private_and_names_each_file(write: Callable[..., Path], tmp_path: Path) -> None:
    Experiment.load(write(tmp_path / "exp.toml"), trust_code=True)
    assert trust.trusted_hashes_file().stat().st_mode & 0o777 == 0o600
    (line,) = trust.trusted_hashes_file().read_text().splitlines()
    content, _, path = line.partition(" ")
    assert content == local_component.hashlib.sha256((tmp_path / "mine.py").read_bytes()).hexdigest()
    assert json.loads(path) == str(tmp_path / "mine.py")


def test_a_damaged_file_of_consents_only_costs_a_question(
    write: Callable[..., Path], refused: Callable[..., str], tmp_path: Path
) -> None:
    path = write(tmp_path / "exp.toml")
    Experiment.load(path, trust_code=True)
    trust.trusted_hashes_file().write_bytes(b'\xff\n\n0123 "/unfinished' + trust.trusted_hashes_file().read_bytes()[3:])
    refused(path)
    trust.trusted_hashes_file().unlink()
    os.mkfifo(trust.trusted_hashes_file())
    refused(path)


def test_several_processes_add_consents_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from nanogpt_kit.core import trust\n"
        "for n in range(200): trust.record_consent(f'{sys.argv[1]}-{n}', '/' + 'p' * 500)"
    )
    both = [subprocess.Popen([sys.executable, "-Pc", code, name]) for name in "ab"]
    assert [process.wait() for process in both] == [0, 0]
    contents, paths = trust.read_consents()
    assert contents == {f"{name}-{n}" for name in "ab" for n in range(200)}
    assert paths == {"/" + "p" * 500}


def test_where_the_home_cannot_be_written_to_the_processes_started_here_know(
    write: Callable[..., Path], canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    path = write(tmp_path / "exp.toml")
    Experiment.load(path, trust_code=True)
    canary.unlink()
    load = f"from nanogpt_kit.core.experiment import Experiment; Experiment.load({str(path)!r})"
    assert subprocess.run([sys.executable, "-Pc", load], check=False).returncode == 0
    assert canary.exists()
    strange = write(tmp_path / "exp.toml", version=1)
    load = load.replace(str(path), str(strange))
    assert b"has never run on" in subprocess.run([sys.executable, "-Pc", load], check=False, capture_output=True).stderr


@pytest.mark.parametrize("answer", [True, False])
def test_the_consent_question_decides(
    answer: bool, write: Callable[..., Path], refused: Callable[..., str], tmp_path: Path
) -> None:
    path, asked = write(tmp_path / "exp.toml"), []

    def question(path: Path, size: int) -> bool:
        asked.append((path, size))
        return answer

    with trust.consent_question(question):
        if answer:
            Experiment.load(path)
            Experiment.load(path)
        else:
            refused(path)
    assert asked == [(tmp_path / "mine.py", (tmp_path / "mine.py").stat().st_size)]
    if not answer:
        refused(path)


@pytest.mark.parametrize("odd", ["fifo", "endless", "folder", "nul", "large"])
def test_a_component_file_is_a_regular_file(odd: str, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "odd.py"
    if odd == "fifo":
        os.mkfifo(path)
    elif odd == "endless":
        path.symlink_to("/dev/zero")
    elif odd == "folder":
        path.mkdir()
    elif odd == "large":
        with path.open("wb") as file:
            file.truncate(local_component.MAX_SOURCE_BYTES + 1)
    name = r'["od\u0000d.py"]' if odd == "nul" else '["odd.py"]'
    tiny.write_text(f"components = {name}\n{tiny.read_text()}")
    with pytest.raises(KitError, match=r"tiny\.toml:1: components: component file .* cannot be read: "):
        Experiment.load(tiny, trust_code=True)


def test_an_experiment_file_that_is_a_link_gives_no_consent(
    write: Callable[..., Path], refused: Callable[..., str], tmp_path: Path
) -> None:
    Experiment.load(write(tmp_path / "own" / "exp.toml"), trust_code=True)
    write(tmp_path / "sent" / "exp.toml", version=1).unlink()
    (tmp_path / "sent" / "exp.toml").symlink_to("../own/exp.toml")
    assert str(tmp_path / "sent" / "mine.py") in refused(tmp_path / "sent" / "exp.toml")
    shutil.copy(tmp_path / "own" / "mine.py", tmp_path / "sent" / "mine.py")
    Experiment.load(tmp_path / "sent" / "exp.toml")
