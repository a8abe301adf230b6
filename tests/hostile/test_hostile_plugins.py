"""Hostile distributions are installed: what does not name them works, and who names one learns why it does not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nanogpt_kit.cli import main
from nanogpt_kit.cli.completion import COMPLETE, LINE, WORD
from tests.hostile.hostile_plugins import GOOD, HARMLESS, HOSTILE, IMPORTED, distribution, install_all

Command = Callable[..., Any]
Install = Callable[..., None]


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("plugins", "list"),
        ("plugins", "list", "norm", "--json"),
        ("plugins", "show", "norm"),
        ("plugins", "show", "norm/rmsnorm"),
        ("explain",),
        ("explain", "train"),
        ("explain", "norm"),
        ("explain", "model.norm.eps"),
        ("explain", "eps"),
        ("explain", "lr"),
        ("check", "TINY"),
        ("check", "TINY", "--explain"),
        ("check", "TINY", "model.norm=rmsnorm"),
    ],
    ids=" ".join,
)
def test_what_names_no_hostile_plugin_works(
    words: tuple[str, ...], tiny: Path, install: Install, command: Command
) -> None:
    install_all(install)
    answer = command(*(str(tiny) if word == "TINY" else word for word in words))
    assert answer.code == 0, answer.err
    assert "hostile_" not in answer.err
    assert [name for name in sys.modules if name.startswith("hostile_")] == []


def test_a_misspelt_key_gets_its_suggestion(tiny: Path, install: Install, command: Command) -> None:
    install_all(install)
    answer = command("check", tiny, "model.norm.use=rmsnorm", "model.norm.epz=1e-3")
    assert answer.code == 2
    assert "model.norm.epz: unknown key; did you mean" in answer.err
    assert [name for name in sys.modules if name.startswith("hostile_")] == []


def test_a_run_is_trained_and_sampled(tiny: Path, install: Install, command: Command) -> None:
    install_all(install)
    done = command("run", tiny, "train.steps=2", "sample.num_samples=0", "schedule=constant")
    assert done.code == 0, done.err
    sampled = command("sample", "tiny", "--prompt", "1", "--max-new-tokens", "2", "--json")
    assert sampled.code == 0, sampled.err
    json.loads(sampled.out)


def test_completion_offers_them_and_imports_none(install: Install) -> None:
    install_all(install)
    line = "nanogpt-kit run quickstart model.norm=hostile-"
    asked = {COMPLETE: "bash_complete", LINE: line, WORD: "hostile-"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in asked.items():
            patch.setenv(name, value)
        answer = CliRunner().invoke(main, [], complete_var=COMPLETE, prog_name="nanogpt-kit")
    assert "hostile-hides/rmsnorm" in answer.output
    assert [name for name in sys.modules if name.startswith("hostile_")] == []


@pytest.mark.parametrize("name", [name for name, hostile in IMPORTED.items() if hostile.in_process])
def test_who_names_one_learns_its_distribution_entry_point_cause_and_remedy(
    name: str, tiny: Path, install: Install, command: Command
) -> None:
    hostile = HOSTILE[name]
    hostile.install(name, install)
    answer = command("check", tiny, f"model.norm={name}")
    assert answer.code == 2
    assert "command line: model.norm: " in answer.err
    assert f"from distribution {distribution(name)} 1.0" in answer.err
    assert f"(entry point {name} = 'hostile_{name}:{hostile.target}' in group nanogpt_kit.norm)" in answer.err
    assert hostile.cause in answer.err
    remedies = {"default": "giving the option a value avoids it", "future": "pip install --upgrade nanogpt-kit hostile"}
    assert remedies.get(name, f"`nanogpt-kit plugins doctor {distribution(name)}` inspects it") in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize("name", HARMLESS)
def test_what_one_prints_is_not_part_of_a_result(name: str, tiny: Path, install: Install, command: Command) -> None:
    HOSTILE[name].install(name, install)
    answer = command("check", tiny, f"model.norm={name}", "--json")
    assert answer.code == 0, answer.err
    json.loads(answer.out)


def test_a_name_that_two_claim_is_refused_with_both(tiny: Path, install: Install, command: Command) -> None:
    install_all(install)
    answer = command("check", tiny, "model.norm=prints")
    assert answer.code == 2
    choices = "'hostile-claims/prints' or 'hostile-prints/prints'"
    assert f"several distributions offer norm 'prints'; choose one: use = {choices}" in answer.err


def run_in_process(site: Path, *words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *filter(None, sys.path)]), **variables}
    command = [sys.executable, "-P", "-m", "nanogpt_kit", *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("name", "code", "cause"),
    [
        pytest.param("ends", 2, "cannot be imported: SystemExit: os._exit(7)", marks=pytest.mark.slow),
        pytest.param(
            "interrupts",
            2,
            "cannot be imported: KeyboardInterrupt, which no signal has caused",
            marks=pytest.mark.slow,
        ),
        ("aborts", -signal.SIGABRT, "Fatal Python error: Aborted"),
    ],
)
def test_one_that_ends_the_process_is_named(
    name: str, code: int, cause: str, tiny: Path, tmp_path: Path, install: Install
) -> None:
    HOSTILE[name].install(name, install)
    answer = run_in_process(tmp_path / "site", "check", tiny, f"model.norm={name}")
    assert answer.returncode == code
    assert cause in answer.stderr
    assert f"norm '{name}' from distribution hostile-{name} 1.0 (entry point {name} = " in answer.stderr
    assert f"`nanogpt-kit plugins doctor {distribution(name)}` inspects it" in answer.stderr


def test_one_that_crashes_when_it_is_built_is_named(tiny: Path, tmp_path: Path, install: Install) -> None:
    source = GOOD.replace("build(self, ctx): ...", "build(self, ctx):\n        import os\n        os.abort()")
    install("hostile-builds", "[nanogpt_kit.norm]\nbuilds = hostile_builds:Hostile\n", hostile_builds=source)
    answer = run_in_process(tmp_path / "site", "check", tiny, "model.norm=builds")
    assert answer.returncode == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in answer.stderr
    assert f'File "{tmp_path / "site" / "hostile_builds.py"}", line 6 in build' in answer.stderr
    assert "norm 'builds' from distribution hostile-builds 1.0 (entry point builds = " in answer.stderr
    assert "`nanogpt-kit plugins doctor hostile-builds` inspects it" in answer.stderr


@pytest.mark.parametrize("statement", ["raise SystemExit(9)", "import os; os._exit(9)"])
def test_one_that_exits_when_it_is_built_is_named(
    statement: str, tiny: Path, install: Install, command: Command
) -> None:
    source = GOOD.replace("build(self, ctx): ...", f"build(self, ctx):\n        {statement}")
    install("hostile-exits", "[nanogpt_kit.norm]\nx = hostile_exits:Hostile\n", hostile_exits=source)
    answer = command("check", tiny, "model.norm=x")
    assert answer.code == 2
    assert "norm 'x' from distribution hostile-exits 1.0 (entry point x = " in answer.err
    assert "its build exits: SystemExit: " in answer.err


def test_a_description_that_is_no_string_is_shown(install: Install, command: Command) -> None:
    source = GOOD.replace("    def", "    size: int = Field(3, description=17)\n    def")
    install("hostile-texts", "[nanogpt_kit.norm]\nx = hostile_texts:Hostile\n", hostile_texts=source)
    answer = command("plugins", "show", "norm/x")
    assert answer.code == 0
    assert "size = 3" in answer.out


def test_damaged_entry_points_harm_nothing_else(tiny: Path, tmp_path: Path, install: Install) -> None:
    install("hostile-bytes", b"[nanogpt_kit.norm]\nx = y:\xff\n")
    install("hostile-lines", b"[nanogpt_kit.norm]\nno pair\n[open\n")
    answer = run_in_process(tmp_path / "site", "check", tiny)  # imports pydantic and torch, which read them, too
    assert (answer.returncode, answer.stderr) == (0, "")


def test_an_entry_point_may_name_an_extra(tiny: Path, install: Install, command: Command) -> None:
    install("hostile-extra", "[nanogpt_kit.norm]\nextra = hostile_extra:Hostile [plots]\n", hostile_extra=GOOD)
    assert command("check", tiny, "model.norm=extra").code == 0


def test_an_option_is_explained_beside_a_plugin_that_has_it_and_crashes(
    install: Install, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    source = GOOD.replace("    def", "    eps: float = Field(1e-5, description='size')\n    def")
    install(
        "hostile-eps", "[nanogpt_kit.norm]\nx = hostile_eps:Hostile\n", hostile_eps=f"import os; os.abort()\n{source}"
    )
    answer = command("explain", "eps")
    assert answer.code == 0
    assert "model.norm.eps" in answer.out
    assert "left out: norm 'x' from distribution hostile-eps 1.0" in caplog.text


def test_the_doctor_sees_what_an_import_does_and_nothing_before_it(install: Install, command: Command) -> None:
    source = f"import json\njson.dumps = None\n{GOOD}"
    install("hostile-json", "[nanogpt_kit.norm]\npatches = hostile_json:Hostile\n", hostile_json=source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONVERBOSE", "1")  # prints before the import, as a .pth file that raises does
        answer = command("plugins", "doctor", "hostile-json")
    assert "ended the process" not in answer.out
    assert "site.py" not in answer.out


def test_a_slow_import_is_announced(
    tiny: Path, install: Install, command: Command, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanogpt_kit.core.guarded_import.PATIENCE_SECONDS", 0.05)
    source = HOSTILE["sleeps"].source.replace("20", "0.4")
    install("hostile-slow", "[nanogpt_kit.norm]\nslow = hostile_slow:Hostile\n", hostile_slow=source)
    with caplog.at_level("INFO"):
        assert command("check", tiny, "model.norm=slow").code == 0
    assert "importing norm 'slow' from distribution hostile-slow 1.0" in caplog.text


def test_the_doctor_finds_what_each_does_and_ends(install: Install, command: Command) -> None:
    install_all(install)
    started = time.monotonic()
    answer = command("plugins", "doctor", "--timeout", "1.5", "--json")
    assert time.monotonic() - started < 60
    assert answer.code == 1
    record = json.loads(answer.out)
    found = {}
    for finding in record["findings"]:
        found.setdefault(finding["distribution"], []).append(finding)
    for name, hostile in HOSTILE.items():
        of_import = [one for one in found[f"{distribution(name)} 1.0"] if hostile.cause in one["cause"]]
        assert len(of_import) == 1, name
        assert of_import[0]["level"] == hostile.level
        assert of_import[0]["remedy"]
        target = f"norm {name} = 'hostile_{name}:{hostile.target}'"
        assert of_import[0]["entry_point"] == ("" if name == "future" else target)
    levels = {name: [finding["level"] for finding in found[f"{distribution(name)} 1.0"]] for name in ("kind", "hides")}
    assert levels == {"kind": ["error"], "hides": ["warning", "error"]}
    assert any("'rmsnorm' means the built-in norm" in one["cause"] for one in found["hostile-hides 1.0"])
    assert any("hostile-claims offers norm 'prints', too" in one["cause"] for one in found["hostile-prints 1.0"])
    assert any("bad name" in one["cause"] for one in found["hostile-spelling 1.0"])
    (damaged,) = [name for name in found if name.endswith("hostile_metadata-1.0.dist-info")]
    assert found[damaged][0]["level"] == "error"
    outcomes = {one["name"]: one["outcome"] for one in record["imports"] if one["distribution"] != "hostile-claims"}
    assert outcomes["aborts"] == outcomes["segfaults"] == outcomes["ends"] == "crashed"
    assert outcomes["sleeps"] == "timed out"
    assert outcomes["prints"] == outcomes["threads"] == outcomes["default"] == "imported"


def test_the_doctor_is_content_with_warnings_and_can_be_asked_about_one_distribution(
    install: Install, command: Command
) -> None:
    install_all(install)
    answer = command("plugins", "doctor", "hostile-writes")
    assert answer.code == 0
    origin = "hostile-writes 1.0, norm writes = 'hostile_writes:Hostile'"
    assert answer.out.splitlines()[0] == f"warning: {origin}: its import prints 'raw'; report it to its author"
    assert answer.out.splitlines()[-1] == "components and verbs of plugins: 1, errors: 0, warnings: 1"
    unknown = command("plugins", "doctor", "hostile-write")
    assert unknown.code == 2
    assert "named 'hostile-write'; did you mean 'hostile-writes'?" in unknown.err


def test_the_doctor_leaves_no_process(install: Install, command: Command, tmp_path: Path, real_processes: None) -> None:
    pid = tmp_path / "pid"
    source = f"""
