"""Writes what pytest does to a file, line by line, so that it is known even if the process is killed or crashes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.core.options import to_toml_values
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.testing.component import ComponentConformance

ERRORS = ("AssertionError: ", "Failed: ", "nanogpt_kit.core.errors.KitError: ")  # in front of messages for people


class Recorder:
    """A plugin of pytest. Each line is a JSON object whose `event` says what it is.

    `suite`: a class of tests for a component, with its options; `started` and `finished`: a test.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def write(self, event: str, **values: object) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, **values}) + "\n")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        classes = {item.parent.nodeid: getattr(item, "cls", None) for item in session.items if item.parent}
        for name, suite in classes.items():
            if isinstance(suite, type) and issubclass(suite, ComponentConformance) and hasattr(suite, "component"):
                self.write("suite", name=name, **described_suite(suite))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.write("started", test=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.write("finished", test=report.nodeid, outcome="failed", message=message_of(report))
        elif report.skipped or report.when == "call":
            self.write("finished", test=report.nodeid, outcome=report.outcome, message="")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.write("finished", test=report.nodeid, outcome="failed", message=message_of(report))


def described_suite(suite: type[ComponentConformance]) -> dict[str, object]:
    """What it tests: the class of the component and the options that it sets, as TOML has them; of a format the model
    as well."""
    component = suite.component
    try:
        values = to_toml_values(component, Registry.installed())
        options = {name: value for name, value in values.items() if name in component.model_fields_set}
        json.dumps(options)
    except Exception:  # the suite itself reports options that cannot be written
        options = {}
    cls = type(component)
    model = getattr(suite, "model", None) if component.kind == "format" else None
    described = {"kind": component.kind, "module": cls.__module__, "class": cls.__qualname__, "options": options}
    return {**described, "model": None if model is None else dict(model)}


def message_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The first line of what failed, which in the suites has the location and the remedy."""
    crash: Any = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash else str(report.longrepr)
    lines = [line.removeprefix("E").strip() for line in text.splitlines() if line.strip()] or ["no message"]
    line = lines[0] if crash else lines[-1]  # of an error while tests are collected, the exception stands last
    for error in ERRORS:
        line = line.removeprefix(error)
    return line
