"""`plugins test`: the suites of all that a target declares, in an environment that is removed again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from click.testing import CliRunner

from nanogpt_kit.cli import main
from nanogpt_kit.cli.plugins_test import options_by_component, outcome_text, title_text
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.testing.isolated.outcome import FailedTest, Outcome
from nanogpt_kit.testing.isolated.target import Declared, Target, find_target
from tests.cli.made_plugins import ORDER

DOCS = Path(__file__).parents[2] / "docs"

PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "mine"
version = "0.3"
dependencies = ["nanogpt-kit>=0.2"]
{points}
"""
SCHEDULE = '''\
"""A multiplier that never changes."""
from nanogpt_kit.api import Field, Schedule

class Mine(Schedule):
    value: float = Field({default}description="the multiplier")

    def multiplier(self, step, total_steps):
        {first}
        return self.value
'''
VERB = '''\
import click

@click.command()
def measure():
    """Measure."""
'''


def plugin(folder: Path, **modules: str) -> Path:
    """A source folder. `kind_name` of each module is kind and name of the component `Mine` (or `Own`) in it."""
    package = folder / "mine"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    groups: dict[str, list[str]] = {}
    for module, source in modules.items():
        (package / f"{module}.py").write_text(source, encoding="utf-8")
        kind, _, name = module.partition("_")
        attribute = re.search(r"class (Mine|Own)\b|def (measure)", source)
        if name and attribute:
            target = f"mine.{module}:{attribute[1] or attribute[2]}"
            groups.setdefault(kind, []).append(f'{name} = "{target}"\n')
    points = "".join(f'[project.entry-points."nanogpt_kit.{kind}"]\n{"".join(lines)}' for kind, lines in groups.items())
    (folder / "pyproject.toml").write_text(PROJECT.format(points=points), encoding="utf-8")
    return folder


def schedule(first: str = "pass", default: str = "0.5, ") -> str:
    return SCHEDULE.format(first=first, default=default)


