"""From a name in an experiment to a class: built in, installed by strangers, or from a local file."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.registry import discover_entries

SCHEDULE = """\
from nanogpt_kit.api import Field, Schedule

class {name}(Schedule):
    power: float = Field({power}, gt=0, description="how steep")

    def multiplier(self, step, total_steps):
        return (1 - step / total_steps) ** self.power
"""

EXPERIMENT = """\
name = "x"
{components}
dataset = "python_stdlib"
tokenizer = "byte"
optimizer = "adamw"
{schedule}
[model]
use = "gpt"
n_head = 3
n_embd = 24
block_size = 16
[train]
steps = 20
batch_tokens = 80
"""

Install = Callable[..., None]


def load(folder: Path, schedule: str = 'schedule = "constant"', *files: str) -> Experiment:
    components = f"components = [{', '.join(map(repr, files))}]"
    path = folder / "exp.toml"
    path.write_text(EXPERIMENT.format(components=components, schedule=schedule), encoding="utf-8")
    return Experiment.load(path, trust_code=True)


def told(folder: Path, schedule: str = 'schedule = "constant"', *files: str) -> str:
    with pytest.raises(KitError) as refused:
        load(folder, schedule, *files)
    return str(refused.value)


POLY = "[nanogpt_kit.schedule]\npoly = poly_plugin:Poly\n"


def test_discovery_imports_nothing() -> None:
    code = """
import sys
from nanogpt_kit.core.registry import Registry
assert {entry.name for entry in Registry.installed().of_kind("model")} >= {"gpt"}
heavy = [m for m in sys.modules if m.split(".")[0] in ("torch", "numpy", "pydantic") or "components" in m]
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_plugin_is_found_by_its_bare_name(tmp_path: Path, install: Install) -> None:
    install("poly-plugin", POLY, poly_plugin=SCHEDULE.format(name="Poly", power=2.0))
    experiment = load(tmp_path, 'schedule = { use = "poly", power = 3 }')
    assert experiment.schedule.multiplier(5, 10) == 0.125
    expected = {"use": "poly-plugin/poly", "target": "optimizer.lr", "power": 3.0}
    assert experiment.resolved()["schedule"] == expected
    entry = experiment.entry_of(experiment.schedule)
    assert (entry.distribution, entry.version) == ("poly-plugin", "1.0")


def test_options_of_a_plugin_are_checked_like_any_other(tmp_path: Path, install: Install) -> None:
    install("poly-plugin", POLY, poly_plugin=SCHEDULE.format(name="Poly", power=2.0))
    message = told(tmp_path, '[schedule]\nuse = "poly"\npowr = 3')
    assert message.endswith("exp.toml:8: schedule.powr: unknown key; did you mean 'power'? Allowed: power, target.")


def test_an_installed_plugin_changes_nothing_until_it_is_named(tmp_path: Path, install: Install) -> None:
    before = load(tmp_path)
    install("poly-plugin", POLY + "constant = poly_plugin:Poly\n", poly_plugin="raise SystemExit('imported')")
    after = load(tmp_path)
    assert after.to_toml() == before.to_toml()
    assert after.fingerprint() == before.fingerprint()
    assert "poly_plugin" not in sys.modules


def test_a_bare_name_means_the_built_in_and_a_qualified_name_the_plugin(tmp_path: Path, install: Install) -> None:
    source = SCHEDULE.format(name="Constant", power=2.0)
    install("A.Strange_Plugin", "[nanogpt_kit.schedule]\nconstant = strange:Constant\n", strange=source)
    assert load(tmp_path).resolved()["schedule"] == {"use": "constant", "target": "optimizer.lr", "warmup_steps": 0}
    stranger = load(tmp_path, 'schedule = "a-strange-plugin/constant"')
    assert stranger.resolved()["schedule"] == {
        "use": "a-strange-plugin/constant",
        "target": "optimizer.lr",
        "power": 2.0,
    }
    assert load(tmp_path, 'schedule = "nanogpt-kit/constant"') == load(tmp_path)


