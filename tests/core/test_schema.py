"""The JSON Schema for editors: it finds mistakes, and refuses nothing that the loader accepts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli

from nanogpt_kit.core.entry import Entry
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.found_components import components_of_kind
from nanogpt_kit.core.kinds import KINDS
from nanogpt_kit.core.option_schema import option_schemas
from nanogpt_kit.core.options import SLOT_KEYWORD
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION
from nanogpt_kit.core.schema import experiment_schema
from tests.core.schema_cases import BASE, CLEAN, MISTAKES, SHIPPED, WHOLE, Values, mutations, refusal, values_of

jsonschema = pytest.importorskip("jsonschema")

EXPERIMENTS = sorted(SHIPPED.glob("*.toml"))
SEVERAL = ("quickstart", "sweep_lr", "ablate_parts")  # whole and partial files; the slow test takes all
LINE = "#:schema nanogpt-kit.schema.json\n"
Linter = Callable[[Path], set[str]]

# What the loader refuses and a schema cannot express
RELATIONS = re.compile(
    r"should be a multiple of |should divide |should be at least train.batch_tokens|"
    r"is not an option that a schedule can change|should be auto, refill or exact|requires (val|a model with relative)|"
    r"applies to windows of consecutive tokens|(should be|or) a list(, as in .*)?, got {}"
    # `key.0 = 1` is an element of a list that a base file has, so a table may be right
)
# What may be right, depending on files that the schema does not know
UNKNOWN_TO_A_PART = re.compile(r"unknown \w+ '.*'[;.]|missing \(|: missing; add |the table names no component")


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return experiment_schema()


@pytest.fixture(scope="module")
def drafts(schema: dict[str, Any]) -> list[Any]:
    """A validator of each draft between which editors differ."""
    for draft in (jsonschema.Draft4Validator, jsonschema.Draft202012Validator):
        draft.check_schema(schema)
    return [draft(schema) for draft in (jsonschema.Draft4Validator, jsonschema.Draft202012Validator)]


def run_tombi(program: str, folder: Path) -> set[str]:
    report = folder.parent / "diagnostics.json"
    command = [program, "lint", "--offline", "--diagnostics-format=json", f"--diagnostics-file={report}", str(folder)]
    subprocess.run([*command, "--error-on-warnings"], capture_output=True, check=False)
    return set(re.findall(r"(\w+)\.toml", report.read_text(encoding="utf-8")))


def run_taplo(program: str, folder: Path) -> set[str]:
    answer = subprocess.run([program, "lint", *map(str, folder.glob("*.toml"))], capture_output=True, text=True)
    assert "invalid schema" not in answer.stderr, answer.stderr
    return set(re.findall(r"─ \S*/(\w+)\.toml:\d", answer.stderr))  # the line of its log that follows may be lost


@pytest.fixture(params=["tombi", "taplo"])
def linter(request: pytest.FixtureRequest) -> Linter:
    """The names of the files of a folder in which the program finds mistakes."""
    program = shutil.which(request.param, path=f"{Path(sys.executable).parent}:{Path(sys.prefix) / 'bin'}")
    program = program or shutil.which(request.param)
    if program is None:
        pytest.skip(f"{request.param} is not installed")
    run = {"tombi": run_tombi, "taplo": run_taplo}[request.param]
    return lambda folder: run(program, folder)


@pytest.fixture
def write(schema: dict[str, Any], tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    """Writes files that begin with the line which names the schema."""

    def written(files: dict[str, str]) -> Path:
        folder = tmp_path / "files"
        folder.mkdir()
        (folder / "nanogpt-kit.schema.json").write_text(json.dumps(schema), encoding="utf-8")
        for name, text in files.items():
            (folder / f"{re.sub(r'[^a-z]', '_', name)}.toml").write_text(f"{LINE}{text}\n", encoding="utf-8")
        return folder

    return written


def accepted(drafts: list[Any], values: Values) -> bool:
    return all(validator.is_valid(values) for validator in drafts)


# Mistakes


def test_each_planted_mistake_is_one() -> None:
    for what, text in MISTAKES.items():
        assert "extends" in text or refusal(tomli.loads(text), Path("x.toml")), what


@pytest.mark.parametrize("what", MISTAKES)
def test_a_planted_mistake_is_found_in_both_drafts(drafts: list[Any], what: str) -> None:
    assert [validator.is_valid(tomli.loads(MISTAKES[what])) for validator in drafts] == [False, False]


def test_editors_find_every_planted_mistake(linter: Linter, write: Callable[[dict[str, str]], Path]) -> None:
    assert len(MISTAKES) >= 20
    folder = write(MISTAKES)
    assert {path.stem for path in folder.glob("*.toml")} - linter(folder) == set()


# What is right


def test_editors_find_nothing_in_the_shipped_experiments(
    linter: Linter, write: Callable[[dict[str, str]], Path]
) -> None:
    assert linter(write({path.stem: path.read_text(encoding="utf-8") for path in EXPERIMENTS})) == set()


def test_editors_find_nothing_in_what_is_allowed(linter: Linter, write: Callable[[dict[str, str]], Path]) -> None:
    assert linter(write({**CLEAN, "base": BASE})) == set()


@pytest.mark.parametrize("what", CLEAN)
def test_what_is_allowed_is_accepted_in_both_drafts(drafts: list[Any], what: str) -> None:
    assert accepted(drafts, tomli.loads(CLEAN[what]))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_a_shipped_experiment_and_the_file_of_its_run_are_accepted(drafts: list[Any], path: Path) -> None:
    assert accepted(drafts, values_of(path))
    assert accepted(drafts, tomli.loads(Experiment.load(path).to_toml()))


# The loader decides


@pytest.mark.parametrize("stem", SEVERAL)
def test_the_schema_agrees_with_the_loader_about_changed_experiments(drafts: list[Any], stem: str) -> None:
    (path,) = (path for path in EXPERIMENTS if path.stem == stem)
    compare_with_loader(drafts, path)


@pytest.mark.slow
@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_the_schema_agrees_with_the_loader_about_each_changed_experiment(drafts: list[Any], path: Path) -> None:
    compare_with_loader(drafts, path)


def compare_with_loader(drafts: list[Any], path: Path) -> None:
    """No false alarm; what is missed is a relation, or depends on files that the schema does not know."""
    false_alarms, missed = [], []
    for what, values in mutations(values_of(path)):
        reason, is_accepted = refusal(values, path), accepted(drafts, values)
        if not reason and not is_accepted:
            false_alarms.append(what)
        depends = UNKNOWN_TO_A_PART.search(reason) or is_about_unnamed_component(reason, values)
        if reason and is_accepted and not RELATIONS.search(reason) and not ("extends" in values and depends):
            missed.append((what, reason))
    assert false_alarms == []
    assert missed == []


def is_about_unnamed_component(reason: str, values: Values) -> bool:
    """Whether a fault is in the table of a component that a base names, so that it may be right for another."""
    table = values.get(reason.removeprefix("here: ").partition(".")[0])
    return isinstance(table, dict) and "use" not in table


@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_agrees_with_the_loader_about_every_component(drafts: list[Any], kind: str) -> None:
    """Every option of every component at other values, in an experiment without a base."""
    false_alarms, missed = [], []
    for component in component_cases(kind):
        experiment = experiment_with(kind, component)
        reason, is_accepted = refusal(experiment, Path("x.toml")), accepted(drafts, experiment)
        if not reason and not is_accepted:
            false_alarms.append(component)
        if reason and is_accepted and not RELATIONS.search(reason):
            missed.append((component, reason))
    assert false_alarms == []
    assert missed == []


def component_cases(kind: str) -> list[Values]:
    """Different tables of the components of a kind, most with a single option at another value."""
    cases: dict[str, Values] = {}
    for found in components_of_kind(kind):
        if found.entry.distribution != KIT_DISTRIBUTION:
            continue
        fields = found.component.model_fields
        required: Values = {name: "x" for name, field in fields.items() if field.is_required()}
        schemas = option_schemas(found.component)
        slots = [name for name, schema in schemas.items() if SLOT_KEYWORD in json.dumps(schema)]
        for _, changed in mutations({"use": found.entry.name, **dict.fromkeys(fields)}, ["use", *slots]):
            written = {
                name: 1 if value is None else value
                for name, value in changed.items()
                if value is not None or name not in fields
            }
            table = required | written
            cases[repr(table)] = table
    return list(cases.values())


def experiment_with(kind: str, component: Values) -> Values:
    values = tomli.loads(BASE)
    if kind in Experiment.model_fields:
        is_list = kind in ("sampler", "evaluator", "callback")
        return {**values, kind: [component] if is_list else component}
    return {**values, "model": {"use": "gpt", kind: component}}


# Its form


def test_the_schema_is_the_same_each_time(schema: dict[str, Any]) -> None:
    assert json.dumps(experiment_schema()) == json.dumps(schema)


def test_every_default_can_be_inserted(schema: dict[str, Any]) -> None:
    found = list(defaults(schema))
    assert len(found) > 50
    assert [value for value in found if value is None or isinstance(value, dict) or not str(value).isprintable()] == []


def defaults(schema: Any) -> Any:
    if isinstance(schema, dict):
        if "description" in schema and "default" in schema:
            yield schema["default"]
        for part in schema.values():
            yield from defaults(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from defaults(part)


def test_every_option_has_a_description(schema: dict[str, Any]) -> None:
    assert schema["properties"]["train"]["properties"]["steps"]["description"].startswith("number of optimizer updates")
    assert schema["properties"]["train"]["properties"]["steps"]["description"].endswith("whole number, 0 to 10^12")
    for definition in schema["definitions"].values():
        for table in definition.get("anyOf", []):
            if table.get("additionalProperties") is False:
                for name, option in table["properties"].items():
                    assert "description" in option or all("description" in one for one in option["anyOf"]), name


PLUGIN = """
from nanogpt_kit.api import Field, Norm, Options