def run_test(*words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "nanogpt_kit", "plugins", "test", *map(str, words)]
    path = os.pathsep.join([str(DOCS.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, **variables}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def states(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    assert done.stdout, done.stderr
    return {outcome["label"]: outcome["state"] for outcome in json.loads(done.stdout)[0]["outcomes"]}


def code(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text("utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_documented_component_file_passes_with_the_documented_settings(tmp_path: Path) -> None:
    """Nothing is left behind, and nothing that belongs to the user is changed."""
    (tmp_path / "glu.py").write_text(code("extending/writing-a-component.md")[0], encoding="utf-8")
    (tmp_path / "test_glu.py").write_text(code("extending/testing-a-plugin.md")[0], encoding="utf-8")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    done = run_test(tmp_path / "glu.py", "--trust-code", TMPDIR=str(temporary))
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^  mlp/glu +\d\d passed$", done.stdout, re.MULTILINE), done.stdout
    assert "its own tests" not in done.stdout  # each is of the component
    assert not list(temporary.iterdir())
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_source_folder_is_tested_as_a_wheel_with_the_settings_that_it_brings(tmp_path: Path) -> None:
    conformance = textwrap.dedent("""\
        import pytest
        from mine.order_forward import Own
        from nanogpt_kit.testing.order import OrderConformance

        class TestForward(OrderConformance):
            component = Own()
            varies = False

            @pytest.mark.slow
            def test_it_takes_minutes(self):
                raise AssertionError
        """)
    order = '"""Windows in their order."""\n' + ORDER
    source = plugin(tmp_path / "mine", order_forward=order, conformance=conformance, verb_measure=VERB)
    done = run_test(source, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert states(done) == {"order/forward": "passed", "verb/measure": "passed"}


@pytest.mark.slow
def test_each_component_fails_alone_with_its_reason(tmp_path: Path) -> None:
    source = plugin(
        tmp_path / "mine",
        schedule_good=schedule(),
        schedule_negative=schedule("return -1.0"),
        schedule_slow=schedule("__import__('time').sleep(99)"),
        schedule_crash=schedule("__import__('os').abort()"),
        schedule_needs=schedule(default=""),
        norm_other=schedule(),
        norms_typo=schedule(),
        order_forward='"""Windows in their order."""\n' + ORDER,
    )
    done = run_test(source, "--timeout", "60")
    assert done.returncode == 1, done.stdout + done.stderr
    shown = done.stdout
    assert re.search(r"schedule/good +\d+ passed$", shown, re.MULTILINE)
    assert re.search(r"schedule/negative +\d+ failed, \d+ passed\n    test_\w+.*: keep it at 0 or above", shown)
    assert re.search(r"schedule/slow.*\n    test_\S+: did not end within 60 s and was killed", shown)
    assert re.search(r"schedule/crash.*\n    test_\S+: ended the process by SIGABRT", shown)
    assert "not tested: option value is required and has no default: add schedule/needs.value=VALUE" in shown
    assert "mine/other (mine.norm_other:Mine) is not a norm: it does not derive from api.Norm" in shown
    assert "unknown kind 'norms'; did you mean 'norm'?" in shown
    assert re.search(r"order/forward +1 failed", shown)  # since it brings no settings


@pytest.mark.slow
def test_required_options_are_given_behind_the_target(tmp_path: Path) -> None:
    source = plugin(tmp_path / "mine", schedule_needs=schedule(default=""))
    assert run_test(source).returncode == 2
    done = run_test(source, "value=0.3")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_its_own_tests_decide_and_are_run_with_the_wheel(tmp_path: Path) -> None:
    source = plugin(tmp_path / "mine", schedule_half=schedule())
    (source / "tests").mkdir()
    (source / "tests" / "__init__.py").write_text("")  # so that pytest imports from the source folder
    (source / "tests" / "test_mine.py").write_text(
        "import mine\n\ndef test_it_is_the_wheel():\n    assert 'site-packages' in mine.__path__[0]\n"
        "\ndef test_more():\n    assert 1 == 2, 'one is not two'\n"
    )
    done = run_test(source)
    assert done.returncode == 1
    assert re.search(r"its own tests +1 failed, 1 passed\n    test_more: one is not two", done.stdout), done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_test_leaves_nothing_behind(number: signal.Signals, tmp_path: Path) -> None:
    source = plugin(tmp_path / "mine", schedule_a=schedule(), schedule_slow=schedule("__import__('time').sleep(99)"))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-P", "-m", "nanogpt_kit", "plugins", "test", str(source)]
    environment = {**os.environ, "PYTHONPATH": str(DOCS.parent), "TMPDIR": str(temporary)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        assert "schedule/a" in lines[1]
        process.send_signal(number)
        assert process.wait(60) == 130
    assert not list(temporary.iterdir())


@pytest.mark.slow
def test_a_library_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    source = plugin(tmp_path / "mine", schedule_a=schedule())
    project = source / "pyproject.toml"
    text = project.read_text(encoding="utf-8")
    project.write_text(text.replace('"nanogpt-kit>=0.2"', '"no-such-library-of-ours>=2"'), encoding="utf-8")
    done = run_test(source, PIP_NO_INDEX="1")
    assert done.returncode == 2
    assert re.search(r"needs no-such-library-of-ours>=2, which cannot be installed \(pip failed: ERROR:", done.stderr)
    project.write_text(text.replace("nanogpt-kit>=0.2", "nanogpt-kit>=99"), encoding="utf-8")
    refused = run_test(source)
    assert refused.returncode == 2
    assert "mine requires nanogpt-kit>=99" in refused.stderr


def test_without_pytest_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanogpt_kit.cli.plugins_test.NEEDED", ("no_such_pytest",))
    answer = CliRunner().invoke(main, ["plugins", "test", "nanogpt-kit"])
    assert isinstance(answer.exception, KitError)
    assert str(answer.exception) == 'no_such_pytest is not installed: pip install "nanogpt-kit[test]"'


def test_a_path_with_an_equals_sign_is_a_target(tmp_path: Path) -> None:
    folder = tmp_path / "lr=1"
    folder.mkdir()
    answer = CliRunner().invoke(main, ["plugins", "test", str(folder)])
    assert "lr=1: a folder without pyproject.toml" in str(answer.exception)


def test_options_belong_to_one_target() -> None:
    for words in (["nanogpt-kit", "nanogpt-kit", "norm/layernorm.eps=1"], ["eps=1"]):
        answer = CliRunner().invoke(main, ["plugins", "test", *words])
        assert isinstance(answer.exception, KitError)
        assert f"options are those of one target, got {len(words) - 1} targets" in str(answer.exception)


def target(*labels: str) -> Target:
    return Target("mine", "mine", "1", tuple(Declared(*label.split("/"), "mine:Mine") for label in labels))


def test_options_name_a_component_unless_there_is_only_one() -> None:
    two = target("norm/a", "dataset/b")
    words = ("norm/a.eps=1e-3", "dataset/b.source=x.txt", "dataset/b.part.weight=[1, 2]")
    assert options_by_component(two, words) == {
        "norm/a": {"eps": 1e-3},
        "dataset/b": {"source": "x.txt", "part": {"weight": [1, 2]}},
    }
    assert options_by_component(target("norm/a"), ("eps=1e-3",)) == {"norm/a": {"eps": 1e-3}}
    for word in ("eps=1", "norm/a", "norm/a=3"):
        expected = re.escape(f"expected KIND/NAME.OPTION=VALUE, as in norm/a.eps=1e-5, got {word!r}")
        with pytest.raises(KitError, match=expected):
            options_by_component(two, (word,))


def test_a_file_is_named_as_the_user_wrote_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("", encoding="utf-8")
    assert title_text(find_target(str(tmp_path / "mine.py"), trust_code=True)) == str(tmp_path / "mine.py")
    assert title_text(Target("dist/mine.whl", "mine", "0.3", ())) == "mine 0.3"


def test_a_reason_that_many_tests_share_is_printed_once() -> None:
    failures = [FailedTest("test_a", "no"), FailedTest("test_b", "another"), FailedTest("test_c", "no")]
    shown = outcome_text(Outcome("norm/a", passed=4, skipped=1, failures=failures)).splitlines()
    assert [line.split() for line in shown[:1]] == [["norm/a", "3", "failed,", "4", "passed,", "1", "skipped"]]
    assert shown[1:] == ["    test_a (and 1 other test): no", "    test_b: another"]