def test_a_name_that_two_strangers_offer_is_ambiguous_only_when_used(tmp_path: Path, install: Install) -> None:
    install("dist-one", "[nanogpt_kit.schedule]\npoly = one:Poly\n", one=SCHEDULE.format(name="Poly", power=1.0))
    install("dist-two", "[nanogpt_kit.schedule]\npoly = two:Poly\n", two=SCHEDULE.format(name="Poly", power=2.0))
    load(tmp_path)
    message = told(tmp_path, 'schedule = "poly"')
    assert "schedule 'poly'" in message
    assert "use = 'dist-one/poly' or 'dist-two/poly'" in message
    assert load(tmp_path, 'schedule = "dist-two/poly"').resolved()["schedule"] == {
        "use": "dist-two/poly",
        "target": "optimizer.lr",
        "power": 2.0,
    }


def test_an_unknown_qualified_name_is_told_the_near_ones(tmp_path: Path, install: Install) -> None:
    install("poly-plugin", POLY, poly_plugin="")
    message = told(tmp_path, 'schedule = "poly-plugn/poly"')
    assert "unknown schedule 'poly-plugn/poly'; did you mean 'poly-plugin/poly'?" in message


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def", "SyntaxError: "),
        ("raise SystemExit('bye')", "SystemExit: bye"),
        ("", "AttributeError: module 'poly_plugin' has no attribute 'Poly'"),
    ],
)
def test_a_broken_plugin_is_fatal_only_to_those_who_name_it(
    source: str, cause: str, tmp_path: Path, install: Install
) -> None:
    install("poly-plugin", POLY, poly_plugin=source)
    load(tmp_path)
    message = told(tmp_path, '[schedule]\nuse = "poly"')
    assert "exp.toml:7: schedule.use: schedule 'poly' from distribution poly-plugin 1.0" in message
    assert "poly = 'poly_plugin:Poly' in group nanogpt_kit.schedule" in message
    assert cause in message


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("from nanogpt_kit.api import Norm as Poly", "does not derive from api.Schedule"),
        ("class Poly: pass", "does not derive from api.Schedule"),
        ("Poly = 3", "does not derive from api.Schedule"),
        (
            "from nanogpt_kit.api import Schedule\nclass Poly(Schedule): pass",
            "multiplier is not implemented",
        ),
    ],
)
def test_an_entry_point_should_be_a_whole_class_of_its_kind(
    source: str, why: str, tmp_path: Path, install: Install
) -> None:
    install("poly-plugin", POLY, poly_plugin=source)
    message = told(tmp_path, 'schedule = "poly"')
    assert "schedule 'poly' from distribution poly-plugin 1.0 (entry point poly = 'poly_plugin:Poly' in " in message
    assert why in message


def test_an_entry_point_may_lead_to_where_a_class_was_imported(tmp_path: Path, install: Install) -> None:
    source = SCHEDULE.format(name="Poly", power=2.0)
    install("poly-plugin", POLY, poly_plugin="from poly_inside import Poly", poly_inside=source)
    experiment = load(tmp_path, 'schedule = "poly"')
    assert experiment.resolved()["schedule"]["use"] == "poly-plugin/poly"
    assert experiment.fingerprint()


def test_a_missing_option_of_a_default_component_is_reported_at_its_table(tmp_path: Path, install: Install) -> None:
    source = """\
from nanogpt_kit.api import Field, Norm, Schedule, slot

class Poly(Schedule):
    norm: Norm = slot("needy")
    def multiplier(self, step, total_steps): ...

class Needy(Norm):
    eps: float
    def build(self, ctx): ...
"""
    entry_points = "[nanogpt_kit.schedule]\nnormal = poly_plugin:Poly\n[nanogpt_kit.norm]\nneedy = poly_plugin:Needy\n"
    install("poly-plugin", entry_points, poly_plugin=source)
    assert told(tmp_path, 'schedule = "normal"').endswith("exp.toml:6: schedule.norm.eps: missing; it has no default")


@pytest.mark.parametrize(
    "damaged", [b"[nanogpt_kit.norm\npoly = x", b"[nanogpt_kit.norm]\nx = caf\xe9", b"nanogpt_kit."]
)
def test_damaged_metadata_of_another_distribution_breaks_nothing(
    damaged: bytes, tmp_path: Path, install: Install
) -> None:
    install("damaged-plugin", damaged)
    install("poly-plugin", POLY, poly_plugin=SCHEDULE.format(name="Poly", power=2.0))
    load(tmp_path, 'schedule = "poly"')