class Inner(Options):
    x: int = Field(1, description="whatever x is")
    y: float | None = None

class Odd(Norm):
    made: tuple[int, ...] = Field(default_factory=lambda: (1, 2))
    table: Inner = Inner()
    several: tuple[Inner, ...] = ()
    pair: tuple[int, str] = (1, "a")
    by_name: dict[str, float] = {}
    either: Inner | bool = False

    def build(self, ctx): ...
"""


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ("made = [1], table = { x = 2 }, several = [{ y = 0.5 }], by_name = { a = 0.5 }, pair = [2, 'b']", True),
        ("either = true", True),
        ("either = { x = 3 }", True),
        ("table = { x = 2.5 }", False),
        ("table = { z = 1 }", False),
        ("several = [{ z = 1 }]", False),
        ("several = { x = 1 }", False),
        ("by_name = { a = 'b' }", False),
    ],
)
def test_the_tables_of_a_plugin_are_checked(
    options: str, allowed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd_tables.py").write_text(PLUGIN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "odd_tables", raising=False)
    install(monkeypatch, Entry("norm", "odd", "odd-plugin", "1.0", "odd_tables:Odd"))
    experiment = tomli.loads(f"{WHOLE}model = {{ use = 'gpt', norm = {{ use = 'odd', {options} }} }}")
    assert (refusal(experiment, Path("x.toml")) == "") == allowed
    schema = experiment_schema()
    for draft in (jsonschema.Draft4Validator, jsonschema.Draft202012Validator):
        assert draft(schema).is_valid(experiment) == allowed


def install(monkeypatch: pytest.MonkeyPatch, entry: Entry) -> None:
    registry = Registry([*Registry.installed().entries, entry])
    monkeypatch.setattr(Registry, "installed", classmethod(lambda cls: registry))


def test_a_plugin_that_cannot_be_imported_is_left_out_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install(monkeypatch, Entry("norm", "broken", "odd-plugin", "1.0", "nothing_of_that_name:Norm"))
    schema = experiment_schema()
    assert "left out: norm 'broken' from distribution odd-plugin" in caplog.text
    assert "odd-plugin" not in json.dumps(schema)
