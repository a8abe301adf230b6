"""`python -m nanogpt_kit.testing.isolated.session`: pytest in a separate process, in an isolated environment.

session component EVENTS      the component that the environment variable names, by the suite of its kind
session own EVENTS TESTS PACKAGE...   the tests that the target brings, a folder, a file or the name of a module, with
                              the installed packages
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.testing.isolated.recorder import Recorder
from nanogpt_kit.testing.isolated.target import CONFORMANCE
from nanogpt_kit.testing.isolated.tested_component import TestedComponent, WrongOptions

QUIET = ["-q", "-p", "no:cacheprovider"]
NOT_SLOW = ["-m", "not slow"]
OPTIONS = "[pytest]\nmarkers = slow: takes minutes\n"


def main(mode: str, events: Path, *arguments: str) -> int:
    recorder = Recorder(events)
    if mode == "component":
        return run_component(recorder)
    tests, *packages = arguments
    for name in packages:  # pytest may put the folder with their source in front, and the installed ones are tested
        has_module(f"{name}.{CONFORMANCE}")
    if Path(tests).is_absolute():  # its project configures pytest
        return int(pytest.main([*QUIET, *([] if Path(tests).is_dir() else NOT_SLOW), tests], plugins=[recorder]))
    return run_module(recorder, tests) if has_module(tests) else 0


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
    return run_module(recorder, "nanogpt_kit.testing.isolated.component_tests")


def run_module(recorder: Recorder, name: str) -> int:
    """The suites of an installed module, without the configuration of a project whose folder has the environment.

    Also without the plugins of pytest that are installed: suites use none, and some take seconds to import.
    """
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    options = Path("pytest.ini")
    options.write_text(OPTIONS, encoding="utf-8")
    return int(pytest.main([*QUIET, "-c", str(options), *NOT_SLOW, "--pyargs", name], plugins=[recorder]))


def has_module(name: str) -> bool:
    """Whether it exists. Imports its package; one that cannot be imported fails where its components are loaded."""
    try:
        return importlib.util.find_spec(name) is not None
    except (Exception, SystemExit):
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]))