def test_a_distribution_without_a_name_is_skipped_with_a_warning(
    tmp_path: Path, install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install("poly-plugin", POLY)
    (tmp_path / "site" / "poly_plugin-1.0.dist-info" / "METADATA").unlink()
    assert "poly" not in {entry.name for entry in discover_entries()}
    assert "skipped an installed distribution whose entry points cannot be read" in caplog.text


def test_what_a_plugin_prints_when_it_is_imported_goes_to_standard_error(
    tmp_path: Path, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("poly-plugin", POLY, poly_plugin="print('HELLO')\n" + SCHEDULE.format(name="Poly", power=2.0))
    (tmp_path / "mine.py").write_text("print('AND ME')\n" + SCHEDULE.format(name="X", power=1.0), encoding="utf-8")
    load(tmp_path, 'schedule = "poly"', "mine.py")
    out, err = capsys.readouterr()
    assert out == ""
    assert sorted(err.split("\n")) == ["", "AND ME", "HELLO"]


@pytest.mark.parametrize("requirement", ["nanogpt-kit>=99", "Nanogpt_Kit[plots] >=99 ; python_version > '3'"])
def test_a_plugin_for_another_version_of_the_kit_is_reported(
    requirement: str, tmp_path: Path, install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    installed = version("nanogpt-kit")
    sentence = f"poly-plugin 1.0 requires nanogpt-kit>=99, and {installed} is installed: pip install --upgrade"
    install("poly-plugin", POLY, requirement, poly_plugin=SCHEDULE.format(name="Poly", power=2.0))
    for _ in range(2):
        load(tmp_path, 'schedule = "poly"')
    assert [record.message for record in caplog.records] == [f"{sentence} nanogpt-kit poly-plugin"]


def test_the_version_that_a_plugin_requires_is_part_of_the_message_where_it_cannot_be_imported(
    tmp_path: Path, install: Install
) -> None:
    install("poly-plugin", POLY, "nanogpt-kit>=99", poly_plugin="from nanogpt_kit.api import NotYet")
    message = told(tmp_path, 'schedule = "poly"')
    assert "ImportError: cannot import name 'NotYet' from 'nanogpt_kit.api'" in message
    assert "; poly-plugin 1.0 requires nanogpt-kit>=99, and " in message


@pytest.mark.parametrize("requirement", ["nanogpt-kit>=0.0.1", "nanogpt-kit>=99; extra == 'new'", "torch>=99", "x y"])
def test_a_plugin_that_fits_the_kit_is_not_reported(
    requirement: str, tmp_path: Path, install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install("poly-plugin", POLY, requirement, poly_plugin=SCHEDULE.format(name="Poly", power=2.0))
    load(tmp_path, 'schedule = "poly"')
    assert not caplog.records


@pytest.mark.parametrize(
    ("default", "wrong"), [("'x'", "should be a whole number, got 'x'"), ("2", "should be greater")]
)
def test_the_default_of_an_option_is_validated(default: str, wrong: str, tmp_path: Path, install: Install) -> None:
    source = SCHEDULE.format(name="Poly", power=2.0).replace("float = Field(2.0, gt=0", f"int = Field({default}, ge=3")
    install("poly-plugin", POLY, poly_plugin=source)
    message = told(tmp_path, 'schedule = "poly"')
    assert f"exp.toml:6: schedule: the default of its option power {wrong}" in message
    assert "; this is a mistake in schedule 'poly' from distribution poly-plugin 1.0 (entry point poly = " in message
    assert message.endswith(", and giving the option a value avoids it")
    load(tmp_path, 'schedule = { use = "poly", power = 3 }')


# --- local files ------------------------------------------------------------------------------------------------


def test_a_local_file_is_a_component_under_its_stem(tmp_path: Path) -> None:
    (tmp_path / "my_poly.py").write_text(SCHEDULE.format(name="Anything", power=2.0), encoding="utf-8")
    experiment = load(tmp_path, 'schedule = "my_poly"', "my_poly.py")
    assert experiment.resolved()["schedule"] == {"use": "my_poly", "target": "optimizer.lr", "power": 2.0}
    assert experiment.component_files == (tmp_path / "my_poly.py",)
    assert "my_poly" in told(tmp_path, 'schedule = "my_polly"', "my_poly.py")
    assert "unknown schedule 'my_poly'" in told(tmp_path, 'schedule = "my_poly"')


def test_a_local_file_takes_precedence_over_a_plugin_of_its_name(tmp_path: Path, install: Install) -> None:
    install("poly-plugin", POLY, poly_plugin="1 / 0")
    (tmp_path / "poly.py").write_text(SCHEDULE.format(name="Poly", power=7.0), encoding="utf-8")
    assert load(tmp_path, 'schedule = "poly"', "poly.py").resolved()["schedule"] == {
        "use": "poly",
        "target": "optimizer.lr",
        "power": 7.0,
    }


TWO = SCHEDULE.format(name="One", power=1.0) + SCHEDULE.format(name="Two", power=1.0)


@pytest.mark.parametrize(
    ("file", "source", "why"),
    [
        ("mine.py", "", "should define one component class, has none"),
        ("mine.py", "from nanogpt_kit.api import Norm", "should define one component class, has none"),
        ("mine.py", TWO, "should define one component class, has One, Two"),
        ("mine.py", "x = 1\nclass X(:", "cannot be imported: SyntaxError: invalid syntax (mine.py, line 2)"),
        ("mine.py", "import gone_library", "cannot be imported: ModuleNotFoundError: No module named 'gone_library'"),
        ("mine.py", "exit(3)", "cannot be imported: SystemExit: 3"),
        ("mine.txt", "", "should end in .py"),
        ("cosine.py", SCHEDULE.format(name="X", power=1.0), "would hide the built-in schedule 'cosine'; give the file"),
    ],
)
def test_an_invalid_component_file_is_refused_with_the_reason(file: str, source: str, why: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(source, encoding="utf-8")
    message = told(tmp_path, 'schedule = "constant"', file)
    assert message.startswith(f"{tmp_path}/exp.toml:2: components: ")
    assert f"{tmp_path / file} " in message
    assert why in message


def test_two_local_files_cannot_share_a_name(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        source = SCHEDULE.format(name="Poly", power=ord(folder))
        (tmp_path / folder / "poly.py").write_text(source, encoding="utf-8")
    message = told(tmp_path, 'schedule = "poly"', "a/poly.py", "b/poly.py")
    assert f"{tmp_path}/b/poly.py would hide another schedule 'poly'" in message
    other_kind = "from nanogpt_kit.api import Norm\nclass Poly(Norm):\n    def build(self, ctx): ...\n"
    (tmp_path / "b" / "poly.py").write_text(other_kind, encoding="utf-8")  # copies of both would have one name
    message = told(tmp_path, 'schedule = "poly"', "a/poly.py", "b/poly.py")
    assert f"{tmp_path}/b/poly.py would hide another schedule 'poly'" in message


def test_the_same_content_gives_the_same_class_and_edited_content_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "my_poly.py"

    def poly(power: float) -> Experiment:
        path.write_text(SCHEDULE.format(name="Poly", power=power), encoding="utf-8")
        os.utime(path, (1e9, 1e9))  # an edit within the resolution of the clock: bytecode caches do not see it
        return load(tmp_path, 'schedule = "my_poly"', "my_poly.py")

    first, again, edited = poly(2.0), poly(2.0), poly(3.0)
    assert type(first.schedule) is type(again.schedule)
    assert first == again
    assert type(edited.schedule) is not type(first.schedule)
    assert edited.resolved()["schedule"]["power"] == 3.0
    assert first.resolved()["schedule"]["power"] == 2.0


def test_an_edit_that_changes_no_option_still_changes_the_fingerprint(tmp_path: Path) -> None:
    prints = set()
    for comment in ("", "# a", "# b"):
        source = SCHEDULE.format(name="Poly", power=2.0) + comment
        (tmp_path / "my_poly.py").write_text(source, encoding="utf-8")
        prints.add(load(tmp_path, 'schedule = "my_poly"', "my_poly.py").fingerprint())
    assert len(prints) == 3
