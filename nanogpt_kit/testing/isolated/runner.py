"""Tests a target: its own tests, then each component that they do not cover, each in a separate process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from nanogpt_kit.core.errors import KitError, did_you_mean
from nanogpt_kit.core.trust import CONSENT_VARIABLE
from nanogpt_kit.testing.isolated.environment import Ended, IsolatedEnvironment
from nanogpt_kit.testing.isolated.outcome import Events, FailedTest, Outcome
from nanogpt_kit.testing.isolated.target import Declared, Target
from nanogpt_kit.testing.isolated.tested_component import REQUEST, TestedComponent

SESSION = ("-m", "nanogpt_kit.testing.isolated.session")
OWN_TESTS = "its own tests"

Options = Mapping[str, Mapping[str, Any]]  # by the label of a component


@dataclass(frozen=True)
class TargetRunner:
    """`options` are those that the user sets; `seconds` is the limit of each process."""

    target: Target
    options: Options
    environment: IsolatedEnvironment
    seconds: float

    def outcomes(self) -> Iterator[Outcome]:
        """Of its own tests, of each component and of each verb, as they end. Raises KitError for unknown options."""
        self.check_labels()
        own = Outcome(OWN_TESTS)
        suites = list(self.run_own_tests(own))
        for component in self.target.components:
            yield self.outcome_of(component, [suite for suite in suites if suite.is_of(component)])
        for suite in suites:
            if not any(suite.is_of(component) for component in self.target.components):
                own.take(suite.outcome)
        if own.passed or own.failures or own.skipped:
            yield own
        for verb in self.target.verbs:
            yield self.outcome_of_verb(verb)

    def check_labels(self) -> None:
        labels = [component.label for component in self.target.components]
        for label in self.options:
            if label not in labels:
                raise KitError(f"{self.target.text} has no component {label!r}{did_you_mean(label, labels)}")

    def run(self, events: Path, *arguments: str, **variables: str) -> Ended:
        consent = {CONSENT_VARIABLE: self.target.content} if self.target.content else {}
        mode, *others = arguments
        return self.environment.run([*SESSION, mode, str(events), *others], self.seconds, **consent, **variables)

    def new_file(self) -> Path:
        return next(path for n in count() if not (path := self.environment.folder / f"events-{n}.jsonl").exists())

    def run_own_tests(self, others: Outcome) -> Iterator[OwnSuite]:
        """The suites among the tests that the target brings; what is not of a suite is added to `others`."""
        modules = [] if self.target.file else self.target.conformance_modules
        for tests in [str(self.target.tests)] if self.target.tests else modules:
            file = self.new_file()
            ended = self.run(file, "own", tests, *self.target.packages)
            events = Events.read(file)
            suites = {line["name"]: OwnSuite(line, Outcome("")) for line in events.of("suite")}
            for test, suite, outcome, message in events.tests():
                (suites[suite].outcome if suite in suites else others).add(test, outcome, message)
            if failure := events.end_of(ended, self.seconds):
                others.failures.append(failure)
            yield from suites.values()

    def outcome_of(self, component: Declared, suites: list[OwnSuite]) -> Outcome:
        """That of its own suites, or of the suite of its kind, and of a training."""
        of_suite = suites[0].facts["options"] if suites else {}
        name = component.name if self.target.file else f"{self.target.distribution}/{component.name}"
        tested = TestedComponent(
            component.kind,
            name,
            {**of_suite, **self.options.get(component.label, {})},
            str(self.target.file or ""),
            suites[0].facts["model"] if suites else None,
            is_tested=bool(suites),
        )
        file = self.new_file()
        request = file.with_suffix(".request.json")
        tested.write(request)
        ended = self.run(file, "component", **{REQUEST: str(request)})
        events = Events.read(file)
        kind = next((line["kind"] for line in events.of("loaded")), component.kind)
        outcome = Outcome(replace(component, kind=kind).label)
        for suite in suites:
            outcome.take(suite.outcome)
        for test, _, state, message in events.tests():
            outcome.add(test, state, message)
        for line in events.of("refused"):
            outcome.failures.append(FailedTest("", line["message"]))
        for line in events.of("options"):
            if line["missing"] or component.label in self.options:
                remedy = " ".join(f"{outcome.label}.{option}=VALUE" for option in line["missing"])
                outcome.untested = f"{line['message']}{f': add {remedy}' if remedy else ''}"
            else:
                outcome.failures.append(FailedTest("", f"its defaults: {line['message']}"))
        if failure := events.end_of(ended, self.seconds):
            outcome.failures.append(failure)
        return outcome

    def outcome_of_verb(self, verb: str) -> Outcome:
        ended = self.environment.run(["-m", "nanogpt_kit", verb, "--help"], self.seconds)
        outcome = Outcome(f"verb/{verb}")
        message = f"`nanogpt-kit {verb} --help` failed: {ended.last_line}" if ended.code else ""
        if ended.code is None:
            message = f"`nanogpt-kit {verb} --help` did not end within {self.seconds:g} s"
        outcome.add("--help", "failed" if message else "passed", message)
        return outcome


@dataclass(frozen=True)
class OwnSuite:
    """A class of tests for one component among those that a target brings."""

    facts: dict[str, Any]  # what the recorder wrote of it
    outcome: Outcome

    def is_of(self, component: Declared) -> bool:
        """Whether it tests that component; a class may be defined in another module than its entry point names."""
        module, _, name = component.target.partition(":")
        if not module:
            return str(self.facts["module"]).rpartition(".")[2] == component.name
        is_same_class = (self.facts["kind"], self.facts["class"]) == (component.kind, name)
        return is_same_class and str(self.facts["module"]).partition(".")[0] == module.partition(".")[0]