import subprocess, time
child = subprocess.Popen(["sleep", "1000"])
open({str(pid)!r}, "w").write(str(child.pid))
time.sleep(1000)
"""
    install("hostile-spawns", "[nanogpt_kit.norm]\nspawns = hostile_spawns:Hostile\n", hostile_spawns=source)
    answer = command("plugins", "doctor", "hostile-spawns", "--timeout", "1")
    assert answer.code == 1
    assert "its import did not end within 1 s (" in answer.out
    assert "hostile_spawns.py:5)" in answer.out
    deadline = time.monotonic() + 10
    while has_process(int(pid.read_text())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not has_process(int(pid.read_text()))


def has_process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"  # killed, not yet waited for


def test_the_schema_has_the_plugins_that_can_be_imported(
    install: Install, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("raises", "aborts", "prints"):
        HOSTILE[name].install(name, install)
    answer = command("schema")
    assert answer.code == 0
    schema = json.loads(answer.out)
    names = schema["definitions"]["known-norm"]["anyOf"][0]["enum"]
    assert {"prints", "hostile-prints/prints", "rmsnorm"} <= set(names)
    assert not {"raises", "aborts"} & set(names)
    for name in ("raises", "aborts"):
        assert f"left out: norm '{name}' from distribution hostile-{name} 1.0 (entry point {name} = " in caplog.text
