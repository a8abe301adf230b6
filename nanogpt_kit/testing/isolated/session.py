"""`python -m nanogpt_kit.testing.isolated.session`: pytest in a process of its own, in an isolated environment.

    session component EVENTS      the component that the environment variable names, by the suite of its kind
    session own EVENTS ARGUMENT   the tests that the target brings: a folder, a file, or the name of a module
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.testing.isolated.recorder import Recorder
from nanogpt_kit.testing.isolated.tested_component import TestedComponent, WrongOptions

QUIET = ["-q", "-p", "no:cacheprovider"]
OPTIONS = "[pytest]\nmarkers = slow: takes minutes\n"


def main(mode: str, events: Path, *arguments: str) -> int:
    recorder = Recorder(events)
    if mode == "component":
        return run_component(recorder)
    (tests,) = arguments
    is_module = not Path(tests).is_absolute()
    if is_module and not has_module(tests):
        return 0
    return int(pytest.main([*QUIET, *(["--pyargs"] if is_module else []), tests], plugins=[recorder]))


def run_component(recorder: Recorder) -> int:
    tested = TestedComponent.read()
    try:
        cls = tested.load()
        recorder.write("loaded", kind=cls.kind)
        tested.create(cls)
    except WrongOptions as error:
        recorder.write("options", message=str(error), missing=error.missing)
        return 0
    except KitError as error:
        recorder.write("refused", message=str(error))
        return 0
    options = Path("pytest.ini")
    options.write_text(OPTIONS, encoding="utf-8")
    module = "nanogpt_kit.testing.isolated.component_tests"
    arguments = ["-c", str(options), "-m", "not slow", "--pyargs", module]
    return int(pytest.main([*QUIET, *arguments], plugins=[recorder]))


def has_module(name: str) -> bool:
    """Whether it exists; a package that cannot be imported fails where its components are loaded."""
    try:
        return importlib.util.find_spec(name) is not None
    except (Exception, SystemExit):
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]))
