"""What `plugins test` finds out before and after it starts a process: the target, its requirements, its outcome."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nanogpt_kit.components.model.gpt import GPT
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.kinds import KINDS
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION
from nanogpt_kit.testing.isolated.environment import Ended
from nanogpt_kit.testing.isolated.outcome import Events, FailedTest
from nanogpt_kit.testing.isolated.recorder import described_suite
from nanogpt_kit.testing.isolated.requirements import missing_requirements
from nanogpt_kit.testing.isolated.suites import suite_of
from nanogpt_kit.testing.isolated.target import Declared, Target, find_target
from nanogpt_kit.testing.isolated.tested_component import TestedComponent, WrongOptions
from nanogpt_kit.testing.model import ModelConformance
from nanogpt_kit.testing.training import brief_experiment

OPTIONS = {("dataset", "huggingface"): {"source": "x"}, ("init", "mup"): {"base_width": 16}}
NO_EXPERIMENT_NAMES_IT = ("format",)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_a_suite_and_an_experiment_that_uses_a_component_of_it(kind: str, tmp_path: Path) -> None:
    assert suite_of(kind).__name__ == f"{KINDS[kind].__name__}Conformance"
    entry = next(entry for entry in Registry.installed().of_kind(kind) if entry.distribution == KIT_DISTRIBUTION)
    options = OPTIONS.get((kind, entry.name), {})
    tested = TestedComponent(kind, f"{KIT_DISTRIBUTION}/{entry.name}", options)
    cls = tested.load()
    overrides = tested.overrides(cls)
    if kind in NO_EXPERIMENT_NAMES_IT:
        assert not overrides
        return
    experiment = brief_experiment(tmp_path, overrides, None)
    assert cls in [type(part) for _, part in experiment.parts()], overrides


def test_a_model_is_made_small_unless_a_size_is_set() -> None:
    small = TestedComponent("model", "gpt", {"bias": False})
    assert small.with_sizes(small.load()) == {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 16, "bias": False}
    long = TestedComponent("model", "gpt", {"block_size": 13})
    assert long.with_sizes(long.load()) == {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 13}
    wide = TestedComponent("model", "gpt", {"n_embd": 24, "n_head": 3})
    assert wide.with_sizes(wide.load()) == {"n_embd": 24, "n_head": 3, "block_size": 16}


def test_the_options_of_its_own_suite_are_those_that_it_sets() -> None:
    for component, options in ((GPT(), {}), (GPT(block_size=13, bias=False), {"block_size": 13, "bias": False})):
        suite = type("TestGPT", (ModelConformance,), {"component": component})
        assert described_suite(suite)["options"] == options


def test_wrong_options_are_named() -> None:
    tested = TestedComponent("init", "mup", {"base_with": 3})
    with pytest.raises(WrongOptions) as caught:
        tested.create(tested.load())
    assert caught.value.missing == ("base_width",)
    assert "unknown option 'base_with'; did you mean 'base_width'?" in str(caught.value)
    below = TestedComponent("norm", "layernorm", {"eps": -1.0})
    with pytest.raises(WrongOptions, match=r"option eps: .*greater than 0.*, got -1\.0"):
        below.create(below.load())


# The target


def test_an_unknown_target_is_refused_with_what_a_target_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KitError, match=r"no distribution 'nanogpt_kt' is installed.*'nanogpt-kit'.*a wheel"):
        find_target("nanogpt_kt", trust_code=False)
    for name in ("gone.whl", "gone.py", "folder/gone"):
        with pytest.raises(KitError, match=rf"{name}: not found; expected .* a component file"):
            find_target(name, trust_code=False)
    with pytest.raises(KitError, match=r"a folder without pyproject\.toml"):
        find_target(str(tmp_path), trust_code=False)
    sdist = tmp_path / "mine-1.0.tar.gz"
    sdist.write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KitError, match=r"mine-1\.0\.tar\.gz: not a wheel; expected .* a source folder"):
        find_target(sdist.name, trust_code=False)
    damaged = tmp_path / "damaged-1.0-py3-none-any.whl"
    damaged.write_bytes(b"PK")
    with pytest.raises(KitError, match=r"damaged-1\.0-py3-none-any\.whl is not a wheel"):
        find_target(str(damaged), trust_code=False)


def test_a_distribution_that_declares_nothing_is_refused_with_the_line_that_it_lacks() -> None:
    with pytest.raises(KitError, match=r'pytest declares nothing: .*\[project\.entry-points\."nanogpt_kit\.norm"\]'):
        find_target("pytest", trust_code=False)


def test_a_component_file_needs_consent_and_brings_its_tests(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("raise RuntimeError\n")
    with pytest.raises(KitError, match=r"mine\.py has never run on this machine.*--trust-code"):
        find_target(str(file), trust_code=False)
    (tmp_path / "test_mine.py").write_text("")
    found = find_target(str(file), trust_code=True)  # it is not executed here
    assert found.tests == tmp_path / "test_mine.py"
    assert [component.label for component in found.components] == ["mine"]


def test_the_kit_itself_is_a_target_with_all_built_ins() -> None:
    found = find_target("NanoGPT_Kit", trust_code=False)
    labels = {component.label for component in found.components}
    assert {"norm/layernorm", "model/gpt", "format/safetensors"} <= labels
    assert found.conformance_modules == ["nanogpt_kit.conformance"]


def test_suites_of_packages_are_looked_for_at_their_top() -> None:
    components = (Declared("norm", "a", "one.norms.a:A"), Declared("mlp", "b", "one:B"), Declared("mlp", "c", "two:C"))
    assert Target("x", "x", "1", components).conformance_modules == ["one.conformance", "two.conformance"]


# Requirements


def test_only_what_is_missing_is_installed() -> None:
    requires = ["torch", "pytest>=8", "pytest>=999", "no-such-library[a]>=2", "x; python_version < '3'"]
    requires += ["only-tests; extra == 'test'", "nanogpt-kit>=0.2,<0.3"]
    assert missing_requirements("mine", requires) == ["pytest>=999", "no-such-library[a]>=2"]
    assert missing_requirements("mine", requires, ("test",))[2:] == ["only-tests"]
    assert missing_requirements("mine", ["nanogpt-kit[test]"]) == []


def test_a_target_that_requires_another_kit_is_refused() -> None:
    with pytest.raises(KitError, match=r"mine requires nanogpt-kit>=99, and \S+ tests it: .*pyproject\.toml"):
        missing_requirements("mine", ["nanogpt-kit>=99"])


# Outcomes


def events(*lines: dict[str, object]) -> Events:
    return Events(tuple(lines))


STARTED = {"event": "started", "test": "a.py::TestA::test_b[c]"}
PASSED = {"event": "finished", "test": "a.py::TestA::test_b[c]", "outcome": "passed", "message": ""}


def test_a_killed_process_names_the_test_that_was_running() -> None:
    found = events(STARTED).end_of(Ended(None, ""), 7.0)
    assert found is not None
    assert found.test == "test_b[c]"
    assert "within 7 s" in found.message
    assert "--timeout" in found.message
    assert events(STARTED).end_of(Ended(-11, "a trace"), 7.0) == FailedTest("test_b[c]", "ended the process by SIGSEGV")
    exited = events(STARTED, PASSED).end_of(Ended(3, "some text\nthe last line\n"), 7.0)
    assert exited == FailedTest("", "it ended the process with exit code 3: the last line")


def test_a_process_that_ends_as_pytest_does_is_not_a_failure() -> None:
    assert events(STARTED, PASSED).end_of(Ended(0, ""), 7.0) is None
    assert events().end_of(Ended(5, ""), 7.0) is None
    assert events(STARTED, {**PASSED, "outcome": "failed"}).end_of(Ended(1, ""), 7.0) is None


def test_a_test_whose_end_fails_has_failed_once(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    failed = {**PASSED, "outcome": "failed", "message": "left a thread"}
    file.write_text("".join(f"{json.dumps(line)}\n" for line in (STARTED, PASSED, failed)))
    assert list(Events.read(file).tests()) == [("test_b[c]", "a.py::TestA", "failed", "left a thread")]
